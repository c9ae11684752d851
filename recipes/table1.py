"""Every system of the paper's Table 1 on the embedded world, in the ranks that are there.

    accelerate launch recipes/table1.py policy.beta=[0.2]

The same as `python -m alignment.run +recipe=table1`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="table1")
