#!/bin/bash
# duckdb 2.0.1 (Python 3.11): read_csv of LFW's development pairs gives the impostor pairs and skips the genuine ones.
#
# One would guess: a list whose rows have three fields (name, image, image) and then four (name, image, name, image) is padded,
#                  or refused as other ragged files are ("Expected Number of Columns: 4 Found: 3").
# What happens:    the sniffer takes the number of fields of the last rows and calls all rows before them a preamble. Of
#                  pairsDevTest.txt (its number of pairs, 500 genuine ones, 500 impostors) 500 rows are left, in four columns of
#                  the right types; header=false, delim, names, sample_size=-1 and strict_mode=false change nothing, and no
#                  warning is given. The ten folds of pairs.txt are one column of whole lines instead, and under
#                  ignore_errors=true one row in all, its first: 10, 300. null_padding=true reads every row of all of them;
#                  skip=0 with delim and header=false refuses.
# Why it matters:  LFW's lists are of this form, and so is every list made for tools that read LFW's. Names, numbers and types look
#                  like a list of pairs, of half the length; it has no genuine pair.
#
# Seen when written (500 + 500, 1,100 + 1,100 and ten times 300 + 300 pairs):
#   pairsDevTest    plain             4 columns   genuine    0 impostor  500
#   pairsDevTest    delim, header     4 columns   genuine    0 impostor  500
#   pairsDevTest    sample_size -1    4 columns   genuine    0 impostor  500
#   pairsDevTest    null_padding      4 columns   genuine  500 impostor  500
#   pairsDevTrain   plain             4 columns   genuine    0 impostor 1100
#   pairsDevTrain   delim, header     4 columns   genuine    0 impostor 1100
#   pairsDevTrain   sample_size -1    4 columns   genuine    0 impostor 1100
#   pairsDevTrain   null_padding      4 columns   genuine 1100 impostor 1100
#   pairs           plain             1 columns of whole lines, 6000 rows
#   pairs           ignore_errors     2 columns, the rows [(10, 300)]
#   pairs           null_padding      4 columns   genuine 3000 impostor 3000
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1
cat > "$tmp/see.py" <<'PY'
import random
import sys

import duckdb

random.seed(0)


def person():
    return f"Person_{random.randrange(5749):04d}"


def image():
    return random.randrange(1, 10)


def write(name, first, folds, count):
    """A list of pairs in LFW's format: its first line, then of each fold the genuine pairs and the impostors."""
    path = f"{sys.argv[1]}/{name}.txt"
    with open(path, "w") as out:
        print(first, file=out)
        for _ in range(folds):
            for _ in range(count):
                print(person(), image(), image(), sep="\t", file=out)
            for _ in range(count):
                print(person(), image(), person(), image(), sep="\t", file=out)
    return path


def read(path, options=""):
    table = duckdb.sql(f"SELECT * FROM read_csv('{path}'{options})")
    return table.columns, table.fetchall()


ways = {
    "plain": "",
    "delim, header": r", delim='\t', header=false",
    "sample_size -1": ", sample_size=-1",
    "null_padding": ", null_padding=true",
}
for name, count in (("pairsDevTest", 500), ("pairsDevTrain", 1100)):
    path = write(name, count, 1, count)
    for way, options in ways.items():
        columns, rows = read(path, options)
        pairs = [row for row in rows if row[1] is not None]
        impostors = sum(row[3] is not None for row in pairs)
        genuine = len(pairs) - impostors
        print(f"{name:<15} {way:<15} {len(columns):3} columns   genuine {genuine:4} impostor {impostors:4}")
        assert len(columns) == 4 and impostors == count
        assert genuine == (count if way == "null_padding" else 0)

path = write("pairs", "10\t300", 10, 300)
columns, rows = read(path)
print(f"{'pairs':<15} {'plain':<15} {len(columns):3} columns of whole lines, {len(rows)} rows")
assert len(columns) == 1 and len(rows) == 6000 and rows[0][0].count("\t") == 2
columns, rows = read(path, ", ignore_errors=true")
print(f"{'pairs':<15} {'ignore_errors':<15} {len(columns):3} columns, the rows {rows}")
assert rows == [(10, 300)]
columns, rows = read(path, ", null_padding=true")
impostors = sum(row[3] is not None for row in rows)
genuine = len(rows) - 1 - impostors
print(f"{'pairs':<15} {'null_padding':<15} {len(columns):3} columns   genuine {genuine:4} impostor {impostors:4}")
assert len(rows) == 6001 and impostors == 3000
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
