"""Stage 3: the columns of a recipe are measured, cell by cell."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Generator
from typing import Any

from crosstask import runtime
from crosstask.bench import examples, records
from crosstask.bench.cells import Cell, Grid, cells, is_shown, missing, work
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench
from crosstask.data.images import ImageSet
from crosstask.errors import CheckpointError
from crosstask.pipeline.experiment import SUPERVISED, Experiment
from crosstask.pipeline.tuned import find_tuned
from crosstask.pipeline.units import Measuring, plan, units


def bench_stage(experiment: Experiment, images: ImageSet, checkpoints: dict[str, Checkpoint]) -> None:
    """Stage 3: adapt and score every column under every corruption, one record a cell; keep an example of some.

    Args:
        checkpoints: by kind, each kind that `needed` names.

    Raises:
        ConfigError: the recipe has [tune], and nothing was chosen yet.
    """
    check_family(checkpoints)
    path, shown = experiment.folder / "records.jsonl", experiment.folder / "examples.json"
    grid = grid_of(experiment, experiment.recipe.bench, images, checkpoints)
    if tuned := find_tuned(experiment, checkpoints):
        chosen = dict.fromkeys(tuned.columns, tuned.criterion)
        grid = dataclasses.replace(grid, bench=tuned.applied(grid.bench), chosen=chosen)
    every = cells(grid)
    wanted = [cell.keys[0] for cell in every if is_shown(grid, cell)]
    experiment.open()
    kept = examples.prune(shown, wanted)
    unrecorded = {cell.keys[0] for cell in missing(every, path)}
    todo = [cell for cell in every if cell.keys[0] in unrecorded or cell.keys[0] in {*wanted} - kept.keys()]
    if not todo:
        experiment.say(f"bench: found all {len(every)} cells in {path}")
    with contextlib.closing(_measured(experiment, grid, todo)) as measured:
        for cell, made, example in measured:
            if example:
                kept[cell.keys[0]] = example
                examples.keep(shown, {key: kept[key] for key in wanted if key in kept})
            if cell.keys[0] in unrecorded:
                records.append(path, *made)
    records.arrange(path, [key for cell in every for key in cell.keys])


def _measured(experiment: Experiment, grid: Grid, todo: list[Cell]) -> Generator[_Made, None, None]:
    """Yield the cells with their records and examples as the experiment's executor measures them; tell how it goes."""
    if not todo:
        return
    by_key = {cell.keys[0]: cell for cell in todo}
    total, done = sum(map(work, todo)), 0
    started = time.monotonic()
    with experiment.executor.crew(experiment.folder, gpu=grid.device.type == "cuda") as crew:
        opened = (lambda: grid) if crew.threads is None else plan(grid, experiment.recipe, crew.threads).open
        with contextlib.closing(crew.run(Measuring(opened), units(todo, crew.workers))) as results:
            for item, (made, example) in results:
                cell = by_key[item.key]
                yield cell, made, example
                done += work(cell)
                accuracy = statistics.fmean(record.accuracy for record in made)
                experiment.narrator.progress("bench", done, total, f"{item}: {accuracy:.1%}")
        seconds = time.monotonic() - started
        experiment.say(f"bench: {len(todo)} cells measured in {seconds:.0f} s ({crew.about})")


_Made = tuple[Cell, tuple[records.Record, ...], dict[str, Any] | None]


def grid_of(experiment: Experiment, bench: Bench, images: ImageSet, checkpoints: dict[str, Checkpoint]) -> Grid:
    """Return what is measured where a recipe's run does it."""
    return Grid(
        bench=bench,
        images=images,
        checkpoints=checkpoints,
        device=experiment.device,
        precision=runtime.resolve_precision(experiment.device, experiment.recipe.precision),
        command=experiment.command,
    )


def check_family(family: dict[str, Checkpoint]) -> None:
    """Check that checkpoints are what they are used for, and made from the supervised one where they have parents."""
    supervised = family[SUPERVISED]
    for kind, checkpoint in family.items():
        fits = checkpoint.head is not None if kind == SUPERVISED else checkpoint.kind == kind
        if not fits:
            raise CheckpointError(f"expected a checkpoint that is {kind}, got one that is {checkpoint.kind}")
        parent = checkpoint.parents.get(SUPERVISED, supervised.weights_hash)
        if kind != SUPERVISED and parent != supervised.weights_hash:
            raise CheckpointError(
                f"the checkpoint {kind} was not made from this supervised one: expected the weights {parent}, got "
                f"{supervised.weights_hash}; give those of one run"
            )
