"""TTTFlow: test-time training with a normalising flow."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from crosstask.config import NotNegative, Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import taken
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier
from crosstask.tasks.flow import Flow


@final
class TTTFlow(Adapter):
    """Make early maps of the test batch likely under a flow fitted to those of the source (Osowiechi et al. 2023).

    Loss: `-mean [log N(z; 0, 1) + log-scale]` over the elements of z, the flow's image of the maps; see
    `crosstask.tasks.flow`. SGD with momentum and weight decay. What moves: the encoder up to the tapped layer and,
    under `ema`, the running averages of its batch norms. Flow and head stay frozen.
    Differences from the official code: the flow's own (see the task); a reset drops the momentum, which lasts there.

    Args:
        model: the classifier whose encoder the flow was fitted to.
        task: the flow.
        steps: updates on each batch.
        learning_rate, momentum, weight_decay: of SGD.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`; `ema` is train mode in an update and eval mode in
            the prediction.

    Raises:
        AdapterError: the model is no `Classifier`, or the task is no flow on its maps.
    """

    def __init__(
        self,
        model: Classifier,
        task: Flow,
        *,
        steps: Steps = 10,
        learning_rate: Positive = 1e-3,
        momentum: Share = 0.9,
        weight_decay: NotNegative = 5e-4,
        batch_norm: Policy = "ema",
        batch_share: Share = 0.1,
    ) -> None:
        own = taken("TTTFlow", model, task, Flow)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.task = own
        moving = self.begin(f"encoder.{name}" for name in own.upstream)
        self.descent = Descent(
            torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
        )

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.descent(self.task(self.model.get_submodule("encoder"), x, generator))
