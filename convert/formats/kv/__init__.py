"""F2C's LMDB and kv files."""
