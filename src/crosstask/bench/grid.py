"""Cells are measured: each adapter meets its stream, and its answers become records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crosstask import runtime
from crosstask.bench import examples, records
from crosstask.bench.benchmark import Predictions, predict, score
from crosstask.bench.cells import Cell, Grid, is_shown, plan
from crosstask.bench.protocol import Protocol
from crosstask.data.streams import Stream, build_stream
from crosstask.errors import AdapterError
from crosstask.methods import Adapter, Source, find, make_adapter


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A cell's records, one a corruption, and an example image where the report shows one."""

    cell: Cell
    records: tuple[records.Record, ...]
    example: dict[str, Any] | None


class Meter:
    """Measures the cells of a grid that it is called with; cells of one stream in a row have it drawn once.

    What the frozen model says on the stream, which all are compared with, is its own cell's answer if that comes first.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._drawn: tuple[int, tuple[str, ...]] | None = None
        self._frozen: Tensor | None = None
        self._peaks: dict[str, float] = {}

    def __call__(self, cell: Cell) -> Measured:
        """Measure a cell.

        Raises:
            AdapterError: an adapter refuses, or its predictions are not finite.
        """
        if self._drawn != cell.stream:
            self._drawn = None
            self._stream, self._frozen = _stream(self.grid, cell), None
            self._drawn = cell.stream
        adapter, predictions = self._predict(cell)
        final = predictions.logits[cell.protocol.scored]
        if not final.isfinite().all():
            raise AdapterError(
                f"column {cell.label!r} ended in predictions that are not finite on {self._stream.corruption}, seed "
                f"{cell.seed}; lower its learning rate or its steps"
            )
        if self._frozen is None:
            self._frozen = final if _is_frozen(self.grid, cell) else _frozen(self.grid, self._stream)
        about = _about(self.grid, cell, adapter, self._peaks[cell.label])
        scores = score(predictions, self._frozen, self._stream, cell.protocol)
        made = [
            records.Record(corruption=name, key=key, **scores[name], **about)
            for name, key in zip(dict.fromkeys(cell.corruptions), cell.keys, strict=True)
        ]
        example = None
        if is_shown(self.grid, cell):
            names = cell.checkpoint.class_names or self._stream.target.class_names
            example = examples.pick(self._stream, self._frozen, final, names)
        return Measured(cell=cell, records=tuple(made), example=example)

    def _predict(self, cell: Cell) -> tuple[Adapter, Predictions]:
        """Run a cell's adapter; the first of a column also tells how much memory the column takes."""
        first, device = cell.label not in self._peaks, self.grid.device
        if first:
            runtime.forget_peak_memory(device)
        adapter = adapter_of(self.grid, cell)
        passes = cell.passes_of(cell.protocol.steps), cell.passes_of(cell.first_updates)
        predictions = predict(adapter, self._stream, cell.protocol, device, *passes, set_up=first)
        if first:
            self._peaks[cell.label] = runtime.peak_memory_mb(device)
        return adapter, predictions


def measure(grid: Grid, todo: Iterable[Cell]) -> Iterator[Measured]:
    """Measure cells one after the other."""
    return map(Meter(grid), todo)


def adapter_of(grid: Grid, cell: Cell) -> Adapter:
    """Make a cell's adapter on the grid's device; a method that draws views is seeded by the cell."""
    arguments: dict[str, Any] = dict(cell.column.arguments)
    defaults = find(cell.column.method).defaults
    if "steps" in defaults:
        arguments["steps"] = cell.protocol.steps
    if "seed" in defaults:
        arguments.setdefault("seed", cell.seed)
    return runtime.place(make_adapter(cell.column.method, cell.checkpoint, **arguments), grid.device)


def _stream(grid: Grid, cell: Cell) -> Stream:
    stream = build_stream(grid.images, plan(grid.bench, cell.corruptions, cell.seed))
    if len(stream) * stream.target.images[0].numel() <= _HELD:
        _ = stream.images  # asked for here, they are made once for all columns
    return stream


def _is_frozen(grid: Grid, cell: Cell) -> bool:
    return cell.column.method == "source" and cell.checkpoint is grid.checkpoints["supervised"]


def _frozen(grid: Grid, stream: Stream) -> Tensor:
    source = runtime.place(Source(grid.checkpoints["supervised"].classifier), grid.device)
    protocol = Protocol(
        model="supervised",
        reset="batch",
        batch_size=stream.batch_size,
        n=len(stream),
        steps=0,
        curve=(0,),
        precision=grid.precision,
    )
    return predict(source, stream, protocol, grid.device, set_up=False).logits[0]


def _about(grid: Grid, cell: Cell, adapter: Adapter, peak: float) -> dict[str, Any]:
    """Return the fields of a record that say what was measured, with what and where."""
    method, steps = find(cell.column.method), cell.protocol.steps
    arguments = method.defaults | cell.column.arguments
    arguments |= {name: value for name, value in (("steps", steps), ("seed", adapter.seed)) if name in arguments}
    return {
        "method": cell.column.method,
        "label": cell.label,
        "dataset": grid.images.name,
        "seed": cell.seed,
        "forwards": cell.forwards,
        "backwards": cell.backwards,
        "peak_memory_mb": peak,
        "images": cell.images,
        "protocol": cell.protocol.to_dict(),
        "checkpoint": cell.checkpoint.weights_hash,
        "config": arguments,
        "versions": runtime.environment(),
        "device": runtime.device_name(grid.device),
        "commit": runtime.commit(),
        "command": grid.command,
    }


_HELD = 2**30
"""Bytes of corrupted images up to which all columns share them in memory; longer streams are made batch by batch."""
