"""How far long work on bytes has come, told now and then, with the time left."""

from __future__ import annotations

import time

from crosstask.data.download.places import Report

EVERY_S = 5.0


class Progress:
    """Reports at most every `EVERY_S` seconds how far something has come.

    Args:
        what: what the line begins with.
        total: bytes when it is done; None: unknown, and nothing is reported.
        start: bytes that were there before it began.
        report: called with the line.
    """

    def __init__(self, what: str, total: int | None, start: int, report: Report) -> None:
        self.what, self.total, self.start, self.report = what, total, start, report
        self._began = self._spoke = time.monotonic()

    def at(self, done: int) -> None:
        """Take note that `done` bytes are there."""
        now = time.monotonic()
        if not self.total or now - self._spoke < EVERY_S:
            return
        self._spoke = now
        left = (self.total - done) * (now - self._began) / max(done - self.start, 1)
        self.report(f"{self.what}: {done / 1e6:,.1f} of {self.total / 1e6:,.1f} MB, about {left:,.0f} s left")
