"""TTT, TTTFlow, ClusT3 and NC-TTT: tasks on maps from inside the encoder, and what they teach it at test time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.config import Supervised
from crosstask.data.images import ImageSet
from crosstask.errors import AdapterError, ConfigError, UnknownName
from crosstask.methods.clust3 import ClusT3
from crosstask.methods.nc_ttt import NCTTT
from crosstask.methods.ttt import TTT
from crosstask.methods.tttflow import TTTFlow
from crosstask.nets.encoders import initialise, make_encoder
from crosstask.nets.taps import maps_of
from crosstask.tasks.base import JointTask
from crosstask.tasks.clusters import Clusters
from crosstask.tasks.flow import Coupling, Flow, RealNVP
from crosstask.tasks.noise import Noise
from crosstask.tasks.rotation import Rotation
from crosstask.testing import check_adapter
from crosstask.train.joint import pretrain_joint, pretrain_on_frozen
from crosstask.train.loop import Run
from test_methods import CPU, close, weights

NAMES = ("ttt", "tttflow", "clust3", "nc-ttt")
TASKS: dict[str, Callable[..., JointTask]] = {"ttt": Rotation, "tttflow": Flow, "clust3": Clusters, "nc-ttt": Noise}
ADAPTERS = {"ttt": TTT, "tttflow": TTTFlow, "clust3": ClusT3, "nc-ttt": NCTTT}
SMALL = {
    "ttt": {"views": 8},
    "tttflow": {"hidden": 6},
    "clust3": {"projectors": 3, "clusters": 4},
    "nc-ttt": {"embedding": 80, "hidden": 3, "large": 0.4, "small": 0.1},
}
SHAPE = (1, 12, 12)


def made(tiny, name: str, encoder: nn.Module, shape=SHAPE, layers: str = "norm1", **arguments) -> JointTask:
    """Return a task in train mode whose every weight and statistic was drawn."""
    task = tiny.shaken(TASKS[name](encoder, shape, layers=layers, **SMALL[name], **arguments), seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.ndim < 2:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return task


def seeded(*parts: object) -> torch.Generator:
    return runtime.generator(CPU, *parts)


# The losses, from their formulas.


def plain_clusters(task: Clusters, map_: Tensor) -> Tensor:
    kernel, bias = task.projectors[0].weight.flatten(1), task.projectors[0].bias
    positions, total = map_.permute(0, 2, 3, 1).flatten(0, 2), torch.zeros(())
    for start in range(0, len(kernel), task.clusters):
        own = slice(start, start + task.clusters)
        p = (positions @ kernel[own].T + bias[own]).softmax(dim=1)
        mean = p.mean(dim=0)
        total = total - (p * p.log()).sum(dim=1).mean() + (mean * mean.log()).sum()
    return total


def plain_judgement(task: Noise, z: Tensor) -> Tensor:
    """The discriminator with its running averages."""
    first, norm, _, last = task.discriminators[0]
    hidden = z @ first.weight.T + first.bias
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return (torch.where(hidden > 0, hidden, 0.2 * hidden) @ last.weight.T).squeeze(1)


def plain_projection(task: Noise, map_: Tensor) -> Tensor:
    projector = task.projectors[0]
    depth, channels = projector.weight.shape[:2]
    z = torch.einsum("dc,bchw->bdhw", projector.weight.flatten(1), map_) + projector.bias.view(1, -1, 1, 1)
    return (z * (depth / (channels + depth)) ** 0.5).flatten(1)


def plain_noise(task: Noise, map_: Tensor) -> Tensor:
    return (1 + plain_judgement(task, plain_projection(task, map_)).exp()).log().mean()


def plain_coupling(coupling: Coupling, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which elements move, their log-scales and their shifts, for running averages in batch norm."""

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)

    first, one, two, last_norm, _, last = coupling.network
    moves = torch.tensor(
        [[float((i + j) % 2 != coupling.parity) for j in range(z.shape[3])] for i in range(z.shape[2])]
    )
    out = F.conv2d(torch.where(moves > 0, 0, z), first.weight, first.bias, padding=1)
    for block in (one, two):
        inner = F.conv2d(norm(block.norm1, out).relu(), block.conv1.weight)
        inner = F.conv2d(norm(block.norm2, inner).relu(), block.conv2.weight, padding=1)
        out = out + F.conv2d(norm(block.norm3, inner).relu(), block.conv3.weight)
    out = F.conv2d(norm(last_norm, out).relu(), last.weight, last.bias)
    channels = z.shape[1]
    return moves, coupling.a * out[:, :channels].tanh() + coupling.b, out[:, channels:]


