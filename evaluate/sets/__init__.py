"""What benchmarks lie in: lists, folders and packs, as faces with all that is said of them."""
