"""Brings data sets of any origin to the same columns, and messages to tokens."""
