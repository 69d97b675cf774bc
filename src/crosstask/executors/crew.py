"""A crew: units of items go in, results come out as they are made, and whoever falls out is replaced."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from crosstask.errors import CrosstaskError, WorkerLost

Task = Callable[[Any], Any]
"""What is done with an item: picklable, and so are its items and results. A worker has one copy for all its items."""

Units = Sequence[Sequence[Any]]
"""Items in groups: a group is better done by one worker, in its order."""

Results = Generator[tuple[Any, Any], None, None]
"""Each item with its result, as they come. Closing it ends the workers."""

ATTEMPTS = 3
"""How many workers in a row may be lost on one item before it is given up."""


class Crew(Protocol):
    """Workers that stand ready."""

    @property
    def workers(self) -> int:
        """How many do something at once."""

    @property
    def threads(self) -> int | None:
        """How many threads each may take; None: the worker is this process, as it is."""

    @property
    def about(self) -> str:
        """The same in words."""

    def run(self, task: Task, units: Units) -> Results:
        """Yield each item with `task(item)`, each once.

        Raises:
            WorkerLost: an item was the end of `ATTEMPTS` workers in a row.
            Exception: whatever `task` raised; the other workers end.
        """


class Worker(Protocol):
    """One worker, somewhere else. Made in no time; it may need some until it begins."""

    def run(self, items: Sequence[Any]) -> Iterator[Any]:
        """Yield what `attempt(task, item)` returns for each item, in order.

        Raises:
            WorkerLost: the worker is gone.
        """

    def close(self) -> None:
        """End it now, whatever it does; called from another thread than `run`, which then ends soon."""


@dataclass(frozen=True)
class Raised:
    """What a task raised, in the place of its result."""

    error: Exception


def attempt(task: Task, item: Any) -> Any:
    """Return `task(item)`, or what it raised as a value to be sent: our own errors and the system's, others as text."""
    try:
        return task(item)
    except (CrosstaskError, OSError) as error:
        return Raised(error)
    except Exception:
        return Raised(RuntimeError(f"a worker failed on {item}:\n{traceback.format_exc()}"))


@dataclass(frozen=True, kw_only=True)
class Team:
    """The crew of every executor whose workers are somewhere else.

    Attributes:
        start: makes a worker for a task.
    """

    workers: int
    threads: int
    about: str
    start: Callable[[Task], Worker]

    def run(self, task: Task, units: Units) -> Results:
        """See `Crew.run`."""
        todo: queue.SimpleQueue[Sequence[Any]] = queue.SimpleQueue()
        for unit in units:
            todo.put(unit)
        news: queue.SimpleQueue[tuple[Any, Any] | Exception | None] = queue.SimpleQueue()
        seats = [_Seat(partial(self.start, task), todo, news) for _ in range(min(self.workers, len(units)))]
        try:
            for seat in seats:
                seat.thread.start()
            working = len(seats)
            while working:
                what = news.get()
                if isinstance(what, Exception):
                    raise what
                if what is None:
                    working -= 1
                else:
                    yield what
        finally:
            for seat in seats:
                seat.close()


class _Seat:
    """A place in the crew: a thread that hands units to one worker, and to the next one where that is lost."""

    def __init__(
        self,
        start: Callable[[], Worker],
        todo: queue.SimpleQueue[Sequence[Any]],
        news: queue.SimpleQueue[tuple[Any, Any] | Exception | None],
    ) -> None:
        self.start, self.todo, self.news = start, todo, news
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.worker: Worker | None = None
        self.closed = False
        self.changing = threading.Lock()

    def close(self) -> None:
        """End the worker, and the thread with it."""
        with self.changing:
            self.closed = True
            self._drop()

    def _work(self) -> None:
        """Take units until none is left; then leave the worker's place to others."""
        try:
            with contextlib.suppress(queue.Empty):
                while not self.closed:
                    self._finish(list(self.todo.get_nowait()))
        except Exception as error:
            self.news.put(error)
        with self.changing:
            self._drop()
        self.news.put(None)

    def _finish(self, left: list[Any]) -> None:
        """Have all items done, in order: each that comes back is done, the rest is for the next worker."""
        lost = 0
        while left and (worker := self._ready()):
            try:
                for result in worker.run(tuple(left)):
                    if isinstance(result, Raised):
                        raise result.error
                    self.news.put((left.pop(0), result))
                    lost = 0
            except WorkerLost as error:
                with self.changing:
                    self._drop()
                lost += not self.closed
                if lost == ATTEMPTS:
                    raise WorkerLost(
                        f"{left[0]}: {lost} workers in a row were lost on it, the last one with {error}. What is "
                        "finished is kept; find out why, too little memory perhaps, and run the same command again"
                    ) from error

    def _ready(self) -> Worker | None:
        """Return the worker, started if need be; None when all is over."""
        with self.changing:
            if self.worker is None and not self.closed:
                self.worker = self.start()
            return None if self.closed else self.worker

    def _drop(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Have processes that are started in the `with` block not hear Ctrl-C, which the terminal sends to all.

    The one who started them hears it, and ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
