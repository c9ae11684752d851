"""Turns the results of a run into tables, pictures and the contents of report.json."""
