"""Reads the preference pairs that a run is given, once, and tells whether anything outside the run has changed."""
