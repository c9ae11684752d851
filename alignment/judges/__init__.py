"""Judges answers, and measures how far each judge can be believed."""
