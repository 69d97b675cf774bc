"""What a summary is made of: small dataclasses, which every report reads and none changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: of the values, or the one value.
        half: how far the interval reaches to either side; None where the values give no interval.
        count: how many seeds, or images, the interval is over.
        over: `seeds`: Student's t over seeds; `images`: over the images of a single seed, Wilson's interval for an
            accuracy, by its longer side, 1.96 standard errors for a difference on the same images.
    """

    mean: float
    half: float | None
    count: int
    over: Literal["seeds", "images"] = "seeds"

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds zero: of a difference, that none is shown."""
        return self.half is not None and abs(self.mean) <= self.half


@dataclass(frozen=True)
class Row:
    """One row of the table: a corruption at a severity."""

    corruption: str
    severity: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method costs, as means over all of its cells, the peak aside.

    Attributes:
        ms_per_image, images_per_second: time to adapt and predict.
        peak_memory_mb: the most of all cells.
        forwards, backwards: passes of an image through the network; None where no record says.
        missed: the share of batches that came while the method was still learning; None where no record says.
    """

    ms_per_image: float
    images_per_second: float
    peak_memory_mb: float
    forwards: float | None = None
    backwards: float | None = None
    missed: float | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One label and everything said about it; figures without a row are means over the summary's rows.

    Attributes:
        label, method, steps, checkpoints, commands: as in its records.
        protocol: as in its records, with what older ones leave out.
        config: the arguments that all of its records share; a seed, say, is not among them.
        cells: accuracy by row; a row that was not measured is absent.
        mean: accuracy over the rows, or None if no seed has all of them.
        before: the method's own accuracy before any update.
        added: `mean` minus `before`; None for a method that does not learn, or is scored before its updates.
        clean_before: the method's own accuracy on clean images before any update.
        oracle: accuracy at the best number of updates for each row, chosen on test labels; None where there is no
            choice. It says what a choice could bring at most, and compares with nothing.
        worst: the row with the lowest accuracy; None if a row is not measured.
        curve: accuracy by number of updates.
        row_curves: the same for each row, as plain means over seeds.
        over_stream: for each row the accuracy in equal parts of its images, in order of arrival, as means over seeds.
        gain: accuracy minus that of the source column; None without one, and for itself.
        row_gains: the same by row.
        recovery: the gain on clean images after all shifts of a continual stream; None of other streams.
        lead: accuracy of the summary's adapted column minus this one's; None for itself.
        figures: ece, nll, right_to_wrong and wrong_to_right; what was not measured is absent.
        cost: time and memory.
    """

    label: str
    method: str
    protocol: Mapping[str, Any]
    config: Mapping[str, Any]
    steps: int
    checkpoints: Sequence[str]
    commands: Sequence[str]
    cells: Mapping[Row, Estimate]
    mean: Estimate | None
    before: Estimate | None
    added: Estimate | None
    clean_before: Estimate | None
    oracle: Estimate | None
    worst: Row | None
    curve: Mapping[int, Estimate]
    row_curves: Mapping[Row, Mapping[int, float]]
    over_stream: Mapping[Row, Sequence[float]]
    gain: Estimate | None = None
    row_gains: Mapping[Row, Estimate]
    recovery: Estimate | None = None
    lead: Estimate | None = None
    figures: Mapping[str, Estimate]
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the records come from: each entry once, in the order of the records.

    Attributes:
        commands: that write the records again.
        commits: of the code; empty outside a repository.
        devices: in words.
        versions: all versions seen, by package.
    """

    commands: Sequence[str]
    commits: Sequence[str]
    devices: Sequence[str]
    versions: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a set of records says.

    Attributes:
        dataset: the one data set the records are of.
        protocol: what all columns share of their protocols.
        columns: source first, then batch statistics, entropy minimisation, other methods, and ours last.
        rows: the corruptions, in the order of the records.
        clean: the row of uncorrupted images, if it was measured. Means are over `rows`; over `clean` if there are none.
        source: the column of the frozen model, if there is one.
        adapted: the column that the headline speaks of: ours, or the last that adapts.
        seeds: all seeds.
        n: images a cell.
        gaps: labels that lack cells of a row, by label.
        origin: where the records come from.
    """

    dataset: str
    protocol: Mapping[str, Any]
    columns: Sequence[Column]
    rows: Sequence[Row]
    clean: Row | None
    source: Column | None
    adapted: Column | None
    seeds: Sequence[int]
    n: int
    gaps: Mapping[str, Sequence[str]]
    origin: Origin
