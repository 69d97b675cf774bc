"""Workers that are processes on this machine, one item at a time; whichever dies is replaced alone.

`concurrent.futures` will not do: there one dead process ends them all, with what they have under way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from crosstask.errors import WorkerLost
from crosstask.executors.crew import Crew, Task, Team, attempt, deaf_to_interrupts, processors

_SPAWN = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def crew(workers: int | None, folder: Path, gpu: bool) -> Iterator[Crew]:
    """Yield a crew of processes that share the threads this one would take: a process a processor, or one a GPU.

    Each sees one GPU alone; where there are more processes than GPUs they share them evenly.
    """
    from torch import get_num_threads

    gpus = _gpus() if gpu else []
    workers = workers or len(gpus) or processors()
    threads = max(1, get_num_threads() // workers)
    about = f"{workers} processes{f' on {len(gpus)} GPU(s)' if gpus else ''}, threads: {threads} each"
    places: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for number in range(workers):
        places.put(gpus[number % len(gpus)] if gpus else None)
    yield Team(workers=workers, threads=threads, about=about, start=partial(Process, places=places))


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    from torch import cuda

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else map(str, range(cuda.device_count()))
    return list(names)[: cuda.device_count()]


class Process:
    """A worker in a process of its own, which ends when this one ends, however that comes.

    Args:
        task: what it does.
        places: free GPUs, of which it takes one, and None for none; when it ends it gives back what it took.
    """

    def __init__(self, task: Task, places: queue.SimpleQueue[str | None]) -> None:
        self._places, self._gpu = places, places.get()
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, task, self._gpu), daemon=True)
        resource_tracker.ensure_running()  # now: started below, it would have the process hear Ctrl-C
        with deaf_to_interrupts():
            self._process.start()
        theirs.close()

    def run(self, items: Sequence[Any]) -> Iterator[Any]:
        """See `crew.Worker.run`."""
        for item in items:
            try:
                self._connection.send(item)
                result = self._connection.recv()
            except (EOFError, OSError) as error:
                self._process.join(10)
                raise WorkerLost(f"exit code {self._process.exitcode}") from error
            yield result

    def close(self) -> None:
        """See `crew.Worker.close`."""
        self._process.kill()
        self._process.join()
        self._places.put(self._gpu)


def _serve(connection: Connection, task: Task, gpu: str | None) -> None:
    """Answer items until nobody asks."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads it when it is first used, which is later
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(attempt(task, connection.recv()))


def _leave_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
