"""Recipes: settings of published runs, one TOML file each; see :mod:`facepack.train.config`."""
