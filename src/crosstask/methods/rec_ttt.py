"""ReC-TTT: test-time training by contrastive feature reconstruction."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from crosstask.config import NotNegative, Positive, Share, Steps
from crosstask.errors import AdapterError
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import taken
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.tasks import JointTask
from crosstask.tasks.reconstruction import Reconstruction


@final
class RecTTT(Adapter):
    """Have two encoders' maps reconstruct a frozen teacher's, and classify with both (Colussi et al. 2025).

    Loss on a batch x and its mirror image x', over the maps l of encoders f1 and f2, teacher t and decoder d:

        1/4 * sum_l [1 - cos(t_l(x), d_l(f1(x)))] + [1 - cos(t_l(x'), d_l(f2(x')))]

    averaged over the batch. The parameters of both encoders before the maps move, with AdamW; teacher, bottleneck,
    decoder and head stay frozen, and the norms of these layers are the source's. The head reads both encoders' features
    side by side.

    Differences from the official code: those of the task, see `crosstask.tasks.reconstruction.Reconstruction`; a reset
    also drops AdamW's moments, which are kept there; a fixed number of steps, not the best of several by test accuracy.

    Args:
        model: a head on a `Twin` encoder, trained jointly with the task.
        task: the `Reconstruction` that was trained beside it.
        steps: updates on each batch.
        learning_rate, weight_decay: of AdamW.
        batch_norm, batch_share: of the encoders; see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: the model is no `Classifier` on a `Twin`, or the task is no `Reconstruction`.
    """

    def __init__(
        self,
        model: Classifier,
        task: JointTask,
        *,
        steps: Steps = 10,
        learning_rate: Positive = 1e-3,
        weight_decay: NotNegative = 1e-5,
        batch_norm: Policy = "ema",
        batch_share: Share = 0.1,
    ) -> None:
        remedy = "use the checkpoint of `crosstask pretrain RECIPE --only rec-ttt`"
        encoder = model.encoder if isinstance(model, Classifier) else model
        if not isinstance(encoder, Twin):
            raise AdapterError(f"ReC-TTT needs a head on a Twin encoder, and got a {type(encoder).__name__}; {remedy}")
        own = taken("ReC-TTT", model, task, Reconstruction)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.task = own
        moving = self.begin(f"encoder.{name}" for name in own.upstream)
        self.descent = Descent(torch.optim.AdamW(moving, lr=learning_rate, weight_decay=weight_decay, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.descent(self.task(self.model.get_submodule("encoder"), x, generator))
