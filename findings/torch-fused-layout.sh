#!/bin/bash
# torch 2.13.0 (CPU, Python 3.11): fused=True optimizers pair weights with the momentum or gradient of other weights.
#
# One would guess: fused=True computes what foreach=True and the plain loop do; a step of tensors with equal shapes does not
#                  depend on their order in memory, or refuses tensors that differ in it.
# What happens:    on the CPU the fused steps of SGD, Adam, AdamW and Adagrad walk through memory. Where the weights of a
#                  convolution are channels_last and its momentum or its gradient is contiguous, each weight is given those of
#                  another one, in silence. load_state_dict keeps the order that the checkpoint has, not the weights'.
# Why it matters:  channels_last is turned on as training is resumed (or model.to(memory_format=…) is called after some steps);
#                  the checkpoint holds contiguous momentum, which from then on drives the wrong weights. Gradients that were
#                  summed among processes in one flat buffer and set as views of it are contiguous too, in every step.
#                  PReLU, norms and the classification layer stay right. Cure: give each state tensor its weight's order,
#                  torch.empty_like(weight).copy_(state), or take foreach=True.
#
# Seen when written (five more steps: how far the convolutions are from those of a run that stays contiguous, by the
# length of its own update):
#                                                 plain  foreach    fused
#   SGD, momentum, resumed                       0.0000   0.0000   0.9540
#   SGD, momentum, order restored                0.0000   0.0000   0.0000
#   SGD, momentum, gradients from flat buffer    0.0000   0.0000   0.9412
#   Adam, resumed                                0.0000   0.0000   0.8916
#   Adam, order restored                         0.0000   0.0000   0.0000
#   Adam, gradients from flat buffer             0.0000   0.0000   0.8043
#   AdamW, resumed                               0.0000   0.0000   0.8916
#   AdamW, order restored                        0.0000   0.0000   0.0000
#   AdamW, gradients from flat buffer            0.0000   0.0000   0.8043
#   Adagrad, resumed                             0.0000   0.0000   0.2837
#   Adagrad, order restored                      0.0000   0.0000   0.0000
#   Adagrad, gradients from flat buffer          0.0000   0.0000   1.3325
#   plain    momentum of [1, 0, 2, 1] moves [[1, 0, 2, 1]]
#   foreach  momentum of [1, 0, 2, 1] moves [[1, 0, 2, 1]]
#   fused    momentum of [1, 0, 2, 1] moves [[1, 1, 1, 0]]
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import copy

import torch
from torch import nn

torch.set_num_threads(1)
LAST = torch.channels_last
OPTIMIZERS = {
    "SGD, momentum": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}),
    "Adam": (torch.optim.Adam, {"lr": 1e-3}),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-3}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 1e-3}),
}
WAYS = {"plain": {"foreach": False, "fused": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.Conv2d(16, 16, 3), nn.PReLU(16), nn.Flatten(), nn.Linear(16 * 144, 10)
    )


def train(net, optimizer, seed, flat=False):
    random = torch.Generator().manual_seed(seed)
    for _ in range(5):
        faces = torch.randn(8, 3, 16, 16, generator=random)
        labels = torch.randint(0, 10, (8,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(faces), labels).backward()
        if flat:  # as when gradients are summed among processes in one tensor
            weights = list(net.parameters())
            parts = torch.cat([w.grad.reshape(-1) for w in weights]).split([w.numel() for w in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.grad = part.view(weight.shape)
        optimizer.step()


def convolutions(net):
    return torch.cat([layer.weight.detach().reshape(-1) for layer in net if isinstance(layer, nn.Conv2d)])


def distance(kind, way, case):
    make, options = OPTIMIZERS[kind]
    usual = network()
    optimizer = make(usual.parameters(), **options, **WAYS[way])
    train(usual, optimizer, 1)
    saved = copy.deepcopy((usual.state_dict(), optimizer.state_dict()))
    before = convolutions(usual)
    train(usual, optimizer, 2)

    other = network().to(memory_format=LAST)
    other.load_state_dict(saved[0])
    resumed = make(other.parameters(), **options, **WAYS[way])
    resumed.load_state_dict(saved[1])
    if case != "resumed":
        for weight, state in resumed.state.items():
            for name, value in state.items():
                if value.shape == weight.shape:
                    state[name] = torch.empty_like(weight).copy_(value)
    train(other, resumed, 2, flat=case == "gradients from flat buffer")
    update = convolutions(usual) - before
    return ((convolutions(other) - convolutions(usual)).norm() / update.norm()).item()


print(f"{'':<42}" + "".join(f"{way:>9}" for way in WAYS))
for kind in OPTIMIZERS:
    for case in ("resumed", "order restored", "gradients from flat buffer"):
        seen = {way: distance(kind, way, case) for way in WAYS}
        print(f"{kind + ', ' + case:<42}" + "".join(f"{value:9.4f}" for value in seen.values()))
        assert seen["plain"] < 0.01 and seen["foreach"] < 0.01, seen
        assert (seen["fused"] < 0.01) == (case == "order restored"), seen

# One weight's momentum, and the weight that it moves.
for way, options in WAYS.items():
    weight = nn.Parameter(torch.zeros(4, 2, 3, 3).contiguous(memory_format=LAST))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, **options)
    momentum = torch.zeros(4, 2, 3, 3)
    momentum[1, 0, 2, 1] = 1
    state = optimizer.state_dict()
    optimizer.load_state_dict(state | {"state": {0: {"momentum_buffer": momentum}}})
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moved = weight.nonzero().tolist()
    print(f"{way:<8} momentum of [1, 0, 2, 1] moves {moved}")
    assert (moved == [[1, 0, 2, 1]]) == (way != "fused")
PY
"$tmp/venv/bin/python" "$tmp/see.py"
