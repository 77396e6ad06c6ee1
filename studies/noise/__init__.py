"""What the lists of facepack noise find of planted noise. See docs/noise.md."""