def plain_flow_of(flow: RealNVP, z: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.zeros_like(z)
    for index, part in enumerate(flow.transforms):
        if index % 2:
            z = (z + part.bias.view(1, -1, 1, 1)) * part.log_scale.exp().view(1, -1, 1, 1)
            total = total + part.log_scale.view(1, -1, 1, 1)
        else:
            moves, log_scale, shift = plain_coupling(part, z)
            z = torch.where(moves > 0, z * log_scale.exp() + shift, z)
            total = total + moves * log_scale
    return z, total


def plain_flow(task: Flow, map_: Tensor) -> Tensor:
    z, total = plain_flow_of(task.flows[0], map_)
    return -(torch.distributions.Normal(0.0, 1.0).log_prob(z) + total).mean()


def plain_rotation(branch: dict[str, Tensor], map_: Tensor, turns: Tensor) -> Tensor:
    out = F.conv2d(map_, branch["0.weight"], branch["0.bias"], stride=2, padding=1).clamp(min=0).mean(dim=(2, 3))
    log_p = (out @ branch["4.weight"].T + branch["4.bias"]).log_softmax(dim=1)
    return -log_p[torch.arange(len(turns)), turns].mean()


class Plain:
    """The tiny classifier by hand: batch norm is in train mode in an update, with momentum `share`, else in eval mode.

    `share` 1 is the policy `batch`: statistics of the current batch, always.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.head, self.w, self.share = model.head, weights(model.encoder), share
        layers = {"norm1": model.encoder.norm1, "norm2": model.encoder.norm2}
        self.running = {name: [n.running_mean.clone(), n.running_var.clone()] for name, n in layers.items()}

    def norm(self, name: str, x: Tensor, learns: bool) -> Tensor:
        mean, var = self.running[name]
        if learns or self.share == 1:
            mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        if learns and self.share < 1:
            for kept, new in zip(self.running[name], (mean, var), strict=True):
                kept.mul_(1 - self.share).add_(self.share * new.detach())
        scale = self.w[f"{name}.weight"] / (var + 1e-5).sqrt()
        return (x - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + self.w[f"{name}.bias"].view(1, -1, 1, 1)

    def map(self, x: Tensor, learns: bool) -> Tensor:
        """Return what `norm1` gives."""
        return self.norm("norm1", F.conv2d((x - 0.5) / 0.25, self.w["conv1.weight"], stride=2, padding=1), learns)

    def logits(self, map_: Tensor, learns: bool) -> Tensor:
        out = self.norm("norm2", F.conv2d(map_.relu(), self.w["conv2.weight"], stride=2, padding=1), learns)
        return out.relu().mean(dim=(2, 3)) @ self.head.weight.T + self.head.bias


UPSTREAM = ("conv1.weight", "norm1.weight", "norm1.bias")


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request) -> bool:
    """Return the mode in which the caller hands over model and task."""
    return request.param


def check_state(adapter: nn.Module, plain: Plain) -> None:
    for name, expected in plain.w.items():
        close(adapter.model.get_parameter(f"encoder.{name}"), expected)
    for name, (mean, var) in plain.running.items():
        close(adapter.model.get_buffer(f"encoder.{name}.running_mean"), mean)
        close(adapter.model.get_buffer(f"encoder.{name}.running_var"), var)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["clust3", "nc-ttt"])
def test_clust3_and_nc_ttt_are_adam_up_to_the_layer(tiny, training, steps, name):
    model = tiny.classifier().train(training)
    task = made(tiny, name, model.encoder).train(training)
    adapter = ADAPTERS[name](model, task, steps=steps, learning_rate=0.02)
    formula = {"clust3": plain_clusters, "nc-ttt": plain_noise}[name]
    plain, first, second = Plain(model, 0.1), dict.fromkeys(UPSTREAM, 0.0), dict.fromkeys(UPSTREAM, 0.0)
    count = 0
    for x in (tiny.images(seed=1), tiny.images(seed=2)):  # the second batch goes on from the first: online
        for _ in range(steps):
            map_ = plain.map(x, True)
            plain.logits(map_, True)  # the averages of the later norm move as well
            count += 1
            gradients = torch.autograd.grad(formula(task, map_), [plain.w[n] for n in UPSTREAM])
            for n, g in zip(UPSTREAM, gradients, strict=True):
                first[n] = 0.9 * first[n] + 0.1 * g
                second[n] = 0.999 * second[n] + 0.001 * g**2
                step = first[n] / (1 - 0.9**count) / ((second[n] / (1 - 0.999**count)).sqrt() + 1e-8)
                plain.w[n] = (plain.w[n] - 0.02 * step).detach().requires_grad_()
        close(adapter(x), plain.logits(plain.map(x, False), False))
    check_state(adapter, plain)


@pytest.mark.parametrize("steps", [1, 3])
def test_tttflow_is_momentum_and_decay_up_to_the_layer(tiny, training, steps):
    model = tiny.classifier().train(training)
    task = made(tiny, "tttflow", model.encoder).train(training)
    adapter = TTTFlow(model, task, steps=steps, learning_rate=0.02, momentum=0.8, weight_decay=0.1)
    plain, momentum = Plain(model, 0.1), dict.fromkeys(UPSTREAM, 0.0)
    for x in (tiny.images(seed=1), tiny.images(seed=2)):
        for _ in range(steps):  # the later norm stays as it is: only the extractor runs
            gradients = torch.autograd.grad(plain_flow(task, plain.map(x, True)), [plain.w[n] for n in UPSTREAM])
            for n, g in zip(UPSTREAM, gradients, strict=True):
                momentum[n] = 0.8 * momentum[n] + g + 0.1 * plain.w[n].detach()
                plain.w[n] = (plain.w[n] - 0.02 * momentum[n]).detach().requires_grad_()
        close(adapter(x), plain.logits(plain.map(x, False), False))
    check_state(adapter, plain)


@pytest.mark.parametrize("steps", [1, 3])
def test_ttt_is_plain_descent_of_extractor_and_branch(tiny, training, steps):
    model = tiny.classifier().train(training)
    task = made(tiny, "ttt", model.encoder).train(training)
    adapter = TTT(model, task, steps=steps, learning_rate=0.05, seed=7)
    plain, branch = Plain(model, 1.0), weights(task.branch)
    for seen, x in enumerate((tiny.images(seed=1), tiny.images(seed=2))):
        for step in range(steps):
            views, turns = task.turned_views(x, seeded(7, seen, step))
            moving = [*(plain.w[n] for n in UPSTREAM), *branch.values()]
            gradients = torch.autograd.grad(plain_rotation(branch, plain.map(views, True), turns), moving)
            moved = [(w - 0.05 * g).detach().requires_grad_() for w, g in zip(moving, gradients, strict=True)]
            plain.w |= dict(zip(UPSTREAM, moved, strict=False))
            branch = dict(zip(branch, moved[len(UPSTREAM) :], strict=True))
        close(adapter(x), plain.logits(plain.map(x, False), False))
    check_state(adapter, plain)
    for name, expected in branch.items():
        close(adapter.model.get_parameter(f"task.branch.{name}"), expected)


# The contract.


NETS = ("gray", "colour", "group norm", "later layer", "two layers")
CASES = [(name, net) for name in NAMES for net in NETS if (name, net) != ("ttt", "two layers")]


@pytest.mark.parametrize(("name", "net"), CASES)
def test_every_method_keeps_the_contract(tiny, name, net):
    channels, norm = (3 if net == "colour" else 1), ("group" if net == "group norm" else "batch")
    layers = {"later layer": "norm2", "two layers": "conv1, norm2"}.get(net, "norm1")
    model = tiny.classifier(channels, norm)
    task = made(tiny, name, model.encoder, (channels, 12, 12), layers)
    check_adapter(lambda: ADAPTERS[name](model, task, steps=2), tiny.images(channels=channels), model=model)


@pytest.mark.parametrize("policy", ["source", "batch", "mixed", "prior", "ema", "robust"])
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_keeps_the_contract(tiny, name, policy):
    model = tiny.classifier(classes=2)
    task = made(tiny, name, model.encoder)
    check_adapter(lambda: ADAPTERS[name](model, task, steps=2, batch_norm=policy), tiny.images(), model=model)


@pytest.mark.parametrize("name", NAMES)
def test_what_moves_is_upstream_and_the_rest_of_the_task_stays(tiny, name):
    model = tiny.classifier()
    task = made(tiny, name, model.encoder)
    before = copy.deepcopy(task.state_dict())
    adapter = ADAPTERS[name](model, task, steps=2)
    adapter(tiny.images())
    own = [n for n in adapter.adapted_names if "running" not in n and not n.startswith("task.")]
    assert own == [f"encoder.{n}" for n in UPSTREAM]
    assert any(n.startswith("task.branch.") for n in adapter.adapted_names) == (name == "ttt")
    assert all(torch.equal(tensor, before[key]) for key, tensor in task.state_dict().items())
    if name != "ttt":
        assert all(torch.equal(tensor, before[key]) for key, tensor in adapter.task.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_adapters_say_what_they_need(tiny, name):
    model = tiny.classifier()
    task, other = made(tiny, name, model.encoder), NAMES[NAMES.index(name) - 1]
    adapter, kind = ADAPTERS[name], TASKS[name].__name__
    with pytest.raises(AdapterError, match=r"needs an encoder and a head, and got a Sequential; see `crosstask.split`"):
        adapter(nn.Sequential(model.encoder, model.head), task)
    wrong = TASKS[other].__name__
    with pytest.raises(AdapterError, match=f"needs the {kind} task .* got a {wrong}"):
        adapter(model, made(tiny, other, model.encoder))
    task.upstream = ["conv9.weight"]
    with pytest.raises(AdapterError, match=r"made for another encoder: it teaches conv9\.weight"):
        adapter(model, task)


@pytest.mark.parametrize("name", NAMES)
def test_descending_lowers_the_loss_of_the_task(tiny, name):
    model, x = tiny.classifier(), tiny.images(count=16, seed=3)
    task = made(tiny, name, model.encoder)
    adapter = ADAPTERS[name](model, task, steps=30, learning_rate=5e-3)
    own = adapter.model.task if name == "ttt" else adapter.task

    def loss() -> float:
        with torch.no_grad():
            return float(sum(own(adapter.model.encoder, x, seeded("fixed", i)) for i in range(8)))

    adapter.curve(x, (0,))
    before = loss()
    adapter(x)
    assert loss() < before


# Source time.


def slopes(count: int = 32) -> ImageSet:
    """Return images that grow brighter from left to right: what is up can be told."""
    noise = torch.randint(0, 60, (count, 1, 12, 12), generator=torch.Generator().manual_seed(0))
    pixels = (noise + 16 * torch.arange(12)).to(torch.uint8)
    labels = torch.arange(count) % 2
    return ImageSet(images=pixels, labels=labels, class_names=("a", "b"), name="slopes")


@pytest.mark.parametrize("name", NAMES)
def test_training_at_source_time_lowers_the_loss_of_the_task(tiny, name):
    images, run = slopes(), Run(seed=0, device=CPU, precision="float32")
    model = tiny.classifier(classes=2)
    task = TASKS[name](model.encoder, SHAPE, layers="norm1", **SMALL[name])
    initialise(task, torch.Generator().manual_seed(3))
    x = images.images / 255
    before_training = copy.deepcopy(model.encoder.state_dict())

    def loss() -> float:
        model.train(name != "tttflow"), task.train()
        with torch.no_grad():
            return float(sum(task.joint(copy.deepcopy(model.encoder), x, seeded(i))[1] for i in range(4)) / 4)

    before = loss()
    how = Supervised(epochs=20, batch_size=16, learning_rate=0.05, crop=(0.9, 1.0))
    if name == "tttflow":
        pretrain_on_frozen(model.encoder, task, images, how, run)
        after = model.encoder.state_dict()
        assert all(torch.equal(tensor, after[key]) for key, tensor in before_training.items())
    else:
        pretrain_joint(model, task, images, how, run)
    assert loss() < 0.9 * before


@pytest.mark.parametrize("name", NAMES)
def test_joint_gives_the_features_of_the_encoder(tiny, name):
    encoder, x = tiny.encoder().eval(), tiny.images()
    task = made(tiny, name, encoder).eval()
    features, loss = task.joint(encoder, x, seeded(0))
    assert torch.equal(features, encoder(x)) and loss.ndim == 0 and loss.requires_grad
    held = {p.data_ptr() for p in task.parameters()}
    assert not held & {p.data_ptr() for p in encoder.parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        rough = task.joint(encoder, x, seeded(0))[1]
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, loss, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_fit_our_own_networks(name):
    encoder = make_encoder("resnet-small", 3)
    task = TASKS[name](encoder, (3, 32, 32))
    initialise(task, torch.Generator().manual_seed(0))
    assert task.upstream and all(n.startswith(("conv", "norm", "stages.0", "stages.1")) for n in task.upstream)
    assert encoder.stages[1][0].conv1.weight.requires_grad
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features, loss = task.joint(encoder, x, seeded(0))
    (features.sum() + loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    task.eval()(encoder.eval(), x, seeded(0)).backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_methods_work_in_the_precision_of_their_model(tiny, name, dtype):
    model, x = tiny.classifier(), tiny.images()
    task = made(tiny, name, model.encoder)
    exact = ADAPTERS[name](model, task, steps=2)(x)
    other = ADAPTERS[name](copy.deepcopy(model).to(dtype), copy.deepcopy(task).to(dtype), steps=2)(x.to(dtype))
    assert other.dtype == dtype
    torch.testing.assert_close(other.float(), exact, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_in_a_task_are_named(tiny, name):
    encoder = tiny.encoder()
    with pytest.raises(UnknownName, match=r"unknown module to tap 'norm3'; did you mean"):
        TASKS[name](encoder, SHAPE, layers="norm3")
    model = nn.Sequential(encoder, nn.Linear(12, 5))
    with pytest.raises(ConfigError, match=r"needs maps \[B, C, H, W\], and the module '1' gives \[B, 5\]"):
        TASKS[name](model, SHAPE, layers="1")


def test_arguments_that_contradict_are_named(tiny):
    with pytest.raises(ConfigError, match="quarter turns need square images, got 12 x 16 pixels"):
        Rotation(tiny.encoder(), (1, 12, 16), layers="norm1")
    with pytest.raises(ConfigError, match="after one layer, got norm1, norm2"):
        Rotation(tiny.encoder(), SHAPE, layers="norm1,norm2")
    with pytest.raises(ConfigError, match=r"large noise must be larger than the small one, got 0\.1 and 0\.1"):
        Noise(tiny.encoder(), SHAPE, layers="norm1", large=0.1, small=0.1)


# Each task by itself.


def test_the_loss_of_several_layers_is_their_sum(tiny):
    encoder, x = tiny.encoder().eval(), tiny.images()
    for name in ("tttflow", "clust3", "nc-ttt"):
        both = made(tiny, name, encoder, layers="norm1,norm2").eval()
        total = 0.0
        for index, layer in enumerate(("norm1", "norm2")):
            one = made(tiny, name, encoder, layers=layer).eval()
            for part, own in both.named_children():
                one.get_submodule(part)[0].load_state_dict(own[index].state_dict())
            total += float(one(encoder, x, seeded(0)).detach())
        assert float(both(encoder, x, seeded(0)).detach()) == pytest.approx(total, rel=1e-4)


def test_clusters_are_best_when_sure_and_even(tiny):
    task = Clusters(tiny.encoder(), SHAPE, layers="norm1", projectors=1, clusters=4)
    nn.init.zeros_(task.projectors[0].bias)
    with torch.no_grad():
        task.projectors[0].weight.copy_(torch.eye(4, 8).view(4, 8, 1, 1))
    even = 100 * torch.eye(8)[torch.arange(64) % 4].T.reshape(1, 8, 8, 8)
    assert float(task.loss([even]).detach()) == pytest.approx(-math.log(4), rel=1e-4)
    assert float(task.loss([torch.zeros(1, 8, 8, 8)]).detach()) == pytest.approx(0, abs=1e-6)
    collapsed = torch.zeros(1, 8, 8, 8, requires_grad=True)
    loss = task.loss([collapsed + 1e4 * torch.eye(8)[0].view(1, 8, 1, 1)])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and collapsed.grad.isfinite().all()


@pytest.mark.parametrize("dimensions", [5, 4096])
def test_the_posterior_of_noise_is_that_of_two_gaussians(tiny, dimensions):
    task = Noise(tiny.encoder(), SHAPE, layers="norm1", large=0.1, small=0.015 if dimensions > 9 else 0.06)
    noise = torch.randn(8, dimensions, generator=torch.Generator().manual_seed(0))
    noise = noise * torch.tensor([0.1, task.small]).repeat_interleave(4).view(-1, 1)
    likely = [torch.distributions.Normal(0.0, s).log_prob(noise.double()).sum(dim=1) for s in (task.large, task.small)]
    expected = torch.stack(likely).softmax(dim=0)[0].float()
    found = task.posterior(noise)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    if dimensions > 9:
        assert found.tolist() == [1.0] * 4 + [0.0] * 4


def test_the_source_loss_of_noise_is_the_cross_entropy_with_the_posterior(tiny):
    encoder, x = tiny.encoder().eval(), tiny.images()
    task = made(tiny, "nc-ttt", encoder).eval()
    assert task.projectors[0].weight.shape[0] == 80 // 36
    z = plain_projection(task, maps_of(encoder, x, ["norm1"])[0])
    draws, total = torch.randn(2, *z.shape, generator=seeded(4)), torch.zeros(())
    for sigma, draw in zip((0.4, 0.1), draws, strict=True):
        e = sigma * draw
        q = plain_judgement(task, z + e).sigmoid()
        ratio = [-(e**2).sum(dim=1) / (2 * s**2) - e.shape[1] * math.log(s) for s in (0.4, 0.1)]
        y = 1 / (1 + (ratio[1] - ratio[0]).exp())
        total = total - (y * q.log() + (1 - y) * (1 - q).log()).mean() / 2
    close(task.joint(encoder, x, seeded(4))[1].detach(), total)


def test_the_loss_of_noise_is_finite_however_large_the_maps():
    encoder = make_encoder("resnet-small", 3).eval()
    task = Noise(encoder, (3, 32, 32))
    initialise(task, torch.Generator().manual_seed(0))
    x = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert task.joint(encoder, 1e3 * x, seeded(0))[1].isfinite()


def test_the_flow_is_invertible_and_knows_its_jacobian(tiny):
    flow = tiny.shaken(RealNVP(channels=2, hidden=5), seed=3).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.ndim < 2:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    x = torch.randn(1, 2, 3, 4, generator=generator)
    z, log_scale = flow(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x).view(24, 24)
    close(log_scale.sum().detach(), torch.linalg.slogdet(jacobian)[1])
    for index, part in reversed(list(enumerate(flow.transforms))):
        if index % 2:
            z = z * (-part.log_scale).exp().view(1, -1, 1, 1) - part.bias.view(1, -1, 1, 1)
        else:
            moves, scale, shift = plain_coupling(part, z)
            z = torch.where(moves > 0, (z - shift) * (-scale).exp(), z)
    close(z.detach(), x)


def test_every_element_moves_in_a_flow_that_begins_at_scale_one(tiny):
    flow = RealNVP(channels=2, hidden=5)
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    z, log_scale = flow(x)
    assert not log_scale.any() and bool((z != x).all())


def test_turns_are_quarter_turns_of_crops(tiny):
    task, x = made(tiny, "ttt", tiny.encoder()), tiny.images(count=3)
    views, turns = task.turned_views(x, seeded(0))
    assert len(views) == 9 and turns.unique().numel() > 1, "8 views of 3 images are 3 of each"
    crops = task.sampler.geometric(x.repeat(3, 1, 1, 1), seeded(0))
    for view, crop, turn in zip(views, crops, turns.tolist(), strict=True):
        for _ in range(turn):
            crop = crop.flip(2).transpose(1, 2)  # a quarter against the clock
        assert torch.equal(view, crop)


def test_images_that_are_not_square_are_not_turned(tiny):
    model = tiny.classifier()
    adapter = TTT(model, made(tiny, "ttt", model.encoder), steps=1)
    with pytest.raises(ConfigError, match="quarter turns need square images, got 12 x 10 pixels"):
        adapter(tiny.images()[..., :10])


def test_at_source_time_every_image_is_turned_four_ways(tiny):
    encoder, x = tiny.encoder().eval(), tiny.images()
    task = made(tiny, "ttt", encoder)
    branch = weights(task.branch)
    expected = torch.zeros(())
    for turns in range(4):
        turned = x.rot90(turns, (2, 3))
        plain = Plain(nn.ModuleDict({"encoder": encoder, "head": nn.Linear(12, 5)}), 0.1)
        expected = expected + plain_rotation(branch, plain.map(turned, False), torch.full((6,), turns)) / 4
    close(task.joint(encoder, x, seeded(0))[1].detach(), expected)


def test_the_branch_is_a_copy_of_the_stages_that_follow():
    encoder = make_encoder("resnet-small", 1)
    task = Rotation(encoder, (1, 32, 32), layers="stages.0")
    stages = task.branch[0]
    assert len(stages) == 2 and torch.equal(stages[1][0].conv1.weight, encoder.stages[2][0].conv1.weight)
    assert stages[1][0].conv1.weight is not encoder.stages[2][0].conv1.weight
    assert len(Rotation(encoder, (1, 32, 32), layers="stages.2").branch[0]) == 0
