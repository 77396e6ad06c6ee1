"""Partial FC: softmax over class centres of which each step reads, updates and pays for a sample.

After An et al., "Partial FC: Training 10 Million Identities on a Single Machine", 2021, in its
first form: the centres and their optimizer state are not parameters of an optimizer. A step copies
out the rows that it uses, and writes these back, so its cost follows the sample. Its second form,
one dense parameter whose momentum and decay act on every row, is the update ``dense``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from facepack.errors import ConfigError, TrainingError
from facepack.hashing import derive_seed
from facepack.settings import Count, Fraction, check, check_choice
from facepack.train.heads.centres import fill_centres
from facepack.train.heads.chunked import ChunkedLoss, own_cosines
from facepack.train.heads.draws import draw_normals
from facepack.train.heads.faces import Faces, gather_faces
from facepack.train.heads.logits import LogitRule, margin_logits, whole_loss
from facepack.train.heads.margin_state import MarginState
from facepack.train.heads.margins import Margin, Own
from facepack.train.heads.row_optimizers import build_row_optimizer
from facepack.train.heads.row_storage import Storage, build_row_storage
from facepack.train.heads.sampling import sample_rows
from facepack.train.heads.sharded import ShardedLoss
from facepack.train.ranks.group import ALONE, Ranks

Update = Literal["sampled", "dense"]

_FOR_WEIGHTS, _FOR_SAMPLES = 0, 1

# Bytes of logits and unit vectors of the centres: up to how many they are made whole, where
# autograd keeps several of each, and how many are in a chunk otherwise.
_LARGEST_WHOLE = 2 << 30
_CHUNK_BYTES = 256 << 20

# A step's temporaries are of so many rows.
_UPDATED_ROWS = 1 << 17
_GATHERED_ROWS = 1 << 14


def check_labels(labels: np.ndarray | torch.Tensor, classes: int) -> None:
    """Make sure that a head of ``classes`` classes can be trained on ``labels``.

    Meant for all labels of a data set, before the first step: on CUDA a wrong label is otherwise
    met by a kernel, whose assertion ends the process.

    Raises:
        TrainingError: a label lies outside [0, classes): says which, where, and how many do.
    """
    values = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if len(wrong):
        raise TrainingError(
            f"label {values[wrong[0]]} (at position {wrong[0]}) is outside the head's "
            f"{classes} classes: labels must lie in [0, {classes}), and {len(wrong)} of "
            f"{len(values)} do not; give the head the class count of the pack that the labels "
            "come from, and train on no record without identity (label -1)"
        )


class PartialFC(nn.Module):
    """A margin softmax head that also is the optimizer of its class centres.

    One optimizer step is one or more micro-batches and then :meth:`step`::

        for images, labels in micro_batches:
            loss = head(backbone(images), labels) / len(micro_batches)
            loss.backward()
        head.step(lr)

    The rows that the micro-batches used, their union, get one update each. All other rows and
    their optimizer state stay as they are, bit for bit, or, with ``update="dense"``, get the one
    that ``torch.optim`` gives a row whose gradient is 0.

    ``weight`` (C×F, float32, N(0, 0.01²) at first) is a buffer, as is the optimizer's state:
    ``momentum`` for SGD; ``exp_avg``, ``exp_avg_sq`` and ``steps`` for AdamW. ``state_dict()``
    has them and the place in the sequence of samples; gradients that await a step are not in it.

    **Several processes.** A rank holds the rows ``ranks.share(C)`` of the one matrix, with the same
    initial values, and samples among them. :meth:`forward`, ``backward()`` and :meth:`whole_state`
    are then collective. The loss is that of the faces of all ranks.

    Args:
        classes: number of classes C.
        features: length F of an embedding.
        margin: applied to the cosine to a face's own class.
        scale: s, the factor on all cosines.
        interclass_filter: a cosine above it to another class counts as 0; in [0, 1), 0 for none.
        sample_rate: share of the classes in a micro-batch's softmax, in [0, 1]. All classes that
            its labels name are always in, and the rest is drawn at random; 0 is these alone, 1 is
            the full softmax and draws nothing. Nothing waits for the device, unless the sample is
            smaller than the batch.
        chunk: classes whose logits are held at a time; None: all, while their logits and unit
            vectors take no more than 2 GiB, and else as many as take 256 MiB.
        optimizer: ``sgd`` or ``adamw``, with the formulas of ``torch.optim``.
        momentum: SGD's.
        momentum_dtype: that SGD's momentum is kept in: ``torch.float32`` or ``torch.bfloat16``.
        weight_decay: coupled for SGD, decoupled for AdamW.
        update: which rows a step moves: ``sampled``, those it used; or ``dense``, all. Every step
            then reads and writes the whole matrix and its state, where they lie.
        storage: ``device``; or ``host``, where centres and state stay in host memory whatever
            :meth:`to` says, and the rows of a step travel, for which the host waits.
        device: where the centres are made, and what they are used on.
        seed: keys the initial centres and every sample.
        ranks: the processes that share the head.

    Raises:
        ConfigError: an option is out of range.
    """

    weight: torch.Tensor

    def __init__(
        self,
        classes: int,
        features: int = 512,
        *,
        margin: Margin,
        scale: float = 64.0,
        interclass_filter: float = 0.0,
        sample_rate: float = 1.0,
        chunk: int | None = None,
        optimizer: str = "sgd",
        momentum: float = 0.9,
        momentum_dtype: torch.dtype = torch.float32,
        weight_decay: float = 5e-4,
        update: Update = "sampled",
        storage: Storage = "device",
        device: torch.device | str = "cpu",
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        check("classes", classes, Count)
        check("features", features, Count)
        check("sample_rate", sample_rate, Fraction)
        check("chunk", chunk, Count | None)
        check("update", update, Update)
        check("storage", storage, Storage)
        check_choice("momentum_dtype", momentum_dtype, (torch.float32, torch.bfloat16))
        if storage == "host" and sample_rate == 1.0:
            raise ConfigError(
                "storage = host with sample_rate = 1 would copy every centre to the device in each "
                "step: set a sample_rate below 1, or storage = device"
            )
        self.classes = classes
        self.sample_rate = sample_rate
        self.chunk = chunk
        self.seed = seed
        self.ranks = ranks
        self.features = features
        self.logits = LogitRule(margin=margin, scale=scale, interclass_filter=interclass_filter)
        self._first, stop = ranks.share(classes)
        self._draws = self._steps = 0
        self._rule = build_row_optimizer(
            optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            momentum_dtype=momentum_dtype,
        )
        self._is_dense = update == "dense"
        self._on_host = storage == "host"
        self._storage = build_row_storage(storage)
        weight = torch.empty(
            stop - self._first,
            margin.centres_per_class * features,
            dtype=torch.float32,
            device="cpu" if self._on_host else device,
        )
        fill_centres(weight, first=self._first, seed=derive_seed(seed, _FOR_WEIGHTS))
        self.register_buffer("weight", weight)
        self._state_names = ["weight"]
        for name, value in self._rule.state(weight).items():
            self.register_buffer(name, value)
            self._state_names.append(name)
        self.margin_state = MarginState(
            margin,
            self._rule,
            classes=classes,
            sample_rate=sample_rate,
            device=device,
            ranks=ranks,
        )
        self._pending: list[_Used] = []

    @property
    def weights(self) -> list[torch.Tensor]:
        """This rank's centres."""
        return [self.weight]

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        records: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Mean loss of a micro-batch, in the precision of the weights whatever the autocast.

        Where gradients are enabled, the rows used are kept for :meth:`step`. Labels on the CPU are
        checked; those on CUDA are not, as that would wait for the device: see :func:`check_labels`.

        With several ranks each gives its own faces, in numbers that may differ, and gets the mean
        over all. If all scale it alike, ``backward()`` leaves at a rank's embeddings the gradient
        of that mean: the sum over the ranks of the backbones' gradients is then the backbone's.

        Args:
            embeddings: B×F, of any norm.
            labels: (B,) int64 in [0, C), on the same device.
            records: (B,) integers, which image each is; for a margin that draws random numbers.

        Returns:
            The mean over the batch of the loss, of most margins −ln p(own class): a scalar.

        Raises:
            TrainingError: a label on the CPU lies outside [0, C), or records are missing.
        """
        if labels.device.type == "cpu":
            check_labels(labels, self.classes)
        margin = self.logits.margin
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.weight.dtype)
            norms = None
            if "norms" in margin.needs:
                norms = torch.linalg.vector_norm(embeddings, dim=1)
                norms = norms if margin.norms_have_gradient else norms.detach()
            faces = gather_faces(
                F.normalize(embeddings),
                labels,
                self.ranks,
                norms=norms,
                normals=self._draw_normals(embeddings, records),
            )
            used, own, present = self._use_rows(faces.labels)
            known = self._known(faces, used.centres, own, present)
            loss = self._loss(faces, used.centres, own, present, known)
            penalties = None if norms is None else margin.penalty(norms)
            if penalties is not None:
                # Every rank's own, with its gradient, and without one those of the others.
                mine = penalties.sum() * faces.weights.amax()
                every = self.ranks.all_reduce(mine.detach().clone(), "sum")
                loss = loss + mine + (every - mine.detach())
            return loss

    def _draw_normals(
        self, embeddings: torch.Tensor, records: np.ndarray | None
    ) -> torch.Tensor | None:
        margin = self.logits.margin
        if "normals" not in margin.needs:
            return None
        if records is None:
            raise TrainingError(
                f"{type(margin).__name__} draws a number for each image: give records, which says "
                "which images the batch is made of"
            )
        return torch.from_numpy(draw_normals(self.seed, self._steps, records)).to(embeddings)

    def _known(
        self, faces: Faces, centres: torch.Tensor, own: torch.Tensor, present: torch.Tensor | None
    ) -> Own:
        """What the margin is told of the faces, its state being that after it has seen them."""
        margin = self.logits.margin
        cosines = torch.zeros_like(faces.norms)
        if "cosines" in margin.needs:
            with torch.no_grad():
                if len(centres):
                    cosines = own_cosines(
                        faces.embeddings, centres, own, margin.centres_per_class
                    ).clamp_(-1.0, 1.0)
                if present is not None:
                    cosines = torch.where(present, cosines, 0.0)
                    cosines = self.ranks.all_reduce(cosines, "sum")
        known = Own(
            cosines=cosines,
            norms=faces.norms,
            normals=faces.normals,
            step=self._steps,
            state=self.margin_state.read(),
        )
        known = replace(known, normals=margin.arrange(known, faces.weights))
        if torch.is_grad_enabled():
            with torch.no_grad():
                changes = self.margin_state.change(margin.observe(known, faces.weights))
            known = replace(known, state={**known.state, **changes})
        return known

    def _loss(
        self,
        faces: Faces,
        centres: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor | None,
        known: Own,
    ) -> torch.Tensor:
        rule = self.logits
        chunk = self._chunk_for(len(own), len(centres))
        if chunk is not None:
            there = torch.ones_like(own, dtype=torch.bool) if present is None else present
            loss: torch.Tensor = ChunkedLoss.apply(
                faces.embeddings,
                centres,
                known.norms,
                rule.margin.offset(known.state),
                own,
                there,
                faces.weights,
                known,
                rule,
                chunk,
                self.ranks,
            )
        elif present is None:
            loss = whole_loss(faces.embeddings, centres, own, rule, known)
        else:
            logits = margin_logits(
                faces.embeddings, centres, own, rule, present=present, known=known
            )
            loss = ShardedLoss.apply(logits, own, present, faces.weights, rule.loss, self.ranks)
        return loss

    def _chunk_for(self, faces: int, rows: int) -> int | None:
        """Classes in a chunk; None: the logits are held whole."""
        if self.chunk is not None:
            return self.chunk if self.chunk < rows else None
        per_class = self.logits.margin.centres_per_class
        row_bytes = (faces * per_class + self.weight.shape[1]) * self.weight.element_size()
        if rows * row_bytes <= _LARGEST_WHOLE:
            return None
        return max(1, _CHUNK_BYTES // row_bytes)

    @torch.no_grad()
    def step(
        self,
        lr: float | torch.Tensor,
        *,
        grad_scale: torch.Tensor | None = None,
        found_inf: torch.Tensor | None = None,
    ) -> None:
        """Update, once, the rows that gathered a gradient since the last step, and drop it.

        With ``update="dense"`` all other rows move with their momentum and decay.

        Nothing here waits for the device, unless several micro-batches used different samples or
        the centres lie on the host.

        Args:
            grad_scale: factor on the gradients, to be divided out (``torch.amp.GradScaler``).
            found_inf: scalar; where it is not 0, the gradients are dropped and nothing changes.
                The same on all ranks.
        """
        pending = [used for used in self._pending if used.centres.grad is not None]
        self.margin_state.step(lr, grad_scale=grad_scale, found_inf=found_inf)
        self.zero_grad()
        self._steps += 1
        if not pending:
            return
        rows, gradient, centres = _union(pending)
        if grad_scale is not None:
            gradient.div_(grad_scale)
        for start in range(0, len(gradient), _UPDATED_ROWS):
            part = slice(start, min(start + _UPDATED_ROWS, len(gradient)))
            index = part if rows is None else rows[part]
            before = {
                # The step's own copy of the centres, if there is one, is what they are.
                name: centres[part]
                if name == "weight" and centres is not None
                else self._storage.take(self.get_buffer(name), index, gradient.device)
                for name in self._state_names
            }
            after = self._rule.update(before, gradient[part], lr)
            for name, value in after.items():
                if found_inf is not None:
                    value = torch.where(found_inf != 0, before[name], value)
                self._storage.put(self.get_buffer(name), index, value)
        if self._is_dense and rows is not None:
            self._move_unused(rows, lr, found_inf)

    def _move_unused(
        self, used: torch.Tensor, lr: float | torch.Tensor, found_inf: torch.Tensor | None
    ) -> None:
        """Update all rows but the ``used`` ones by a gradient of 0, on the device of the matrix."""
        device = self.weight.device
        held = torch.zeros(len(self.weight), dtype=torch.bool, device=device)
        held[used.to(device)] = True
        if found_inf is not None:
            held |= (found_inf != 0).to(device)
        rate = lr.to(device) if isinstance(lr, torch.Tensor) else lr
        for start in range(0, len(held), _UPDATED_ROWS):
            part = slice(start, start + _UPDATED_ROWS)
            before = {name: self.get_buffer(name)[part] for name in self._state_names}
            after = self._rule.update(before, torch.zeros_like(before["weight"]), rate)
            for name, value in after.items():
                keeps = held[part].view(-1, *[1] * (value.ndim - 1))
                before[name].copy_(torch.where(keeps, before[name], value))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients gathered since the last step."""
        self._pending = []
        self.margin_state.zero_grad()

    def get_extra_state(self) -> dict[str, int]:
        """The key of the draws, how many samples, and steps taken: a part of ``state_dict()``."""
        return {"seed": self.seed, "draws": self._draws, "steps": self._steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on drawing from where ``state`` was taken."""
        self.seed, self._draws = int(state["seed"]), int(state["draws"])
        self._steps = int(state.get("steps", 0))  # of which older checkpoints say nothing
        self.zero_grad()

    def whole_state(self) -> dict[str, Any] | None:
        """What ``state_dict()`` of one process would hold, on the CPU; on rank 0, None elsewhere.

        Every rank calls it. Rows travel in blocks, so that no device holds more than its own part.
        """
        local = self.state_dict()
        if self.ranks.world == 1:
            return {name: _to_cpu(value) for name, value in local.items()}
        whole = {
            name: self._gather_rows(value) if name in self._state_names else value
            for name, value in local.items()
        }
        return whole if self.ranks.rank == 0 else None

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Take this rank's part of :meth:`whole_state`, of a run on any number of ranks.

        Raises:
            TrainingError: the state is of a head of another shape or optimizer.
        """
        of_margin = [f"margin_state.{name}" for name in self.margin_state.state_dict()]
        expected = {*self._state_names, *of_margin, "_extra_state"}
        if state.keys() != expected:
            raise TrainingError(
                f"the head's state holds {', '.join(sorted(state))}; this head has "
                f"{', '.join(sorted(expected))}: it was trained with another optimizer or margin"
            )
        for name in self._state_names:
            wanted = (self.classes, *self.get_buffer(name).shape[1:])
            if tuple(state[name].shape) != wanted:
                raise TrainingError(
                    f"the head's {name} is {tuple(state[name].shape)}; this head's is {wanted}: "
                    "the state is of other data or another length of embedding"
                )
        self.load_rows(0, {name: state[name] for name in self._state_names})
        for name in of_margin:
            self.get_buffer(name).copy_(state[name])
        self.set_extra_state(state["_extra_state"])

    def load_rows(self, first: int, rows: dict[str, torch.Tensor]) -> None:
        """Take those of the rows of class ``first`` and the following ones that this rank holds.

        ``rows`` are by the name of the buffer, all of one length.
        """
        held = range(self._first, self._first + len(self.weight))
        for name, values in rows.items():
            low, high = max(first, held.start), min(first + len(values), held.stop)
            if low < high:
                into = self.get_buffer(name)[low - held.start : high - held.start]
                into.copy_(values[low - first : high - first])

    def clear_state(self) -> None:
        """Let the optimizer forget what it knows of the rows."""
        for name, value in self._rule.state(self.weight).items():
            self.get_buffer(name).copy_(value)

    def _gather_rows(self, part: torch.Tensor) -> torch.Tensor | None:
        """All ranks' rows of a matrix, on rank 0's CPU."""
        shares = [
            Ranks(rank, self.ranks.world).share(self.classes) for rank in range(self.ranks.world)
        ]
        whole = None
        if self.ranks.rank == 0:
            whole = torch.empty((self.classes, *part.shape[1:]), dtype=part.dtype)
        # Rank 0 has the most rows.
        for start in range(0, shares[0][1], _GATHERED_ROWS):
            size = min(_GATHERED_ROWS, shares[0][1] - start)
            block = part.new_zeros((size, *part.shape[1:]))
            block[: len(part[start : start + size])] = part[start : start + size]
            blocks = self.ranks.all_gather(block).split(size)
            if whole is None:
                continue
            for (first, stop), rows in zip(shares, blocks, strict=True):
                into = whole[first:stop][start : start + size]
                into.copy_(rows[: len(into)])
        return whole

    def extra_repr(self) -> str:
        """The sizes and options, for ``repr``."""
        return (
            f"{self.classes}, {self.features}, {self.logits}, "
            f"sample_rate={self.sample_rate}, optimizer={self._rule}"
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PartialFC:
        """``to()`` and its kin: rows that lie on the host take a new type, but stay there."""
        if not self._on_host:
            return super()._apply(fn, recurse)
        super()._apply(lambda rows: rows.to(fn(rows.new_empty(0)).dtype), recurse=False)
        self.margin_state._apply(fn)
        return self

    def _use_rows(self, labels: torch.Tensor) -> tuple[_Used, torch.Tensor, torch.Tensor | None]:
        """Choose a micro-batch's rows.

        Returns:
            The rows; where among them each face's own class is, 0 if it is not; and whose is there
            (None: all).
        """
        own, present = labels, None
        if self.ranks.world > 1:
            own = labels - self._first
            present = (own >= 0) & (own < len(self.weight))
        if self.sample_rate < 1.0:
            rows = self._draw(own)
            used = _Used(rows, self._storage.take(self.weight, rows, own.device))
            own = torch.searchsorted(rows, own)
        elif self._pending:
            # One leaf gathers the gradients of all micro-batches.
            used = self._pending[0]
        else:
            used = _Used(None, self.weight.detach())
        if torch.is_grad_enabled() and not used.centres.requires_grad:
            used.centres.requires_grad_()
            self._pending.append(used)
        return used, own if present is None else torch.where(present, own, 0), present

    def _draw(self, own: torch.Tensor) -> torch.Tensor:
        """The next sample among this rank's classes."""
        local = len(self.weight)
        shard = (self.ranks.rank,) if self.ranks.world > 1 else ()
        key = derive_seed(self.seed, _FOR_SAMPLES, self._draws, *shard)
        self._draws += 1
        return sample_rows(own, local, int(self.sample_rate * local), key)


@dataclass(frozen=True)
class _Used:
    """The rows of a micro-batch."""

    rows: torch.Tensor | None
    """Sorted ids within this rank's part; None: all of it."""
    centres: torch.Tensor
    """Their values; a leaf that takes their gradient."""

    @property
    def gradient(self) -> torch.Tensor:
        """What the backward passes since the last step left."""
        assert self.centres.grad is not None
        return self.centres.grad


def _union(
    parts: list[_Used],
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Join micro-batches: the union of their rows, the sum of each one's gradients.

    Returns:
        Row ids, gradient, and the rows' values where a micro-batch has them all.
    """
    if len(parts) == 1:
        return parts[0].rows, parts[0].gradient, parts[0].centres.detach()
    used = [part.rows for part in parts if part.rows is not None]
    union = torch.unique(torch.cat(used))
    first = parts[0].centres
    total = first.new_zeros(len(union), first.shape[1])
    for rows, part in zip(used, parts, strict=True):
        # A part's rows are distinct, so this adds each once, on any device in the same order.
        total[torch.searchsorted(union, rows)] += part.gradient
    return union, total, None


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
