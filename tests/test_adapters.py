"""One contract for all methods; and for each of its clauses an adapter that breaks it, which the check must notice."""

from __future__ import annotations

import copy
import dataclasses
import re

import pytest
import torch
from torch import nn

from crosstask import losses, testing
from crosstask.errors import AdapterError, CheckpointError, ConfigError, UnknownName
from crosstask.methods import (
    CTA,
    EATA,
    METHODS,
    PTBN,
    ROID,
    SAR,
    Adapter,
    DeYO,
    RoTTA,
    Source,
    Tent,
    check_arguments,
    make_adapter,
)
from crosstask.methods.batchnorm import norm_parameters
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier
from crosstask.testing import CLAUSES, check_adapter

NETS = {"gray": (1, "batch"), "colour": (3, "batch"), "group norm": (3, "group")}


FEW = {
    "steps": 2, "views": 3, "every": 4, "capacity": 4, "margin": 1.0, "difference": 0.0, "redundancy": 1.0,
    "fewest": 1, "confidence": 0.3, "queue": 8,
}  # fmt: skip
"""Arguments under which every method learns from four images within seconds."""


def few(method: str) -> dict[str, int | float]:
    arguments = {name: value for name, value in FEW.items() if name in METHODS[method].defaults}
    return arguments | ({"learning_rate": 1e-4} if method == "ttac" else {})  # random moments are far from the target's


def made_for(tiny, method: str, channels: int = 1, norm: str = "batch", classes: int = 5):
    """Return a checkpoint of the kind that the method needs, and all of its modules in one."""
    checkpoint = tiny.checkpoint(channels, norm, classes, kind=METHODS[method].needs)
    return checkpoint, nn.ModuleList([checkpoint.encoder, checkpoint.head, checkpoint.task])


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_contract(tiny, method, net):
    channels, norm = NETS[net]
    checkpoint, caller = made_for(tiny, method, channels, norm)
    if norm == "group" and method == "ptbn":
        with pytest.raises(AdapterError, match=r"batch-norm layers and found only .*GroupNorm"):
            make_adapter(method, checkpoint)
        return
    x = tiny.images(4, channels)
    if net == "colour":
        caller.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    check_adapter(lambda: make_adapter(method, checkpoint, **few(method)), x, model=caller)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["source", "mixed", "prior", "ema", "robust"])
@pytest.mark.parametrize("method", [name for name in METHODS if "batch_norm" in METHODS[name].defaults])
def test_every_policy_keeps_the_contract(tiny, method, policy):
    checkpoint, caller = made_for(tiny, method)
    arguments = {"batch_norm": policy, **few(method)}
    check_adapter(lambda: make_adapter(method, checkpoint, **arguments), tiny.images(4), model=caller)


@pytest.mark.parametrize(("policy", "channels"), [("batch", 1), ("robust", 3)])
def test_cta_with_a_memory_keeps_the_contract(tiny, policy, channels):
    checkpoint, caller = made_for(tiny, "cta", channels)
    arguments = {"memory": 10, "batch_norm": policy, "steps": 1}  # with five classes two of each have a place
    check_adapter(lambda: make_adapter("cta", checkpoint, **arguments), tiny.images(12, channels), model=caller)


def test_a_memory_takes_one_step_and_a_place_or_more(tiny):
    checkpoint, _ = made_for(tiny, "cta")
    with pytest.raises(ConfigError, match="after every 8 images: steps=1 and first_steps=1, not 20 and 1"):
        make_adapter("cta", checkpoint, memory=8)
    with pytest.raises(ConfigError, match="after every 8 images: steps=1 and first_steps=1, not 1 and 2"):
        make_adapter("cta", checkpoint, memory=8, steps=1, first_steps=2)
    with pytest.raises(ConfigError, match="for one step a batch: steps=1, not 20"):
        make_adapter("cta", checkpoint, first_steps=2)
    with pytest.raises(ConfigError, match="one place or more, got -1"):
        CTA(checkpoint.classifier, checkpoint.task, steps=1, memory=-1)


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_model_in_mixed_modes_stays_so_and_changes_nothing(tiny, method):
    checkpoint, caller = made_for(tiny, method)
    expected = make_adapter(method, checkpoint, **few(method))(tiny.images())
    caller.requires_grad_(False).train()
    modules = list(caller.modules())
    for module in modules[::2]:
        module.training = False
    modes = [module.training for module in modules]
    assert torch.equal(make_adapter(method, checkpoint, **few(method))(tiny.images()), expected)
    assert modes == [module.training for module in modules] and len({*modes}) == 2
    assert not any(parameter.requires_grad for parameter in caller.parameters())


