"""Generates the embedded world, a small language with known safety, and holds the model that speaks it."""
