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
from crosstask.data.corruptions import available
from crosstask.data.images import ImageSet
from crosstask.data.streams import CLEAN, Stream, draw_stream
from crosstask.errors import ConfigError, DataError, UnknownName
from crosstask.methods import Adapter, Source, check_arguments, find, make_adapter


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is measured, on what, with what.

    Attributes:
        bench: columns, corruptions, seeds and the protocol.
        images: the labelled target images.
        checkpoints: `supervised` and, for methods that need it, `aligned`.
        device, precision: where and how the networks run.
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
    """Raise for unknown methods, arguments and corruptions, and for unfit images, before anything long begins."""
    if images.labels is None:
        raise DataError(f"a benchmark needs labelled test images, and {images.name} has none; see `crosstask adapt`")
    if bench.images > len(images):
        raise ConfigError(f"bench.images asks for {bench.images} images a cell, and {images.name} has {len(images)}")
    for column in bench.columns.values():
        check_arguments(column.method, column.arguments)
    if "source" not in {column.method for column in bench.columns.values()}:
        raise ConfigError("a comparison needs the frozen model: add a column with method = 'source'")
    for corruption in bench.corruptions:
        if corruption not in (CLEAN, *available()):
            raise UnknownName("corruption", corruption, (CLEAN, *available()))


def cells(grid: Grid) -> list[Cell]:
    """List all cells; the columns of one (seed, corruption) stand together."""
    check(grid.bench, grid.images)
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
    found = records.read(path) if path.exists() else []
    keys = {cell.key for cell in wanted}
    if any(record.key not in keys for record in found):
        for record in found:
            if record.key not in keys:
                records.append(path.with_name("superseded.jsonl"), record)
        records.replace(path, [record for record in found if record.key in keys])
    return [cell for cell in wanted if cell.key not in {record.key for record in found}]


def work(cell: Cell) -> int:
    """Return a cell's expected work in forward passes of a batch, to tell the time that is left."""
    passes = 3 if find(cell.column.method).needs == "supervised" else 6
    batches = -(-cell.protocol.n // cell.protocol.batch_size)
    return batches * (1 + passes * cell.protocol.steps)


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
        grid.images, corruption, bench.severity, count=bench.images, batch_size=bench.batch_size, seed=seed
    )


def adapter_of(grid: Grid, cell: Cell) -> Adapter:
    """Make a cell's adapter on the grid's device; a method that draws views is seeded by the cell."""
    arguments: dict[str, Any] = dict(cell.column.arguments)
    if "seed" in find(cell.column.method).defaults:
        arguments.setdefault("seed", cell.seed)
    return runtime.place(make_adapter(cell.column.method, cell.checkpoint, **arguments), grid.device)


def _cell(grid: Grid, label: str, column: Column, corruption: str, seed: int) -> Cell:
    bench, method = grid.bench, find(column.method)
    if method.needs not in grid.checkpoints:
        raise ConfigError(f"the column {label} needs an {method.needs} checkpoint, and none is given")
    steps = int(column.arguments.get("steps", method.defaults.get("steps", 0)))
    protocol = Protocol(
        reset=column.reset,
        batch_size=bench.batch_size,
        n=bench.images,
        steps=steps,
        curve=tuple(sorted({0, steps, *(point for point in bench.curve if point <= steps)})),
    )
    checkpoint = grid.checkpoints[method.needs]
    key = digest(
        column, protocol.to_dict(), corruption, bench.severity, seed, grid.precision, grid.device.type,
        checkpoint.weights_hash, grid.checkpoints["supervised"].weights_hash, grid.images.fingerprint, label,
    )  # fmt: skip
    return Cell(
        label=label, column=column, corruption=corruption, seed=seed, protocol=protocol, checkpoint=checkpoint, key=key
    )


def _frozen(grid: Grid, stream: Stream) -> Tensor:
    source = runtime.place(Source(grid.checkpoints["supervised"].classifier), grid.device)
    protocol = Protocol(reset="batch", batch_size=stream.batch_size, n=len(stream.images), steps=0, curve=(0,))
    return predict(source, stream, protocol, device=grid.device, precision=grid.precision).logits[0]


def _measure(grid: Grid, cell: Cell, stream: Stream, frozen: Tensor) -> Measured:
    adapter = adapter_of(grid, cell)
    predictions = predict(adapter, stream, cell.protocol, device=grid.device, precision=grid.precision)
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
    shown = find(cell.column.method).needs == "aligned" and cell.seed == grid.bench.seeds[0]
    example = examples.pick(stream, frozen, predictions.logits[cell.protocol.steps]) if shown else None
    return Measured(cell=cell, record=record, example=example)
