"""What a protocol finds: figures, as tables, files and differences."""
