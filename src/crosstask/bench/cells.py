"""Which numbers are to be: columns x corruptions x seeds, each named by the hash of all that determines it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from crosstask.bench import records
from crosstask.bench.protocol import Protocol
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Column, digest
from crosstask.data.copies import StoredCopies
from crosstask.data.corruptions.frost_sheets import texture
from crosstask.data.corruptions.own import code_hash, register_from
from crosstask.data.images import ImageSet, check_same_kind
from crosstask.data.severities import CLEAN
from crosstask.data.streams import Stream, StreamPlan, build_stream
from crosstask.errors import ConfigError, DataError
from crosstask.methods import Passes, check_arguments, find, passes
from crosstask.methods.batchnorm import has_batch_norm


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is measured, on what, with what.

    Attributes:
        bench: columns, corruptions, seeds and the protocol.
        images: the labelled target images, with stored copies of them or without.
        checkpoints: by kind, each that a column starts from.
        device, precision: where the networks run, and whether in `float32` or `bfloat16`.
        command: that makes these records again.
        chosen: label of a column whose steps and learning rate were tuned to the criterion.
    """

    bench: Bench
    images: ImageSet
    checkpoints: dict[str, Checkpoint]
    device: torch.device
    precision: str
    command: str
    chosen: Mapping[str, Literal["held-out", "clean"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured in one go: a column on a stream with a seed.

    Attributes:
        corruptions: the stream's: one, or all where they come in one stream.
        keys: the content hash of what determines the numbers under each of them.
        batches: of the stream.
        images: the content hash of the images, and of what corrupts them where it is no built-in corruption.
    """

    label: str
    column: Column
    corruptions: tuple[str, ...]
    seed: int
    protocol: Protocol
    checkpoint: Checkpoint
    keys: tuple[str, ...]
    batches: int
    images: str

    @property
    def first_updates(self) -> int:
        """Updates on the first batch after the start or a reset."""
        return self.protocol.steps + int(self.column.arguments.get("first_steps", 1)) - 1

    @property
    def updates(self) -> float:
        """Updates on a batch, in the mean over the stream."""
        share = 1 if self.protocol.reset == "batch" else 1 / self.batches
        return share * self.first_updates + (1 - share) * self.protocol.steps

    @property
    def cost(self) -> Passes:
        """Forward and backward passes of an image in an update."""
        return passes(self.column.method, self.column.arguments, self.checkpoint.task)

    @property
    def forwards(self) -> float:
        """Passes of an image through the network, its prediction included."""
        return self.cost[0] * self.updates + 1

    @property
    def backwards(self) -> float:
        """Passes of an image back through it."""
        return self.cost[1] * self.updates

    @property
    def passes(self) -> float:
        """Expected work on a batch in forward passes, in the mean over the stream: one back costs two."""
        return self.passes_of(self.updates)

    def passes_of(self, updates: float) -> float:
        """Return the expected work on a batch with so many updates."""
        forward, backward = self.cost
        return (forward + 2 * backward) * updates + 1

    @property
    def stream(self) -> tuple[int, tuple[str, ...]]:
        """What cells on the same stream have in common."""
        return self.seed, self.corruptions


def check(bench: Bench, images: ImageSet, steps: int | None = None) -> None:
    """Register the shifts of one's own; raise for what is unknown or unfit before anything long begins.

    Args:
        steps: updates of columns that do not say how many, where these are still to be chosen.
    """
    if images.labels is None:
        raise DataError(f"a benchmark needs labelled test images, and {images.name} has none; see `crosstask adapt`")
    for label, column in bench.columns.items():
        _check_reset(bench, label, column)
        method = find(column.method)
        given = dict(column.arguments)
        if "steps" in method.defaults and "steps" not in given:
            given["steps"] = steps or updates(bench, column)
        try:
            check_arguments(column.method, given)
        except ConfigError as error:
            raise ConfigError(f"column {label!r}: {error}") from error
        own = (None, method.needs, *_STAND_INS.get(column.method, ()))
        if column.checkpoint not in own and (method.needs != "supervised" or column.checkpoint == "self-supervised"):
            raise ConfigError(
                f"{column.method} needs the checkpoint {method.needs!r}; take checkpoint = {column.checkpoint!r} away"
            )
    if "source" not in {column.method for column in bench.columns.values()}:
        raise ConfigError("a comparison needs the frozen model: add a column with method = 'source'")
    for name, reference in bench.shifts.items():
        register_from(name, reference)
    _check_copies(bench, images.copies)
    for corruptions in streams(bench):
        stream = build_stream(images, plan(bench, corruptions, bench.seeds[0]))
        if images.copies:
            _ = stream.made_with  # stored copies are read here, before anything long begins


def check_batch_norm(label: str, column: Column, model: nn.Module, encoder: str) -> None:
    """Raise unless the column's method finds the batch norm that it needs in the model, of an encoder of this name."""
    if find(column.method).adapter.needs_batch_norm and not has_batch_norm(model):
        raise ConfigError(
            f"column {label!r}: {column.method} needs batch-norm layers, and the encoder {encoder} has none; take the "
            "column away, or say encoder = 'resnet18-narrow' or another that has them"
        )


def _check_copies(bench: Bench, copies: StoredCopies | None) -> None:
    """Refuse a table other than the one the copies were made with."""
    table = copies.cells.made.get("table", bench.table) if copies else bench.table
    if table != bench.table:
        raise ConfigError(
            f"the copies were made with the severities of {table!r}, and bench.table is {bench.table!r}; say "
            f"bench.table = {table!r}"
        )


def _check_reset(bench: Bench, label: str, column: Column) -> None:
    """Refuse a reset that the stream gives no sign for, or that is another by name only."""
    unfit = "never" if bench.shift == "constant" else "corruption"
    if column.reset == unfit:
        fit = "reset = 'corruption'" if unfit == "never" else "reset = 'never' or 'batch'"
        raise ConfigError(
            f"column {label!r} has reset = {unfit!r}, and on a {bench.shift} stream nothing is like that: "
            f"{'each corruption is a stream of its own' if unfit == 'never' else 'nothing tells where it changes'}; "
            f"say {fit}"
        )


_STAND_INS = {"cta": ("joint", "supervised")}
"""Checkpoints a method takes besides its own: CTA without alignment, on SimCLR beside the classifier or on neither."""


def cells(grid: Grid) -> list[Cell]:
    """List all cells; the columns of one stream stand together."""
    check(grid.bench, grid.images)
    for checkpoint in grid.checkpoints.values():
        check_same_kind(grid.images, checkpoint.image_shape, checkpoint.class_names)
    for label, column in grid.bench.columns.items():
        checkpoint = grid.checkpoints[column.checkpoint or find(column.method).needs]
        check_batch_norm(label, column, checkpoint.classifier, checkpoint.encoder_name)
    found = []
    for seed in grid.bench.seeds:
        for corruptions in streams(grid.bench):
            stream = build_stream(grid.images, plan(grid.bench, corruptions, seed))
            for label, column in grid.bench.columns.items():
                found.append(_cell(grid, label, column, corruptions, stream))
    return found


def missing(wanted: list[Cell], path: Path) -> list[Cell]:
    """List those of the `wanted` cells, all of a grid, that lack a record in the file at `path`.

    Records of other cells, as after a change of settings, are first moved to `superseded.jsonl` beside it.
    """
    if not path.exists():
        return wanted
    records.set_aside(path, {key for cell in wanted for key in cell.keys}, path.with_name("superseded.jsonl"))
    found = {record.key for record in records.read(path)}
    return [cell for cell in wanted if not found.issuperset(cell.keys)]


def work(cell: Cell) -> int:
    """Return a cell's expected work in forward passes of a batch, to tell the time that is left."""
    return round(cell.batches * cell.passes)


def is_shown(grid: Grid, cell: Cell) -> bool:
    """Say whether the report shows an example image of this cell: of the first column of CTA, on the first seed.

    Not of streams of several corruptions, where one image would have to stand for all.
    """
    columns = grid.bench.columns.items()
    ours = [label for label, column in columns if column.method == "cta" and column.checkpoint in (None, "aligned")]
    return cell.label in ours[:1] and cell.seed == grid.bench.seeds[0] and grid.bench.shift == "constant"


def streams(bench: Bench) -> list[tuple[str, ...]]:
    """List the corruptions of each stream: one each, or all of them in one."""
    if bench.shift != "constant":
        return [bench.corruptions]
    return [(name,) for name in dict.fromkeys(bench.corruptions)]


def plan(bench: Bench, corruptions: tuple[str, ...], seed: int) -> StreamPlan:
    """Return the plan of the stream of these corruptions and a seed."""
    return StreamPlan(
        shift=bench.shift,
        corruptions=corruptions,
        severity=0 if set(corruptions) == {CLEAN} else bench.severity,
        count=bench.images * (len(corruptions) if bench.shift == "mixed" else 1),
        batch_size=bench.batch_size,
        seed=seed,
        delta=bench.delta,
        slots=bench.slots,
        rounds=bench.rounds,
        shuffled=bench.shuffled,
        table=bench.table,
    )


def updates(bench: Bench, column: Column) -> int:
    """Return the updates on each batch: the column's, the bench's where the method takes any, or the method's own."""
    usual = find(column.method).defaults.get("steps", 0)
    return int(column.arguments.get("steps", usual if bench.steps is None or not usual else bench.steps))


def _cell(grid: Grid, label: str, column: Column, corruptions: tuple[str, ...], stream: Stream) -> Cell:
    bench, method, seed, copies = grid.bench, find(column.method), stream.seed, grid.images.copies
    model = column.checkpoint or method.needs
    steps = updates(bench, column)
    protocol = Protocol(
        preset=bench.protocol,
        model=model,
        reset=column.reset,
        predict=column.predict,
        stream="iid" if bench.delta is None else "clumped",
        delta=bench.delta,
        slots=bench.slots,
        shift=bench.shift,
        sequence=() if bench.shift == "constant" else corruptions,
        rounds=bench.rounds,
        shuffled=bench.shuffled,
        batch_size=bench.batch_size,
        rate=bench.rate,
        n=bench.images,
        steps=steps,
        chosen=grid.chosen.get(label, "recipe"),
        curve=tuple(sorted({0, steps, *(point for point in bench.curve if point <= steps)})),
        precision=grid.precision,
        table=bench.table,
        frost=texture() if "frost" in bench.corruptions and not copies else None,
        copies=copies.name if copies else None,
    )
    checkpoint = grid.checkpoints[model]
    own_code = [code for corruption in corruptions if (code := code_hash(corruption))]
    stored = stream.made_with.values() if copies else ()
    keys = [
        digest(
            column, method.defaults, protocol.to_dict(), corruption, bench.severity, seed, grid.device.type,
            checkpoint.weights_hash, grid.checkpoints["supervised"].weights_hash, grid.images.fingerprint, label,
            *own_code, *stored,
        )
        for corruption in dict.fromkeys(corruptions)
    ]  # fmt: skip
    return Cell(
        label=label,
        column=column,
        corruptions=corruptions,
        seed=seed,
        protocol=protocol,
        checkpoint=checkpoint,
        keys=tuple(keys),
        batches=-(-len(stream) // stream.batch_size),
        images=digest(grid.images.fingerprint, *own_code, *stored),
    )
