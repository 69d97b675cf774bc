"""Workers that are processes on this machine, one item at a time; whichever dies is replaced alone.

`concurrent.futures` will not do: there one dead process ends them all, with what they have under way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from crosstask.errors import WorkerLost
from crosstask.executors.crew import Crew, Task, Team, attempt, deaf_to_interrupts, processors

_SPAWN = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def crew(workers: int | None, folder: Path, gpu: bool) -> Iterator[Crew]:
    """Yield a crew of processes that share the threads this one would take: a process a processor, or one on a GPU."""
    from torch import get_num_threads

    workers = workers or (1 if gpu else processors())
    threads = max(1, get_num_threads() // workers)
    yield Team(workers=workers, threads=threads, about=f"{workers} processes, threads: {threads} each", start=Process)


class Process:
    """A worker in a process of its own, which ends when this one ends, however that comes."""

    def __init__(self, task: Task) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, task), daemon=True)
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


def _serve(connection: Connection, task: Task) -> None:
    """Answer items until nobody asks."""
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(attempt(task, connection.recv()))


def _leave_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
