"""Margins, rewards, the best of eight answers and a policy with a real language model, in the ranks that are there.

    accelerate launch recipes/real.py data.rows=200

The same as `python -m alignment.run +recipe=real`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="real")
