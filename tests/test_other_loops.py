"""An adapter is a plain module: the evaluation loop of another library gives what the benchmark gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.bench.benchmark import predict
from crosstask.bench.cells import Cell, Grid, cells, plan
from crosstask.bench.grid import adapter_of, measure
from crosstask.config import Bench, validate
from crosstask.data.images import ImageSet
from crosstask.data.streams import Stream, build_stream
from crosstask.methods import METHODS
from test_adapters import few, made_for

CPU = torch.device("cpu")


def clean_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 100, device: torch.device | None = None
) -> float:
    """Do what the function of this name in RobustBench does with a model, a set of images and their labels."""
    device = device or x.device
    right = 0.0
    with torch.no_grad():
        for number in range(math.ceil(len(x) / batch_size)):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            answers = model(x[rows].to(device))
            right += (answers.max(1)[1] == y[rows].to(device)).float().sum().item()
    return right / len(x)


def loader_accuracy(model: nn.Module, x: Tensor, y: Tensor, mode: bool, device: torch.device) -> float:
    """Do what a training script does between two epochs: a data loader, the model in one mode or the other."""
    model.to(device).train(mode)
    right = 0
    for images, labels in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4):
        right += int((model(images.to(device)).argmax(dim=1) == labels.to(device)).sum())
    return right / len(x)


LOOPS = {
    "RobustBench": lambda model, x, y: clean_accuracy(model.eval(), x, y, batch_size=4, device=CPU),
    "RobustBench, in train mode and on the images' device": lambda model, x, y: clean_accuracy(
        model.train(), x, y, batch_size=4
    ),
    "a loader, in train mode with gradients on": lambda model, x, y: loader_accuracy(model, x, y, True, CPU),
    "a loader, in eval mode with gradients on": lambda model, x, y: loader_accuracy(model, x, y, False, CPU),
}


def cell_of(tiny: Any, method: str) -> tuple[Grid, Cell, Stream]:
    """Return the benchmark's cell of a method online, on ten images in batches of four, and its stream."""
    random = torch.Generator().manual_seed(0)
    images = ImageSet(
        images=torch.randint(0, 256, (14, 1, 12, 12), generator=random, dtype=torch.uint8),
        labels=torch.randint(5, (14,), generator=random),
        class_names=tuple(f"class {index}" for index in range(5)),
        name="noise",
    )
    columns = {
        "source": {"method": "source"},
        "it": {"method": method, "arguments": few(method), "reset": "corruption"},
    }
    bench = {"corruptions": ["clean"], "seeds": [3], "images": 10, "batch_size": 4, "curve": [0, 1]}
    grid = Grid(
        bench=validate(Bench, bench | {"columns": columns}, "the bench"),
        images=images,
        checkpoints={METHODS[name].needs: made_for(tiny, name)[0] for name in ("source", method)},
        device=CPU,
        precision="float32",
        command="crosstask bench it",
    )
    (cell,) = [cell for cell in cells(grid) if cell.label == "it"]
    return grid, cell, build_stream(images, plan(grid.bench, cell.corruptions, cell.seed))


@pytest.mark.parametrize("method", METHODS)
def test_another_librarys_loop_gives_the_benchmarks_answers(tiny: Any, method: str) -> None:
    grid, cell, stream = cell_of(tiny, method)
    (measured,) = measure(grid, [cell])
    expected = predict(adapter_of(grid, cell), stream, cell.protocol, CPU, cell.passes).logits[cell.protocol.scored]
    x, y = stream.images.images.float() / 255, stream.labels
    for name, loop in LOOPS.items():
        adapter, answers = adapter_of(grid, cell), []
        adapter.register_forward_hook(lambda module, inputs, logits, kept=answers: kept.append(logits))
        assert loop(adapter, x, y) == pytest.approx(measured.records[0].accuracy, abs=1e-6), name
        torch.testing.assert_close(torch.cat(answers), expected, rtol=1e-4, atol=1e-5)
        assert not any(logits.requires_grad for logits in answers)


def test_the_loops_would_tell_an_adapter_that_is_started_anew_or_in_another_order(tiny: Any) -> None:
    """The answers above are those of a stream: each batch owes something to those before."""
    grid, cell, stream = cell_of(tiny, "tent")
    expected = predict(adapter_of(grid, cell), stream, cell.protocol, CPU, cell.passes).logits[cell.protocol.scored]
    x = stream.images.images.float() / 255
    anew = torch.cat([adapter_of(grid, cell)(part) for part in x.split(4)])
    assert torch.allclose(anew[:4], expected[:4], atol=1e-5) and not torch.allclose(anew[4:], expected[4:], atol=1e-4)
