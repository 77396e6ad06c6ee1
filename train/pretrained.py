"""Where :mod:`facepack.train.models.pretrained` was before; goes with the release after next."""

import warnings

from facepack.train.models.pretrained import load_pretrained as load_pretrained

warnings.warn(
    "facepack.train.pretrained is now facepack.train.models.pretrained",
    DeprecationWarning,
    stacklevel=2,
)
