"""WebFace260M's zips."""
