"""Each schedule against its definition: slow, obvious twins, resume, and the settings' errors."""

import io
import json
import math
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
import torch

from facepack.errors import ConfigError
from facepack.train.schedules import build_schedule, names, option_names, register
from facepack.train.schedules.haar import HaarContrast
from facepack.train.schedules.loss_buffer import LossBuffer
from facepack.train.schedules.noise import NoiseMeter

STEPS = 1200
RUN = {"base_lr": 0.02, "total_steps": STEPS, "steps_per_epoch": 300}
ADAPTIVE = {
    "mhlr": {"window": 20},
    "fastface": {"alpha": 0.02, "beta": 0.02, "threshold": 6e-3},
    "mhlr_guarded": {"window": 16, "refractory": 25},
}
FIXED = {
    "cosine": {},
    "poly": {"power": 2.0},
    "multistep": {"milestones": [1, 2.5]},
    "constant": {},
}
ALL = {**ADAPTIVE, **FIXED}


@pytest.fixture(scope="module")
def losses():
    """A run in small: the loss falls, stalls, and falls suddenly at each epoch; some noise."""
    steps = np.arange(STEPS)
    noise = np.random.default_rng(7).normal(0, 0.1, STEPS)
    return (20 * np.exp(-steps / 60) - 1.5 * (steps // 300) + 12 + noise).tolist()


def rates_of(schedule, losses):
    rates = []
    for loss in losses:
        rates.append(schedule.lr)
        schedule.step(loss)
    return [*rates, schedule.lr]


# --- MHLR, first version ------------------------------------------------------------------------


def slow_contrasts(losses, m):
    """H after each loss, straight from its definition; None where it is not defined."""
    averages = {t: math.fsum(losses[t - m : t]) / m for t in range(m, len(losses) + 1)}
    contrasts = []
    for t in range(1, len(losses) + 1):
        if t < 2 * m:
            contrasts.append(None)
            continue
        last = [averages[s] for s in range(t - m + 1, t + 1)]
        older, newer = last[: m // 2], last[m - m // 2 :]
        contrasts.append((math.fsum(older) - math.fsum(newer)) / m)
    return contrasts


def slow_sigma(losses, m):
    """σ_H after the given losses, from the second differences of the means of blocks."""
    b = max(1, m // 40)
    means = [math.fsum(losses[i : i + b]) / b for i in range(0, len(losses) - b + 1, b)]
    bends = [abs(x - 2 * y + z) for x, y, z in zip(means, means[1:], means[2:], strict=False)]
    sigma_step = median(bends[-(2 * m // b - 2) :]) / 0.6744897501960817 * math.sqrt(b / 6)
    return sigma_step / math.sqrt(6 * m)


def slow_mhlr(losses, m, base_lr, threshold=0.06):
    """The learning rate after each loss, and its changes."""
    lr, count, consecutive, rates, changes = base_lr, 0, 0, [], []
    for t, contrast in enumerate(slow_contrasts(losses, m), 1):
        if contrast is not None:
            limit = threshold
            if threshold == "auto":
                limit = max(0.06, 4 * slow_sigma(losses[:t], m))
            if contrast < limit:
                count += 1
            else:
                count = consecutive = 0
            if count > 2 * m:
                count = 0
                consecutive += 1
                lr = lr * 4 if consecutive % 4 == 0 else lr / 2
                changes.append((t, lr))
        rates.append(lr)
    return rates, changes


@pytest.mark.parametrize("m", [2, 3, 20, 31])
def test_haar_contrast_equals_its_definition(losses, m):
    haar = HaarContrast(m)
    contrasts = [haar.push(loss) for loss in losses]
    assert contrasts[: 2 * m - 1] == [None] * (2 * m - 1)
    assert contrasts[2 * m - 1 :] == pytest.approx(
        slow_contrasts(losses, m)[2 * m - 1 :], rel=0, abs=1e-11
    )


def test_haar_contrast_of_a_steady_fall():
    haar = HaarContrast(40)
    assert [haar.push(50 - 0.01 * t) for t in range(200)][-1] == pytest.approx(0.01 * 40 / 4)


def test_haar_contrast_does_not_drift():
    haar = HaarContrast(10)
    for loss in np.random.default_rng(0).normal(0, 1e4, 50_000).tolist():
        haar.push(loss)
    assert [haar.push(1 / 3) for _ in range(30)][-1] == 0.0


def test_haar_contrast_is_rebuilt_exactly(losses):
    haar, rebuilt = HaarContrast(7), HaarContrast(7)
    for loss in losses[:100]:
        haar.push(loss)
    rebuilt.restore(haar.losses())
    assert [rebuilt.push(loss) for loss in losses[100:]] == [haar.push(x) for x in losses[100:]]


@pytest.mark.parametrize("threshold", [0.06, "auto"])
@pytest.mark.parametrize("m", [9, 20])
def test_mhlr_equals_the_slow_twin(losses, m, threshold):
    schedule = build_schedule("mhlr", window=m, threshold=threshold, read_every=1, **RUN)
    rates, changes = slow_mhlr(losses, m, 0.02, threshold)
    assert rates_of(schedule, losses)[1:] == rates
    assert schedule.changes == changes
    if threshold == 0.06:  # the losses exercise the rule: drops, a reset, a restart
        assert len(changes) >= 5
        assert any(b > a for (_, a), (_, b) in pairwise(changes))


def test_mhlr_counts_exactly():
    # H of a constant loss is 0 from step 2m on; the count exceeds 2m at 4m, then every 2m + 1.
    schedule = build_schedule("mhlr", window=5, read_every=1, **RUN)
    rates_of(schedule, [10.0] * 90)
    assert schedule.changes == [
        (20, 0.01), (31, 0.005), (42, 0.0025), (53, 0.01),
        (64, 0.005), (75, 0.0025), (86, 0.00125),
    ]  # fmt: skip


def test_mhlr_default_window():
    assert build_schedule("mhlr", **RUN).options.window == 21
    short = {**RUN, "total_steps": 10}
    assert build_schedule("mhlr", **short).options.window == 2
    assert build_schedule("mhlr_guarded", **short).options.window == 2


# --- the noise of H -----------------------------------------------------------------------------


@pytest.mark.parametrize("m", [30, 200])
def test_sigma_h_is_that_of_the_contrast(m):
    # n = 40 windows of noise: the spread of H itself is known to about 10 %.
    noise = np.random.default_rng(3).normal(0, 0.8, 80 * m)
    steps = np.arange(len(noise))
    haar, meter, contrasts, sigmas = HaarContrast(m), NoiseMeter(m), [], []
    # A steady fall and sudden ones must not pass for noise.
    for pure, seen in zip(noise, noise - 0.001 * steps - 2.0 * (steps // (7 * m)), strict=True):
        contrasts.append(haar.push(float(pure)))
        meter.push(float(seen))
        sigmas.append(meter.sigma)
    expected = 0.8 / math.sqrt(6 * m)
    assert np.std([h for h in contrasts if h is not None]) == pytest.approx(expected, rel=0.25)
    assert np.mean(sigmas[2 * m :]) == pytest.approx(expected, rel=0.12)
    # σ_H = 0.41·σ_image/√(m·B), with σ_step = σ_image/√B
    assert expected == pytest.approx(0.41 * (0.8 * math.sqrt(128)) / math.sqrt(m * 128), rel=0.01)


def test_auto_threshold_sees_a_plateau_under_noise():
    noise = np.random.default_rng(5).normal(5.0, 1.0, 2000).tolist()
    run = {"base_lr": 0.1, "total_steps": 2000, "steps_per_epoch": 400}
    changes = {}
    for threshold in (0.06, "auto"):
        schedule = build_schedule("mhlr", window=35, threshold=threshold, **run)
        rates_of(schedule, noise)
        changes[threshold] = len(schedule.changes)
    # The plateau is whole: nearly every 2m + 1 steps a change is due.
    assert changes["auto"] >= 24
    assert changes[0.06] < 12


# --- MHLR, second version -----------------------------------------------------------------------


def slow_fastface(losses, base_lr, total, batch, *, alpha, beta, threshold):
    """The learning rate after each loss, straight from the equations."""
    scale = batch / 128
    a, b, limit, patience = alpha * scale, beta * scale, threshold * scale, int(0.05 * total)
    n = len(losses)
    fall, trend, lr, count, drops, rates = [0.0] * n, [0.0] * n, base_lr, 0, 0, [base_lr]
    for t in range(1, n):
        fall[t] = (1 - a) * fall[t - 1] + a * (losses[t - 1] - losses[t])
        trend[t] = (1 - b) * trend[t - 1] + b * fall[t]
        if trend[t] < limit:
            if count < patience:
                count += 1
            else:
                count = 0
                if drops < 8:
                    drops += 1
                    lr = lr / 2
        else:
            count = 0
        rates.append(lr)
    return rates


@pytest.mark.parametrize("batch", [128, 512])
def test_fastface_equals_the_slow_twin(losses, batch):
    options = ADAPTIVE["fastface"]
    schedule = build_schedule("fastface", batch_size=batch, read_every=1, **RUN, **options)
    expected = slow_fastface(losses, 0.02, STEPS, batch, **options)
    assert rates_of(schedule, losses)[1:] == expected
    assert len(schedule.changes) >= 3


def test_fastface_stops_at_the_last_drop():
    schedule = build_schedule("fastface", max_drops=3, **RUN)
    rates_of(schedule, [4.0] * STEPS)
    assert [lr for _, lr in schedule.changes] == [0.01, 0.005, 0.0025]


def test_fastface_starts_from_zero():
    # Seeding D with the first fall would keep G above the threshold for long.
    schedule = build_schedule("fastface", read_every=1, **RUN)
    rates_of(schedule, [46.0] + [46.0] * 61)
    assert schedule.changes == [(62, 0.01)]  # the first loss, ⌊τT⌋ = 60 counts, then the drop


# --- the guarded variant ------------------------------------------------------------------------


def slow_guarded(losses, m, refractory, *, base_lr, total_steps, steps_per_epoch):
    """The learning rate after each loss, rule by rule."""
    tail = total_steps - round(0.15 * total_steps)

    def clip(level, k):
        centre = base_lr * 0.5 * (1 + math.cos(math.pi * k / total_steps))
        return min(max(level, centre / 4), centre * 4, base_lr)

    level, count, consecutive, last, rates = base_lr, 0, 0, None, []
    for t, contrast in enumerate(slow_contrasts(losses, m), 1):
        in_epoch = (t - 1) % steps_per_epoch
        still = (last is not None and t - last <= refractory) or (
            t > steps_per_epoch and in_epoch < refractory
        )
        if contrast is not None and t <= tail and not still:
            if contrast >= max(0.06, 4 * slow_sigma(losses[:t], m)):
                count = consecutive = 0
            else:
                count += 1
            if count > 2 * m:
                count, last, consecutive = 0, t, consecutive + 1
                level = clip(level, t) * (4 if consecutive % 4 == 0 else 0.5)
        if t <= tail:
            rates.append(clip(level, t))
        else:
            rates.append(clip(level, tail) * (total_steps - t) / (total_steps - tail))
    return rates


def test_guarded_equals_the_slow_twin(losses):
    schedule = build_schedule("mhlr_guarded", read_every=1, **RUN, **ADAPTIVE["mhlr_guarded"])
    assert rates_of(schedule, losses)[1:] == pytest.approx(
        slow_guarded(losses, 16, 25, **RUN), rel=1e-12
    )
    assert len(schedule.changes) >= 4


@pytest.mark.parametrize("plateau", [True, False])
def test_guarded_stays_in_the_band_and_ends_at_zero(plateau):
    run_losses = [5.0 if plateau else 100.0 - t for t in range(STEPS)]
    rates = rates_of(build_schedule("mhlr_guarded", window=10, band=3.0, **RUN), run_losses)
    cosine = rates_of(build_schedule("cosine", **RUN), run_losses)
    tail = round(0.85 * STEPS)
    for rate, centre in zip(rates[: tail + 1], cosine, strict=False):
        assert centre / 3 <= rate * (1 + 1e-12)
        assert rate <= min(3 * centre, 0.02) * (1 + 1e-12)
    assert rates[tail:] == pytest.approx(np.linspace(rates[tail], 0, STEPS - tail + 1).tolist())
    assert rates[STEPS] == 0.0
    assert min(rates[:STEPS]) > 0


def test_guarded_holds_still_after_changes_and_boundaries():
    schedule = build_schedule("mhlr_guarded", window=5, refractory=40, read_every=1, **RUN)
    rates_of(schedule, [5.0] * STEPS)
    at = [step for step, _ in schedule.changes]
    assert min(b - a for a, b in pairwise(at)) > 40
    assert all(step <= 300 or (step - 1) % 300 >= 40 for step in at)


def test_guarded_refractory_period_by_default():
    options = build_schedule("mhlr_guarded", window=20, **RUN).options
    assert options.refractory == 40
    short_epochs = {**RUN, "steps_per_epoch": 50}
    assert build_schedule("mhlr_guarded", window=20, **short_epochs).options.refractory == 25


def test_a_sudden_fall_at_a_boundary_does_not_reset_the_guarded_detector():
    # The count starts after the period that follows the change at 211, reaches 29 at the boundary,
    # stands still for 60 steps and goes on: 51, one more than 2m, at 300 + 60 + 22.
    run = {"base_lr": 0.1, "total_steps": 400, "steps_per_epoch": 300}
    options = {"window": 25, "refractory": 60, "tail": 0.0, "threshold": 0.06, "read_every": 1}
    schedule = build_schedule("mhlr_guarded", **run, **options)
    rates_of(schedule, [10.0] * 300 + [9.0] * 100)
    assert [step for step, _ in schedule.changes] == [100, 211, 382]


# --- formulas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 100])
def test_formulas(warmup):
    run = {**RUN, "warmup_steps": warmup}
    expected = {
        "cosine": lambda x: 0.02 * 0.5 * (1 + math.cos(math.pi * x)),
        "poly": lambda x: 0.02 * (1 - x),
        "constant": lambda x: 0.02,
    }
    for name, formula in expected.items():
        rates = rates_of(build_schedule(name, **run), [0.0] * (STEPS + 5))
        for k in range(STEPS + 1):
            if k < warmup:
                assert rates[k] == pytest.approx(0.02 * k / warmup)
            else:
                assert rates[k] == pytest.approx(formula((k - warmup) / (STEPS - warmup)))
        assert rates[STEPS + 1 :] == [rates[STEPS]] * 5


def slow_train_v2_rates(total_steps, warmup, power, base_lr):
    """arcface_torch's PolynomialLRWarmup as a recurrence: the rate of each step, one by one."""
    rate, rates = base_lr, [base_lr]  # the first is the optimizer's own, warm-up or not
    for k in range(1, total_steps):
        if k <= warmup:
            rate = base_lr * k / warmup
        else:
            decay_steps = total_steps - warmup
            rate *= ((total_steps - k) / decay_steps) ** power
            rate /= ((total_steps - k + 1) / decay_steps) ** power
        rates.append(rate)
    return rates


@pytest.mark.parametrize("power", [None, 2.0])
@pytest.mark.parametrize("warmup", [0, 100])
def test_poly_is_the_decay_of_train_v2(warmup, power):
    options = {} if power is None else {"power": power}
    run = {**RUN, "base_lr": 0.1, "warmup_steps": warmup}
    rates = rates_of(build_schedule("poly", **run, **options), [0.0] * STEPS)[:-1]
    theirs = slow_train_v2_rates(STEPS, warmup, power or 1.0, 0.1)
    # Only the first step of a warm-up differs: it runs at the full rate there.
    first = 1 if warmup else 0
    assert rates[first:] == pytest.approx(theirs[first:], rel=1e-9)
    assert (rates[0], theirs[0]) == ((0.0, 0.1) if warmup else (0.1, 0.1))


def test_poly_halves_the_rate_in_the_middle_of_the_run():
    schedule = build_schedule("poly", **{**RUN, "base_lr": 0.1})
    assert schedule.lr_after(STEPS // 2) == pytest.approx(0.05)
    older = build_schedule("poly", power=2, **{**RUN, "base_lr": 0.1})
    assert older.lr_after(STEPS // 2) == pytest.approx(0.025)


def test_multistep_in_epochs_and_steps():
    rates = rates_of(build_schedule("multistep", milestones=[1, 2.5], **RUN), [0.0] * STEPS)
    assert rates[299:301] == pytest.approx([0.02, 0.002])
    assert rates[749:751] == pytest.approx([0.002, 0.0002])
    by_steps = build_schedule("multistep", milestones=[7], unit="steps", factor=0.5, **RUN)
    assert rates_of(by_steps, [0.0] * 8)[5:] == [0.02, 0.02, 0.01, 0.01]
    assert by_steps.changes == [(7, 0.01)]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_warmup_comes_before_the_detector(name, losses):
    warm = build_schedule(name, read_every=1, **{**RUN, "warmup_steps": 50}, **ADAPTIVE[name])
    rates = rates_of(warm, [1e6] * 50 + losses[:200])
    assert rates[:51] == pytest.approx([0.02 * k / 50 for k in range(51)])
    if name != "mhlr_guarded":  # its cosine and boundaries stand in the run, not after warm-up
        plain = build_schedule(name, read_every=1, **RUN, **ADAPTIVE[name])
        assert rates[50:] == rates_of(plain, losses[:200])


# --- reading, state -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAPTIVE)
def test_reading_every_ten_steps_delays_a_change_by_fewer(name, losses):
    changes = {}
    for k in (1, 10):
        schedule = build_schedule(name, read_every=k, **RUN, **ADAPTIVE[name])
        rates_of(schedule, losses)
        changes[k] = schedule.changes
    assert len(changes[1]) == len(changes[10]) >= 3
    assert all(0 <= b - a < 10 for (a, _), (b, _) in zip(changes[1], changes[10], strict=True))
    if name != "mhlr_guarded":  # within its band the rate moves with the step
        assert [lr for _, lr in changes[1]] == [lr for _, lr in changes[10]]


@pytest.mark.parametrize("name", ALL)
def test_tensors_and_numbers_give_the_same(name, losses):
    # float32 losses, as training gives them, on either road
    rounded = np.float32(losses).astype(float).tolist()
    tensors = [torch.tensor(loss, dtype=torch.float32, requires_grad=True) for loss in rounded]
    by_number = build_schedule(name, **RUN, **ALL[name])
    by_tensor = build_schedule(name, **RUN, **ALL[name])
    assert rates_of(by_tensor, tensors) == rates_of(by_number, rounded)
    assert by_tensor.state_dict() == by_number.state_dict()


@pytest.mark.parametrize("name", ALL)
def test_resume_is_exact_at_every_step(name, losses):
    run = {**RUN, "warmup_steps": 5}
    whole = build_schedule(name, **run, **ALL[name])
    states, rates = [], []
    for loss in losses:
        states.append(json.dumps(whole.state_dict()))
        rates.append(whole.lr)
        whole.step(loss)
    assert bool(whole.changes) == (name in {*ADAPTIVE, "multistep"})
    for at, state in enumerate(states):
        resumed = build_schedule(name, **run, **ALL[name])
        resumed.load_state_dict(json.loads(state))
        assert resumed.steps_done == at
        # Every offset for as long as all windows remember, some to the end.
        until = STEPS if at % 50 == 0 else min(at + 60, STEPS)
        assert rates_of(resumed, losses[at:until])[:-1] == rates[at:until]
        if until == STEPS:
            assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("name", ALL)
def test_state_survives_torch_save(name, losses):
    schedule = build_schedule(name, **RUN, **ALL[name])
    for loss in losses[:333]:
        schedule.step(torch.tensor(loss))
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    resumed = build_schedule(name, **RUN, **ALL[name])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert rates_of(resumed, losses[333:]) == rates_of(schedule, losses[333:])


def test_the_interval_of_the_checkpoint_holds():
    saved = build_schedule("mhlr", window=5, read_every=7, **RUN)
    rates_of(saved, [1.0] * 10)
    resumed = build_schedule("mhlr", window=5, read_every=2, **RUN)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.state_dict()["read_every"] == 7
    assert resumed.state_dict()["unread"] == [1.0] * 3
    assert rates_of(resumed, [1.0] * 50) == rates_of(saved, [1.0] * 50)


def test_a_state_of_another_schedule_is_refused():
    state = build_schedule("cosine", **RUN).state_dict()
    with pytest.raises(ConfigError, match="schedule is mhlr, but the checkpoint was made under co"):
        build_schedule("mhlr", **RUN).load_state_dict(state)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_losses_never_reach_the_detector(name, bad, losses):
    options = {**ADAPTIVE[name], "read_every": 1}
    spoilt, clean = build_schedule(name, **RUN, **options), build_schedule(name, **RUN, **options)
    for loss in losses[:100]:
        spoilt.step(loss)
        clean.step(loss)
    spoilt.step(bad)
    assert spoilt.steps_done == 101
    ours, theirs = spoilt.state_dict(), clean.state_dict()
    assert {**ours, "step": 100} == theirs


# The meta device computes nothing and has nothing to read: reading a loss there fails.
META_LOSS = torch.empty((), device="meta")


@pytest.mark.parametrize("name", FIXED)
def test_fixed_schedules_never_read_the_loss(name):
    rates_of(build_schedule(name, **RUN, **FIXED[name]), [META_LOSS] * 50)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("k", [1, 4, 10])
def test_losses_are_read_every_k_steps_and_not_before(name, k):
    schedule = build_schedule(name, read_every=k, **RUN, **ADAPTIVE[name])
    rates_of(schedule, [META_LOSS] * (k - 1))
    with pytest.raises((NotImplementedError, RuntimeError)):
        schedule.step(META_LOSS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_synchronisation_between_readings():
    schedule = build_schedule("mhlr", window=5, **RUN)
    loss = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        rates_of(schedule, [loss] * 9)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    rates_of(schedule, [loss] * 31)
    assert schedule.changes == [(20, 0.01), (40, 0.005)]


def test_the_loss_buffer_keeps_order_over_kinds_of_loss():
    buffer = LossBuffer(6)
    for loss in (1.0, torch.tensor(2.0), torch.tensor([3.0]), 4, torch.tensor(5.0).double()):
        buffer.append(loss)
    assert buffer.peek() == [1, 2, 3, 4, 5]
    buffer.append(torch.tensor(6.0, dtype=torch.bfloat16))
    with pytest.raises(IndexError, match="holds 6 losses and is full"):
        buffer.append(7.0)
    assert buffer.take() == [1, 2, 3, 4, 5, 6]
    assert len(buffer) == 0


def test_the_loss_buffer_copies():
    # A captured CUDA graph writes each step's loss into the same tensor.
    buffer, loss = LossBuffer(3), torch.zeros(())
    for _ in range(3):
        loss += 1
        buffer.append(loss)
    assert buffer.take() == [1, 2, 3]


# --- settings -----------------------------------------------------------------------------------


def test_names():
    assert names() == [
        "constant", "cosine", "fastface", "mhlr", "mhlr_guarded", "multistep", "poly",
    ]  # fmt: skip
    assert option_names("poly") == ["power"]
    with pytest.raises(ValueError, match="already registered as 'poly'"):
        register("poly", object)(type(build_schedule("poly", **RUN)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "schedule = 'cosin' is not one of constant, cosine, fastface,.*mean cosine"),
        ("poly", {"powr": 2}, "poly: unknown setting 'powr' .*mean power.*allowed: power"),
        ("cosine", {"power": 2}, "cosine: unknown setting 'power'; allowed: none"),
        ("mhlr", {"window": 1}, "mhlr: window = 1 is not allowed: it must be at least 2"),
        ("mhlr", {"window": 4.0}, "window = 4.0 is not a whole number at least 2"),
        ("mhlr", {"threshold": "high"}, "threshold = 'high' is not a number at least 0 or auto"),
        ("mhlr", {"threshold": -1}, "threshold = -1 is not allowed: it must be at least 0"),
        ("mhlr", {"factor": 1.0}, "factor = 1.0 is not allowed: it must be above 0 and below 1"),
        ("mhlr", {"restart": 1}, "restart = 1 is not allowed: it must be above 1"),
        ("mhlr", {"read_every": 11}, "read_every = 11 is not allowed: it must be from 1 to 10"),
        ("mhlr", {"read_every": True}, "read_every = True is not a whole number from 1 to 10"),
        ("mhlr_guarded", {"band": 0.5}, "band = 0.5 is not allowed: it must be at least 1"),
        ("mhlr_guarded", {"tail": 1}, "tail = 1 is not allowed: it must be at least 0 and below 1"),
        (
            "mhlr_guarded",
            {"refractory": -1},
            "refractory = -1 is not allowed: it must be at least 0",
        ),
        ("mhlr_guarded", {"window": 1}, "mhlr_guarded: window = 1 is not allowed: .* at least 2"),
        ("fastface", {"alpha": 0}, "alpha = 0 is not allowed: it must be above 0 and at most 1"),
        ("fastface", {"delta": 1}, "delta = 1 is not allowed: it must be above 1"),
        ("fastface", {"tau": math.nan}, "tau = nan is not a finite number"),
        ("fastface", {"alpha": 0.9, "batch_size": 256}, "at batch_size 256; lower them"),
        ("poly", {"power": 0}, "power = 0 is not allowed: it must be above 0"),
        ("multistep", {}, r"milestones must be a list of epochs such as \[8, 14\], got \(\)"),
        ("multistep", {"milestones": [2, 2]}, r"milestones must ascend, got \[2, 2\]"),
        ("multistep", {"milestones": ["8"]}, "each of milestones = '8' is not a number above 0"),
        (
            "multistep",
            {"milestones": [0.5], "unit": "steps"},
            "= 0.5 is not a whole number at least 1",
        ),
        (
            "multistep",
            {"milestones": [1], "unit": "days"},
            "unit = 'days' is not one of epochs, steps",
        ),
        ("cosine", {"base_lr": 0}, "base_lr = 0 is not allowed: it must be above 0"),
        ("cosine", {"total_steps": 0}, "total_steps = 0 is not allowed: it must be at least 1"),
        ("cosine", {"steps_per_epoch": 0}, "steps_per_epoch = 0 is not allowed: .* at least 1"),
        ("cosine", {"batch_size": 0}, "batch_size = 0 is not allowed: it must be at least 1"),
        ("cosine", {"warmup_steps": 1200}, "warmup_steps must be below the run's 1200 steps"),
    ],
)
def test_wrong_settings_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(name, **{**RUN, **options})
