"""SHOT: source hypothesis transfer, as it is run online."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from crosstask import losses
from crosstask.config import NotNegative, Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import check_classifier, encoder_names
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier


@final
class SHOT(Adapter):
    """Make the features fit the frozen head: predictions sure, classes diverse (Liang et al. 2020).

    Loss, p the predictions of the batch: `mean H(p_i) - H(mean p_i) + pseudo_weight * CE(p_i, argmax p_i)`, the last
    over the images with `max p_i > confidence`. SGD over all parameters of the encoder; the head is frozen.
    Differences from the official code: it is an online method here, as in Iwasawa & Matsuo 2021, with confident
    predictions in place of pseudo-labels from centroids over the whole target set; the source model has no bottleneck,
    label smoothing or weight-normed head; plain momentum, without Nesterov's, weight decay or a schedule.

    Args:
        model: an encoder and a head.
        steps: updates on each batch.
        learning_rate, momentum: of SGD.
        pseudo_weight: of the cross-entropy against confident predictions.
        confidence: probability above which a prediction is taken for a label.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: the model is no `Classifier`, or its encoder has no parameters.
    """

    answers_first: ClassVar[bool] = True

    def __init__(
        self,
        model: Classifier,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        momentum: Share = 0.9,
        pseudo_weight: NotNegative = 0.1,
        confidence: Share = 0.9,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
    ) -> None:
        check_classifier("SHOT", model)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.pseudo_weight, self.confidence = pseudo_weight, confidence
        moving = self.begin(encoder_names(self.model))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> Tensor:
        answer = self.model(x)
        logits = answer.float()
        mean = logits.softmax(dim=1).mean(dim=0)
        diversity = -(mean * (mean + 1e-12).log()).sum()
        confidences, classes = logits.detach().softmax(dim=1).max(dim=1)
        confident = (confidences > self.confidence).float()
        pseudo = (confident * F.cross_entropy(logits, classes, reduction="none")).sum() / confident.sum().clamp(min=1)
        self.descent(losses.entropy(logits) - diversity + self.pseudo_weight * pseudo)
        return answer
