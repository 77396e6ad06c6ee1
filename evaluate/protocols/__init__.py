"""The protocols: a module each, with its options, and what they share."""
