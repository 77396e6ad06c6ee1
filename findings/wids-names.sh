#!/bin/bash
# wids 0.1.11, webdataset 1.0.2 (Python 3.11): samples whose names are not ASCII, or long, are not those of the tar.
#
# One would guess: wids.ShardListDataset gives at any index the sample that webdataset gives there when it reads the tar in
#                  order; it was made for webdataset's tars, whose TarWriter wrote these.
# What happens:    wids has a reader of tar headers of its own, which looks at the name field alone. Extended headers (POSIX
#                  pax, in which TarWriter puts every name that is longer than 100 bytes or not ASCII) and ustar's prefix are
#                  passed over. Names beyond ASCII have ? for each other letter: Zoë/0 and Zoé/0 are both Zo?/0, one of them
#                  counts, and the last samples of the tar are an IndexError though len() has them. Of a longer name 100
#                  bytes are left: .jp for .jpg, or no extension, and then no sample behind it. A prefix is missing from keys.
# Why it matters:  People have names beyond ASCII. Labels and images still fit each other, so that nothing shows before the
#                  last indices are read; keys are wrong without a word.
#
# Seen when written (keys by index; webdataset has all of them, as written):
#   Zoë/0 Zoé/0 Zoé/1, written   Zo?/0 Zo?/0 IndexError
#   100 bytes of name            all 3
#   101 bytes of name            all 3, one of .jp and .cl
#   105 bytes of name            the first, AssertionError, IndexError
#   ustar with a prefix          the key without its first folder
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check wids==0.1.11 webdataset==1.0.2 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io
import json
import sys
import tarfile
import types
from pathlib import Path

import webdataset

# Of torch it takes two base classes, and webdataset asks for ranks and workers: stand-ins do.
names = ("torch", "torch.distributed", "torch.utils", "torch.utils.data")
sys.modules.update({name: types.ModuleType(name) for name in names})
for name in names[1:]:
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, sys.modules[name])
sys.modules["torch.distributed"].is_available = lambda: False
sys.modules["torch.utils.data"].get_worker_info = lambda: None
sys.modules["torch.utils.data"].Sampler = object
sys.modules["torch.utils.data"].Dataset = type("Dataset", (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
import wids

folder = Path(sys.argv[1])


def written(keys):
    """A tar as webdataset writes it: an image's place and a class for each key."""
    path = folder / f"{len(list(folder.glob('*.tar')))}.tar"
    with webdataset.TarWriter(str(path)) as tar:
        for label, key in enumerate(keys):
            tar.write({"__key__": key, "jpg": b"image %d" % label, "cls": str(label).encode()})
    return path


def with_prefix(key):
    """A tar of one sample, in the plain ustar format."""
    path = folder / "ustar.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix, data in (("jpg", b"image 0"), ("cls", b"0")):
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def seen(path, count):
    """Keys that wids gives by index, with the image's suffix if that is odd; webdataset must have all samples."""
    rows = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [row["jpg"] for row in rows] == [b"image %d" % k for k in range(count)]
    index = folder / f"{path.stem}.json"
    index.write_text(json.dumps({"wids_version": 1, "shardlist": [{"url": path.name, "nsamples": count}]}))
    cache = folder / f"cache-{path.stem}"
    samples = wids.ShardListDataset(str(index), cache_dir=str(cache), transformations=[lambda sample: sample])
    assert len(samples) == count
    keys = []
    there = {row["jpg"] for row in rows}
    for k in range(count):
        try:
            sample = samples[k]
        except (IndexError, AssertionError) as error:
            keys.append(type(error).__name__)
            continue
        suffix, label = (name for start in (".j", ".c") for name in sample if name.startswith(start))
        image = sample[suffix].read()
        assert image in there and image == b"image " + sample[label].read()
        keys.append(sample["__key__"] + (suffix if suffix != ".jpg" else ""))
    return keys


keys = seen(written(["Zoë/0", "Zoé/0", "Zoé/1"]), 3)
print("Zoë/0 Zoé/0 Zoé/1:", keys)
assert keys == ["Zo?/0", "Zo?/0", "IndexError"]
for length in (100, 101, 105):
    names = ["ann/0", "b" * (length - len("/0.jpg")) + "/0", "cid/0"]
    keys = seen(written(names), 3)
    print(f"{length} bytes of name:", [key[-12:] for key in keys])
    expected = {100: names, 101: [names[0], names[1] + ".jp", names[2]], 105: [names[0], "AssertionError", "IndexError"]}
    assert keys == expected[length]
name = "a" * 90 + "/" + "b" * 20 + "/0"
keys = seen(with_prefix(name), 1)
print("ustar with a prefix:", keys)
assert keys == [name[91:]]
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
