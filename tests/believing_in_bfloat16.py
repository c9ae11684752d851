"""A command line of alignment.run in CPU ranks that train in bfloat16 as GPUs do: transformers would ask for a GPU."""

from transformers import training_args

from alignment.run import main

training_args.is_torch_bf16_gpu_available = lambda: True

if __name__ == "__main__":
    main()
