"""CTA: test-time training by cross-task alignment, the method this project exists for."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor

from crosstask.config import Positive, Share, Steps
from crosstask.errors import AdapterError
from crosstask.methods.adapter import Adapter, Descent
from crosstask.methods.batchnorm import Policy, set_batch_norm
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask


@final
class CTA(Adapter):
    """Train the aligned encoder with its self-supervised task on the test batch (Barbeau et al., arXiv 2507.05221).

    The frozen head of the supervised classifier reads the features of an encoder that was trained without labels and
    then aligned to the supervised one. On a batch of unlabelled images x, `steps` times:

        theta <- theta - learning_rate * grad task(f_theta, views of x)

    over all parameters theta of the encoder f, with momentum; then `head(f_theta(x))` on the images themselves. With
    SimCLR the task is NT-Xent on two random views. The projector stays frozen, as the head does.

    Args:
        model: the aligned encoder with the frozen head.
        task: the self-supervised task the encoder was aligned with.
        steps: updates on each batch.
        learning_rate, momentum: of SGD.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`; for the views and for the prediction alike.
        seed: fixes the views.

    Raises:
        AdapterError: the model is no `Classifier`, the task none, or the encoder has no parameters.
    """

    def __init__(
        self,
        model: Classifier,
        task: SelfSupervisedTask,
        *,
        steps: Steps = 20,
        learning_rate: Positive = 1e-2,
        momentum: Share = 0.9,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, Classifier):
            raise AdapterError(
                f"CTA needs an encoder and a head, and got a {type(model).__name__}; see `crosstask.split`"
            )
        if not isinstance(task, SelfSupervisedTask):
            raise AdapterError(f"CTA needs the self-supervised task of its alignment, and got a {type(task).__name__}")
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.task = copy.deepcopy(task).requires_grad_(False)
        set_batch_norm(self.task, batch_norm, batch_share)
        if not any(True for _ in self.model.get_submodule("encoder").parameters()):
            raise AdapterError("nothing to adapt: the encoder has no parameters")
        moving = self.begin(name for name, _ in self.model.named_parameters() if name.startswith("encoder."))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.descent(self.task(self.model.get_submodule("encoder"), x, generator))
