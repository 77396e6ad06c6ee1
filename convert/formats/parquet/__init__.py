"""Parquet files and Arrow folders, as the Hugging Face Hub and ``datasets`` have them."""
