"""Draws the pictures of reports, the same to the last byte from the same numbers."""
