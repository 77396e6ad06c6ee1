"""Verification sets: .bin files and pair folders."""
