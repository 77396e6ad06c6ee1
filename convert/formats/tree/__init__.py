"""Image files in folders, and lists of them."""
