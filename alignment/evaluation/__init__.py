"""Measures models: prompts, answers, verdicts and abilities, and the scorecard with its gates."""
