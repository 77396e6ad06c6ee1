"""``labels.txt``, beside a twin that writes it line by line."""

from __future__ import annotations

import random

from facepack.store import format as fmt


def test_lines_are_those_of_a_slow_twin() -> None:
    rng = random.Random(1)
    for _ in range(300):
        classes = rng.randrange(12)
        known = {
            rng.randrange(-1, classes + 2): rng.choice(["ann", "", "a\nb", "\\n", "dé\r\n", "\\"])
            for _ in range(rng.randrange(6))
        }
        text = fmt.labels_text(known, classes)
        names = [known.get(label, "") for label in range(classes)]
        assert fmt.read_labels_text(text) == names
        escaped = (
            name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for name in names
        )
        assert text == "".join(line + "\n" for line in escaped)


def test_a_hundred_million_classes_of_which_two_have_names() -> None:
    text = fmt.labels_text({3: "ann", 99_999_999: "bob"}, 100_000_000)
    assert len(text) == 100_000_000 + 6
    assert text.startswith("\n\n\nann\n") and text.endswith("\nbob\n")
