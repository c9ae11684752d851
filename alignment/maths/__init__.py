"""Holds the mathematics of the methods, which knows tensors and numbers only."""
