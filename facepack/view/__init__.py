"""Packs looked at: figures, sheets, report pages."""
