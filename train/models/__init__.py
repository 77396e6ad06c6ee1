"""Backbones' weights, cost and export."""
