"""Many cells: columns x corruptions x seeds. A cell whose record is on the disk is not measured again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosstask import runtime
from crosstask.bench import examples, records
from crosstask.bench.benchmark import predict, score
from crosstask.bench.protocol import Protocol
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Column, digest
from crosstask.data.corruptions import MINIMUM_SIZE, available
from crosstask.data.corruptions.frost_sheets import texture
from crosstask.data.corruptions.own import code_hash, register_from
from crosstask.data.images import ImageSet, check_same_kind
from crosstask.data.severities import CLEAN
from crosstask.data.streams import Stream, draw_stream
from crosstask.errors import ConfigError, DataError, UnknownName
from crosstask.methods import Adapter, Source, check_arguments, find, make_adapter


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is measured, on what, with what.

    Attributes:
        bench: columns, corruptions, seeds and the protocol.
        images: the labelled target images.
        checkpoints: by kind, each that a column starts from.
        device, precision: where the networks run, and whether in `float32` or `bfloat16`.
        command: that makes these records again.
    """

    bench: Bench
    images: ImageSet
    checkpoints: dict[str, Checkpoint]
    device: torch.device
    precision: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number to be: a column under a corruption with a seed."""

    label: str
    column: Column
    corruption: str
    seed: int
    protocol: Protocol
    checkpoint: Checkpoint
    key: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A cell's record, and an example image where the cell adapts an aligned model on the first seed."""

    cell: Cell
    record: records.Record
    example: dict[str, Any] | None


def check(bench: Bench, images: ImageSet) -> None:
    """Register the shifts of one's own; raise for what is unknown or unfit before anything long begins."""
    if images.labels is None:
        raise DataError(f"a benchmark needs labelled test images, and {images.name} has none; see `crosstask adapt`")
    if bench.images > len(images):
        raise ConfigError(
            f"bench.images asks for {bench.images} images a cell, and {images.name} has {len(images)}; "
            f"set bench.images={len(images)} or less"
        )
    for column in bench.columns.values():
        check_arguments(column.method, column.arguments)
        method = find(column.method)
        own = (None, method.needs, *_STAND_INS.get(column.method, ()))
        if column.checkpoint not in own and (method.needs != "supervised" or column.checkpoint == "self-supervised"):
            raise ConfigError(
                f"{column.method} needs the checkpoint {method.needs!r}; take checkpoint = {column.checkpoint!r} away"
            )
    if "source" not in {column.method for column in bench.columns.values()}:
        raise ConfigError("a comparison needs the frozen model: add a column with method = 'source'")
    for name, reference in bench.shifts.items():
        register_from(name, reference)
    for corruption in bench.corruptions:
        if corruption not in (CLEAN, *available()):
            raise UnknownName("corruption", corruption, (CLEAN, *available()))
    height, width = images.images.shape[2:]
    if min(height, width) < MINIMUM_SIZE and set(bench.corruptions) != {CLEAN}:
        raise DataError(
            f"corruptions need images of at least {MINIMUM_SIZE}x{MINIMUM_SIZE} pixels, and {images.name} has "
            f"{height}x{width}; enlarge them first"
        )


_STAND_INS = {"cta": ("joint",)}
"""Checkpoints that a method takes besides its own: CTA without the alignment, on SimCLR beside the classifier."""


def cells(grid: Grid) -> list[Cell]:
    """List all cells; the columns of one (seed, corruption) stand together."""
    check(grid.bench, grid.images)
    for checkpoint in grid.checkpoints.values():
        check_same_kind(grid.images, checkpoint.image_shape, checkpoint.class_names)
    return [
        _cell(grid, label, column, corruption, seed)
        for seed in grid.bench.seeds
        for corruption in grid.bench.corruptions
        for label, column in grid.bench.columns.items()
    ]


def missing(grid: Grid, path: Path) -> list[Cell]:
    """List the cells that have no record in the file at `path` yet.

    Records of other cells, as after a change of settings, are first moved to `superseded.jsonl` beside it.
    """
    wanted = cells(grid)
    if not path.exists():
        return wanted
    records.set_aside(path, {cell.key for cell in wanted}, path.with_name("superseded.jsonl"))
    found = {record.key for record in records.read(path)}
    return [cell for cell in wanted if cell.key not in found]


