"""Packs as sources and sinks."""
