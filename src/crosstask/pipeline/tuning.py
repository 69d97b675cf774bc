"""Between alignment and bench: steps and learning rates are tried on source images, candidate by candidate.

No target image comes in here, and none of their labels: the stage is given source images.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crosstask.bench import records
from crosstask.bench.candidates import Candidate, accuracies, candidates, check_images, given, to_run, trial
from crosstask.bench.cells import Cell, Grid, cells, check, missing, updates, work
from crosstask.bench.grid import Measured, measure
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Recipe
from crosstask.data.images import ImageSet
from crosstask.errors import AdapterError
from crosstask.files import storage_errors, sweep
from crosstask.methods.state import RefusedUpdate
from crosstask.pipeline import tuned
from crosstask.pipeline.comparison import check_family, grid_of
from crosstask.pipeline.experiment import Experiment
from crosstask.pipeline.tuned import Choice, Tuned

Tried = Mapping[str, Sequence[Candidate]]
"""The candidates by column."""


def check_tuning(recipe: Recipe, images: ImageSet) -> None:
    """Raise for what would stop the tuning of a recipe on these source images, before anything long begins."""
    bench = trial(recipe.bench, tuned.wanted(recipe))
    check_images(bench, images)
    check(bench, images)


def tune_stage(experiment: Experiment, images: ImageSet, checkpoints: dict[str, Checkpoint]) -> Tuned:
    """Choose steps and learning rate of each learning column, or find them chosen; write `tuned.toml`.

    Args:
        images: the labelled source images.
        checkpoints: by kind, each kind that `needed` names.

    Raises:
        ConfigError: the recipe has no [tune], or asks for more images than there are.
        AdapterError: no candidate of a column could be scored.
    """
    recipe, path, store = experiment.recipe, experiment.folder / "tuned.toml", experiment.folder / "tune"
    check_family(checkpoints)
    check_tuning(recipe, images)
    experiment.open()
    tune, key = tuned.wanted(recipe), tuned.key_of(recipe, checkpoints)
    found = tuned.read(path)
    if found and found.key == key:
        experiment.say(f"tune: found in {path}")
        return found
    started = time.monotonic()
    with storage_errors(store):
        store.mkdir(exist_ok=True)
        sweep(store)
    grid = grid_of(experiment, trial(recipe.bench, tune), images, checkpoints)
    tried = candidates(recipe.bench, tune)
    lost = _try(experiment, grid, tried, store / "records.jsonl")
    measured = records.read(store / "records.jsonl")
    chosen = Tuned(
        key=key,
        criterion=tune.criterion,
        dataset=images.name,
        corruptions=grid.bench.corruptions,
        severity=max(record.severity for record in measured),
        images=tune.images,
        seeds=tune.seeds,
        candidates=len(tune.steps) * len(tune.factors),
        columns={label: _choice(recipe.bench, mine, lost, measured, tune.images) for label, mine in tried.items()},
    )
    tuned.write(chosen, path)
    experiment.say(f"tune: {len(tried)} columns tuned in {time.monotonic() - started:.0f} s, see {path}")
    return chosen


def _try(experiment: Experiment, grid: Grid, tried: Tried, path: Path) -> dict[str, str]:
    """Measure all candidates that need a pass of their own; return the lost ones by label, with the reason."""
    labels = {one.label for mine in tried.values() for one in mine}
    lost: dict[str, str] = {}
    every, done = cells(grid), 0
    while todo := _todo(experiment.recipe.bench, every, tried, lost, path):
        total = done + sum(work(cell) for cell in todo)
        measuring = measure(grid, todo)
        for cell in todo:
            try:
                measured = _next(measuring)
            except (AdapterError, RefusedUpdate) as error:
                if cell.label not in labels:
                    raise
                lost[cell.label] = str(error)
                break
            records.append(path, *measured.records)
            done += work(cell)
            accuracy = statistics.fmean(record.accuracy for record in measured.records)
            experiment.narrator.progress("tune", done, total, f"{cell.label} seed {cell.seed}: {accuracy:.1%}")
    return lost


def _todo(bench: Bench, every: list[Cell], tried: Tried, lost: Mapping[str, str], path: Path) -> list[Cell]:
    """List the cells that are still to be measured: the frozen model's, and those of the candidates left.

    Raises:
        AdapterError: all candidates of a column are lost.
    """
    passed_over: set[str] = set()
    for label, mine in tried.items():
        run = to_run(bench, mine, lost)
        if not run:
            first = mine[0].label
            raise AdapterError(
                f"none of the {len(mine)} candidates of column {label!r} could be scored; {first}: {lost[first]}; "
                "lower tune.factors, or leave the column out"
            )
        passed_over |= {one.label for one in mine} - {one.label for one in run}
    return [cell for cell in missing(every, path) if cell.label not in passed_over]


def _next(measuring: Iterator[Measured]) -> Measured:
    """Measure the next cell; an update that is refused ends it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RefusedUpdate)
        return next(measuring)


def _choice(
    bench: Bench, mine: Sequence[Candidate], lost: Mapping[str, str], measured: Sequence[records.Record], images: int
) -> Choice:
    """Rank the candidates of a column that were not lost; `images` are different ones under each corruption."""
    run, column = to_run(bench, mine, lost), bench.columns[mine[0].column]
    ranked = tuned.best_first(
        [
            tuned.scored(one.steps, one.learning_rate, accuracies(one, run, measured), images)
            for one in mine
            if one.label not in lost
        ]
    )
    own = (updates(bench, column), given(column))
    return Choice(
        chosen=ranked[0],
        runner_up=ranked[1] if len(ranked) > 1 else None,
        as_given=next((one for one in ranked if (one.steps, one.learning_rate) == own), None),
        lost=len(mine) - len(ranked),
    )
