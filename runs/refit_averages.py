"""Take a checkpoint's running averages of batch norm anew from training images as they are, as alignment ends.

    python runs/refit_averages.py RECIPE CHECKPOINT OUT
    crosstask bench RECIPE --out FOLDER --supervised OUT --set 'bench.columns={source={method="source"}}'

Tells how much of what the aligned model has by running averages before the supervised one is that alone.
"""

from __future__ import annotations

import dataclasses
import sys

import torch

from crosstask import checkpoint, pipeline
from crosstask.config import load_recipe
from crosstask.train.loop import Run
from crosstask.train.statistics import refit_batch_norm

recipe = load_recipe(sys.argv[1])
training, _ = pipeline.source_images(recipe, print)
model = checkpoint.load(sys.argv[2])
run = Run(seed=recipe.seed, device=torch.device("cpu"), precision=recipe.precision)
refit_batch_norm(model.encoder, training, run)
checkpoint.save(dataclasses.replace(model, statistics={}), sys.argv[3])  # these were of the old averages
