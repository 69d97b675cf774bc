"""Encoders have the size and shape they say; any classifier splits into encoder and head, or says why not."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.errors import AdapterError, ConfigError, UnknownName
from crosstask.nets.base import Patches
from crosstask.nets.convnext import ConvNeXt
from crosstask.nets.encoders import ENCODERS, Normalize, initialise, make_encoder, projection_head
from crosstask.nets.group_norm import guard_group_norm
from crosstask.nets.split import Classifier, split
from crosstask.nets.taps import maps_of, tapped, with_features
from crosstask.nets.vit import VisionTransformer, positions


def transformer_parameters(channels: int, width: int = 128, hidden: int = 256, depth: int = 6, patch: int = 4) -> int:
    """Count from Dosovitskiy et al. 2021, fig. 1: patches, blocks with two norms and two layer scales, and a norm."""
    attention = 3 * width * (width + 1) + width * (width + 1)
    perceptron = hidden * (width + 1) + width * (hidden + 1)
    return width * (channels * patch**2 + 1) + depth * (attention + perceptron + 6 * width) + 2 * width


def convnext_parameters(channels: int, depths=(2, 2, 4), widths=(32, 64, 128)) -> int:
    """Count from Liu et al. 2022, fig. 4: a stem, blocks, and a norm and a halving before all stages but the first."""
    total, before = widths[0] * (4 * channels + 1) + 2 * widths[0], None
    for depth, width in zip(depths, widths, strict=True):
        total += 2 * before + width * (4 * before + 1) if before else 0
        total += depth * (width * (49 + 1) + 2 * width + 4 * width * (width + 1) + width * (4 * width + 1) + width)
        before = width
    return total + 2 * before


def parameters(name: str, channels: int) -> int:
    """Count an encoder's parameters from the tables of its paper."""
    if name == "vit-lite-narrow":
        return transformer_parameters(channels)
    if name == "convnext-narrow":
        return convnext_parameters(channels)
    return block_parameters(name, channels)


