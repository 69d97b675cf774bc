"""What makes two numbers comparable, stored with each number."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from crosstask.config import Kind


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a method meets the test stream.

    Attributes:
        model: the checkpoint it starts from.
        reset: back to the source after every `batch` (episodic) or before every `corruption` (online).
        stream: the order of the images; `iid` is a random order.
        batch_size: images a batch.
        n: images a cell.
        steps: updates on each batch before it is predicted.
        curve: numbers of updates at which the accuracy is taken, from the same pass.
        precision: in which the networks run.
        table: the benchmark whose constants define the severities.
        frost: where the sheets of frost come from, in a grid that has the corruption frost.
    """

    model: Kind
    reset: Literal["batch", "corruption"]
    stream: Literal["iid"] = "iid"
    batch_size: int
    n: int
    steps: int
    curve: tuple[int, ...]
    precision: str
    table: str = "cifar"
    frost: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; without `table` and `frost` where they say nothing."""
        plain = asdict(self) | {"curve": list(self.curve)}
        return {name: value for name, value in plain.items() if (name, value) not in _SAYS_NOTHING}


_SAYS_NOTHING = (("table", "cifar"), ("frost", None))
"""Left out, so that records from before there was a choice read and compare as they did."""
