"""`make bench`: what it costs to have a cell measured and recorded, over calling its adapter on the same batches.

The bare calls are `adapter.reset(); adapter(x)` for each batch, prepared beforehand, with an adapter made beforehand.
The cell has the same batches, from a stream that is drawn already: an adapter is made, what is right is counted, and a
record is written to the disk. A record also says what a method predicted before its updates, which is a pass more where
the updates themselves do not tell, as CTA's; it is part of the overhead. Both are timed in turns, so that a busy
machine slows both; the figures are medians of the ratios of neighbours. The cheap methods have as many images as a
corruption of CIFAR-10-C; with fewer, what a cell costs beside its batches (some 8 ms) weighs more.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
IMAGES = {"source": 10_000, "ptbn": 10_000, "tent": 10_000, "cta": 512}


def grid(device: torch.device, count: int, batch_size: int = 128) -> Grid:
    """Return a grid of one stream of gray 28 x 28 images, and a column a method, of untrained networks."""
    encoder, task = make_encoder("resnet-small", 1), make_task(Task(), 128)
    about: dict[str, Any] = {"encoder_name": "resnet-small", "encoder": encoder, "head": nn.Linear(128, 10)}
    about |= {"image_shape": (1, 28, 28), "class_names": tuple("0123456789")}
    pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=runtime.generator(torch.device("cpu"), "overhead"))
    columns = {method: {"method": method} for method in IMAGES}
    bench = {"corruptions": ["contrast"], "images": count, "batch_size": batch_size, "seeds": [0], "columns": columns}
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


def compare(made: Grid, cell: Cell, meter: Meter, path: Path) -> tuple[float, float]:
    """Return the median seconds of a cell's bare calls, and the median ratio to them of the whole cell."""
    adapter = adapter_of(made, cell)
    stream = build_stream(made.images, plan(made.bench, cell.corruptions, cell.seed))
    batches = [runtime.to_unit_floats(batch, made.device) for batch in stream.batches()]

    def bare() -> None:
        with runtime.autocast(made.device, made.precision):
            for x in batches:
                adapter.reset()
                adapter(x)

    def whole() -> None:
        records.append(path, *meter(cell).records)

    turns = [[runtime.seconds(way, made.device) for way in (bare, whole)] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    return statistics.median(turn[0] for turn in turns), statistics.median(whole / bare for bare, whole in turns)


def main() -> None:
    """Measure and print."""
    device, sums = runtime.pick_device(), [0.0, 0.0]
    print(f"device: {runtime.device_name(device)}; {ROUNDS} rounds in turns, medians")
    print(f"{'':>8} {'images':>8} {'bare calls':>14} {'the cell, recorded':>20}")
    with tempfile.TemporaryDirectory() as folder:
        for count in dict.fromkeys(IMAGES.values()):
            made = grid(device, count)
            meter = Meter(made)
            for cell in cells(made):
                if IMAGES[cell.label] == count:
                    bare, ratio = compare(made, cell, meter, Path(folder) / "records.jsonl")
                    _tell(cell.label, count, bare, ratio)
                    sums = [sums[0] + bare, sums[1] + bare * ratio]
    print(f"sum: {sums[1] / sums[0] - 1:+.1%}")


def _tell(what: str, images: int, bare: float, ratio: float) -> None:
    print(f"{what:>8} {images:8d} {1000 * bare:11.1f} ms {ratio - 1:+20.1%}", flush=True)


if __name__ == "__main__":
    main()
