"""Records in, small dataclasses out: every number that a report shows is computed here, once.

Figures that methods are compared by are averaged over corruptions within each seed first, so that a seed is the unit
of every interval; differences between methods are paired by seed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal

from crosstask.bench.records import Record
from crosstask.data.severities import CLEAN
from crosstask.errors import DataError

SHARED = ("batch_size", "n", "precision", "stream")
"""What every column of one table must have in common; reset policy and steps may differ between columns."""

SHARED_WHERE_SAID = ("table", "frost")
"""The same, but left out of a protocol where there was no choice."""

Seeds = Mapping[int, float]
"""One figure by seed."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: of the values, or the one value.
        half: half the interval's width; None where one value gives no interval.
        count: how many seeds, or images, the interval is over.
        over: `seeds`: Student's t over seeds; `images`: Wilson's interval over the images of a single seed.
    """

    mean: float
    half: float | None
    count: int
    over: Literal["seeds", "images"] = "seeds"


@dataclass(frozen=True)
class Row:
    """One row of the table: a corruption at a severity."""

    corruption: str
    severity: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method costs, as means over all of its cells."""

    ms_per_image: float
    images_per_second: float
    peak_memory_mb: float


@dataclass(frozen=True, kw_only=True)
class Column:
    """One label and everything said about it; figures without a row are means over the summary's rows.

    Attributes:
        label, method, protocol, steps, checkpoints: as in its records.
        config: the arguments that all of its records share; a seed, say, is not among them.
        cells: accuracy by row; a row that was not measured is absent.
        mean: accuracy over the rows, or None if no seed has all of them.
        before: the method's own accuracy before any update.
        curve: accuracy by number of updates.
        row_curves: the same for each row, as plain means over seeds.
        gain: accuracy minus that of the source column; None without one, and for itself.
        row_gains: the same by row.
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
    cells: Mapping[Row, Estimate]
    mean: Estimate | None
    before: Estimate | None
    curve: Mapping[int, Estimate]
    row_curves: Mapping[Row, Mapping[int, float]]
    gain: Estimate | None = None
    row_gains: Mapping[Row, Estimate]
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
    columns: Sequence[Column]
    rows: Sequence[Row]
    clean: Row | None
    source: Column | None
    adapted: Column | None
    seeds: Sequence[int]
    n: int
    gaps: Mapping[str, Sequence[str]]
    origin: Origin


Cells = Mapping[Row, Mapping[int, Record]]
"""The records of one label, by row and seed."""


def summarise(records: Iterable[Record]) -> Summary:
    """Return what `records` say.

    Raises:
        DataError: there are no records, or they are of several data sets or of protocols that do not compare.
    """
    records = _without_repeats(records)
    dataset = _check_comparable(records)
    labels = sorted({(_rank(record), record.label) for record in records})
    table = {label: _cells(records, label) for _, label in labels}
    corrupted = list(dict.fromkeys(_row(record) for record in records if record.corruption != CLEAN))
    clean = next((_row(record) for record in records if record.corruption == CLEAN), None)
    scored = corrupted or [row for row in [clean] if row]
    columns = _compared([_column(cells, scored) for cells in table.values()], table, scored)
    return Summary(
        dataset=dataset,
        columns=columns,
        rows=corrupted,
        clean=clean,
        source=_source(columns),
        adapted=_adapted(columns),
        seeds=sorted({record.seed for record in records}),
        n=records[0].n,
        gaps=_gaps(records, table),
        origin=_origin(records),
    )


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t: the half-width of a 95 % interval in standard errors.

    Exact to four decimals for up to ten degrees of freedom; beyond, the expansion of Abramowitz & Stegun 26.7.5, which
    is exact to four decimals there.
    """
    table = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
    if freedom <= len(table):
        return table[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of one value a seed, with Student's t interval; a single value has none."""
    mean, count = statistics.fmean(values), len(values)
    half = t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Estimate(mean=mean, half=half, count=count)


def over_images(share: float, n: int) -> Estimate:
    """Return a share of `n` images with half the width of Wilson's interval.

    For the mean share over several corruptions of the same images this is an upper bound: averaging lowers variance.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(mean=share, half=half, count=n, over="images")


def paired(ours: Seeds, theirs: Seeds) -> Estimate | None:
    """Return the mean difference over the seeds that both have, with an interval over those seeds."""
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    return over_seeds(differences) if differences else None


def _without_repeats(records: Iterable[Record]) -> list[Record]:
    """Keep the last record of each cell: one that was killed before it was noted as done is measured again."""
    cells: dict[tuple[Any, ...], Record] = {}
    for record in records:
        cell = (record.label, record.dataset, record.corruption, record.severity, record.seed)
        if cell in cells and cells[cell].key != record.key:
            raise DataError(
                f"two different records for label {record.label!r} on {record.corruption!r}, seed {record.seed} "
                f"(keys {cells[cell].key[:12]} and {record.key[:12]}): the settings changed between them. "
                "Start a fresh run folder, or remove the older records"
            )
        cells[cell] = record
    if not cells:
        raise DataError("there are no records to report; `crosstask bench` or `crosstask run` writes them")
    return list(cells.values())


def _check_comparable(records: Sequence[Record]) -> str:
    """Refuse what must not stand in one table; return the data set."""
    datasets = {record.dataset for record in records}
    if len(datasets) > 1:
        raise DataError(f"records of several data sets ({', '.join(sorted(datasets))}); report one at a time")
    for record in records:
        missing = [key for key in (*SHARED, "reset") if key not in record.protocol]
        if missing:
            raise DataError(f"the protocol of label {record.label!r} does not say {', '.join(missing)}")
    for label in sorted({record.label for record in records}):
        _check_column(label, [record for record in records if record.label == label])
    for key in (*SHARED, *SHARED_WHERE_SAID):
        _check_shared(key, records)
    return records[0].dataset


def _check_column(label: str, records: Sequence[Record]) -> None:
    first = records[0]
    for record in records:
        keys = sorted(first.protocol.keys() | record.protocol.keys())
        differences = [
            f"{key}: {first.protocol.get(key)!r} and {record.protocol.get(key)!r}"
            for key in keys
            if first.protocol.get(key) != record.protocol.get(key)
        ]
        if record.method != first.method:
            differences.append(f"method: {first.method!r} and {record.method!r}")
        if record.n != first.n:
            differences.append(f"n: {first.n} and {record.n}")
        if differences:
            raise DataError(
                f"label {label!r} mixes two protocols, which no column may do ({'; '.join(differences)}). "
                "Give each its own label, or report them apart"
            )


def _check_shared(key: str, records: Sequence[Record]) -> None:
    values: dict[str, str] = {}
    for record in records:
        values.setdefault(json.dumps(record.protocol.get(key)), record.label)
    if len(values) > 1:
        told = ", ".join(f"{value} for {label!r}" for value, label in values.items())
        raise DataError(f"columns of one table must share {key}, got {told}. Report them apart, or measure them alike")


def _rank(record: Record) -> int:
    """Return a column's place; columns of one place stand in the order of their labels."""
    if is_ours(record.method, record.protocol):
        return 4
    return {"source": 0, "ptbn": 1, "tent": 2}.get(record.method, 3)


def is_ours(method: str, protocol: Mapping[str, Any]) -> bool:
    """Say whether a column is CTA as it is meant, on an aligned model."""
    return method == "cta" and protocol.get("model", "aligned") == "aligned"


def _row(record: Record) -> Row:
    return Row(record.corruption, record.severity)


def _cells(records: Iterable[Record], label: str) -> Cells:
    cells: dict[Row, dict[int, Record]] = {}
    for record in records:
        if record.label == label:
            cells.setdefault(_row(record), {})[record.seed] = record
    return cells


def _by_seed(cells: Cells, rows: Sequence[Row], figure: Callable[[Record], float | None]) -> dict[int, float]:
    """Average a figure over `rows` within each seed; a seed that lacks it anywhere is left out."""
    averages = {}
    for seed in sorted({seed for row in rows for seed in cells.get(row, {})}):
        present = [cells[row][seed] for row in rows if seed in cells.get(row, {})]
        values = [value for record in present if (value := figure(record)) is not None]
        if len(values) == len(rows):
            averages[seed] = statistics.fmean(values)
    return averages


def _accuracy(by_seed: Seeds, n: int) -> Estimate | None:
    """Return a mean accuracy with the interval that its number of seeds allows."""
    values = list(by_seed.values())
    if len(values) == 1:
        return over_images(values[0], n)
    return over_seeds(values) if values else None


def _column(cells: Cells, rows: Sequence[Row]) -> Column:
    records = [record for seeds in cells.values() for record in seeds.values()]
    first = records[0]
    means = {row: _accuracy(_by_seed(cells, [row], attrgetter("accuracy")), first.n) for row in cells}
    return Column(
        label=first.label,
        method=first.method,
        protocol=first.protocol,
        config=_constant([record.config for record in records]),
        steps=first.steps,
        checkpoints=sorted({record.checkpoint for record in records}),
        cells={row: mean for row, mean in means.items() if mean},
        mean=_accuracy(_by_seed(cells, rows, attrgetter("accuracy")), first.n),
        before=_accuracy(_by_seed(cells, rows, attrgetter("accuracy_before")), first.n),
        curve={step: mean for step in _steps(records) if (mean := _at_step(cells, rows, step))},
        row_curves={row: _row_curve(cells, row, _steps(records)) for row in rows if row in cells},
        row_gains={},
        figures=_figures(cells, rows),
        cost=_cost(records),
    )


def _constant(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that all configs have alike."""
    first = configs[0]
    return {name: value for name, value in first.items() if all(config.get(name) == value for config in configs)}


def _steps(records: Iterable[Record]) -> list[int]:
    return sorted({step for record in records for step in _curve(record)})


def _curve(record: Record) -> dict[int, float]:
    """Return a record's whole curve, from before any update to the reported number of them."""
    noted = {int(step): accuracy for step, accuracy in record.curve.items()}
    return {0: record.accuracy_before} | noted | {record.steps: record.accuracy}


def _at_step(cells: Cells, rows: Sequence[Row], step: int) -> Estimate | None:
    values = list(_by_seed(cells, rows, lambda record: _curve(record).get(step)).values())
    return over_seeds(values) if values else None


def _row_curve(cells: Cells, row: Row, steps: Iterable[int]) -> dict[int, float]:
    means = {step: _at_step(cells, [row], step) for step in steps}
    return {step: mean.mean for step, mean in means.items() if mean}


def _figures(cells: Cells, rows: Sequence[Row]) -> dict[str, Estimate]:
    figures = {}
    for name in ("ece", "nll", "right_to_wrong", "wrong_to_right"):
        values = list(_by_seed(cells, rows, attrgetter(name)).values())
        if values:
            figures[name] = over_seeds(values)
    return figures


def _cost(records: Sequence[Record]) -> Cost:
    return Cost(
        ms_per_image=statistics.fmean(1000 / record.images_per_second for record in records),
        images_per_second=statistics.fmean(record.images_per_second for record in records),
        peak_memory_mb=max(record.peak_memory_mb for record in records),
    )


def _source(columns: Sequence[Column]) -> Column | None:
    return next((c for c in columns if c.method == "source" and c.protocol.get("model") != "aligned"), None)


def _adapted(columns: Sequence[Column]) -> Column | None:
    """Return our column; without one, the last that is not the frozen model."""
    ours = [column for column in columns if is_ours(column.method, column.protocol)]
    others = [column for column in columns if column.method != "source"]
    return next(iter(ours), None) or (others[-1] if others else None)


def _compared(columns: Sequence[Column], table: Mapping[str, Cells], rows: Sequence[Row]) -> list[Column]:
    """Return `columns` with their differences from the source column and from the adapted one."""
    source, adapted = _source(columns), _adapted(columns)

    def difference(ours: Column | None, theirs: Column | None, rows: Sequence[Row]) -> Estimate | None:
        if not ours or not theirs or ours is theirs:
            return None
        return paired(*(_by_seed(table[side.label], rows, attrgetter("accuracy")) for side in (ours, theirs)))

    def compared(column: Column) -> Column:
        gains = {row: difference(column, source, [row]) for row in column.cells}
        return replace(
            column,
            gain=difference(column, source, rows),
            row_gains={row: gain for row, gain in gains.items() if gain},
            lead=difference(adapted, column, rows),
        )

    return [compared(column) for column in columns]


def _gaps(records: Sequence[Record], table: Mapping[str, Cells]) -> dict[str, list[str]]:
    """Name, for each label, the corruptions that lack a seed which another label has there."""
    measured = {(_row(record), record.seed) for record in records}
    gaps = {}
    for label, cells in table.items():
        missing = {row.corruption for row, seed in measured if seed not in cells.get(row, {})}
        if missing:
            gaps[label] = sorted(missing)
    return gaps


def _origin(records: Sequence[Record]) -> Origin:
    packages = sorted({package for record in records for package in record.versions})
    return Origin(
        commands=_once(record.command for record in records),
        commits=_once(record.commit for record in records if record.commit),
        devices=_once(record.device for record in records),
        versions={name: _once(str(record.versions.get(name, "unknown")) for record in records) for name in packages},
    )


def _once(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
