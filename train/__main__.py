"""``python -m facepack.train``: the command ``facepack train``, for ``torchrun -m``."""

import sys

from facepack.cli import main

sys.argv.insert(1, "train")
main()
