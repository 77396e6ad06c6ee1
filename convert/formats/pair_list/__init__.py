"""Lists of pairs over images that lie elsewhere."""
