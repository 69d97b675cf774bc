"""Any image classifier as an encoder and a head, which is all that cross-task alignment asks of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from crosstask.errors import ConfigError, UnknownName


class Classifier(nn.Module):
    """An encoder (images to features [B, D]) and a head (features to logits [B, K])."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, K]."""
        return self.head(self.encoder(x))


def split(model: nn.Module, example: Tensor, head: str | None = None) -> Classifier:
    """Split a classifier of any make (torchvision, timm, your own) into an encoder and a head.

    The head is the module called `head`, by default the last `nn.Linear`. The encoder is a copy of the model in which
    the head is replaced by the identity. The split is checked on `example`: encoder then head must give the very logits
    of the model, so everything after the head has to be inside it.

    Args:
        model: maps float images to logits [B, K]. It is copied.
        example: a batch of images the model accepts, [B, C, H, W].
        head: the head's name in `model.named_modules()`.

    Raises:
        UnknownName: there is no module of that name.
        ConfigError: the model has no linear layer, or it does something after its head.
    """
    modules = dict(model.named_modules())
    if head is None:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear) and name]
        if not linear:
            types = sorted({type(module).__name__ for module in modules.values()})
            raise ConfigError(f"no nn.Linear to take as the head among {', '.join(types)}; name the head with head=...")
        head = linear[-1]
    elif head not in modules or not head:
        raise UnknownName("module", head, (name for name in modules if name))
    encoder = copy.deepcopy(model)
    parent = encoder.get_submodule(head.rpartition(".")[0])
    taken = copy.deepcopy(modules[head])
    setattr(parent, head.rpartition(".")[2], nn.Identity())
    classifier = Classifier(encoder, taken)
    classifier.training = model.training
    modes = {module: module.training for module in (*model.modules(), *classifier.modules())}
    try:
        same = _same(model.eval(), classifier.eval(), example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not same:
        raise ConfigError(
            f"the model does not end with its head {head!r}; expected head(encoder(x)) to equal model(x) with features "
            "[B, D]; name the module that ends the model with head=..."
        )
    return classifier


@torch.no_grad()
def _same(model: nn.Module, classifier: Classifier, example: Tensor) -> bool:
    expected = model(example)
    try:
        features = classifier.encoder(example)
        logits = classifier.head(features)
    except (RuntimeError, AttributeError):
        return False  # what comes after the head does not fit its input, or asks the head for an attribute
    return features.ndim == 2 and logits.shape == expected.shape and torch.allclose(logits, expected, 1e-4, 1e-5)
