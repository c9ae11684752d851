"""Samples answers from a model and lets scorers rate them."""
