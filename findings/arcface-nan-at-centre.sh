#!/bin/bash
# pytorch-metric-learning 2.9.0 (torch 2.13.0, CPU), Python 3.11: a loss of 0.0 whose gradient is NaN.
#
# One would guess: an embedding that lies on its class centre is the best case of ArcFaceLoss: loss about zero, gradient finite.
# What happens:    the angle is acos of the cosine, whose slope at 1 is infinite. Where the float32 cosine of the pair rounds to
#                  exactly 1 (it does for about a quarter of random unit vectors), the gradients of the row and of its
#                  centre are NaN, while the loss printed for the batch is 0.0. One step later every weight is NaN.
# Why it matters:  centres are often set from embeddings: when new identities are added to a trained head, for fine-tuning, and
#                  for identities with one image (there the centre is that embedding). The log shows a perfect loss until the
#                  step after. A little noise on the centres is enough, or cos(θ + m) written without acos.
#
# Seen when written (256 identities of one image each, 512 values, centres set from the embeddings):
#   ArcFaceLoss: loss 0.0000, NaN gradients: 61 embeddings, 61 centres
#   CosFaceLoss: loss 0.0000, NaN gradients: 0 embeddings, 0 centres
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    pytorch-metric-learning==2.9.0 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss

torch.manual_seed(0)
embeddings = torch.nn.functional.normalize(torch.randn(256, 512))
seen = {}
for kind in (ArcFaceLoss, CosFaceLoss):
    x = embeddings.clone().requires_grad_()
    head = kind(num_classes=256, embedding_size=512)
    with torch.no_grad():
        head.W.copy_(embeddings.T)
    loss = head(x, torch.arange(256))
    loss.backward()
    rows = int(x.grad.isnan().any(1).sum())
    centres = int(head.W.grad.isnan().any(0).sum())
    print(f"{kind.__name__}: loss {loss.item():.4f}, NaN gradients: {rows} embeddings, {centres} centres")
    seen[kind] = loss.item(), rows, centres
loss, rows, centres = seen[ArcFaceLoss]
assert loss < 1e-3 and rows > 20 and centres > 20
assert seen[CosFaceLoss][1:] == (0, 0)
PY
"$tmp/venv/bin/python" "$tmp/see.py"
