"""Does a method's own loss pull where the labels would? On CIFAR-10 under corruption, at the source state.

    python runs/where_gradients_point.py CHECKPOINTS [LABEL=METHOD ...]

For each method: the cosine between the gradient of its first update and that of the cross-entropy with the true
labels, on the same batch and over the parameters that it moves, under the batch's own statistics. The cross-entropy
is taken at the temperature that suits it best, else the cosine would say mostly whether confidence should fall. Above
zero an update makes the labels more likely, below zero less; near zero little is to be had from it, at any step size.
Mean over five corruptions at severity 5, eight batches of 128 each, and two standard errors over the batches. Labels
are used for this diagnosis alone: nothing is chosen by it. About two minutes on two CPU cores; CIFAR-10 from
$CROSSTASK_DATA or the cache.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from crosstask import checkpoint, runtime
from crosstask.data.images import load_images
from crosstask.data.streams import draw_stream
from crosstask.methods import METHODS, find, make_adapter
from crosstask.methods.adapter import Adapter

CORRUPTIONS = ("gaussian_noise", "snow", "fog", "contrast", "jpeg_compression")
BATCHES, BATCH_SIZE = 8, 128
LEARNERS = (
    "tent",
    "eata",
    "shot",
    "deyo",
    "roid",
    "ttt",
    "ttt++",
    "tttflow",
    "clust3",
    "nc-ttt",
    "rec-ttt",
    "ttac",
    "cta",
)


def own_gradient(adapter: Adapter, x: Tensor, seed: int) -> list[Tensor] | None:
    """Return the gradient of a method's first update from the source, or None if it takes no step on this batch."""
    found: list[list[Tensor | None]] = []

    def seize(loss: Tensor) -> bool:
        found.append(list(torch.autograd.grad(loss, adapter.moving_parameters, allow_unused=True)))
        return False

    adapter.reset()
    adapter.descent.forward = seize  # type: ignore[union-attr,method-assign]
    adapter.update(x, runtime.generator(x.device, "gradients", seed))
    return [torch.zeros(()) if g is None else g for g in found[0]] if found else None


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return what logits are best divided by, so that the labels' gradient speaks of classes and not of confidence."""
    temperatures = torch.logspace(-1, 1, 81)
    losses = [float(F.cross_entropy(logits / temperature, labels)) for temperature in temperatures]
    return float(temperatures[losses.index(min(losses))])


def cosine(adapter: Adapter, x: Tensor, labels: Tensor, seed: int) -> float | None:
    """Return the cosine between a method's gradient and the labels', or None where the method sits still."""
    own = own_gradient(adapter, x, seed)
    if own is None:
        return None
    logits = adapter.predict(x).float()
    loss = F.cross_entropy(logits / best_temperature(logits.detach(), labels), labels)
    true = torch.autograd.grad(loss, adapter.moving_parameters, allow_unused=True)
    pairs = [
        (a.flatten().double(), b.flatten().double()) for a, b in zip(own, true, strict=True) if b is not None and a.ndim
    ]
    a, b = (torch.cat(side) for side in zip(*pairs, strict=True))
    return float(F.cosine_similarity(a, b, dim=0))


def main() -> None:
    """Measure and print."""
    folder, asked = Path(sys.argv[1]), sys.argv[2:] or [f"{name}={name}" for name in LEARNERS]
    images = load_images("cifar10", split="test")
    streams = [
        draw_stream(images, name, 5, count=BATCHES * BATCH_SIZE, batch_size=BATCH_SIZE, seed=0) for name in CORRUPTIONS
    ]
    print(f"{'':10} " + " ".join(f"{name[:9]:>9}" for name in CORRUPTIONS) + "      mean")
    for label, _, name in (each.partition("=") for each in asked):
        kind = label if label == "joint" else METHODS[name].needs
        if not (folder / kind).exists():
            print(f"{label:10} no checkpoint {kind}")
            continue
        arguments = {"batch_norm": "batch"} if "batch_norm" in find(name).defaults else {}
        adapter = make_adapter(name, checkpoint.load(folder / kind), **arguments)
        rows = []
        for stream in streams:
            assert stream.labels is not None
            batches = zip(stream.batches(), stream.labels.split(BATCH_SIZE), strict=True)
            found = [
                cosine(adapter, runtime.to_unit_floats(b, torch.device("cpu")), y, i)
                for i, (b, y) in enumerate(batches)
            ]
            rows.append(torch.tensor([value for value in found if value is not None]))
        means = " ".join(f"{float(row.mean()):+9.3f}" for row in rows)
        every = torch.cat(rows)
        print(
            f"{label:10} {means}  {float(every.mean()):+.3f} ±{2 * float(every.std()) / len(every) ** 0.5:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
