"""Packs kept whole: verify, untrusted packs, salvage, reindex, merge."""
