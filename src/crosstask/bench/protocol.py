"""What makes two numbers comparable, stored with each number."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from crosstask.config import Kind, without_empty


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a method meets the test stream.

    Attributes:
        preset: the published protocol that this is, a name of `crosstask.presets`, if it is one.
        model: the checkpoint it starts from.
        reset: back to the source before every `batch` (episodic), before every `corruption` (online), or `never`.
        predict: whether a batch is predicted `after` or `before` the updates on it.
        stream: how the classes come: `iid`, at random; `clumped`, after a Dirichlet distribution.
        delta, slots: of `clumped` streams, see `crosstask.data.streams.StreamPlan`.
        shift: how the corruption goes: `constant`, `mixed`, `gradual` or `continual`.
        sequence: the corruptions of a stream that has several, in the order of the recipe.
        rounds, shuffled: how often and in whose order a `continual` or `gradual` stream goes through them.
        batch_size: images that arrive at once.
        rate: batches that the stream brings in the time of one forward pass; None: it waits.
        n: images under each corruption.
        steps: updates on each batch.
        chosen: who chose steps and learning rate: the `recipe`, or a trial on source images, under `held-out`
            corruptions or `clean`; see `crosstask.config.Tune`.
        curve: numbers of updates at which the accuracy is taken, from the same pass.
        precision: in which the networks run.
        table: the benchmark whose constants define the severities.
        frost: where the sheets of frost come from, in a grid that has the corruption frost.
        copies: what the stored corrupted copies are called that were shown; None: the images were corrupted here.
        labels: what test labels decide: nothing, ever.
    """

    preset: str | None = None
    model: Kind
    reset: Literal["batch", "corruption", "never"]
    predict: Literal["after", "before"] = "after"
    stream: Literal["iid", "clumped"] = "iid"
    delta: float | None = None
    slots: int | None = None
    shift: Literal["constant", "mixed", "gradual", "continual"] = "constant"
    sequence: tuple[str, ...] = ()
    rounds: int = 1
    shuffled: bool = False
    batch_size: int
    rate: float | None = None
    n: int
    steps: int
    chosen: Literal["recipe", "held-out", "clean"] = "recipe"
    curve: tuple[int, ...]
    precision: str
    table: str = "cifar"
    frost: str | None = None
    copies: str | None = None
    labels: Literal["never"] = "never"

    @property
    def scored(self) -> int:
        """The number of updates whose predictions count."""
        return 0 if self.predict == "before" else self.steps

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `copies` only where there are some."""
        plain = asdict(self) | {"curve": list(self.curve), "sequence": list(self.sequence)}
        return without_empty(plain, "copies")
