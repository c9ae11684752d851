"""Safety margins, and reward models with and without them, in the ranks that are there.

    accelerate launch recipes/legend_rm.py trainer.learning_rate=1e-4

The same as `python -m alignment.run +recipe=legend_rm`, with the same overrides.
"""

from alignment.run import main

if __name__ == "__main__":
    main(recipe="legend_rm")
