"""What the command line shows while it works: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY = 10.0


class ConsoleNarrator:
    """Shows progress on standard error. Use as a context manager; it is a `crosstask.pipeline.Narrator`.

    Of the processes that `torchrun` starts only the first speaks.

    Args:
        interrupted: what to say after Ctrl-C.
    """

    def __init__(self, interrupted: str = "interrupted; the same command goes on from here") -> None:
        self.interrupted = interrupted
        self.quiet = os.environ.get("RANK", "0") != "0"
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=self.quiet)
        columns = (TextColumn("{task.description:>16}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        note = TextColumn("{task.fields[note]}", markup=False)
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), note)
        self._bars = Progress(*columns, *times, console=self.console, transient=True, speed_estimate_period=1e9)
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._told = 0.0

    def __enter__(self) -> ConsoleNarrator:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.console.is_terminal:
            self._bars.stop()
        if kind is KeyboardInterrupt:
            self.console.print(f"crosstask: {self.interrupted}", markup=False)

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Move the stage's bar, or print a line at most every ten seconds."""
        if not self.console.is_terminal:
            self._line(stage, done, total, note)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
        self._bars.update(self._tasks[stage], total=total, completed=done, note=note)

    def say(self, text: str) -> None:
        """Print a line above the bars and take finished bars away."""
        self.console.print(text, markup=False)
        for task in self._tasks.values():
            self._bars.update(task, visible=not self._bars.tasks[task].finished)

    def result(self, value: object) -> None:
        """Print a result to standard output."""
        if not self.quiet:
            print(value)

    def _line(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        first, before = self._started.setdefault(stage, (now, done))
        if self.quiet or (now - self._told < _LINE_EVERY and done < total):
            return
        self._told = now
        left = f", {(now - first) / (done - before) * (total - done):.0f} s left" if done > before else ""
        print(f"{stage}: {done / total:.0%}{left} ({note})", file=sys.stderr, flush=True)
