"""The pack on disk: its format, writing, reading."""
