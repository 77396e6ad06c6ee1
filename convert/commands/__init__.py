"""The commands that convert."""
