"""Embeddings: made of faces, kept in files, and read."""
