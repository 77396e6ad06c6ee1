"""Tars: Glint360K's pieces, WebDataset, trees."""
