"""The commands that evaluate."""
