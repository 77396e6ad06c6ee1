"""Sums gradients over ranks while the backward pass that makes them still runs.

``torch``'s own data parallelism is not used: it averages, where the gradient of a global mean loss
is a sum; it cuts its buckets anew after the first step, and with them the order of the sums, so
that a resumed run would not repeat the bits of one that was not stopped; and it wants each
parameter to have a gradient. Buckets here are a function of the parameters alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakMethod

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facepack.train.ranks.group import Ranks

# Large enough for a link's full rate, small enough that the last one, which no computation hides,
# is short.
_BUCKET_BYTES = 25 << 20


class GradientSum:
    """Replaces the gradients of parameters by their sums over the ranks.

    Parameters are put into buckets from the last to the first, about in the order in which a
    backward pass comes to them. A bucket travels as one tensor as soon as it and those before it
    are complete, beside the rest of the backward pass. Every rank ends with the same bits.

    Args:
        parameters: the same ones on each rank, in the same order. One that has no gradient after
            the backward pass must have none on any rank, and is left without.
        ranks: those to sum over; a process on its own sums nothing.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
        self._ranks = ranks
        wanted = [p for p in parameters if p.requires_grad] if ranks.world > 1 else []
        self._buckets = [_Bucket(part) for part in _cut(wanted[::-1])]
        self._works: list[dist.Work] = []
        self._is_last_pass = False
        # Python does not see through a parameter to its hooks: they must not hold what holds it.
        count = WeakMethod(self._count)
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(_call, count, number))

    @contextmanager
    def over_ranks(self) -> Iterator[None]:
        """The block holds a step's last backward pass; after it the gradients are the sums."""
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._works = []
        self._is_last_pass = True
        try:
            yield
        finally:
            self._is_last_pass = False
        while len(self._works) < len(self._buckets):
            self._send()
        for bucket, work in zip(self._buckets, self._works, strict=True):
            work.wait()
            bucket.unpack()
        self._works = []  # which hold the connections to the other ranks

    def _count(self, number: int) -> None:
        """A parameter of a bucket has its gradient."""
        if not self._is_last_pass:
            return
        self._buckets[number].missing -= 1
        # In one order on all ranks: that in which gradients arrive need not be the same.
        while len(self._works) < len(self._buckets) and not self._buckets[len(self._works)].missing:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._works)]
        self._works.append(self._ranks.start_all_reduce(bucket.pack()))


def _call(count: WeakMethod[Any], number: int, _: Tensor) -> None:
    """The hook of a bucket's parameter, as long as the gradients are summed by anyone."""
    method = count()
    if method is not None:
        method(number)


class _Bucket:
    """Parameters of one type, and the tensor in which their gradients travel."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = 0
        sizes = [p.numel() for p in parameters]
        self._flat = parameters[0].new_zeros(sum(sizes), requires_grad=False)
        # Laid out as autograd lays out gradients, channels-last ones too: copies are then flat.
        self._views = [
            part.as_strided(p.size(), torch.empty_like(p, device="meta").stride())
            for p, part in zip(parameters, self._flat.split(sizes), strict=True)
        ]

    @torch.no_grad()
    def pack(self) -> Tensor:
        """The gradients as one tensor, zeros where there are none."""
        views, gradients = self._pairs()
        if len(views) < len(self._views):
            self._flat.zero_()
        if views:
            torch._foreach_copy_(views, gradients)
        return self._flat

    @torch.no_grad()
    def unpack(self) -> None:
        """Put the sums where the gradients are."""
        views, gradients = self._pairs()
        if views:
            torch._foreach_copy_(gradients, views)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        pairs = zip(self._views, self.parameters, strict=True)
        both = [(view, p.grad) for view, p in pairs if p.grad is not None]
        return [view for view, _ in both], [gradient for _, gradient in both]


def _cut(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of one type, each ending with the parameter that fills its bucket."""
    run: list[nn.Parameter] = []
    filled = 0
    for parameter in parameters:
        if run and (filled >= _BUCKET_BYTES or parameter.dtype != run[0].dtype):
            yield run
            run, filled = [], 0
        run.append(parameter)
        filled += parameter.numel() * parameter.element_size()
    if run:
        yield run
