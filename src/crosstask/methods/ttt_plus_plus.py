"""TTT++: SimCLR at test time, with moments of features and projections drawn to the source's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor

from crosstask.config import NotNegative, Positive, Share, Steps
from crosstask.errors import AdapterError
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy, set_batch_norm
from crosstask.methods.parts import check_classifier, encoder_names
from crosstask.methods.state import Descent, Forgetful
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask, SimCLR
from crosstask.train.moments import coral, mmd, moments

NEEDED = ("mean", "covariance", "task_mean", "task_covariance", "discrepancy")


@final
class TTTPlusPlus(Adapter):
    """Train the encoder with SimCLR and align its moments to the source's (Liu et al. 2021).

    Loss on a batch x, with encoder f, projector g and a queue q of past features:

        NT-Xent(g f(two views of x)) + scale_features * A(f(x) and q) + scale_projections * A(g f(x) and g q)
        A(z) = ||C_s - C(z)||_F^2 / (4 D^2) / c0 + 0.5 * mean((mu_s - mu(z))^2) / m0

    over all parameters of the encoder, SGD with momentum; projector and head stay frozen. mu_s and C_s are the
    source's; c0 and m0 are the two distances of a typical batch of 256 source images.

    Differences from the official code: one pass over a stream, where that one makes up to 500 over the whole test set
    and chooses learning rate and end by the test error, which is an oracle; alignment from the first batch on and with
    a queue that is not full yet, where that one first waits; the features enter the queue after every update that is
    not refused, so several updates on a batch put its images there as often; the queue holds `queue` past features,
    where that one holds as many less a batch, so that batch and queue together have that size; the prediction is made
    with the statistics that `batch_norm` says, by default the batch's, where that one predicts with running averages,
    which its training moves; NT-Xent is not multiplied by 7; source moments of images as they are, not of crops; c0 and
    m0 against the whole source, not against its first batch, and for 256 images however long the queue. The covariance
    of a single row is left out.

    Args:
        model: the encoder and head that were trained jointly with the task.
        task: SimCLR, as it was trained beside them.
        statistics: `mean` and `covariance` of the source's features, and what
            `crosstask.train.moments.projection_moments` gives.
        steps: updates on each batch.
        learning_rate: of SGD; 1e-4 for CIFAR-100.
        momentum: of SGD.
        scale_features: weight of the features' alignment; 5 for CIFAR-100.
        scale_projections: weight of the projections' alignment; 20 for CIFAR-100.
        queue: past features that are kept, 0 for none; 2048 for CIFAR-100.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes the views.

    Raises:
        AdapterError: the model is no `Classifier`, the task is not SimCLR, or the statistics lack something.
    """

    def __init__(
        self,
        model: Classifier,
        task: SelfSupervisedTask,
        statistics: Mapping[str, Tensor],
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-2,
        momentum: Share = 0.9,
        scale_features: NotNegative = 0.05,
        scale_projections: NotNegative = 0.2,
        queue: Annotated[int, Field(ge=0)] = 1536,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        seed: int = 0,
    ) -> None:
        _check(model, task, statistics)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.task = copy.deepcopy(task).requires_grad_(False)
        set_batch_norm(self.task, batch_norm, batch_share)
        self.scale_features, self.scale_projections = scale_features, scale_projections
        for name in NEEDED:
            self.register_buffer(f"source_{name}", statistics[name].detach().float().clone())
        self.queue = Queue(queue)
        moving = self.begin(encoder_names(self.model))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        encoder = self.model.get_submodule("encoder")
        contrast = self.task(encoder, x, generator)
        features = encoder(x)
        everything = self.queue.before(features)
        projections = self.task.get_submodule("projector")(everything)
        with torch.autocast(x.device.type, enabled=False):
            loss = (
                contrast.float()
                + self.scale_features * self._alignment(everything.float(), "", 0)
                + self.scale_projections * self._alignment(projections.float(), "task_", 2)
            )
        if self.descent(loss):
            self.queue.append(features)

    def _alignment(self, rows: Tensor, part: str, place: int) -> Tensor:
        """Return A(z); `place` is that of c0 among the discrepancies, and m0 comes next."""
        unit = self.get_buffer("source_discrepancy")
        value = 0.5 * mmd(self.get_buffer(f"source_{part}mean"), rows.mean(dim=0)) / unit[place + 1]
        if len(rows) > 1:
            value = value + coral(self.get_buffer(f"source_{part}covariance"), moments(rows)[1]) / unit[place]
        return value


class Queue(Forgetful):
    """The last `size` feature vectors, without a gradient."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.kept: Tensor | None = None

    def before(self, features: Tensor) -> Tensor:
        """Return what is kept, and after it the features [B, D], which keep their gradient."""
        return features if self.kept is None else torch.cat([self.kept.to(features), features])

    def append(self, features: Tensor) -> None:
        """Keep the features [B, D], and drop the oldest ones beyond the size."""
        if self.size:
            self.kept = self.before(features.detach().float())[-self.size :].clone()

    def forget(self) -> None:
        self.kept = None

    def get_extra_state(self) -> dict[str, Any]:
        return {"kept": None if self.kept is None else self.kept.clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.kept = None if state["kept"] is None else state["kept"].clone()


def _check(model: Classifier, task: SelfSupervisedTask, statistics: Mapping[str, Tensor]) -> None:
    remedy = "use the checkpoint of `crosstask pretrain RECIPE --only joint`"
    check_classifier("TTT++", model)
    if not isinstance(task, SimCLR):
        raise AdapterError(f"TTT++ needs the SimCLR task of its training, and got a {type(task).__name__}; {remedy}")
    missing = [name for name in NEEDED if name not in statistics]
    if missing:
        raise AdapterError(f"TTT++ needs {', '.join(missing)} among the source's statistics; {remedy}")
