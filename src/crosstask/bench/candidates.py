"""Which steps and learning rates are tried for a column: the same numbers of steps and factors for every method."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from crosstask.bench.cells import updates
from crosstask.bench.records import Record
from crosstask.config import Bench, Column, Tune
from crosstask.data.images import ImageSet
from crosstask.data.severities import CLEAN, HELD_OUT
from crosstask.errors import ConfigError, DataError
from crosstask.methods import find


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One trial of a column.

    Attributes:
        column: its label in the recipe.
        steps, learning_rate: what is tried.
    """

    column: str
    steps: int
    learning_rate: float

    @property
    def label(self) -> str:
        """Its own column's label in the records of the trials."""
        return f"{self.column} · steps={self.steps} · learning_rate={self.learning_rate:g}"


def candidates(bench: Bench, tune: Tune) -> dict[str, list[Candidate]]:
    """Return what is tried, by column: each of `tune.steps` with each factor on the learning rate.

    Columns that take no updates, or have no learning rate, are not among them: they stay as they are.

    Raises:
        ConfigError: no column learns.
    """
    tried = {
        label: [
            Candidate(column=label, steps=steps, learning_rate=_rounded(factor * given(column)))
            for factor in tune.factors
            for steps in tune.steps
        ]
        for label, column in bench.columns.items()
        if {"steps", "learning_rate"} <= find(column.method).defaults.keys() and updates(bench, column)
    }
    if not tried:
        raise ConfigError("no column of the recipe has steps and a learning rate to choose; take [tune] away")
    return tried


def given(column: Column) -> float:
    """Return the learning rate that a column says, or else its method's own."""
    return _rounded(float(column.arguments.get("learning_rate", find(column.method).defaults["learning_rate"])))


def trial(bench: Bench, tune: Tune) -> Bench:
    """Return the bench of the trials: the recipe's protocol, with a column a candidate beside the frozen model.

    Raises:
        ConfigError: no column learns, none is the frozen model, the bench reports a held-out corruption, or the stream
            has no form without corruptions.
    """
    if tune.criterion == "clean" and bench.shift == "gradual":
        raise ConfigError("a gradual stream has no clean form; say tune.criterion = 'held-out'")
    if tune.criterion == "held-out" and (shared := [name for name in HELD_OUT if name in bench.corruptions]):
        raise ConfigError(
            f"the bench reports {', '.join(shared)}, so nothing may be chosen on it; take it out of bench.corruptions, "
            "or say tune.criterion = 'clean'"
        )
    frozen = {label: column for label, column in bench.columns.items() if column.method == "source"}
    if not frozen:
        raise ConfigError("a comparison needs the frozen model: add a column with method = 'source'")
    columns = dict([next(iter(frozen.items()))])
    for label, mine in candidates(bench, tune).items():
        for one in mine:
            columns[one.label] = with_arguments(bench.columns[label], one.steps, one.learning_rate)
    return replace(
        bench,
        corruptions=HELD_OUT if tune.criterion == "held-out" else (CLEAN,),
        severity=tune.severity,
        shifts={},
        seeds=tune.seeds,
        images=tune.images,
        curve=tune.steps,
        columns=columns,
    )


def with_arguments(column: Column, steps: int, learning_rate: float) -> Column:
    """Return a column with these steps and this learning rate in place of its own."""
    return replace(column, arguments={**column.arguments, "steps": steps, "learning_rate": learning_rate})


def check_images(bench: Bench, images: ImageSet) -> None:
    """Raise unless there are labelled source images enough for the bench of the trials."""
    if images.labels is None:
        raise DataError(f"tuning needs labelled source images, and {images.name} has none; take [tune] away")
    count = bench.images * (len(bench.corruptions) if bench.shift == "mixed" else 1)
    if count > len(images):
        raise ConfigError(
            f"tuning needs {count} source images a stream, and {images.name} has {len(images)}; lower tune.images"
        )


def one_pass_tells_all(bench: Bench, column: Column) -> bool:
    """Say whether the curve of one pass holds what passes with fewer steps give: where each batch starts anew.

    Where the stream does not wait, more steps miss more batches, and each number of them needs a pass of its own.
    """
    return column.reset == "batch" and column.predict == "after" and bench.rate is None


def to_run(bench: Bench, mine: Sequence[Candidate], lost: Collection[str]) -> list[Candidate]:
    """Return those of a column's candidates that need a pass of their own, without the `lost` labels.

    Args:
        bench: the recipe's.
    """
    alive = [one for one in mine if one.label not in lost]
    if not alive or not one_pass_tells_all(bench, bench.columns[alive[0].column]):
        return alive
    longest = {one.learning_rate: one for one in sorted(alive, key=lambda one: one.steps)}
    return list(longest.values())


def accuracies(one: Candidate, run: Sequence[Candidate], measured: Iterable[Record]) -> list[float]:
    """Return a candidate's accuracy by seed, each the mean over corruptions, from the records of the trials.

    Args:
        run: what `to_run` returned for its column: this one is among them, or one with its rate and more steps.
    """
    (label,) = {other.label for other in run if other == one} or {
        other.label for other in run if other.learning_rate == one.learning_rate and other.steps > one.steps
    }
    by_seed: dict[int, list[float]] = {}
    for record in measured:
        if record.label == label:
            value = record.accuracy if record.steps == one.steps else record.curve[str(one.steps)]
            by_seed.setdefault(record.seed, []).append(value)
    return [statistics.fmean(values) for values in by_seed.values()]


def _rounded(rate: float) -> float:
    """Return a rate of six digits, as its candidate's label has it: 0.3 x 0.001 is 0.0003."""
    return float(f"{rate:.6g}")
