"""TTT: test-time training with rotation prediction."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from crosstask.config import Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import taken
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier
from crosstask.tasks.rotation import Rotation


@final
class TTT(Adapter):
    """Predict by how many quarters crops of the test images were turned (Sun et al. 2020).

    Loss: `mean CE(b(f(turned crop)), turns)` of the branch b after the first layers f of the encoder; see
    `crosstask.tasks.rotation`. SGD without momentum. What moves: the encoder up to the tapped layer, and the branch.
    The rest of the encoder and the head stay frozen.
    Differences from the official code: it adapts to one image at a time (here: batches of one), reset before each
    (`standard`, the steps below) or never (`online`, one step); its networks have group norm: where batch norm has to
    be, ours takes the batch's statistics, of the crops in an update and of the images in the prediction, and the
    branch's own keeps the source's; no threshold of confidence (1 there, which is none).

    Args:
        model: the classifier that was trained beside the task.
        task: the rotations.
        steps: updates on each batch.
        learning_rate: of SGD.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes the crops and the turns.

    Raises:
        AdapterError: the model is no `Classifier`, or the task is not the one it was trained beside.
    """

    def __init__(
        self,
        model: Classifier,
        task: Rotation,
        *,
        steps: Steps = 10,
        learning_rate: Positive = 1e-3,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        seed: int = 0,
    ) -> None:
        own = taken("TTT", model, task, Rotation)
        forked = _Forked(model, own)
        super().__init__(forked, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        branch = [f"task.{name}" for name, _ in own.named_parameters()]
        moving = self.begin([*(f"encoder.{name}" for name in own.upstream), *branch])
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.descent(self.model.get_submodule("task")(self.model.get_submodule("encoder"), x, generator))


class _Forked(nn.Module):
    """A classifier with a task's branch beside its head, so that both can move."""

    def __init__(self, model: Classifier, task: Rotation) -> None:
        super().__init__()
        self.encoder, self.head, self.task = model.encoder, model.head, task

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))
