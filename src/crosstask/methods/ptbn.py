"""PTBN: prediction-time batch normalisation."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from crosstask.config import Share, Steps
from crosstask.errors import AdapterError
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy


@final
class PTBN(Adapter):
    """The supervised model with the batch's own statistics in its batch-norm layers (Nado et al. 2020).

    Also known as Norm and BN-1; with `batch_norm="mixed"` as BN-alpha; with `"prior"` as in Schneider et al. 2020, for
    batches of any size; with `batch_norm="ema", steps=1` as BN-EMA: the running averages step towards the batch's
    statistics and then predict. No parameter moves, and there is no loss.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K], with batch-norm layers inside.
        steps: of the running averages on each batch; only `ema` and `robust` take any.
        batch_norm: `batch`, `mixed` or `prior` with the source's statistics, or `ema`; see
            `crosstask.methods.batchnorm`.
        batch_share: the batch's share under `mixed`, and the length of a step of the averages.

    Raises:
        AdapterError: the model has no batch-norm layer.
    """

    needs_batch_norm: ClassVar[bool] = True

    def __init__(
        self, model: nn.Module, *, steps: Steps = 0, batch_norm: Policy = "batch", batch_share: Share = 0.5
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        if not self.batch_norm_layers:
            types = sorted({type(module).__name__ for module in self.model.modules()})
            raise AdapterError(f"PTBN needs batch-norm layers and found only {', '.join(types)}; use `source` instead")
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        """Move the running averages where the policy moves them; else there is nothing to learn."""
        if self.adapted_names:
            with torch.no_grad():
                self.model(x)
