"""The faces that are embedded: where they come from, and their pixels."""
