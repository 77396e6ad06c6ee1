"""Ctrl-C and SIGTERM in a run: finish the step, write a checkpoint, then stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nstopping after this step, with a checkpoint; once more stops at once, without\n"


class StopRequest:
    """Within it the first SIGINT or SIGTERM sets :attr:`requested`; the second acts as usual.

    Handlers belong to the main thread: in another one the signals are left as they are. Where it is
    ``patient``, those after the first change nothing: a launcher passes on what it is sent, and
    sends it again when it tidies up; it kills what does not end by itself.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested = False
        self._patient = patient
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._patient:
            return
        self._restore()
        # Not through sys.stderr: the signal may have come in the middle of its own write.
        os.write(2, _NOTICE)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
