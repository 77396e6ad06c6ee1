"""IJB and MegaFace as they are handed out."""
