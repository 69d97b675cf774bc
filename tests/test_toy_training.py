"""The methods whose source model is made for them, on the toy world of `test_methods`: adapting has to help."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crosstask.config import Auxiliary, Supervised, Task, Views
from crosstask.methods import METHODS, Source
from crosstask.nets.encoders import initialise
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.tasks import SimCLR, make_joint_task, make_task
from crosstask.train.joint import pretrain_joint, pretrain_on_frozen, pretrain_with_views
from crosstask.train.loop import Run
from crosstask.train.moments import class_moments, projection_moments
from crosstask.train.pretrain import pretrain_supervised
from crosstask.train.statistics import feature_statistics
from test_methods import CPU, accuracy, shifted, textures

RUN = Run(seed=0, device=CPU, precision="float32")
HOW = Supervised(epochs=12, batch_size=64, crop=(0.5, 1.0))
LAYERS = {"ttt": "norm1", "tttflow": "norm1", "clust3": "norm1,norm2", "nc-ttt": "norm1", "rec-ttt": "norm1,norm2"}
ARGUMENTS = {
    "tttflow": {"steps": 20},
    "ttac": {"steps": 20, "learning_rate": 1e-3},
    "ttt++": {"steps": 20},
    "rec-ttt": {"steps": 20},
}


def fresh(tiny, classes: int = 4) -> Classifier:
    model = tiny.classifier(classes=classes, seed=10)
    for layer in (model.encoder.norm1, model.encoder.norm2):
        layer.reset_parameters()
    return model


def trained(tiny, kind: str) -> tuple[Classifier, nn.Module, dict[str, torch.Tensor]]:
    """Run the source-time stage of a kind on the toy world."""
    images, model = textures(512, seed=0), fresh(tiny)
    generator = torch.Generator().manual_seed(3)
    if kind == "joint":
        task = make_task(Task(hidden=32, out=16, temperature=0.2, views=Views(jitter=0.0)), 12)
        initialise(task, generator)
        pretrain_with_views(model, task, images, HOW, RUN)
        assert isinstance(task, SimCLR)
        moments = feature_statistics(model.encoder, images, RUN) | class_moments(model.encoder, images, RUN)
        return model, task, moments | projection_moments(model.encoder, task, images, RUN)
    if kind in ("tttflow", "rec-ttt"):
        pretrain_supervised(model, images, HOW, RUN)
    if kind == "rec-ttt":
        encoder = Twin(model.encoder, fresh(tiny).encoder)
        encoder.second.load_state_dict(model.encoder.state_dict())
        model = Classifier(encoder, tiny.shaken(nn.Linear(24, 4), seed=8))
    arguments = {"layers": LAYERS[kind]}
    task = make_joint_task(Auxiliary(name=kind, arguments=arguments), model.encoder, (1, 16, 16))
    initialise(task, generator)
    if kind == "rec-ttt":
        task.teacher.load_state_dict(model.encoder.first.state_dict())
    if kind == "tttflow":
        pretrain_on_frozen(model.encoder, task, images, HOW, RUN)
    else:
        pretrain_joint(model, task, images, HOW, RUN)
    return model, task, {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [name for name, row in METHODS.items() if row.needs not in ("supervised", "aligned")]
)
def test_a_model_made_for_the_method_is_better_adapted_than_not(tiny, method):
    row, test = METHODS[method], textures(256, seed=1)
    model, task, statistics = trained(tiny, row.needs)
    parts = {"model": model, "task": task, "statistics": statistics}
    frozen = accuracy(Source(model), test, shifted)
    assert accuracy(Source(model), test, lambda x: x) > 0.85 and frozen < 0.6
    adapter = row.adapter(*(parts[part] for part in row.parts), **ARGUMENTS.get(method, {}))
    assert accuracy(adapter, test, shifted) > frozen + 0.15
