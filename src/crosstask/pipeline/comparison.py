"""Stage 3: the columns of a recipe are measured, cell by cell."""

from __future__ import annotations

import statistics
import time

from crosstask import runtime
from crosstask.bench import examples, records
from crosstask.bench.cells import Grid, cells, is_shown, missing, work
from crosstask.bench.grid import measure
from crosstask.checkpoint import Checkpoint
from crosstask.data.images import ImageSet
from crosstask.errors import CheckpointError
from crosstask.pipeline.experiment import SUPERVISED, Experiment


def bench_stage(experiment: Experiment, images: ImageSet, checkpoints: dict[str, Checkpoint]) -> None:
    """Stage 3: adapt and score every column under every corruption, one record a cell; keep an example of some.

    Args:
        checkpoints: by kind, each kind that `needed` names.
    """
    check_family(checkpoints)
    recipe, path, shown = experiment.recipe, experiment.folder / "records.jsonl", experiment.folder / "examples.json"
    grid = Grid(
        bench=recipe.bench,
        images=images,
        checkpoints=checkpoints,
        device=experiment.device,
        precision=runtime.resolve_precision(experiment.device, recipe.precision),
        command=experiment.command,
    )
    wanted = {cell.keys[0] for cell in cells(grid) if is_shown(grid, cell)}
    experiment.open()
    kept = examples.prune(shown, wanted)
    unrecorded = {cell.keys[0] for cell in missing(grid, path)}
    todo = [cell for cell in cells(grid) if cell.keys[0] in unrecorded | (wanted - kept.keys())]
    total, done = sum(work(cell) for cell in todo), 0
    started = time.monotonic()
    for measured in measure(grid, todo):
        if measured.example:
            kept[measured.cell.keys[0]] = measured.example
            examples.keep(shown, kept)
        if measured.cell.keys[0] in unrecorded:
            records.append(path, *measured.records)
        cell, done = measured.cell, done + work(measured.cell)
        accuracy = statistics.fmean(record.accuracy for record in measured.records)
        name = cell.corruptions[0] if len(cell.corruptions) == 1 else cell.protocol.shift
        note = f"{cell.label} {name} seed {cell.seed}: {accuracy:.1%}"
        experiment.narrator.progress("bench", done, total, note)
    if todo:
        experiment.say(f"bench: {len(todo)} cells measured in {time.monotonic() - started:.0f} s")
    else:
        experiment.say(f"bench: found all {len(cells(grid))} cells in {path}")


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
