"""The toxic rate of the best of n samples, by who picks them, in the ranks that are there.

    accelerate launch recipes/best_of_n.py best_of_n.counts=[1,4,16]

The same as `python -m alignment.run +recipe=best_of_n`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="best_of_n")
