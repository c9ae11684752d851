"""Writes the page of a run: one file for a browser, with its result, figures, pairs and answers"""
