"""`make bench`: what it costs to have a cell measured and recorded, over calling its adapter on the same batches.

The bare calls are `adapter.reset(); adapter(x)` for each batch, prepared beforehand, with an adapter made beforehand.
The cell has the same batches, from a stream that is drawn already: an adapter is made, what is right is counted, and a
record is written to the disk. A record also says what a method predicted before its updates, which the bare calls do
not ask for: that pass is shown by itself, as the calls `adapter.curve(x, points)`. All three are timed in turns, so
that a busy machine slows all; the figures are medians of the ratios of neighbours.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask import runtime
from crosstask.bench import records
from crosstask.bench.cells import Cell, Grid, cells, plan
from crosstask.bench.grid import Meter, adapter_of
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Task, validate
from crosstask.data.images import ImageSet
from crosstask.data.streams import build_stream
from crosstask.nets.encoders import make_encoder
from crosstask.tasks import make_task

ROUNDS, WARM_UP = 5, 1
COLUMNS: dict[str, dict[str, Any]] = {
    "source": {"method": "source"},
    "ptbn": {"method": "ptbn"},
    "tent": {"method": "tent"},
    "cta": {"method": "cta", "arguments": {"steps": 2}},
}


def grid(device: torch.device, count: int = 2560, batch_size: int = 128) -> Grid:
    """Return a grid of one stream of gray 28 x 28 images, and a column a method, of untrained networks."""
    encoder, task = make_encoder("resnet-small", 1), make_task(Task(), 128)
    about: dict[str, Any] = {"encoder_name": "resnet-small", "encoder": encoder, "head": nn.Linear(128, 10)}
    about |= {"image_shape": (1, 28, 28), "class_names": tuple("0123456789")}
    pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=runtime.generator(torch.device("cpu"), "overhead"))
    bench = {"corruptions": ["contrast"], "images": count, "batch_size": batch_size, "seeds": [0], "columns": COLUMNS}
    return Grid(
        bench=validate(Bench, bench | {"curve": [0]}, "the bench"),
        images=ImageSet(
            images=pixels.to(torch.uint8),
            labels=torch.arange(count) % 10,
            class_names=about["class_names"],
            name="gray",
        ),
        checkpoints={
            "supervised": Checkpoint(kind="supervised", **about),
            "aligned": Checkpoint(kind="aligned", task=task, task_config=Task(), **about),
        },
        device=device,
        precision=runtime.resolve_precision(device, "auto"),
        command="make bench",
    )


def compare(made: Grid, cell: Cell, meter: Meter, path: Path) -> tuple[float, float, float]:
    """Return the median seconds of a cell's bare calls, and the median ratios to them of calls that ask for what the
    record says, and of the whole cell."""
    adapter = adapter_of(made, cell)
    stream = build_stream(made.images, plan(made.bench, cell.corruptions, cell.seed))
    batches = [runtime.to_unit_floats(batch, made.device) for batch in stream.batches()]

    def calls(ask: Callable[[Tensor], object]) -> None:
        with runtime.autocast(made.device, made.precision):
            for x in batches:
                adapter.reset()
                ask(x)

    ways = (
        lambda: calls(adapter),
        lambda: calls(lambda x: adapter.curve(x, cell.protocol.curve)),
        lambda: records.append(path, *meter(cell).records),
    )
    turns = [[runtime.seconds(way, made.device) for way in ways] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    bare, asked, whole = zip(*turns, strict=True)
    return (
        statistics.median(bare),
        statistics.median(a / b for a, b in zip(asked, bare, strict=True)),
        statistics.median(w / b for w, b in zip(whole, bare, strict=True)),
    )


def main() -> None:
    """Measure and print."""
    made = grid(runtime.pick_device())
    meter, sums = Meter(made), [0.0, 0.0, 0.0]
    print(f"device: {runtime.device_name(made.device)}; {ROUNDS} rounds in turns, medians; {made.bench.images} images")
    print(
        f"{'':>8} {'bare calls':>12} {'what records ask for':>22} {'the cell, recorded':>20} {'beyond the asked':>18}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells(made):
            bare, asked, whole = compare(made, cell, meter, Path(folder) / "records.jsonl")
            _tell(cell.label, bare, asked, whole)
            sums = [one + other for one, other in zip(sums, (bare, bare * asked, bare * whole), strict=True)]
    _tell("sum", sums[0], sums[1] / sums[0], sums[2] / sums[0])


def _tell(what: str, bare: float, asked: float, whole: float) -> None:
    print(
        f"{what:>8} {1000 * bare:9.1f} ms {asked - 1:+22.1%} {whole - 1:+20.1%} {whole / asked - 1:+18.1%}", flush=True
    )


if __name__ == "__main__":
    main()
