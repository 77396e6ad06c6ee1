"""A folder a format: what reads it beside what writes it."""
