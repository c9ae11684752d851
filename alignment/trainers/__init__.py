"""Trains models: TRL's trainers with margins, with a confidence per pair, and with packed rows."""
