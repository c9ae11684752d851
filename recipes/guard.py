"""A guard on a model's own activations, in the ranks that are there.

    accelerate launch recipes/guard.py model=smollm2 data=pku_saferlhf

The same as `python -m alignment.run +recipe=guard`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="guard")
