"""The processes that write the pieces of a target side by side: here, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from facepack.errors import FacepackError, MissingExtraError, WorkerError

R = TypeVar("R")
_WORTH_A_PROCESS = 128 << 20
_CONNECT = 10.0  # seconds for a Dask scheduler to answer
_AHEAD = 2  # tasks that wait for each worker, so that none is idle


def cpu_count() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def suitable_count(payload_bytes: int) -> int:
    """How many processes pay for so much to convert: a start costs as much as some 100 MB."""
    return min(cpu_count(), 1 + payload_bytes // _WORTH_A_PROCESS)


class Workers:
    """Runs tasks side by side; with one worker, here and in order.

    Args:
        count: processes.
        dask: address of a Dask scheduler; its workers do the work, and must see the same paths.

    Raises:
        MissingExtraError: Dask is asked for and not installed.
        WorkerError: the scheduler does not answer, or has no workers.
    """

    def __init__(self, count: int = 1, dask: str | None = None) -> None:
        self.count = count
        self._dask = dask
        self._executor: Executor | None = None
        self._client: Any = None
        self._began: Event | None = None  # set by the first worker that runs

    def __enter__(self) -> Workers:
        if self._dask is not None:
            self._client, self.count = _connect(self._dask)
            self._executor = self._client.get_executor(pure=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if isinstance(self._executor, ProcessPoolExecutor):
            if kind is not None and not issubclass(kind, FacepackError):
                # Interrupted: what is being written now is done again, so nobody waits for it.
                for process in list((self._executor._processes or {}).values()):
                    process.kill()
            self._executor.shutdown(wait=True, cancel_futures=True)
        elif self._executor is not None:
            self._executor.shutdown(wait=False)
        if self._client is not None:
            self._client.close()
        self._executor = self._client = None

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
            # A fresh interpreter in each: a fork would inherit locks and open environments.
            context = multiprocessing.get_context("spawn")
            self._began = context.Event()
            self._executor = ProcessPoolExecutor(
                self.count,
                mp_context=context,
                initializer=_begin,
                initargs=(self._began,),
            )
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
            if self._began is not None and not self._began.is_set():
                raise WorkerError(
                    "no worker process could start; the lines above should tell why. A script that "
                    "uses workers must do so below `if __name__ == '__main__':`, because each "
                    "worker imports it"
                ) from error
            raise WorkerError(
                "a worker process died: the system may have killed it for want of memory; "
                "run the command again with --resume, perhaps with fewer --workers"
            ) from error
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


def _begin(began: Event) -> None:
    """Set a worker up: it ends when the coordinator is gone, for nobody would wait for its result.

    Ctrl-C reaches the whole group of processes; it is the coordinator's to handle.
    """
    began.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _connect(address: str) -> tuple[Any, int]:
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise MissingExtraError("distributed", "dask") from error
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
