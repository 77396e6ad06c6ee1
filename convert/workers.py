"""The processes that write the pieces of a target side by side: here, or on a Dask cluster."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from typing import Any, TypeVar

from facepack import system
from facepack.convert.blocks import free_blocks
from facepack.convert.doing import Lines
from facepack.convert.options import ConvertOptions
from facepack.convert.source import Part, Source
from facepack.convert.spans import Span
from facepack.convert.turns import take_part
from facepack.errors import FacepackError, WorkerError, needs_extra
from facepack.processors import usable_processors
from facepack.progress import Progress

R = TypeVar("R")
_WORTH_A_PROCESS = 128 << 20
_CONNECT = 10.0  # seconds for a Dask scheduler to answer
_COLLECT_EVERY = 100_000  # objects; Python's own 700 is for programs that make few
_AHEAD = 2  # tasks that wait for each worker, so that none is idle


def suitable_count(payload_bytes: int) -> int:
    """How many processes pay for so much to convert: a start costs as much as some 100 MB."""
    return min(usable_processors(), 1 + payload_bytes // _WORTH_A_PROCESS)


@contextmanager
def started_early(
    paths: Sequence[Path], count: int | None, modules: Sequence[str]
) -> Iterator[None]:
    """Within, processes start at once, and the first :class:`Workers` that wants any takes them.

    Where this thread is the only one, what they need is imported once, here, and they are forked:
    no lock is held yet, and nothing open. Else they are fresh interpreters, each of which imports
    it while the source is looked through.

    Args:
        paths: of the source. Where their files hold too little to pay for processes, or it cannot
            be told at once, none are started.
        count: how many processes; None for as many as pay.
    """
    global _early
    pays = suitable_count(sum(map(_file_bytes, paths)))
    count = count or pays
    if min(count, pays) < 2:
        yield
        return
    if _can_fork():
        _import(modules)
    # What was imported may have begun threads of its own.
    _early = early = _Processes(count, "fork" if _can_fork() else "spawn")
    try:
        for _ in range(count):
            early.executor.submit(_import, modules)
        yield
    finally:
        if _early is early:
            early.end(kill=True)
        _early = None


def can_run_early() -> bool:
    """Whether :func:`run_early` has more than this process."""
    return _early is not None


def run_early(function: Callable[..., R], tasks: Sequence[tuple[Any, ...]]) -> Iterator[R]:
    """Yield ``function(*task)`` of each of ``tasks``, by the processes of :func:`started_early`.

    They look at the files of a source, and write what is planned then. Where none were started,
    or one task is all there is, this process does it.

    Raises:
        WorkerError: a worker process died.
    """
    if _early is None or len(tasks) < 2:
        for task in tasks:
            yield function(*task)
        return
    try:
        yield from _early.executor.map(function, *zip(*tasks, strict=True))
    except BrokenProcessPool as error:
        raise _death(_early) from error


def _can_fork() -> bool:
    """Whether an executor may fork its processes now."""
    # Before 3.10.5, it forked the second one beside a thread of its own (CPython's gh-90622).
    return sys.version_info >= (3, 10, 5) and system.can_fork_safely()


def _file_bytes(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; 0 where there is none."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return sum(entry.stat().st_size for entry in entries if entry.is_file())
        return path.stat().st_size
    except OSError:  # the source tells what is wrong with it
        return 0


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)


class _Processes:
    """An executor of processes, as a rule fresh interpreters: forks inherit locks and open files.

    By the method ``fork`` they start at the first task.
    """

    def __init__(self, count: int, method: str = "spawn") -> None:
        context = multiprocessing.get_context(method)
        self.count = count
        self.began = context.Event()  # set by the first worker that runs
        self._lines = Lines(context, count)
        turns = context.Semaphore(max(count // 2, 1))
        self.executor = ProcessPoolExecutor(
            count, mp_context=context, initializer=_begin, initargs=(self.began, self._lines, turns)
        )

    def end(self, *, kill: bool) -> None:
        if kill:
            for process in list((self.executor._processes or {}).values()):
                process.kill()
        self.executor.shutdown(wait=True, cancel_futures=True)

    def crash(self) -> str | None:
        """Which signal ended one of them that had said what it was at, and what that was.

        None where none had, or nobody but the executor ended it. Ends all of them.
        """
        processes = list((self.executor._processes or {}).values())
        self.executor.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            code = -(process.exitcode or 0)
            if code > 0 and code != signal.SIGTERM and (what := self._lines.of(process.pid or 0)):
                return f"a worker process died ({signal.strsignal(code)}) while it read {what}"
        return None


_early: _Processes | None = None


def _take_processes(count: int) -> _Processes:
    """Those that were started early, if they are as many or more; else new ones."""
    global _early
    if _early is None or _early.count < count:
        return _Processes(count)
    taken, _early = _early, None
    return taken


class Workers:
    """Runs tasks side by side in ``count`` processes; with one, here and in order.

    ``dask`` is the address of a scheduler whose workers do the work; they must see the same paths.

    Raises:
        MissingExtraError: Dask is asked for and not installed.
        WorkerError: the scheduler does not answer, or has no workers.
    """

    def __init__(self, count: int = 1, dask: str | None = None) -> None:
        self.count = count
        self._dask = dask
        self._executor: Executor | None = None
        self._client: Any = None
        self._processes: _Processes | None = None

    def __enter__(self) -> Workers:
        if self._dask is not None:
            self._client, self.count = _connect(self._dask)
            self._executor = self._client.get_executor(pure=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._processes is not None:
            # Interrupted: what is being written now is done again, so nobody waits for it.
            self._processes.end(kill=kind is not None and not issubclass(kind, FacepackError))
        elif self._executor is not None:
            self._executor.shutdown(wait=False)
        if self._client is not None:
            self._client.close()
        self._executor = self._client = self._processes = None
        free_blocks()  # of tasks that ran here

    def run(
        self, function: Callable[..., R], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, R]]:
        """Yield ``(k, function(*task))`` for task ``k``, as they complete.

        Few tasks are in flight at a time, so that their arguments need not all exist at once. A
        task's error is raised here, after the tasks that were running have ended.

        Raises:
            WorkerError: a worker process died.
        """
        if self.count == 1 and self._dask is None:
            for k, task in enumerate(tasks):
                yield k, function(*task)
            return
        if self._executor is None:
            self._processes = _take_processes(self.count)
            self._executor = self._processes.executor
        yield from self._submit(self._executor, function, tasks)

    def _submit(
        self,
        executor: Executor,
        function: Callable[..., R],
        tasks: Iterable[tuple[Any, ...]],
    ) -> Iterator[tuple[int, R]]:
        waiting: dict[Future[R], int] = {}
        numbered = enumerate(tasks)
        more = True
        try:
            while more or waiting:
                while more and len(waiting) < self.count * _AHEAD:
                    following = next(numbered, None)
                    if following is None:
                        more = False
                        break
                    k, task = following
                    waiting[executor.submit(function, *task)] = k
                done, _ = wait(waiting, return_when=FIRST_COMPLETED) if waiting else (set(), None)
                for future in done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise _death(self._processes) from error
        except Exception as error:
            # An OSError without a number is Dask's own, of a connection that was closed.
            known = isinstance(error, FacepackError) or getattr(error, "errno", None) is not None
            if self._dask is not None and not known:
                raise WorkerError(
                    f"a task failed on the Dask cluster: {str(error) or type(error).__name__}; "
                    "run the command again with --resume"
                ) from error
            raise
        finally:
            for future in waiting:
                future.cancel()


def _death(processes: _Processes | None) -> WorkerError:
    """The error of a worker process that died, one of ``processes`` if it is of this machine."""
    if processes is not None and not processes.began.is_set():
        return WorkerError(
            "no worker process could start; the lines above should tell why. A script that "
            "uses workers must do so below `if __name__ == '__main__':`, because each "
            "worker imports it"
        )
    if processes is not None and (crash := processes.crash()) is not None:
        return WorkerError(
            f"{crash}: the file may be damaged, or the library that reads it at fault, or "
            "memory wanting: fetch the file again or leave it out, then run the command "
            "again, with --resume where it has that option"
        )
    return WorkerError(
        "a worker process died: the system may have killed it for want of memory; "
        "run the command again, with --resume where it has that option, and perhaps with "
        "fewer --workers"
    )


def write_spans(
    function: Callable[[Part, Path, str, Any], None],
    spans: Sequence[Span],
    source: Source,
    out: Path,
    options: ConvertOptions,
) -> None:
    """Call ``function(part, out, name, options)`` for each of ``spans``, side by side.

    ``spans`` are those of ``source`` that an earlier run did not write.
    """
    tasks = ((source.part(span.start, span.stop), out, span.name, options) for span in spans)
    count = min(options.workers, len(spans)) if source.parallel else 1
    with (
        Progress(len(source), unit="images", label=out.name) as progress,
        Workers(max(count, 1), options.dask if source.parallel else None) as workers,
    ):
        progress.skip(len(source) - sum(span.stop - span.start for span in spans))
        for k, _ in workers.run(function, tasks):
            progress.update(spans[k].stop - spans[k].start)


def _begin(began: Event, lines: Lines, turns: Semaphore) -> None:
    """Set a worker up: it ends when the coordinator is gone, for nobody would wait for its result.

    Ctrl-C reaches the whole group of processes; it is the coordinator's to handle.
    """
    began.set()
    lines.take()
    take_part(turns)
    # A shard's images are many objects in no cycles: the collector need not look at them often.
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _connect(address: str) -> tuple[Any, int]:
    with needs_extra("distributed", "dask"):
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    client = None
    try:
        get_address_host_port(address, strict=True)  # of none, a client would not get rid again
        client = Client(address, timeout=_CONNECT, set_as_default=False)
        client.wait_for_workers(1, timeout=_CONNECT)
        workers = sum(client.nthreads().values())
    except (OSError, TimeoutError, ValueError) as error:
        if client is not None:
            client.close()
        raise WorkerError(
            f"no Dask scheduler with workers answers at {address}: start one with "
            "`dask scheduler` and `dask worker`, or check the address"
        ) from error
    return client, workers
