"""Your own classifier, trained elsewhere, becomes one that adapts: split it, train a twin, align, adapt, save.

    python examples/own_network.py IMAGES

IMAGES: unlabelled images like those the classifier was trained on (a folder, .npy, .npz or parquet). The classifier
here is a small stand-in with random weights, so that the file runs anywhere; put your own in its place.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import nn

import crosstask

images = crosstask.load_images(sys.argv[1])
channels = images.images.shape[1]
network = nn.Sequential(
    nn.Conv2d(channels, 16, 3, 2, 1),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
)

# 1. Encoder and head. Its input is float [B, C, H, W] in [0, 1]: normalise inside the network.
classifier = crosstask.split(network, images.images[:2] / 255)

# It can adapt as it is, without any training; what follows makes it a better one.
shifted = crosstask.corrupt(images.images[:64], "fog", 5, seed=0) / 255
print("logits, not aligned", tuple(crosstask.CTA(classifier, steps=5)(shifted).shape))

# 2. A twin of the encoder learns the self-supervised task, then the classifier's features. No label anywhere.
settings = crosstask.Task(hidden=64, out=32)
encoder, task = copy.deepcopy(classifier.encoder), crosstask.make_task(settings, feature_dim=16)
run = crosstask.Run(seed=0, device=torch.device("cpu"))
crosstask.pretrain_self_supervised(encoder, task, images, crosstask.SelfSupervised(epochs=2), run)
crosstask.align(encoder, task, classifier, images, crosstask.Align(epochs=2), run)

# 3. Adapt to a shifted batch.
aligned = crosstask.Classifier(encoder, classifier.head)
print("logits", tuple(crosstask.CTA(aligned, task, steps=5)(shifted).shape))

# 4. Keep it. What is not one of crosstask's own architectures is handed to `load` to be filled.
encoder.feature_dim = 16
checkpoint = crosstask.Checkpoint(
    kind="aligned",
    encoder_name="custom",
    encoder=encoder,
    head=aligned.head,
    task=task,
    task_config=settings,
    image_shape=tuple(images.images.shape[1:]),
)
crosstask.save(checkpoint, "out/own-network")
print("loaded", crosstask.load("out/own-network", encoder=copy.deepcopy(classifier.encoder)).kind)
