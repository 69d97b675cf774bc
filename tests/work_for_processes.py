"""What `test_distributed.py` has one or two processes do: `work_for_processes.py WORK FOLDER` under torchrun."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from crosstask import distributed, losses, runtime
from crosstask.config import Align, SelfSupervised, Supervised, Task, Views
from crosstask.data.images import ImageSet
from crosstask.nets.encoders import initialise, make_encoder
from crosstask.nets.split import Classifier
from crosstask.tasks import make_task
from crosstask.train import loop
from crosstask.train.align import align
from crosstask.train.loop import Run
from crosstask.train.pretrain import pretrain_self_supervised, pretrain_supervised

CPU = torch.device("cpu")
STILL = Views(crop=(1.0, 1.0), flip=0.0, jitter=0.0, gray=0.0)
"""Views without chance: processes draw their own, so only so can two be compared with one."""


def levels() -> ImageSet:
    """Return noise whose class is its brightness, the same when flipped."""
    labels = torch.arange(32) % 4
    pixels = torch.randint(0, 150, (32, 3, 8, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = torch.cat([pixels, pixels.flip(3)], dim=3) + (25 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(images=pixels, labels=labels, class_names=tuple("abcd"), name="levels")


def begun(module: nn.Module, seed: int) -> nn.Module:
    """Return the module with initial weights of a seed."""
    initialise(module, torch.Generator().manual_seed(seed))
    return runtime.place(module, CPU)


def train(folder: Path) -> None:
    """Train all three stages without batch norm, and have the first process write weights and losses."""
    images = levels()
    teacher = begun(Classifier(make_encoder("resnet18-narrow-gn", 3), nn.Linear(128, 4)), 1)
    student = begun(make_encoder("resnet18-narrow-gn", 3), 2)
    task = begun(make_task(Task(hidden=8, out=8, views=STILL), 128), 3)
    run = Run(seed=0, device=CPU, precision="float32")
    how = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01}
    histories = {
        "supervised": pretrain_supervised(teacher, images, Supervised(crop=(1.0, 1.0), **how), run),
        "self-supervised": pretrain_self_supervised(student, task, images, SelfSupervised(**how), run),
        "aligned": align(student, task, teacher, images, Align(start="self-supervised", augmix=0, **how), run),
    }
    if distributed.rank() == 0:
        torch.save(nn.ModuleList([teacher, student, task]).state_dict(), folder / "weights.pt")
        (folder / "losses.json").write_text(json.dumps(histories))


def train_and_be_killed(folder: Path) -> None:
    """Train for 75 steps, a state kept after each 25; while FOLDER/kill is there, the last process dies after 50."""
    loop.time = SimpleNamespace(monotonic=itertools.count(0.0, 2.0).__next__)
    loop._SAVING_SHARE = math.inf
    doomed = (folder / "kill").exists() and distributed.rank() == distributed.world() - 1
    started: list[int] = []

    def progress(done: int, total: int, loss: float) -> None:
        started.append(done)
        if doomed and done == 50:
            os.kill(os.getpid(), signal.SIGKILL)

    classifier = begun(Classifier(make_encoder("resnet-small", 3), nn.Linear(128, 4)), 1)
    run = Run(seed=0, device=CPU, precision="float32", state=folder / "state", key="a", progress=progress)
    pretrain_supervised(classifier, levels(), Supervised(epochs=37.5, batch_size=16, learning_rate=0.01), run)
    if distributed.rank() == 0:
        torch.save({"weights": classifier.state_dict(), "first": started[0]}, folder / "trained.pt")


def compare(folder: Path) -> None:
    """Have each process compute the losses that see a whole batch; the first writes them with all gradients."""
    whole = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))
    own = torch.arange(8).chunk(distributed.world())[distributed.rank()]
    found = {}
    for name, loss in LOSSES.items():
        x = whole[:, own].reshape(-1, 6).requires_grad_()
        assert distributed.gather(x) is x, "nothing is compared outside of a training step"
        with distributed.comparing():
            value = loss(x)
        value.backward()
        with distributed.comparing():
            gradients = distributed.gather_pairs(x.grad / distributed.world()).reshape(2, 8, 6)
        found[name] = {"value": distributed.mean(value.detach()), "gradient": gradients}
    if distributed.rank() == 0:
        torch.save(found, folder / "losses.pt")


def between_halves(x: Tensor) -> Tensor:
    """Return the alignment of the first views with the second ones."""
    student, teacher = x.chunk(2)
    rows = distributed.own_rows(len(student), CPU)
    return losses.alignment(distributed.gather(student), distributed.gather(teacher), 0.1, rows)


LOSSES = {
    "nt_xent": lambda x: losses.nt_xent(distributed.gather_pairs(x), 0.2, distributed.own_pair_rows(len(x), CPU)),
    "vicreg": lambda x: losses.vicreg(distributed.gather_pairs(x), invariance=25.0, variance=25.0, covariance=1.0),
    "barlow_twins": lambda x: losses.barlow_twins(distributed.gather_pairs(x), 0.005),
    "alignment": between_halves,
}


if __name__ == "__main__":
    with distributed.together():
        {"train": train, "kill": train_and_be_killed, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
    threads = [(thread / "comm").read_text() for thread in Path("/proc/self/task").glob("*")]
    assert not any("gloo" in name for name in threads), "the group's threads are still there, and may abort the process"
