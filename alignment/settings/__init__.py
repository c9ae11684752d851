"""Defines the schema of conf/ and the rules values keep, and turns a command line into checked settings."""
