"""``python -m facepack``."""

from facepack.cli import main

main()
