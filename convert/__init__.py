"""Sources and sinks: other projects' face data into packs, and packs into their formats.

A source module reads one foreign format and knows nothing of packs; a converter joins a source to a
sink. Every malformation of a source is a :class:`facepack.errors.SourceError` that names the file,
the place and the remedy.
"""
