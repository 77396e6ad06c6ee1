"""The structures of LMDB 0.9 data files (format version 1).

They are those of LMDB's mdb.c (MDB_page, MDB_node, MDB_meta), little-endian, 64 bit: see
docs/pack-format.md.
"""

from __future__ import annotations

import struct

MAGIC = 0xBEEFC0DE
DATA_VERSION = 1
PAGE_HEADER = 16
NODE_HEADER = 8
POINTER = 2
META_SIZE = 136  # from the page header's end to the end of mm_txnid
MAX_PAGE_SIZE = 32768
PAGE_SIZES = (4096, 8192, 16384, 32768)
MAX_KEY = 511

P_BRANCH, P_LEAF, P_OVERFLOW, P_META = 0x01, 0x02, 0x04, 0x08
F_BIGDATA = 0x01
F_SUBDATA = 0x02  # a named database
F_INTEGERKEY, F_NOSUBDIR = 0x08, 0x4000
NO_PAGE = (1 << 64) - 1

PAGE = struct.Struct("<QHHHH")  # pgno, pad, flags, then lower and upper (or a 32-bit page count)
OVERFLOW = struct.Struct("<QHHI")
NODE = struct.Struct("<HHHH")  # size low, size high, flags, key size
DB = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branch, leaf, overflow pages, entries, root
META = struct.Struct("<IIQQ")  # magic, version, address, map size
