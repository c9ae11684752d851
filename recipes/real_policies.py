"""Policies of a real language model on people's pairs, beside baselines, in the ranks that are there.

    accelerate launch recipes/real_policies.py "policy.systems=[base,dpo,cdpo]"

The same as `python -m alignment.run +recipe=real_policies`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="real_policies")
