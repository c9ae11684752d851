"""Keeps a run: its files, its planned batches, its ranks, and how it stops."""
