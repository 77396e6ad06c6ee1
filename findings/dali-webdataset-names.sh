#!/bin/bash
# DALI 2.4.0 (nvidia-dali-cuda130, Python 3.11, CPU), webdataset 1.0.2: an index decides which samples of a tar there are.
#
# One would guess: fn.readers.webdataset gives the same samples with an index from wds2idx and without one, where it infers
#                  the index "which may take some time"; and it reads what webdataset's TarWriter has written.
# What happens:    Without an index, extended headers of the tar (POSIX pax, in which Python's tarfile and so TarWriter put
#                  every name that is longer than 100 bytes or not ASCII) are skipped, and the short name behind is used: cut
#                  at 100 bytes, with ? for each other letter. A long name has lost its extension: the sample
#                  is there with 0 bytes in each output, or under missing_component_behavior="skip" it is not there. Zoë/0 and
#                  Zoé/0 are both Zo?/0: one of the two samples is gone (a warning tells of several components). With an
#                  index all are there, for GNU tar, which wds2idx asks, reads the headers. GNU's own long names are
#                  read in either way.
# Why it matters:  The index is described as a matter of speed. Celebrities have names beyond ASCII, and paths of scraped
#                  images are long; the number of samples alone shows the loss, or, for long names, not even that.
#
# Seen when written (samples as image bytes/label):
#   100 bytes of name, no index   all 3
#   101 bytes of name, no index   the long one: 0 bytes and no label
#   … skip                        2 of 3
#   101 bytes of name, index      all 3
#   101 bytes, GNU format         all 3
#   Zoë/0 Zoé/0 Zoé/1, no index   labels 0, 2
#   … with an index               labels 0, 1, 2
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    nvidia-dali-cuda130==2.4.0 webdataset==1.0.2 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import webdataset
from nvidia.dali import fn, pipeline_def
from PIL import Image

folder = Path(sys.argv[1])


def jpeg(level):
    out = io.BytesIO()
    Image.fromarray(np.full((112, 112, 3), level, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def written(keys):
    """A tar as webdataset writes it: an image and a class for each key."""
    path = folder / f"{len(list(folder.glob('*.tar')))}.tar"
    with webdataset.TarWriter(str(path)) as tar:
        for label, key in enumerate(keys):
            tar.write({"__key__": key, "jpg": jpeg(40 * label), "cls": str(label).encode()})
    return path


def gnu(keys):
    """The same members in GNU's format."""
    path = folder / "gnu.tar"
    with tarfile.open(written(keys)) as old, tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as new:
        for member in old:
            copy = tarfile.TarInfo(member.name)
            copy.size = member.size
            new.addfile(copy, old.extractfile(member))
    return path


def samples(path, index=False, missing="empty"):
    """(bytes of the image, label) of each sample of an epoch."""
    indexes = []
    if index:
        indexes = [str(path.with_suffix(".idx"))]
        subprocess.run([Path(sys.executable).with_name("wds2idx"), path, *indexes], check=True, stdout=subprocess.DEVNULL)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def reader():
        return tuple(
            fn.readers.webdataset(
                paths=[str(path)], index_paths=indexes, ext=["jpg", "cls"], missing_component_behavior=missing, name="reader"
            )
        )

    pipe = reader()
    pipe.build()
    values = []
    for _ in range(pipe.epoch_size("reader")):
        image, label = (np.array(output[0]).tobytes() for output in pipe.run())
        values.append((len(image), label.decode()))
    return values


def report(what, seen, wanted):
    print(f"{what:32}", *(f"{size}/{label or '-'}" for size, label in seen))
    assert [label for _, label in seen] == wanted, seen
    assert all((size > 0) == (label != "") for size, label in seen), seen


whole = ["0", "1", "2"]
fits, long = ("people/" + "x" * (96 - 7), "people/" + "x" * (97 - 7))  # with .jpg: 100 and 101 bytes
report("100 bytes of name, no index", samples(written(["a/0", fits, "b/0"])), whole)
path = written(["a/0", long, "b/0"])
report("101 bytes of name, no index", samples(path), ["0", "", "2"])
report("  … skip", samples(path, missing="skip"), ["0", "2"])
report("101 bytes of name, index", samples(path, index=True), whole)
report("101 bytes, GNU format", samples(gnu(["a/0", long, "b/0"])), whole)
path = written(["Zo\u00eb/0", "Zo\u00e9/0", "Zo\u00e9/1"])
report("Zoë/0 Zoé/0 Zoé/1, no index", samples(path), ["0", "2"])
report("  … with an index", samples(path, index=True), whole)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/warnings" || { cat "$tmp/warnings"; exit 1; }
echo "as described"
