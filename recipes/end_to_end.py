"""Margins, a reward model, re-ranked samples and confidence DPO, in the ranks that are there.

    accelerate launch recipes/end_to_end.py policy.beta=[0.2]

The same as `python -m alignment.run +recipe=end_to_end`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="end_to_end")
