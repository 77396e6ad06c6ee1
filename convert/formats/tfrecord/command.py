"""``facepack tfrecord2…``: what trainers call image, label and name."""

from __future__ import annotations

import click

from facepack.convert.command_line import SourceCommand


class TfRecordCommand(SourceCommand):
    """TFRecord files as a source."""

    options = (
        click.option("--image-feature", help="Feature that holds the image; found by default."),
        click.option("--label-feature", help="Feature that holds the label; found by default."),
        click.option("--name-feature", help="Feature that holds the name; found by default."),
    )
