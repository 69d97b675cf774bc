"""crosstask: test-time training by cross-task alignment (CTA, arXiv 2507.05221), and the methods it is compared with.

    import crosstask

    model = crosstask.load("out/fashion-mnist/checkpoints/aligned")
    adapter = crosstask.CTA(model.classifier, model.task)
    logits = adapter(images)  # float [B, C, H, W] in [0, 1]: adapts on the batch, then predicts it
    adapter.reset()

The names below are the public surface; each is imported when it is first used, so that `import crosstask` is instant.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "CTA": "crosstask.methods",
    "PTBN": "crosstask.methods",
    "Source": "crosstask.methods",
    "Tent": "crosstask.methods",
    "EATA": "crosstask.methods",
    "SAR": "crosstask.methods",
    "SHOT": "crosstask.methods",
    "T3A": "crosstask.methods",
    "LAME": "crosstask.methods",
    "MEMO": "crosstask.methods",
    "CoTTA": "crosstask.methods",
    "RoTTA": "crosstask.methods",
    "DeYO": "crosstask.methods",
    "ROID": "crosstask.methods",
    "TTT": "crosstask.methods",
    "TTTPlusPlus": "crosstask.methods",
    "TTTFlow": "crosstask.methods",
    "ClusT3": "crosstask.methods",
    "NCTTT": "crosstask.methods",
    "RecTTT": "crosstask.methods",
    "TTAC": "crosstask.methods",
    "Adapter": "crosstask.methods",
    "make_adapter": "crosstask.methods",
    "Checkpoint": "crosstask.checkpoint",
    "load": "crosstask.checkpoint",
    "save": "crosstask.checkpoint",
    "Classifier": "crosstask.nets.split",
    "split": "crosstask.nets.split",
    "make_encoder": "crosstask.nets.encoders",
    "SimCLR": "crosstask.tasks",
    "SelfSupervisedTask": "crosstask.tasks",
    "JointTask": "crosstask.tasks",
    "make_joint_task": "crosstask.tasks",
    "Auxiliary": "crosstask.config",
    "Twin": "crosstask.nets.twin",
    "ViewSampler": "crosstask.views",
    "ImageSet": "crosstask.data.images",
    "load_images": "crosstask.data.images",
    "load_corrupted": "crosstask.data.images",
    "with_copies": "crosstask.data.images",
    "corrupt": "crosstask.data.corruptions",
    "register": "crosstask.data.corruptions.own",
    "ImageRandom": "crosstask.data.randomness",
    "contact_sheet": "crosstask.data.sheet",
    "Copies": "crosstask.data.writer",
    "write_copies": "crosstask.data.writer",
    "draw_stream": "crosstask.data.streams",
    "StreamPlan": "crosstask.data.streams",
    "build_stream": "crosstask.data.streams",
    "rebuild_stream": "crosstask.data.streams",
    "pretrain_supervised": "crosstask.train.pretrain",
    "pretrain_self_supervised": "crosstask.train.pretrain",
    "align": "crosstask.train.align",
    "pretrain_joint": "crosstask.train.joint",
    "pretrain_with_views": "crosstask.train.joint",
    "pretrain_on_frozen": "crosstask.train.joint",
    "feature_statistics": "crosstask.train.statistics",
    "fisher_information": "crosstask.train.statistics",
    "class_moments": "crosstask.train.moments",
    "projection_moments": "crosstask.train.moments",
    "Run": "crosstask.train.loop",
    "Supervised": "crosstask.config",
    "SelfSupervised": "crosstask.config",
    "Align": "crosstask.config",
    "Task": "crosstask.config",
    "make_task": "crosstask.tasks",
    "Diagnose": "crosstask.config",
    "diagnose": "crosstask.bench.diagnostics",
    "Subject": "crosstask.bench.diagnostics",
    "linear_cka": "crosstask.bench.diagnostics",
    "gradient_cosines": "crosstask.bench.diagnostics",
    "load_recipe": "crosstask.config",
    "CrosstaskError": "crosstask.errors",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crosstask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
