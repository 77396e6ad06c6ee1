"""How Sphinx makes the site of the pages that docs/gather.py gathered; see ``make docs``."""

from __future__ import annotations

from facepack.version import __version__

project = "facepack"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4  # links to headings, as GitHub has them
highlight_language = "none"  # most blocks are commands
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # ranges that are types make signatures unreadable
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"facepack {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
