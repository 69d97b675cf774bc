"""Encoders have the size and shape they say; any classifier splits into encoder and head, or says why not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import ConfigError, UnknownName
from crosstask.nets.encoders import ENCODERS, Normalize, initialise, make_encoder, projection_head
from crosstask.nets.split import Classifier, split


def block_parameters(name: str, channels: int) -> int:
    """Count an encoder's parameters from the tables of He et al. 2016: kernels, and two numbers a normed channel."""

    def conv(inputs: int, outputs: int, side: int) -> int:
        return inputs * outputs * side**2 + 2 * outputs

    widths, depths, bottleneck = {
        "resnet-small": ((32, 64, 128), (1, 1, 1), False),
        "resnet18-narrow": ((16, 32, 64, 128), (2, 2, 2, 2), False),
        "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2), False),
        "resnet50": ((64, 128, 256, 512), (3, 4, 6, 3), True),
    }[name]
    total, inputs = conv(channels, widths[0], 3), widths[0]
    for width, depth in zip(widths, depths, strict=True):
        outputs = 4 * width if bottleneck else width
        for block in range(depth):
            if bottleneck:
                total += conv(inputs, width, 1) + conv(width, width, 3) + conv(width, outputs, 1)
            else:
                total += conv(inputs, width, 3) + conv(width, width, 3)
            if block == 0 and (inputs != outputs or width != widths[0]):
                total += conv(inputs, outputs, 1)
            inputs = outputs
    return total


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_parameters_of_the_paper(name, channels):
    with torch.device("meta"):
        encoder = make_encoder(name, channels)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == block_parameters(name, channels)


def test_the_deep_encoders_have_the_published_sizes():
    published = {"resnet18": 11_173_962 - 512 * 10 - 10, "resnet50": 23_520_842 - 2048 * 10 - 10}
    assert {name: block_parameters(name, 3) for name in published} == published


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_take_small_images_of_any_size(name, channels):
    with torch.device("meta"):
        encoder = make_encoder(name, channels)
        for height, width in ((16, 16), (28, 28), (32, 48), (64, 64)):
            assert encoder(torch.empty(2, channels, height, width)).shape == (2, encoder.feature_dim)


def test_the_small_encoder_answers_with_numbers():
    encoder = make_encoder("resnet-small", 1)
    initialise(encoder, torch.Generator().manual_seed(0))
    features = encoder(torch.rand(3, 1, 28, 28))
    assert features.shape == (3, 128) and features.isfinite().all() and features.min() >= 0


def test_an_unknown_encoder_is_guessed():
    with pytest.raises(UnknownName, match="unknown encoder 'resnet-18'; did you mean 'resnet18'"):
        make_encoder("resnet-18", 3)


def test_normalize_is_a_layer_that_travels_with_the_weights():
    layer = Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    x = torch.rand(2, 3, 4, 4)
    expected = torch.stack([(x[:, c] - (0.1, 0.2, 0.3)[c]) / (0.5, 0.6, 0.7)[c] for c in range(3)], dim=1)
    torch.testing.assert_close(layer(x), expected)
    assert set(layer.state_dict()) == {"mean", "std"} and not list(layer.parameters())


def test_the_projector_is_two_layers():
    projector = projection_head(12, hidden=16, out=8)
    x = torch.randn(4, 12)
    expected = (x @ projector[0].weight.T + projector[0].bias).clamp(min=0) @ projector[2].weight.T + projector[2].bias
    torch.testing.assert_close(projector(x), expected)


def test_initialise_draws_from_the_generator_alone():
    first, second, third = (make_encoder("resnet-small", 1) for _ in range(3))
    before = torch.get_rng_state()
    for encoder, seed in ((first, 0), (second, 0), (third, 1)):
        initialise(encoder, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv.weight, second.conv.weight) and not torch.equal(first.conv.weight, third.conv.weight)
    kernel = first.stages[2][0].conv2.weight
    assert float(kernel.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


class Nested(nn.Module):
    """A head deep inside, and registered before other modules."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.ModuleDict({"inner": nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))})
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.top["inner"](self.body(x).mean(dim=(2, 3)))


class Scaled(nn.Module):
    """Does something after its head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.head(self.body(x)) + self.head.bias


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def with_mlp() -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))


def on_pixels() -> nn.Sequential:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(nn.Conv2d(1, 8, 3), head)


SPLITS = {
    "the last linear layer": (sequential, None, nn.Linear, 8),
    "a layer by its number": (sequential, "4", nn.Linear, 8),
    "a nested head": (Nested, None, nn.Linear, 8),
    "a nested head by its name": (Nested, "top.inner.1", nn.Linear, 8),
    "a head of several layers": (with_mlp, "1", nn.Sequential, 8),
    "the last layer of such a head": (with_mlp, None, nn.Linear, 6),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "head", "kind", "width"), SPLITS.values(), ids=SPLITS)
def test_split_gives_the_very_logits(make, head, kind, width, training):
    model, x = make().train(training), torch.rand(5, 1, 10, 10)
    classifier = split(model, x, head)
    assert isinstance(classifier, Classifier) and isinstance(classifier.head, kind)
    assert classifier.training is training
    model.eval(), classifier.eval()
    assert classifier.encoder(x).shape == (5, width)
    assert torch.equal(classifier(x), model(x))


@pytest.mark.parametrize("make", [sequential, Nested, with_mlp])
def test_split_leaves_the_callers_model_alone(make):
    model, x = make(), torch.rand(5, 1, 10, 10)
    next(model.children()).eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    classifier = split(model, x)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_split_keeps_each_parts_mode():
    model = with_mlp()
    model[0][1].eval()
    classifier = split(model, torch.rand(2, 1, 10, 10))
    assert classifier.training and classifier.encoder[0].training and not classifier.encoder[0][1].training


def test_split_puts_the_modes_back_when_the_example_does_not_fit():
    model = sequential()
    with pytest.raises(RuntimeError):
        split(model, torch.rand(2, 3, 10, 10))
    assert all(module.training for module in model.modules())


def test_an_unknown_head_is_guessed():
    with pytest.raises(UnknownName, match=r"unknown module 'hed'; did you mean 'head'\?"):
        split(Scaled(), torch.rand(2, 1, 10, 10), head="hed")


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (Scaled, "head"),  # scales its head's logits
        (with_mlp, "1.0"),  # goes on after this layer, with another width
        (sequential, "1"),  # goes on after this layer
        (Nested, "body.0"),  # ends elsewhere
        (on_pixels, "1"),  # the head reads pixels, not features [B, D]
    ],
)
def test_something_after_the_head_is_an_error(make, head):
    with pytest.raises(ConfigError, match=f"does not end with its head '{head}'.*name the module that ends the model"):
        split(make(), torch.rand(2, 1, 10, 10), head=head)


def test_no_linear_layer_is_an_error_that_lists_what_there_is():
    model = nn.Sequential(nn.Conv2d(1, 3, 10), nn.Flatten(), nn.LayerNorm(3))
    with pytest.raises(ConfigError, match=r"no nn.Linear .* among Conv2d, Flatten, LayerNorm, Sequential; name the he"):
        split(model, torch.rand(2, 1, 10, 10))
    assert isinstance(split(model, torch.rand(2, 1, 10, 10), head="2").head, nn.LayerNorm)
