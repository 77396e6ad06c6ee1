#!/bin/bash
# pyeer 0.5.6 (Python 3.11, NumPy 2.4.6): ZeroFMR and FMR1000 are read at a threshold that lets a false match through.
#
# One would guess: ZeroFMR is "the lowest FNMR at which no false matches occur" (its docstring), FMR1000 the lowest FNMR at
#                  FMR ≤ 1/1000, as the FVC protocol it follows has it.
# What happens:    the thresholds are the scores themselves, and the one whose FMR is nearest is taken, be it above. There is
#                  none above the highest score: if this is an impostor's, FMR never reaches 0, and ZeroFMR is the FNMR at
#                  one false match. With 700 impostors FMR1000 is read at 1/700, and the two are the same number.
# Why it matters:  one wrong label or twin among the impostors is enough, the usual case on faces: the report says that 8 % of
#                  the genuine pairs are lost at no false match where it is all of them. Small folds have few impostors.
#
# Seen when written (3,000 genuine and 700 impostor cosines, the highest an impostor's):
#              pyeer     at FMR        FNMR by definition
#   ZeroFMR    0.0840    0.001429      1.0000
#   FMR1000    0.0840    0.001429      1.0000
#   FMR100     0.0493    0.010000      0.0493
#   without that impostor ZeroFMR is 0.0840, as by definition
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pyeer==0.5.6 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
from pyeer.eer_info import get_eer_stats

random = np.random.default_rng(0)
genuine = random.normal(0.50, 0.12, 3000).clip(-1, 0.98)
impostor = random.normal(0.05, 0.10, 699).clip(-1, 0.98)
impostor = np.append(impostor, 0.99)


def defined(genuine, impostor, most):
    """The lowest FNMR over all thresholds (a match: score ≥ threshold) with FMR ≤ most."""
    thresholds = np.append(np.union1d(genuine, impostor), np.inf)
    return min((genuine < t).mean() for t in thresholds if (impostor >= t).mean() <= most)


print("           pyeer     at FMR        FNMR by definition")
stats = get_eer_stats(genuine, impostor)
for name, field, most in (("ZeroFMR", "fmr0", 0), ("FMR1000", "fmr1000", 0.001), ("FMR100", "fmr100", 0.01)):
    fnmr, threshold = getattr(stats, field), getattr(stats, f"{field}_th")
    fmr, expected = (impostor >= threshold).mean(), defined(genuine, impostor, most)
    print(f"{name}    {fnmr:.4f}    {fmr:.6f}      {expected:.4f}".replace("FMR100 ", "FMR100  "))
    assert np.isclose(fnmr, (genuine < threshold).mean())
    if most < 0.01:
        assert (fmr, expected) == (1 / 700, 1) and fnmr < 0.1
    else:
        assert np.isclose(fnmr, expected)
fnmr = get_eer_stats(genuine, impostor[:-1]).fmr0
print(f"without that impostor ZeroFMR is {fnmr:.4f}, as by definition")
assert np.isclose(fnmr, defined(genuine, impostor[:-1], 0))
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
