"""Several finished runs beside each other, in the ranks that are there.

    accelerate launch recipes/compare.py compare.runs=[runs/a,runs/b]

The same as `python -m alignment.run +recipe=compare`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="compare")
