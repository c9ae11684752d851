"""A hybrid reward, pairs of the policy's own samples, and confidence DPO on them, in the ranks that are there.

    accelerate launch recipes/cdpo.py policy.beta=[0.2]

The same as `python -m alignment.run +recipe=cdpo`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="cdpo")
