"""No workers: one item after the other, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crosstask.executors.crew import Crew, Results, Task, Units


@contextlib.contextmanager
def crew(workers: int | None, folder: Path, gpu: bool) -> Iterator[Crew]:
    """Yield a crew of this process alone."""
    yield Alone()


@dataclass(frozen=True)
class Alone:
    """A crew of one: this process."""

    workers: int = 1
    threads: None = None
    about: str = "in this process"

    def run(self, task: Task, units: Units) -> Results:
        """See `Crew.run`."""
        for unit in units:
            for item in unit:
                yield item, task(item)