def block_parameters(name: str, channels: int) -> int:
    """Count an encoder's parameters from the tables of He et al. 2016: kernels, and two numbers a normed channel."""

    def conv(inputs: int, outputs: int, side: int) -> int:
        return inputs * outputs * side**2 + 2 * outputs

    widths, depths, bottleneck = {
        "resnet-small": ((32, 64, 128), (1, 1, 1), False),
        "resnet18-narrow": ((16, 32, 64, 128), (2, 2, 2, 2), False),
        "resnet18-narrow-gn": ((16, 32, 64, 128), (2, 2, 2, 2), False),
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


SMALL = [name for name in ENCODERS if name not in ("resnet18", "resnet50")]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_parameters_of_the_paper(name, channels):
    with torch.device("meta"):
        encoder = make_encoder(name, channels)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters(name, channels)


def test_the_deep_encoders_have_the_published_sizes():
    published = {"resnet18": 11_173_962 - 512 * 10 - 10, "resnet50": 23_520_842 - 2048 * 10 - 10}
    assert {name: block_parameters(name, 3) for name in published} == published


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_take_small_images_of_any_size(name, channels):
    with torch.device("meta"):
        encoder = make_encoder(name, channels)
        for height, width in ((16, 16), (28, 28), (30, 33), (32, 48), (64, 64)):
            assert encoder(torch.empty(2, channels, height, width)).shape == (2, encoder.feature_dim)


@pytest.mark.parametrize("name", SMALL)
def test_small_encoders_answer_with_numbers(name):
    encoder = make_encoder(name, 1)
    initialise(encoder, torch.Generator().manual_seed(0))
    features = encoder(torch.rand(3, 1, 28, 28))
    assert features.shape == (3, 128) and features.isfinite().all() and 0.05 < features.std() < 20
    assert not name.startswith("resnet") or features.min() >= 0


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


@pytest.mark.parametrize("name", ENCODERS)
def test_initialise_leaves_nothing_to_the_global_random_state(name):
    def fresh(everywhere: int, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(everywhere)
            encoder = make_encoder(name, 1)
        initialise(encoder, torch.Generator().manual_seed(seed))
        return encoder

    first, second, other = fresh(0, 0), fresh(1, 0), fresh(0, 1)
    for (key, mine), same, different in zip(
        first.named_parameters(), second.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(mine, same), f"{key} was not drawn from the generator"
        drawn = mine.ndim > 1
        assert torch.equal(mine, different) is not drawn, key
        assert drawn or mine.unique().numel() == 1, "scales, shifts and biases start at one number"
    assert all(map(torch.equal, first.buffers(), second.buffers()))


def test_a_convolution_in_groups_is_drawn_by_the_outputs_that_an_input_has():
    layer = nn.Conv2d(64, 64, 7, groups=64)
    initialise(layer, torch.Generator().manual_seed(0))
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 49) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", SMALL)
def test_an_encoder_is_the_mean_over_positions_of_its_last_stage(name):
    encoder, x = make_encoder(name, 3).eval(), torch.rand(2, 3, 32, 32)
    encoder.normalize.mean.fill_(0.4)
    stages = [f"stages.{index}" for index in range(len(encoder.stages))]
    features, maps = tapped(encoder, x, ["normalize", *stages])
    torch.testing.assert_close(maps[0], (x - 0.4) / 0.25)
    assert [each.ndim for each in maps[1:]] == [4] * len(stages)
    assert torch.equal(maps[-1].mean(dim=(2, 3)), features)


def test_group_norm_normalises_each_image_by_itself(tiny):
    encoder = tiny.shaken(make_encoder("resnet18-narrow-gn", 3), seed=0)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-4, atol=1e-5)
    kinds = {type(layer) for layer in encoder.modules()}
    assert nn.GroupNorm in kinds and nn.BatchNorm2d not in kinds
    names = [name for name, _ in make_encoder("resnet18-narrow", 3).named_parameters()]
    assert [name for name, _ in encoder.named_parameters()] == names


def test_the_guard_of_group_norm_has_inputs_take_a_gradient_where_the_layer_learns():
    layer, x, seen = nn.GroupNorm(2, 8), torch.rand(2, 8, 3, 3).contiguous(memory_format=torch.channels_last), []
    expected = layer(x).detach()
    guard_group_norm(nn.Sequential(layer))
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad))
    out = layer(x)
    out.square().sum().backward()  # without the guard, PyTorch 2.13 crashes here
    assert torch.equal(out, expected) and layer.weight.grad.isfinite().all() and not x.requires_grad
    with torch.no_grad():
        layer(x)
    layer.requires_grad_(False)(x)
    assert seen == [True, False, False]


def test_patches_are_a_convolution_with_a_stride_of_its_size():
    layer, x = Patches(3, 5, 4), torch.rand(2, 3, 8, 12)
    weight = layer.weight.view(5, 3, 4, 4)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, layer.bias, stride=4))
    torch.testing.assert_close(
        layer(x[:, :, :7, :9]), F.conv2d(F.pad(x[:, :, :7, :9], (0, 3, 0, 1)), weight, layer.bias, stride=4)
    )


