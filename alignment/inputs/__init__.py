"""Reads the preference pairs that a run is given, once."""
