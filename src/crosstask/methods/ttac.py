"""TTAC: test-time training by anchored clustering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from crosstask.config import Count, NotNegative, Positive, Share, Steps
from crosstask.errors import AdapterError
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import check_classifier, encoder_names
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier

NEEDED = ("mean", "covariance", "class_mean", "class_covariance")


@final
class TTAC(Adapter):
    """Draw running Gaussians of the target's features, of each class and of all, to the source's (Su et al. 2022).

    Loss, with C classes and D(p, q) = KL(p || q) + KL(q || p):

        class_weight / C * sum_k D(source_k, target_k) + global_weight * D(source, target)

    over all parameters of the encoder, SGD with momentum; the head stays frozen. Images whose most likely class has a
    probability above `confidence` count for that class k; with n_k of them seen so far each moves its Gaussian by
    1 / min(n_k, class_memory), and it enters the sum if the batch has some of it and n_k >= fewest. All images move the
    global Gaussian, by 1 / min(n, global_memory). Only the batch at hand carries a gradient.
    Every covariance in a divergence gets a ridge, the largest entry of the source's global covariance / 30.

    With several updates on a batch its images count in each. An update that is refused, as when a covariance has no
    Cholesky factor, moves no Gaussian.

    Differences from the official code: more images at once than a memory holds move its Gaussian to their own moments
    and no further; the source's classes are by label, not by prediction; without the queue of stored images and the
    self-supervised loss.

    Args:
        model: any encoder and head; the authors start from TTT++'s.
        statistics: `mean` and `covariance` of the source's features, and what `crosstask.train.moments.class_moments`
            gives.
        steps: updates on each batch.
        learning_rate, momentum: of SGD.
        confidence: the probability above which a prediction is taken for a label.
        class_memory: images over which a class's Gaussian is averaged; 64 for CIFAR-100.
        global_memory: images over which the global Gaussian is averaged.
        fewest: images of a class before it enters the loss.
        class_weight, global_weight: of the two parts of the loss; 0.5 for CIFAR-100.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: the model is no `Classifier`, or the statistics lack something or are of other classes.
    """

    def __init__(
        self,
        model: Classifier,
        statistics: Mapping[str, Tensor],
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-2,
        momentum: Share = 0.9,
        confidence: Share = 0.9,
        class_memory: Count = 128,
        global_memory: Count = 1280,
        fewest: Count = 16,
        class_weight: NotNegative = 0.05,
        global_weight: NotNegative = 0.05,
        batch_norm: Policy = "ema",
        batch_share: Share = 0.1,
    ) -> None:
        _check(model, statistics)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.confidence, self.fewest = confidence, fewest
        self.class_memory, self.global_memory = class_memory, global_memory
        self.class_weight, self.global_weight = class_weight, global_weight
        ridge = float(statistics["covariance"].max()) / 30
        self.classes = Gaussians(statistics["class_mean"], statistics["class_covariance"], ridge)
        self.whole = Gaussians(statistics["mean"][None], statistics["covariance"][None], ridge)
        moving = self.begin(encoder_names(self.model))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        features = self.model.get_submodule("encoder")(x)
        labels = self._labels(features)
        with torch.autocast(x.device.type, enabled=False):
            features = features.float()
            of_all, *of_class = torch.cat([self.whole.count, self.classes.count]).tolist()
            seen = of_all + len(features)
            rate = 1 / max(min(seen, self.global_memory), len(features))  # so that no covariance gets a negative share
            moved = [(self.whole, 0, seen, *self.whole.moved(0, features, rate))]
            loss = self.global_weight * self.whole.divergence(0, *moved[0][3:])
            for label in labels[labels >= 0].unique().tolist():
                own = features[labels == label]
                seen = of_class[label] + len(own)
                gaussian = self.classes.moved(label, own, 1 / max(min(seen, self.class_memory), len(own)))
                moved.append((self.classes, label, seen, *gaussian))
                if seen >= self.fewest:
                    share = self.class_weight / len(self.classes.count)
                    loss = loss + share * self.classes.divergence(label, *gaussian)
        if self.descent(loss):
            for gaussians, index, count, mean, covariance in moved:
                gaussians.keep(index, count, mean, covariance)

    @torch.no_grad()
    def _labels(self, features: Tensor) -> Tensor:
        """Return the predicted classes [B], -1 where the prediction is not sure enough."""
        probability, label = self.model.get_submodule("head")(features).float().softmax(dim=1).max(dim=1)
        return torch.where(probability > self.confidence, label, -1)


class Gaussians(nn.Module):
    """Running Gaussians that start at the source's.

    Args:
        mean: float tensor [N, D].
        covariance: float tensor [N, D, D].
        ridge: is added to the diagonal of every covariance in a divergence.
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor
    source_mean: Tensor
    source_covariance: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge
        self.register_buffer("count", torch.zeros(len(mean), dtype=torch.int64, device=mean.device))
        for name, tensor in (("mean", mean), ("covariance", covariance)):
            self.register_buffer(name, tensor.detach().float().clone())
            self.register_buffer(f"source_{name}", tensor.detach().float().clone())

    def moved(self, index: int, rows: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Return mean and covariance after `rows` [B, D], each with a share `rate`, B * rate <= 1, of the whole."""
        mean, covariance = self.mean[index], self.covariance[index]
        away = rows - mean
        shift = rate * away.sum(dim=0)
        spread = (1 - len(rows) * rate) * covariance + rate * away.T @ away - torch.outer(shift, shift)
        return mean + shift, spread

    def divergence(self, index: int, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return the symmetric divergence of a Gaussian from the source's; NaN if a covariance has no factor."""
        ridge = self.ridge * torch.eye(len(mean), device=mean.device)
        return symmetric_kl(self.source_mean[index], self.source_covariance[index] + ridge, mean, covariance + ridge)

    @torch.no_grad()
    def keep(self, index: int, count: int, mean: Tensor, covariance: Tensor) -> None:
        """Take these for the present values."""
        self.count[index] = count
        self.mean[index] = mean
        self.covariance[index] = covariance


def symmetric_kl(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return KL(p || q) + KL(q || p) of two Gaussians, NaN if a covariance is not positive definite.

    The determinants cancel: `(tr(Q^-1 P) + tr(P^-1 Q) + d^T (P^-1 + Q^-1) d) / 2 - D`, d the difference of the means.
    """
    first, first_failed = torch.linalg.cholesky_ex(covariance)
    second, second_failed = torch.linalg.cholesky_ex(other_covariance)
    away = (mean - other_mean)[:, None]

    def squares(factor: Tensor, other: Tensor) -> Tensor:
        """Return tr(F^-1 O) + d^T F^-1 d for covariances F and O with these factors."""
        return torch.linalg.solve_triangular(factor, torch.cat([other, away], dim=1), upper=False).square().sum()

    value = (squares(first, second) + squares(second, first)) / 2 - len(mean)
    return torch.where((first_failed == 0) & (second_failed == 0), value, torch.nan)


def _check(model: Classifier, statistics: Mapping[str, Tensor]) -> None:
    check_classifier("TTAC", model)
    missing = [name for name in NEEDED if name not in statistics]
    if missing:
        raise AdapterError(
            f"TTAC needs {', '.join(missing)} among the source's statistics; "
            "use the checkpoint of `crosstask pretrain RECIPE --only joint`"
        )
    classes, expected = len(statistics["class_mean"]), getattr(model.head, "out_features", None)
    if expected not in (None, classes):
        raise AdapterError(f"TTAC needs statistics of the head's {expected} classes, and got those of {classes}")
