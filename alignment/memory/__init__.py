"""Estimates, before anything starts, how much memory each stage needs and whether it fits."""
