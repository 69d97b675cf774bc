"""What several tests share: one thread, the same examples on every run, and networks small enough for seconds."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.checkpoint import CUSTOM, Checkpoint
from crosstask.config import Auxiliary, Task, Views
from crosstask.nets.encoders import Normalize, initialise
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.tasks import JOINT_TASKS, make_joint_task, make_task

torch.set_num_threads(1)
settings.register_profile("same-everywhere", deadline=None, derandomize=True, database=None)
settings.load_profile("same-everywhere")


class TinyEncoder(nn.Module):
    """Two strided convolutions with a norm each, then the mean over pixels."""

    feature_dim = 12

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.normalize = Normalize([0.5] * channels, [0.25] * channels)
        self.conv1 = nn.Conv2d(channels, 8, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(2, 8)
        self.conv2 = nn.Conv2d(8, 12, 3, 2, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(12) if norm == "batch" else nn.GroupNorm(2, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(self.normalize(x))))
        return F.relu(self.norm2(self.conv2(x))).mean(dim=(2, 3))


class Tiny:
    """Makes tiny, seeded things."""

    task_config = Task(hidden=16, out=8, temperature=0.2, views=Views(blur=0.5))
    joint_arguments: ClassVar = {
        "ttt": {"layers": "norm1", "views": 6},
        "tttflow": {"layers": "norm1"},
        "clust3": {"layers": "norm1,norm2", "projectors": 2, "clusters": 3},
        "nc-ttt": {"layers": "norm1", "embedding": 80, "large": 0.4, "small": 0.1},
        "rec-ttt": {"layers": "norm1"},
    }

    def images(self, count: int = 6, channels: int = 1, size: int = 12, seed: int = 0) -> Tensor:
        """Return float images [count, channels, size, size] in [0, 1]."""
        return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))

    def shaken(self, module: nn.Module, seed: int) -> nn.Module:
        """Draw weights, scales, shifts and running statistics at random, so that none is where it starts."""
        generator = torch.Generator().manual_seed(seed)
        initialise(module, generator)
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
                    layer.weight.copy_(1 + 0.3 * torch.randn(layer.weight.shape, generator=generator))
                    layer.bias.copy_(0.3 * torch.randn(layer.bias.shape, generator=generator))
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.running_mean.copy_(0.5 * torch.randn(layer.running_mean.shape, generator=generator))
                    layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=generator))
        return module

    def encoder(self, channels: int = 1, norm: str = "batch", seed: int = 0) -> TinyEncoder:
        """Return a tiny encoder in train mode."""
        return self.shaken(TinyEncoder(channels, norm), seed)

    def classifier(self, channels: int = 1, norm: str = "batch", classes: int = 5, seed: int = 0) -> Classifier:
        """Return a tiny classifier in train mode."""
        head = self.shaken(nn.Linear(TinyEncoder.feature_dim, classes), seed + 1)
        return Classifier(self.encoder(channels, norm, seed), head)

    def statistics(self, classifier: Classifier, classes: int) -> dict[str, Tensor]:
        """Return what a source might say of itself: Fisher values and moments, drawn at random."""
        generator = torch.Generator().manual_seed(4)
        norms = [(n, p) for n, p in classifier.named_parameters() if "norm" in n]
        fisher = {f"fisher.{name}": torch.rand(p.shape, generator=generator) for name, p in norms}
        width, out = classifier.encoder.feature_dim, self.task_config.out
        return fisher | {
            "mean": torch.rand(width, generator=generator),
            "covariance": torch.eye(width),
            "class_mean": torch.rand(classes, width, generator=generator),
            "class_covariance": torch.eye(width).expand(classes, -1, -1).clone(),
            "task_mean": torch.rand(out, generator=generator),
            "task_covariance": torch.eye(out),
            "discrepancy": torch.ones(4),
        }

    def checkpoint(
        self,
        channels: int = 1,
        norm: str = "batch",
        classes: int = 5,
        kind: str = "aligned",
        task_config: Task = task_config,
    ) -> Checkpoint:
        """Return a checkpoint of a tiny classifier that was never trained, as the methods of its kind need it."""
        classifier, shape = self.classifier(channels, norm, classes), (channels, 12, 12)
        if kind == "rec-ttt":
            twin = Twin(classifier.encoder, self.encoder(channels, norm, seed=6))
            classifier = Classifier(twin, self.shaken(nn.Linear(twin.feature_dim, classes), seed=7))
        if kind in JOINT_TASKS:
            config: Task | Auxiliary = Auxiliary(name=kind, arguments=self.joint_arguments[kind])
            task: nn.Module = self.shaken(make_joint_task(config, classifier.encoder, shape), seed=2)
        else:
            config = task_config
            task = self.shaken(make_task(config, TinyEncoder.feature_dim), seed=2)
            task.begin(self.encoder(channels, norm, seed=3))
        return Checkpoint(
            kind=kind,
            encoder_name=CUSTOM,
            encoder=classifier.encoder,
            head=classifier.head,
            task=task,
            task_config=config,
            statistics=self.statistics(classifier, classes),
            image_shape=shape,
            class_names=tuple(f"class {index}" for index in range(classes)),
        )


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Return the maker of tiny things."""
    return Tiny()
