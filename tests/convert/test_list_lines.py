"""Lists of images as people write them: blanks, CSV, names for labels, line ends of Windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from facepack.convert.formats.tree.list_source import LstSource
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.list_lines import KINDS, Columns, LineError, ListForm, find_form
from facepack.convert.source import Refusal
from facepack.errors import SourceError

Row = tuple[str, int | str]
MakeJpeg = Callable[..., bytes]


def rows(*lines: str, columns: Columns | None = None) -> list[Row] | None:
    """Path and label of each line that says any; None if the list is of no form."""
    encoded = [line.encode() for line in lines]
    form = find_form(encoded, KINDS, columns)
    if form is None:
        return None
    found: list[Row] = []
    for line in encoded[form.has_header :]:
        path, label, *_ = form.read(line)
        found.append((path.decode(), label.decode() if isinstance(label, bytes) else label))
    return found


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # blanks, of whatever number
        (["000001.jpg 2880", "000002.jpg 2937"], [("000001.jpg", 2880), ("000002.jpg", 2937)]),
        (["a b.jpg    7", "c.jpg \t 1"], [("a b.jpg", 7), ("c.jpg", 1)]),
        (["a b.jpg \t 5", "c.jpg \t 7"], [("a b.jpg", 5), ("c.jpg", 7)]),
        # headers, with what people call columns
        (["Image,Id", "a.jpg,n000002"], [("a.jpg", "n000002")]),
        (["id,label", "a.jpg,3"], [("a.jpg", 3)]),
        (["image_id,identity", "a.jpg,3"], [("a.jpg", 3)]),
        (["name;path;age;id", "Anna;1/a.jpg;30;4"], [("1/a.jpg", 4)]),
        (["filename\tname", "a.jpg\tanna b"], [("a.jpg", "anna b")]),
        (["label,name", "3,a.jpg"], [("a.jpg", 3)]),
        # none, where it is clear
        (["a.jpg,3", "b.jpg,4"], [("a.jpg", 3), ("b.jpg", 4)]),
        (["a.jpg;anna", "b.jpg;bob"], [("a.jpg", "anna"), ("b.jpg", "bob")]),
        # cells with what parts them
        (
            ["file,label", '"a, b/c.jpg",3', '"say ""x"".jpg", 4', " d.jpg , 5 "],
            [("a, b/c.jpg", 3), ('say "x".jpg', 4), ("d.jpg", 5)],
        ),
        # backslashes, but within a path with slashes
        (["a\\b\\c.jpg 3", "d/e\\f.jpg 4"], [("a/b/c.jpg", 3), ("d/e\\f.jpg", 4)]),
        # names, among which there may be numbers
        (
            ["a.jpg\tanna", "b.jpg\tZoë b", "c.jpg\t007"],
            [("a.jpg", "anna"), ("b.jpg", "Zoë b"), ("c.jpg", "007")],
        ),
        (["a.jpg anna", "b.jpg bob"], [("a.jpg", "anna"), ("b.jpg", "bob")]),
        (["0\tanna\ta.jpg", "1\tbob\tb.jpg"], [("a.jpg", "anna"), ("b.jpg", "bob")]),
        (["0\ta.jpg\tanna", "1\tb.jpg\tbob"], [("a.jpg", "anna"), ("b.jpg", "bob")]),
        # nothing that is clear
        (["photo,who", "a.jpg,anna"], None),
        (["a.jpg", "b.jpg"], None),
        (["a,b", "c,d"], None),
        (["a.jpg nan", "b.jpg 0.5"], None),
        ([], None),
    ],
)
def test_what_lists_say(lines: list[str], expected: list[Row] | None) -> None:
    assert rows(*lines) == expected


def test_a_first_line_that_is_no_csv_spoils_no_list() -> None:
    lines = b"a\rb,c", b"0\t1\ta.jpg", b"1\t2\tb.jpg"
    form = find_form(lines, KINDS)
    assert form is not None and form.kind == "im2rec"
    assert find_form(lines[:1], KINDS) is None


def test_labels_are_numbers_unless_most_are_names() -> None:
    assert find_form([b"a.jpg 1", b"b.jpg anna", b"c.jpg 2"], KINDS) == find_form(
        [b"a.jpg 1"], KINDS
    )
    form = find_form([b"a.jpg 1", b"b.jpg anna", b"c.jpg bob"], KINDS)
    assert form is not None and form.named


def test_columns_that_are_named_are_taken() -> None:
    lines = "label,path,photo,who", "9,x.jpg,a.jpg,anna"
    assert rows(*lines) == [("x.jpg", 9)]
    assert rows(*lines, columns=Columns("photo", "who")) == [("a.jpg", "anna")]
    assert rows(*lines, columns=Columns(label="who")) == [("x.jpg", "anna")]
    assert rows("path,b", "a.jpg,3", columns=Columns(label="b")) == [("a.jpg", 3)]
    assert rows("name,b", "3,a.jpg", columns=Columns("b")) == [("a.jpg", 3)]
    with pytest.raises(LineError, match="no column is called 'Who'"):
        rows(*lines, columns=Columns(label="Who"))
    with pytest.raises(LineError, match="no column is called 'who'"):
        rows("a.jpg 3", columns=Columns(label="who"))
    with pytest.raises(LineError, match="which column is the path"):
        rows("a,b", "a.jpg,3", columns=Columns(label="b"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a.jpg", "expected 2 cells"),
        ("a.jpg,1,2", "expected 2 cells"),
        ('"a.jpg,1', "a quote is not closed"),
        ('a.jpg,"1', "a quote is not closed"),
        (",1", "expected 2 cells"),
        ("a.jpg,x", "label 'x': allowed are whole numbers"),
        ("a.jpg," + "9" * 200_000, "no line of a CSV|allowed are whole numbers"),
    ],
)
def test_lines_of_a_csv_that_are_malformed(line: str, complaint: str) -> None:
    form = find_form([b"path,label", b"a.jpg,1"], KINDS)
    assert form is not None
    with pytest.raises(LineError, match=complaint):
        form.read(line.encode())


def test_a_cell_of_two_lines_is_no_name_cut_short() -> None:
    lines = [b"path,label", b'a.jpg,"Zoe', b'Smith"', b"b.jpg,anna"]
    form = find_form(lines, KINDS)
    assert form is not None and form.named
    with pytest.raises(LineError, match="a quote is not closed; cells of several lines"):
        form.read(lines[1])


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["path,label".encode("utf-16")], "the list is UTF-16: save it as UTF-8"),
        ([b"path,label"], "no line follows this header"),
    ],
)
def test_lists_that_need_one_step_more(lines: list[bytes], complaint: str) -> None:
    with pytest.raises(LineError, match=complaint):
        find_form(lines, KINDS)


def test_quotes_of_other_lists() -> None:
    assert find_form([b'a, "b.jpg 1', b"c.jpg 2"], KINDS) == ListForm(kind="kv")


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x00b", "a\x7f"])
def test_names_that_are_none(name: str) -> None:
    form = find_form([b"path\tlabel", b"a.jpg\tanna"], KINDS)
    assert form is not None
    with pytest.raises(LineError, match="a name of an identity has 1 to 255 bytes"):
        form.read(f"a.jpg\t{name}".encode())


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    for k, name in enumerate(("a", "b", "c, d")):
        (tmp_path / "imgs").mkdir(exist_ok=True)
        (tmp_path / "imgs" / f"{name}.jpg").write_bytes(make_jpeg(k))
    return tmp_path


def write(folder: Path, name: str, lines: Sequence[str]) -> Path:
    path = folder / name
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in lines).encode())
    return path


CSV = ["", "Image,Id", "imgs\\b.jpg,Zoë", "imgs\\a.jpg,anna", '"imgs\\c, d.jpg",Zoë', "imgs/b.jpg"]


def test_a_csv_as_windows_writes_it(folder: Path) -> None:
    listed = write(folder, "faces.csv", CSV)
    for source in (LstSource([listed]), ImgSource(folder, index=listed)):
        assert source.notices[:2] == [
            "faces.csv: paths are the column 'Image', labels 'Id': --path-column and "
            "--label-column take others",
            "faces.csv: labels are names of identities",
        ]
        assert (source.classes, len(source)) == (2, 4)
        part = source.part(1, 4)
        assert [tuple(entry) for entry in part.entries()] == [
            (1, "imgs/a.jpg"),
            (0, "imgs/c, d.jpg"),
            (-1, None),
        ]
        assert part.identity_names() == {0: "Zoë", 1: "anna"}
        assert source.part(0, 1).identity_names() == {0: "Zoë"}
        *_, refused = part.read()
        assert isinstance(refused, Refusal)
        assert refused.reason.startswith("line 6: expected 2 cells")
        assert listed.read_bytes()[refused.offset :] == b"imgs/b.jpg\r\n"


def test_names_are_numbered_over_all_lists(folder: Path) -> None:
    one = write(folder, "one.csv", ["file,person", "imgs/a.jpg,c", "imgs/b.jpg,a"])
    two = write(folder, "two.txt", ["imgs/a.jpg\tb", "imgs/b.jpg\tc"])
    source = LstSource([one, two])
    labels = [
        entry.label for part in (source.part(0, 2), source.part(2, 4)) for entry in part.entries()
    ]
    assert labels == [2, 0, 1, 2] and source.classes == 3
    assert source.describe() == LstSource([one, two]).describe()
    three = write(folder, "three.txt", ["imgs/a.jpg\t1"])
    with pytest.raises(
        SourceError, match=r"three\.txt: its labels are numbers, those of .*one\.csv"
    ):
        LstSource([one, three])


def test_line_ends_of_old_macintoshes_are_named(folder: Path) -> None:
    listed = folder / "faces.csv"
    listed.write_bytes(b"path,label\rimgs/a.jpg,1\r")
    with pytest.raises(SourceError, match="its lines end in CR alone"):
        LstSource([listed])


def test_columns_of_what_is_no_csv(folder: Path) -> None:
    listed = write(folder, "faces.txt", ["imgs/a.jpg 3"])
    with pytest.raises(SourceError, match=r"faces\.txt: the first line is .* no column is called"):
        ImgSource(folder, index=listed, label_column="x")
    with pytest.raises(SourceError, match="name it with --index"):
        ImgSource(folder, label_column="x")
