"""Tasks that tests of executors give to workers. Without torch, so that a worker is there in no time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from crosstask.errors import UnknownName


@dataclass(frozen=True)
class Noted:
    """Squares numbers, with a line in a file before each: the number and the process.

    Attributes:
        held: while a file of this name lies in the folder, numbers of `slow` wait.
    """

    folder: Path
    slow: tuple[int, ...] = ()

    def __call__(self, number: int) -> tuple[int, int]:
        with (self.folder / "begun").open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        while number in self.slow and (self.folder / "hold").exists():
            time.sleep(0.01)
        return number**2, os.getpid()

    def begun(self) -> list[tuple[int, int]]:
        """Return what was begun so far: each number with its process."""
        path = self.folder / "begun"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(number), int(process)) for number, process in (line.split() for line in lines)]


@dataclass(frozen=True)
class Seeing:
    """Tells which GPU the process sees, once so many processes have begun; the first that gets `dies` dies of it."""

    folder: Path
    together: int
    dies: int | None = None

    def __call__(self, number: int) -> str | None:
        seen = self.folder / f"{os.getpid()}"
        seen.touch()
        while len(list(self.folder.iterdir())) < self.together:
            time.sleep(0.01)
        if number == self.dies and not (self.folder / "dead").exists():
            (self.folder / "dead").touch()
            os._exit(7)
        return os.environ.get("CUDA_VISIBLE_DEVICES")


def mistaken(number: int) -> int:
    """Raise an error of ours on 3, and one that cannot be pickled on 4."""
    if number == 3:
        raise UnknownName("number", "three", ["one", "two"])
    if number == 4:
        raise Unpicklable(lambda: number)
    return number


class Unpicklable(Exception):
    """Cannot be sent anywhere."""


def deadly(number: int) -> int:
    """End the process on 3."""
    if number == 3:
        os._exit(7)
    return number
