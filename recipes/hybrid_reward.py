"""A hybrid reward, cross-validated on all pairs beside simpler scorers and fitted, in the ranks that are there.

    accelerate launch recipes/hybrid_reward.py model=smollm2 data=pku_saferlhf

The same as `python -m alignment.run +recipe=hybrid_reward`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="hybrid_reward")