@pytest.mark.parametrize("method", ["shot", "tent", "cotta", "cta", "rec-ttt"])
def test_momentum_follows_its_parameters_to_another_layout(tiny, method):
    """The fused step walks raw memory: in another layout it would add the momentum of another weight, unnoticed."""
    checkpoint, _ = made_for(tiny, method, channels=3)
    arguments = few(method) | {"learning_rate": 0.02}
    expected = make_adapter(method, checkpoint, **arguments)
    moved, loaded = (make_adapter(method, checkpoint, **arguments) for _ in range(2))
    x = tiny.images(6, channels=3)
    for adapter in (expected, moved):
        adapter(x)
    loaded.to(memory_format=torch.channels_last).load_state_dict(moved.state_dict())
    moved.to(memory_format=torch.channels_last)
    for adapter in (moved, loaded):
        torch.testing.assert_close(adapter(1 - x), copy.deepcopy(expected)(1 - x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_all_that_a_method_holds_lies_on_the_device_of_its_model(tiny, method):
    checkpoint, _ = made_for(tiny, method)
    elsewhere = dataclasses.replace(
        checkpoint, encoder=copy.deepcopy(checkpoint.encoder).to("meta"), head=copy.deepcopy(checkpoint.head).to("meta")
    )
    if method == "t3a":
        return  # it classifies the rows of the head when it is made, which needs their values
    adapter = make_adapter(method, elsewhere, **few(method))
    assert {tensor.device.type for tensor in (*adapter.parameters(), *adapter.buffers())} == {"meta"}


class Patches(nn.Module):
    """A network with layer norms alone, as transformers have them."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(1, 8, 4, 4)
        self.norm1, self.mix, self.norm2 = nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.norm1(self.cut(x).flatten(2).transpose(1, 2))
        return self.head(self.norm2(tokens + self.mix(tokens).relu()).mean(dim=1))


NORM_METHODS = {"tent": Tent, "eata": EATA, "sar": SAR, "deyo": DeYO, "roid": ROID, "rotta": RoTTA}


@pytest.mark.parametrize("method", NORM_METHODS)
def test_methods_that_move_norms_work_on_layer_norm_alone(tiny, method):
    model = tiny.shaken(Patches(), seed=3)
    fisher = {f"fisher.{name}": torch.ones(8) for name, _ in model.named_parameters() if "norm" in name}
    statistics = [fisher] if method == "eata" else []
    check_adapter(lambda: NORM_METHODS[method](model, *statistics, **few(method)), tiny.images(4), model=model)
    adapter = NORM_METHODS[method](model, *statistics, **few(method))
    assert sorted(adapter.adapted_names) == ["norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight"]


HEADS = {
    "two classes": (2, lambda width: nn.Linear(width, 2)),
    "two hundred": (200, lambda width: nn.Linear(width, 200)),
    "a head of several layers": (
        5,
        lambda width: nn.Sequential(
            nn.Linear(width, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 5)
        ),
    ),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_heads_of_all_kinds(tiny, method, head):
    classes, make = HEADS[head]
    checkpoint = tiny.checkpoint(classes=classes, kind=METHODS[method].needs)
    own = tiny.shaken(make(checkpoint.encoder.feature_dim), seed=3)
    names = tuple(str(index) for index in range(classes))
    statistics = checkpoint.statistics | tiny.statistics(Classifier(checkpoint.encoder, own), classes)
    if isinstance(own, nn.Sequential):
        norm = {f"fisher.head.1.{name}": torch.ones(9) for name in ("weight", "bias")}
        statistics |= norm
    checkpoint = dataclasses.replace(checkpoint, head=own, class_names=names, statistics=statistics)
    adapter, x = make_adapter(method, checkpoint, **few(method)), tiny.images()
    for batch in (x, x[:1], x[:5]):
        assert adapter(batch).shape == (len(batch), classes) and adapter(batch).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_in_the_precision_of_its_model(tiny, method):
    checkpoint, caller = made_for(tiny, method)
    x = tiny.images()
    exact = make_adapter(method, checkpoint, **few(method))(x)
    caller.to(torch.bfloat16)
    found = make_adapter(method, checkpoint, **few(method))(x.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16 and found.isfinite().all() and found.shape == exact.shape


@pytest.mark.parametrize("method", METHODS)
def test_only_what_moves_carries_a_gradient(tiny, method):
    adapter = make_adapter(method, made_for(tiny, method)[0], **few(method))
    adapter(tiny.images())
    moving = {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    listed = {f"model.{name}" for name in adapter.adapted_names if "running" not in name}
    assert moving == listed and all(parameter.grad is None for parameter in adapter.parameters())


@pytest.mark.parametrize("change", [lambda x: 255 * x, lambda x: 4 * x - 2])
def test_images_that_are_not_in_0_to_1_are_refused(tiny, change):
    """Views are cut to [0, 1]: a network of normalised images would adapt to something else, unnoticed."""
    adapter, x = make_adapter("source", tiny.checkpoint()), tiny.images()
    with pytest.raises(AdapterError, match=r"images in \[0, 1\], got values from .*; divide by 255, or put the norm"):
        adapter(change(x))
    adapter(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))  # noise that is not clipped


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs not in ("supervised", "aligned")])
def test_a_method_says_which_checkpoint_it_needs(tiny, method):
    needs = METHODS[method].needs
    supervised = dataclasses.replace(tiny.checkpoint(), kind="supervised", task=None, task_config=None, statistics={})
    with pytest.raises(AdapterError, match=rf"pretrain RECIPE --only {needs}`"):
        make_adapter(method, supervised)
    if needs != "joint":
        with pytest.raises(AdapterError, match="needs"):
            make_adapter(method, tiny.checkpoint())


def test_the_table_answers_mistakes(tiny):
    checkpoint = tiny.checkpoint()
    with pytest.raises(UnknownName, match="unknown method 'tnt'; did you mean 'tent'"):
        make_adapter("tnt", checkpoint)
    with pytest.raises(ConfigError, match=r"cta has 1 mistake\(s\):\n  step: unknown key; did you mean 'steps'\?"):
        make_adapter("cta", checkpoint, step=3)
    with pytest.raises(ConfigError, match="steps must be 0 or more, got -1"):
        Tent(checkpoint.classifier, steps=-1)
    with pytest.raises(UnknownName, match="batch-norm policy 'bacth'; did you mean 'batch'"):
        Tent(checkpoint.classifier, batch_norm="bacth")
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\], got 1.5"):
        PTBN(checkpoint.classifier, batch_norm="mixed", batch_share=1.5)
    with pytest.raises(
        AdapterError, match=r"CTA needs an encoder and a head, and got a TinyEncoder; see `crosstask.split`"
    ):
        CTA(checkpoint.encoder, checkpoint.task)
    supervised = {"kind": "supervised", "task": None, "task_config": None}
    with pytest.raises(AdapterError, match="ttt needs the checkpoint 'ttt' and this one is supervised"):
        make_adapter("ttt", _changed(checkpoint, **supervised))
    with pytest.raises(CheckpointError, match="no classifier"):
        make_adapter("source", _changed(checkpoint, head=None))


@pytest.mark.parametrize(
    ("name", "value", "mistake"),
    [
        ("steps", "abc", "valid integer"),
        ("steps", 2.5, "valid integer"),
        ("steps", True, "valid integer"),
        ("steps", -1, "greater than or equal to 0"),
        ("learning_rate", "0.1", "valid number"),
        ("learning_rate", 0.0, "greater than 0"),
        ("learning_rate", float("nan"), "finite number"),
        ("momentum", -1, "greater than or equal to 0"),
        ("batch_norm", "bacth", "'source', 'batch', 'mixed', 'prior', 'ema' or 'robust'"),
        ("batch_norm", 3, "'source', 'batch', 'mixed', 'prior', 'ema' or 'robust'"),
        ("batch_share", 1.5, "less than or equal to 1"),
        ("seed", "x", "valid integer"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_runs(name, value, mistake):
    with pytest.raises(ConfigError, match=rf"  {name}: .*{mistake}.*, got "):
        check_arguments("cta", {name: value})


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)3 mistake.*steps.*learning_rate.*speed: unknown key"):
        check_arguments("cta", {"steps": -1, "learning_rate": -1, "speed": 2})
    check_arguments("cta", {"steps": 3, "learning_rate": 1, "momentum": 0.0, "batch_norm": "source", "seed": 7})
    assert METHODS["cta"].defaults["steps"] == 20 and list(METHODS["source"].defaults) == []


def _changed(checkpoint, **fields):
    return type(checkpoint)(**{name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__} | fields)


@pytest.mark.parametrize("method", METHODS)
def test_the_table_describes_every_method(method):
    row = METHODS[method]
    assert method == method.lower() and row.summary.endswith(".") and row.moves and row.cost and row.paper


class Learner(Adapter):
    """A sound adapter: entropy on noisy images. The ones below each have one flaw."""

    def __init__(self, model, steps=2):
        super().__init__(model, steps=steps, batch_norm="batch")
        self.prepare(model)
        self.descent = Descent(torch.optim.SGD(self.begin(self.moving()), lr=0.05, momentum=0.9))

    def prepare(self, model):
        """Nothing more to do."""

    def moving(self):
        return norm_parameters(self.model)

    def loss(self, x, generator):
        return losses.entropy(self.model(x + 0.1 * torch.randn(x.shape, generator=generator)))

    def update(self, x, generator):
        self.descent(self.loss(x, generator))


class Careless(Learner):
    """Loops over the updates without any of the base's precautions."""

    def curve(self, x, at):
        logits = {}
        for step in range(max(at) + 1):
            if step in at:
                with torch.no_grad():
                    logits[step] = self.predict(x)
            if step < max(at):
                self.update(x, torch.Generator().manual_seed(self.batches_seen))
        self.batches_seen += 1
        return logits


class MovesKernelsCarelessly(Careless):
    def moving(self):
        return [name for name, parameter in self.model.named_parameters() if parameter.ndim > 1]


class Transposes(Learner):
    def predict(self, x):
        return self.model(x).T


class AnswersNotANumber(Learner):
    def predict(self, x):
        return self.model(x) * torch.nan


class LeavesTheGraph(Learner):
    def predict(self, x):
        with torch.enable_grad():
            return self.model(x)


class WritesIntoTheBatch(Learner):
    def predict(self, x):
        return self.model(x.mul_(0.5))


class AdaptsTheCallersModel(Learner):
    def prepare(self, model):
        self.model = model.requires_grad_(False)


class SwitchesTheCallersModel(Learner):
    def prepare(self, model):
        model.eval()


class FreezesTheCallersModel(Learner):
    def prepare(self, model):
        model.requires_grad_(False)


class KeepsMomentum(Learner):
    def reset(self):
        kept = copy.deepcopy(self.descent.optimiser.state_dict())
        super().reset()
        self.descent.optimiser.load_state_dict(kept)


class KeepsCounting(Learner):
    def reset(self):
        seen = self.batches_seen
        super().reset()
        self.batches_seen = seen


class KeepsWeights(Learner):
    def reset(self):
        self.descent.forget()
        self.batches_seen = 0


class KeepsAHiddenTensor(Learner):
    mean = 0.0

    def predict(self, x):
        logits = self.model(x)
        self.mean = 0.9 * self.mean + 0.1 * logits.mean(dim=0)
        return logits - self.mean


class MovesMoreThanItSays(Learner):
    def update(self, x, generator):
        super().update(x, generator)
        self.model.head.bias.data.add_(0.01)


class MovesRunningStatistics(Learner):
    """Batch statistics by train mode, as many published adapters do it."""

    def prepare(self, model):
        self.model = copy.deepcopy(model).requires_grad_(False)

    def predict(self, x):
        return self.model.train()(x)


class NamesWhatIsNot(Learner):
    def __init__(self, model):
        super().__init__(model)
        self.adapted_names = [*self.adapted_names, "encoder.norm9.weight"]


class LearnsNothing(Learner):
    def update(self, x, generator):
        self.loss(x, generator)


class SavesNoCount(Learner):
    def get_extra_state(self):
        return {"batches_seen": 0}


class SavesNoMomentum(Learner):
    def __init__(self, model):
        super().__init__(model)
        self.descent.get_extra_state = lambda: {"optimiser": self._untouched, "refused": 0}
        self._untouched = copy.deepcopy(self.descent.optimiser.state_dict())


class SavesCode(Learner):
    def get_extra_state(self):
        return {"batches_seen": self.batches_seen, "loss": losses.entropy}


class LoadsByReference(Learner):
    def __init__(self, model):
        super().__init__(model)
        self.descent.set_extra_state = lambda state: self.descent.optimiser.load_state_dict(state["optimiser"])


class FollowsTheMode(Learner):
    def prepare(self, model):
        self.model.head = nn.Sequential(self.model.head, nn.Dropout(0.5))

    def train(self, mode=True):
        return nn.Module.train(self, mode)


class FollowsTheCallersMode(Learner):
    def prepare(self, model):
        self.training_at_the_callers = model.training

    def predict(self, x):
        return self.model(x) * (2 if self.training_at_the_callers else 1)


class OverflowsInBfloat16(Learner):
    def predict(self, x):
        logits = self.model(x)
        return logits * (torch.inf if logits.dtype == torch.bfloat16 else 1)


class DriftsInBfloat16(Learner):
    def predict(self, x):
        logits = self.model(x)
        return logits * (1.5 if logits.dtype == torch.bfloat16 else 1)


class SqueezesTheBatch(Learner):
    def predict(self, x):
        return self.model(x).squeeze()


class DividesByTheDeviation(Learner):
    def predict(self, x):
        logits = self.model(x)
        return logits / (logits - logits.mean(dim=0)).square().mean()


class IgnoresInferenceMode(Learner):
    def curve(self, x, at):
        with torch.inference_mode(False):
            return super().curve(x.clone(), at)


class HelpsNobody(Learner):
    def curve(self, x, at):
        if torch.is_inference_mode_enabled():
            raise AdapterError("no")
        return super().curve(x, at)


class TakesAnything(Learner):
    def curve(self, x, at):
        return super().curve(x.float(), at)


class TrustsTheLoss(Learner):
    def update(self, x, generator):
        self.descent.optimiser.zero_grad()
        self.loss(x, generator).backward()
        self.descent.optimiser.step()


class GivesUpForGood(Learner):
    def update(self, x, generator):
        self.sick = getattr(self, "sick", False) or not bool(x.isfinite().all())
        if not self.sick:
            super().update(x, generator)


class TakesOneMoreStep(Learner):
    def forward(self, x):
        return self.curve(x, (self.steps, self.steps + 1))[self.steps]


class SkipsPoints(Learner):
    def curve(self, x, at):
        return super().curve(x, (max(at),)) if at else super().curve(x, at)


class SharesAClosure(Learner):
    def __init__(self, model):
        super().__init__(model)
        self.step = lambda loss: self.descent(loss)

    def update(self, x, generator):
        self.step(self.loss(x, generator))


class DrawsFromTheGlobalState(Learner):
    def loss(self, x, generator):
        return losses.entropy(self.model(x + 0.1 * torch.randn(x.shape)))


BREAKS = {
    Transposes: "logits",
    AnswersNotANumber: "logits",
    LeavesTheGraph: "logits",
    WritesIntoTheBatch: "logits",
    AdaptsTheCallersModel: "caller's model",
    SwitchesTheCallersModel: "caller's model",
    FreezesTheCallersModel: "caller's model",
    KeepsMomentum: "reset",
    KeepsCounting: "reset",
    KeepsWeights: "reset",
    KeepsAHiddenTensor: "reset",
    MovesMoreThanItSays: "adapted_names",
    MovesRunningStatistics: "adapted_names",
    NamesWhatIsNot: "adapted_names",
    LearnsNothing: "adapted_names",
    SavesNoCount: "state_dict",
    SavesNoMomentum: "state_dict",
    SavesCode: "state_dict",
    LoadsByReference: "state_dict",
    FollowsTheMode: "train and eval mode",
    FollowsTheCallersMode: "train and eval mode",
    Careless: "no_grad",
    OverflowsInBfloat16: "autocast",
    DriftsInBfloat16: "autocast",
    MovesKernelsCarelessly: "autocast cache",
    SqueezesTheBatch: "batch sizes",
    DividesByTheDeviation: "batch sizes",
    IgnoresInferenceMode: "inference_mode",
    HelpsNobody: "inference_mode",
    TakesAnything: "wrong input",
    TrustsTheLoss: "non-finite loss",
    GivesUpForGood: "non-finite loss",
    TakesOneMoreStep: "curve",
    SkipsPoints: "curve",
    SharesAClosure: "deepcopy",
    DrawsFromTheGlobalState: "random state",
}


def broken_clauses(factory, example, model=None):
    """Return the names of the clauses that `check_adapter` reports."""
    with pytest.raises(AdapterError, match="of the adapter contract broken") as caught:
        check_adapter(factory, example, model=model)
    lines = str(caught.value).splitlines()
    names = [re.match(r"  ([^:]+): \S", line) for line in lines[1:]]
    return [match[1] for match in names if match]


def test_the_sound_adapter_passes(tiny):
    model = tiny.classifier()
    check_adapter(lambda: Learner(model), tiny.images(), model=model)


@pytest.mark.parametrize(("flawed", "clause"), BREAKS.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_flawed_adapter_breaks_its_clause(tiny, monkeypatch, flawed, clause):
    monkeypatch.setattr(testing, "CLAUSES", {clause: CLAUSES[clause]})
    model = tiny.classifier()
    assert broken_clauses(lambda: flawed(model), tiny.images(4), model) == [clause]


def test_every_clause_can_fail():
    assert set(BREAKS.values()) == set(CLAUSES)


def test_a_factory_returns_the_same_adapter_anew(tiny):
    model, adapter, seeds = tiny.classifier(), Source(tiny.classifier()), iter(range(9))
    assert broken_clauses(lambda: adapter, tiny.images()) == ["factory"]
    assert broken_clauses(lambda: model, tiny.images()) == ["factory"]
    assert broken_clauses(lambda: Source(tiny.classifier(seed=next(seeds))), tiny.images()) == ["factory"]


def test_all_broken_clauses_are_named_at_once(tiny):
    class Both(DrawsFromTheGlobalState, Transposes):
        pass

    assert {"logits", "random state"} <= set(broken_clauses(lambda: Both(tiny.classifier()), tiny.images()))


@pytest.mark.parametrize("example", [torch.rand(3, 1, 12, 12), torch.rand(6, 12, 12), torch.ones(6, 1, 12, 12).int()])
def test_an_example_has_to_be_a_batch(tiny, example):
    with pytest.raises(ConfigError, match=r"float example \[B, C, H, W\] with B >= 4"):
        check_adapter(lambda: Source(tiny.classifier()), example)


def test_no_norm_layer_is_an_error_that_lists_what_there_is():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(AdapterError, match=r"nothing to adapt: .* among Flatten, Linear, Sequential"):
        Tent(plain)
    with pytest.raises(AdapterError, match=r"found only Flatten, Linear, Sequential"):
        PTBN(plain)
    check_adapter(lambda: Source(plain), torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0)))
