"""TENT here beside TENT in torch-ttt 0.0.2: images per second, and whose statistics normalise. About a minute.

    pip install torch-ttt==0.0.2
    python runs/compare_with_torch_ttt.py

Both adapt the same network episodically: the peer copies its engine for every batch, ours resets. They are timed in
turns in one run; the figures are medians of the ratios of neighbours. The figures are in docs/log.md.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_ttt.engine.tent_engine import TentEngine

from crosstask import runtime
from crosstask.methods import PTBN, Source, Tent
from crosstask.nets.encoders import initialise, make_encoder
from crosstask.nets.split import Classifier

BATCH, STEPS, RATE, ROUNDS, WARM_UP = 128, 1, 1e-3, 30, 3


def network(device: torch.device) -> Classifier:
    """Return a small ResNet whose running statistics are not those of the test batch."""
    encoder = make_encoder("resnet-small", 3)
    model = Classifier(encoder, nn.Linear(encoder.feature_dim, 10))
    initialise(model, torch.Generator().manual_seed(0))
    model.train()
    with torch.no_grad():
        for seed in range(20):
            model(torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.3)
    return model.eval().to(device)


def ours(model: Classifier, x: Tensor, precision: str) -> Callable[[], Tensor]:
    adapter = runtime.place(Tent(model, steps=STEPS, learning_rate=RATE), x.device)
    x = x.contiguous(memory_format=torch.channels_last)

    def call() -> Tensor:
        adapter.reset()
        with runtime.autocast(x.device, precision):
            return adapter(x)

    return call


def theirs(peer: nn.Module, x: Tensor, precision: str) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with runtime.autocast(x.device, precision):
            return peer(x)

    return call


def main() -> None:
    device = runtime.pick_device()
    model = network(device)
    x = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(99)).to(device)
    peer = TentEngine(copy.deepcopy(model), {"lr": RATE, "num_steps": STEPS}).eval()
    frozen = TentEngine(copy.deepcopy(model), {"lr": 1e-12, "num_steps": STEPS}).eval()
    print(f"device: {runtime.device_name(device)}; batch {BATCH}, {STEPS} step, {ROUNDS} rounds in turns, medians")
    for here, there in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
        both = ours(model, x, here), theirs(peer, x, there)
        pairs = [[runtime.seconds(call, device) for call in both] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
        speeds = [BATCH / statistics.median(times) for times in zip(*pairs, strict=True)]
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{here} here, {speeds[0]:,.0f} images per second; {there} there, {speeds[1]:,.0f}: {ratio:.2f} times")
    source, batch = Source(model)(x), PTBN(model)(x)
    for name, logits in (("here", Tent(model, steps=0)(x)), ("torch-ttt", frozen(x)[0])):
        gaps = [float((logits - other).abs().max()) for other in (source, batch)]
        print(
            f"TENT {name}, before it learns: off by {gaps[0]:.4f} from source statistics, by {gaps[1]:.4f} from batch"
        )


if __name__ == "__main__":
    main()
