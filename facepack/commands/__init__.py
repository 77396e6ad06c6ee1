"""Commands that look at packs: one verb a module."""
