#!/bin/bash
# lightning 2.6.6 (torch 2.13.0 with gloo, Python 3.11): on several ranks a sampler of P people × K images loses its groups.
#
# One would guess: Lightning shares the indices of a sampler of one's own among the ranks; "it is up to the underlying sampler to
#                  handle randomness and shuffling", says the wrapper's text, its own shuffle and seed "won't have any effect".
# What happens:    Trainer.fit shuffles the sampler's indices before it deals them out. Fabric.setup_dataloaders does not, but
#                  deals them one by one: with K = 2 on 2 ranks each rank has one image of each pair, and no batch any positive.
#                  On one device both leave the sampler alone. Nothing is said but the sampler's new type.
# Why it matters:  such samplers (pytorch-metric-learning's MPerClassSampler yields the same kind of run) make the batches of
#                  triplet and contrastive losses. Tried on one device and started on two, most anchors have no positive, or
#                  none has, and such losses then return 0 or a number over the few that do. Orders by difficulty and of
#                  shards are lost as well. Pass use_distributed_sampler=False and let the sampler deal whole groups.
#
# Seen when written (batches of 32; images that share their batch with another image of their person):
#                        K = 2   K = 4
#   Trainer  1 rank(s)  100.0 %  100.0 %
#   Trainer  2 rank(s)   24.2 %   31.6 %
#   Fabric   1 rank(s)  100.0 %  100.0 %
#   Fabric   2 rank(s)    0.0 %  100.0 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
"""Writes what share of the images has a partner in its batch: see.py KIND RANKS IMAGES FOLDER."""

import logging
import sys
import warnings
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

warnings.filterwarnings("ignore")
for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
kind, ranks, images, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
PEOPLE, BATCH = 64, 32


class PeopleSampler(Sampler):
    """All images of a person one after another, the people in another order in each epoch; alike on each rank."""

    def __init__(self):
        self.random = torch.Generator().manual_seed(0)

    def __len__(self):
        return PEOPLE * images

    def __iter__(self):
        for person in torch.randperm(PEOPLE, generator=self.random).tolist():
            yield from range(person * images, (person + 1) * images)


def paired(labels):
    return int(((labels[:, None] == labels[None, :]).sum(dim=1) > 1).sum())


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch[1])
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


labels = torch.arange(PEOPLE).repeat_interleave(images)
loader = DataLoader(TensorDataset(torch.randn(len(labels), 1), labels), batch_size=BATCH, sampler=PeopleSampler())
strategy = "ddp" if ranks > 1 else "auto"
if kind == "Trainer":
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", devices=ranks, strategy=strategy, **quiet)
    module = Module()
    trainer.fit(module, loader)
    batches, rank = module.seen, trainer.global_rank
else:
    fabric = lightning.Fabric(accelerator="cpu", devices=ranks, strategy=strategy)
    fabric.launch()
    loader = fabric.setup_dataloaders(loader)
    batches, rank = [batch[1] for _ in range(2) for batch in loader], fabric.global_rank
assert {len(batch) for batch in batches} == {BATCH}
(folder / f"{rank}.txt").write_text(f"{sum(map(paired, batches))} {sum(map(len, batches))}")
PY
echo "                     K = 2   K = 4"
for kind in Trainer Fabric; do
    for ranks in 1 2; do
        line=$(printf '%-8s %d rank(s)' "$kind" "$ranks")
        for images in 2 4; do
            rm -rf "$tmp/out" && mkdir "$tmp/out"
            "$tmp/venv/bin/python" "$tmp/see.py" "$kind" "$ranks" "$images" "$tmp/out" > "$tmp/log" 2>&1 \
                || { cat "$tmp/log"; exit 1; }
            [ "$(ls "$tmp/out" | wc -l)" = "$ranks" ]
            share=$(awk '{ got += $1; all += $2 } END { printf "%.1f", 100 * got / all }' "$tmp"/out/*.txt)
            line="$line $(printf '%6s %%' "$share")"
            case "$kind $ranks $images" in
                *" 1 "*) awk "BEGIN { exit !($share == 100) }" ;;
                "Fabric 2 2") awk "BEGIN { exit !($share == 0) }" ;;
                "Fabric 2 4") awk "BEGIN { exit !($share == 100) }" ;;
                *) awk "BEGIN { exit !($share > 5 && $share < 80) }" ;;
            esac
        done
        echo "$line"
    done
done
