"""A classifier's accuracy on our corruptions and on the official generator's: do they differ by more than chance?

    python runs/compare_with_reference.py CIFAR10_FOLDER cifar10c-reference-100.npz

Trains a small ResNet on CIFAR-10 (kept in out/cifar10-classifier; about 6 minutes on two CPU cores), then scores it on
the reference's 100 images under each corruption and severity, as the official generator made them and as ours come out
under ten seeds. Prints both accuracies over the severities, their difference, and its standard error over the images.
Expect: differences of the size of their standard errors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import crosstask
from crosstask import runtime
from crosstask.data.corruptions import available, corrupt
from crosstask.nets.encoders import initialise
from crosstask.nets.split import Classifier
from crosstask.train.statistics import feature_statistics, pixel_statistics

SEEDS, SEVERITIES = range(10), range(1, 6)


def trained(folder: str, kept: Path) -> Classifier:
    """Return the classifier, trained or found."""
    if kept.exists():
        return crosstask.load(kept).classifier.eval()
    images = crosstask.load_images(folder, split="train")
    encoder = crosstask.make_encoder("resnet-small", 3)
    head = nn.Linear(encoder.feature_dim, len(images.class_names))
    for number, part in enumerate((encoder, head)):
        initialise(part, torch.Generator().manual_seed(number))
    mean, deviation = pixel_statistics(images)
    encoder.normalize.mean.copy_(mean.view(1, -1, 1, 1))
    encoder.normalize.std.copy_(deviation.view(1, -1, 1, 1))
    run = crosstask.Run(
        seed=0,
        device=torch.device("cpu"),
        progress=lambda done, total, loss: done % 100 or print(f"{done} of {total} steps, loss {loss:.3f}", flush=True),
    )
    classifier = runtime.place(Classifier(encoder, head), run.device)
    crosstask.pretrain_supervised(classifier, images, crosstask.Supervised(epochs=5, crop=(0.5, 1.0)), run)
    checkpoint = crosstask.Checkpoint(
        kind="supervised",
        encoder_name="resnet-small",
        encoder=encoder,
        head=head,
        image_shape=(3, 32, 32),
        class_names=images.class_names,
        statistics=feature_statistics(encoder, images, run),
    )
    crosstask.save(checkpoint, kept)
    return classifier


@torch.no_grad()
def hits(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return float64 [N], 1 where the classifier is right."""
    return (classifier(images / 255).argmax(1) == labels).double()


def main() -> None:
    """Train, score, print."""
    folder, reference = sys.argv[1:]
    classifier = trained(folder, Path("out/cifar10-classifier"))
    with np.load(reference) as arrays:
        official = {name: torch.from_numpy(np.moveaxis(arrays[name], -1, -3)) for name in arrays if name != "labels"}
        labels = torch.from_numpy(arrays["labels"]).long()
    images = official["images"].contiguous()
    print(f"{'accuracy in %':>20}  official   ours  difference  standard error")
    for name in (*available(), "all"):
        names = available() if name == "all" else (name,)
        theirs = [hits(classifier, official[n][s - 1], labels) for n in names for s in SEVERITIES]
        ours = [
            torch.stack([hits(classifier, corrupt(images, n, s, seed=seed), labels) for seed in SEEDS]).mean(0)
            for n in names
            for s in SEVERITIES
        ]
        one, other = 100 * torch.stack(theirs).mean(0), 100 * torch.stack(ours).mean(0)
        gap = other - one
        error = gap.std() / len(gap) ** 0.5
        print(f"{name:>20}  {one.mean():8.2f} {other.mean():6.2f}  {gap.mean():+10.2f}  {error:14.2f}", flush=True)


if __name__ == "__main__":
    main()
