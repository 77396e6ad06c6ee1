"""A run, step by step."""
