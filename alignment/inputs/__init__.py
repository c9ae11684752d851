"""Holds what a stage is given, reads a run's preference pairs once, and tells what outside the run has changed."""