def test_positions_are_sines_and_cosines_of_both_coordinates():
    found = positions(3, 5, 8, torch.device("cpu"))
    assert found.shape == (8, 3, 5)
    for row in range(3):
        for column in range(5):
            expected = [f(at * w) for at in (column, row) for f in (math.sin, math.cos) for w in (1, 0.01)]
            assert found[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    assert positions(3, 5, 8, torch.device("meta")).device.type == "meta"
    assert torch.equal(positions(7, 9, 8, torch.device("cpu"))[:, :3, :5], found), (
        "they do not hang on the image's size"
    )


def test_the_vision_transformer_is_torchs_encoder_layers_on_patches(tiny):
    net = VisionTransformer(stages=2, depth=1, width=8, heads=2, hidden=12, patch=4, channels=3).eval()
    tiny.shaken(net, seed=1)
    x, generator = torch.rand(2, 3, 8, 12), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    tokens = F.conv2d((x - 0.5) / 0.25, net.patches.weight.view(8, 3, 4, 4), net.patches.bias, stride=4)
    tokens = (tokens + positions(2, 3, 8, x.device)).flatten(2).transpose(1, 2)
    for stage in net.stages:
        block = stage[0]
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ).train()
        with torch.no_grad():  # layer scales are folded into the last layer of each branch
            for mine, theirs, scale in (
                (block.norm1, layer.norm1, None), (block.norm2, layer.norm2, None),
                (block.attention.out, layer.self_attn.out_proj, block.scale1),
                (block.mlp[0], layer.linear1, None), (block.mlp[2], layer.linear2, block.scale2),
            ):  # fmt: skip
                factor = torch.ones(()) if scale is None else scale
                theirs.weight.copy_(mine.weight * (factor[:, None] if factor.ndim else factor))
                theirs.bias.copy_(mine.bias * factor)
            layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
            layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        tokens = layer(tokens)
    norm = net.stages[1][1]
    expected = F.layer_norm(tokens, (8,), norm.weight, norm.bias, 1e-6).mean(dim=1)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_a_convnext_is_its_formula(tiny):
    net = ConvNeXt(depths=(1, 1), widths=(4, 6), channels=1).eval()
    tiny.shaken(net, seed=1)
    w, x, generator = dict(net.named_parameters()), torch.rand(2, 1, 12, 16), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return scaled * w[f"{name}.weight"].view(-1, 1, 1) + w[f"{name}.bias"].view(-1, 1, 1)

    def halved(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"].view(-1, x.shape[1], 2, 2), w[f"{name}.bias"], stride=2)

    def block(name: str, x: Tensor) -> Tensor:
        out = F.conv2d(x, w[f"{name}.mix.weight"], w[f"{name}.mix.bias"], padding=3, groups=x.shape[1])
        out = torch.einsum("oc,bchw->bohw", w[f"{name}.widen.weight"].flatten(1), norm(f"{name}.norm", out))
        out = F.gelu(out + w[f"{name}.widen.bias"].view(-1, 1, 1))
        out = torch.einsum("oc,bchw->bohw", w[f"{name}.narrow.weight"].flatten(1), out)
        return x + w[f"{name}.scale"].view(-1, 1, 1) * (out + w[f"{name}.narrow.bias"].view(-1, 1, 1))

    out = block("stages.0.0", norm("norm", halved("patches", (x - 0.5) / 0.25)))
    out = block("stages.1.2", halved("stages.1.1", norm("stages.1.0", out)))
    torch.testing.assert_close(net(x), norm("stages.1.3", out).mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("grad", [True, False])
def test_a_map_that_is_changed_in_place_after_it_was_made_is_an_error(grad):
    """Trained beside the classifier a task would see it changed, and at test time, where the network stops, not."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)).eval()
    x = torch.rand(2, 1, 8, 8)
    with torch.set_grad_enabled(grad):
        for name in ("0", "2"):
            answer, maps = tapped(model, x, [name])
            assert torch.equal(maps[0], maps_of(model, x, [name])[0]) and torch.equal(answer, model(x))
        with pytest.raises(ConfigError, match=r"what the module '1' gives is changed in place after it.* tap a module"):
            tapped(model, x, ["0", "1"])


class Rescales(nn.Module):
    """Scales its logits in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mul_(2)


class Auxiliary(nn.Module):
    """Has a linear layer behind its head, which it does or does not run."""

    def __init__(self, runs: bool) -> None:
        super().__init__()
        self.runs, self.body, self.extra = runs, sequential(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(x)
        if self.runs:
            self.extra(logits)
        return logits


@pytest.mark.parametrize("make", [sequential, Nested, with_mlp])
def test_features_are_what_the_last_linear_layer_makes_the_logits_from(make):
    model, x = make().eval(), torch.rand(5, 1, 10, 10)
    x[1] = torch.nan
    logits, features = with_features(model, x)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(logits, model(x), equal_nan=True)
    torch.testing.assert_close(head(features), logits, equal_nan=True)


@pytest.mark.parametrize(
    ("make", "name"),
    [(Scaled, "head"), (Rescales, "body.4"), (lambda: Auxiliary(True), "extra"), (lambda: Auxiliary(False), "extra")],
    ids=["scaled", "scaled in place", "beside", "idle"],
)
def test_a_last_linear_layer_that_does_not_make_the_logits_is_an_error(make, name):
    model = make().eval()
    with pytest.raises(AdapterError, match=f"its last nn.Linear, '{name}', gives, .*crosstask.split"):
        with_features(model, torch.rand(2, 1, 10, 10))
    assert not any(module._forward_hooks for module in model.modules())