def work(cell: Cell) -> int:
    """Return a cell's expected work in forward passes of a batch, to tell the time that is left."""
    method = find(cell.column.method)
    batches = -(-cell.protocol.n // cell.protocol.batch_size)
    return batches * (1 + (method.forward + 2 * method.backward) * cell.protocol.steps)


def is_shown(grid: Grid, cell: Cell) -> bool:
    """Say whether the report shows an example image of this cell: of the first column of CTA, on the first seed."""
    columns = grid.bench.columns.items()
    ours = [label for label, column in columns if column.method == "cta" and column.checkpoint in (None, "aligned")]
    return cell.label in ours[:1] and cell.seed == grid.bench.seeds[0]


def measure(grid: Grid, todo: list[Cell]) -> Iterator[Measured]:
    """Measure cells one after the other, drawing each stream once."""
    stream: Stream | None = None
    frozen = torch.empty(0)
    drawn: tuple[int, str] | None = None
    for cell in todo:
        if stream is None or drawn != (cell.seed, cell.corruption):
            stream, drawn = stream_of(grid, cell.corruption, cell.seed), (cell.seed, cell.corruption)
            frozen = _frozen(grid, stream)
        yield _measure(grid, cell, stream, frozen)


def stream_of(grid: Grid, corruption: str, seed: int) -> Stream:
    """Draw the stream of a corruption and a seed."""
    bench = grid.bench
    return draw_stream(
        grid.images,
        corruption,
        bench.severity,
        count=bench.images,
        batch_size=bench.batch_size,
        seed=seed,
        table=bench.table,
    )


def adapter_of(grid: Grid, cell: Cell) -> Adapter:
    """Make a cell's adapter on the grid's device; a method that draws views is seeded by the cell."""
    arguments: dict[str, Any] = dict(cell.column.arguments)
    if "seed" in find(cell.column.method).defaults:
        arguments.setdefault("seed", cell.seed)
    return runtime.place(make_adapter(cell.column.method, cell.checkpoint, **arguments), grid.device)


def _cell(grid: Grid, label: str, column: Column, corruption: str, seed: int) -> Cell:
    bench, method = grid.bench, find(column.method)
    model = column.checkpoint or method.needs
    steps = int(column.arguments.get("steps", method.defaults.get("steps", 0)))
    protocol = Protocol(
        model=model,
        reset=column.reset,
        batch_size=bench.batch_size,
        n=bench.images,
        steps=steps,
        curve=tuple(sorted({0, steps, *(point for point in bench.curve if point <= steps)})),
        precision=grid.precision,
        table=bench.table,
        frost=texture() if "frost" in bench.corruptions else None,
    )
    checkpoint = grid.checkpoints[model]
    own_code = [code] if (code := code_hash(corruption)) else []
    key = digest(
        column, protocol.to_dict(), corruption, bench.severity, seed, grid.device.type,
        checkpoint.weights_hash, grid.checkpoints["supervised"].weights_hash, grid.images.fingerprint, label, *own_code,
    )  # fmt: skip
    return Cell(
        label=label, column=column, corruption=corruption, seed=seed, protocol=protocol, checkpoint=checkpoint, key=key
    )


def _frozen(grid: Grid, stream: Stream) -> Tensor:
    source = runtime.place(Source(grid.checkpoints["supervised"].classifier), grid.device)
    protocol = Protocol(
        model="supervised",
        reset="batch",
        batch_size=stream.batch_size,
        n=len(stream.images),  # asked for here, the images are made once for all columns
        steps=0,
        curve=(0,),
        precision=grid.precision,
    )
    return predict(source, stream, protocol, grid.device).logits[0]


def _measure(grid: Grid, cell: Cell, stream: Stream, frozen: Tensor) -> Measured:
    runtime.forget_peak_memory(grid.device)
    adapter = adapter_of(grid, cell)
    predictions = predict(adapter, stream, cell.protocol, grid.device)
    arguments = find(cell.column.method).defaults | cell.column.arguments
    if "seed" in arguments:
        arguments["seed"] = adapter.seed
    record = records.Record(
        method=cell.column.method,
        label=cell.label,
        dataset=grid.images.name,
        corruption=cell.corruption,
        severity=stream.severity,
        seed=cell.seed,
        **score(predictions, frozen, stream, cell.protocol),
        peak_memory_mb=runtime.peak_memory_mb(grid.device),
        protocol=cell.protocol.to_dict(),
        checkpoint=cell.checkpoint.weights_hash,
        config=arguments,
        versions=runtime.environment(),
        device=runtime.device_name(grid.device),
        commit=runtime.commit(),
        command=grid.command,
        key=cell.key,
    )
    final = predictions.logits[cell.protocol.steps]
    example = examples.pick(stream, frozen, final) if is_shown(grid, cell) else None
    return Measured(cell=cell, record=record, example=example)
