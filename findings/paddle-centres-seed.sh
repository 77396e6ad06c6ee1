#!/bin/bash
# paddlepaddle 3.3.1 (CPU, Python 3.11): no seed reaches class_center_sample, the sampling of Partial FC.
#
# One would guess: paddle.seed fixes all random operators: after it rand, dropout and class_center_sample give the same again.
# What happens:    class_center_sample takes its negative class centres from the machine's source of randomness in each call.
#                  It has no argument for a seed, and those of paddle.seed and of the default program are passed over. The
#                  positive centres, and so the remapped labels, are the same: nothing shows in a test on labels.
# Why it matters:  ArcFace of InsightFace's Paddle recipes and PLSC with a sample rate below 1. Two runs of one seed part at
#                  the first step, and a resumed run is another one.
#
# Seen when written (3 labels of 10,000 classes, 100 centres sampled, six calls, the seed set before each):
#   paddle.rand                1 result
#   positive centres, labels   1 result
#   negative centres           6 results, with the program's random_seed too
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check paddlepaddle==3.3.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import paddle

paddle.set_device("cpu")
labels = paddle.to_tensor([30, 50, 30, 9], dtype="int64")


def call():
    """Random numbers, positive centres and labels, negative centres, all after the same seed."""
    paddle.seed(7)
    numbers = paddle.rand([4]).numpy().tolist()
    remapped, sampled = paddle.nn.functional.class_center_sample(labels, num_classes=10_000, num_samples=100)
    sampled = sampled.numpy().tolist()
    assert len(set(sampled)) == 100 and all(0 <= centre < 10_000 for centre in sampled)
    return str(numbers), str((sampled[:3], remapped.numpy().tolist())), str(sampled[3:])


def results(calls):
    return [len(set(column)) for column in zip(*(call() for _ in range(calls)))]


rand, positive, negative = results(6)
paddle.static.default_main_program().random_seed = 7
program = results(6)[2]
print(f"paddle.rand                {rand} result")
print(f"positive centres, labels   {positive} result")
print(f"negative centres           {negative} results, with the program's random_seed {'too' if program == 6 else program}")
assert (rand, positive, negative, program) == (1, 1, 6, 6)
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
