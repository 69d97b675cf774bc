"""Do two losses pull an encoder the same way? The cosine between their gradients, layer by layer.

Sun et al. (Test-Time Training, ICML 2020, theorem 1): a step on the self-supervised loss lowers the supervised one as
long as the two gradients have a positive inner product. A negative cosine is interference.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.bench.diagnostics.features import batches, copied
from crosstask.data.streams import Stream
from crosstask.errors import DataError
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask


def gradient_cosines(encoder: nn.Module, first: Tensor, second: Tensor) -> tuple[float, dict[str, float]]:
    """Return the cosine between the gradients of two scalar losses: of the whole encoder, and by layer.

    A layer is a module that has parameters of its own; they are taken together. A parameter of the encoder itself is a
    layer by its own name. Where one of the gradients is zero the cosine is NaN.
    """
    named = dict(encoder.named_parameters())
    pairs = zip(*(_gradients(loss, list(named.values())) for loss in (first, second)), strict=True)
    products: dict[str, Tensor] = {}
    for name, (a, b) in zip(named, pairs, strict=True):
        layer = name.rpartition(".")[0] or name
        products[layer] = products.get(layer, 0) + torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])
    whole = torch.stack(list(products.values())).sum(dim=0)
    return _cosine(whole), {layer: _cosine(product) for layer, product in products.items()}


def measure_gradients(
    classifier: Classifier,
    task: SelfSupervisedTask,
    stream: Stream,
    device: torch.device,
    tick: Callable[[], None],
) -> tuple[list[float], dict[str, list[float]]]:
    """Return, by batch, the cosine between the gradients of the task's loss and of the cross-entropy.

    The task sees its own random views of the images, as in training and adaptation, and the cross-entropy the images
    themselves, as they are predicted. Dropout is off. Every model sees the same images and views.

    Args:
        classifier, task: left as they are.
        stream: with labels.
        tick: is called after every batch.

    Returns:
        The cosines of the whole encoder, and by layer, without layers to which one of the losses sends no gradient.

    Raises:
        DataError: a loss sends no gradient at all, or one that is not finite.
    """
    model, own = copied(classifier, device), copied(task, device)
    model.encoder.requires_grad_(True)
    whole: list[float] = []
    layers: dict[str, list[float]] = {}
    for place, (x, y) in enumerate(batches(stream, device)):
        generator = runtime.generator(device, stream.seed, "gradients", stream.corruption, place)
        alone = own(model.encoder, x, generator)
        supervised = F.cross_entropy(model(x).float(), y)
        cosine, by_layer = gradient_cosines(model.encoder, alone, supervised)
        if not math.isfinite(cosine):
            raise DataError(
                f"on {stream.target.name} ({stream.corruption}) a loss has no finite gradient other than zero: "
                f"self-supervised {alone.item():.4g}, supervised {supervised.item():.4g}; train this model again"
            )
        whole.append(cosine)
        for layer, value in by_layer.items():
            layers.setdefault(layer, []).append(value)
        tick()
    return whole, {layer: values for layer, values in layers.items() if all(map(math.isfinite, values))}


def _gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return [gradient.double() for gradient in found]


def _cosine(product: Tensor) -> float:
    """Return the cosine from an inner product and two squared lengths."""
    inner, first, second = product.tolist()
    length = math.sqrt(first) * math.sqrt(second) if first >= 0 and second >= 0 else math.nan
    return max(-1.0, min(1.0, inner / length)) if length > 0 else math.nan
