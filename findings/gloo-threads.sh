#!/bin/bash
# torch 2.13.0 (CPU), gloo, Linux, Python 3.11: the first optimizer of a process decides whether gloo's threads ever end.
#
# One would guess: after dist.destroy_process_group() the group is gone, and with it the threads of its backend.
# What happens:    an optimizer made between init and destroy keeps them. The first optimizer of a process imports
#                  torch.distributed.nn.functional, whose functions have group=group.WORLD as a default argument. A default is
#                  evaluated at import, so the functions own the group for as long as the process lives. Imported before init,
#                  the same default is None and nothing is left.
# Why it matters:  a training run that closes its group and then evaluates, forks loader workers or opens a second group (an
#                  elastic restart) does so beside live network threads. `import torch.distributed.nn.functional` before
#                  init_process_group is enough.
#
# Seen when written:
#   optimizer after init:        3 gloo threads while open, 3 after destroy; the default holds a ProcessGroup
#   functional imported before:  3 gloo threads while open, 0 after destroy; the default holds None
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

if sys.argv[1] == "before":
    import torch.distributed.nn.functional


def gloo_threads():
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
open_threads = gloo_threads()
dist.destroy_process_group()
time.sleep(2)
default = sys.modules["torch.distributed.nn.functional"].all_reduce.__defaults__[-1]
print(open_threads, gloo_threads(), type(default).__name__, flush=True)
os._exit(0)
PY
after=$("$tmp/venv/bin/python" "$tmp/see.py" after)
before=$("$tmp/venv/bin/python" "$tmp/see.py" before)
echo "gloo threads while open, after destroy, type of the default"
echo "optimizer after init:       $after"
echo "functional imported before: $before"
read -r opened left kind <<< "$after"
[[ $opened -gt 0 && $left -eq $opened && $kind == ProcessGroup ]]
read -r opened left kind <<< "$before"
[[ $opened -gt 0 && $left -eq 0 && $kind == NoneType ]]
