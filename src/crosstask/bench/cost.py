"""`make bench`: what one adaptation step of CTA costs beside a bare training step of the same encoder.

The bare step is forward, backward and SGD update on as many images as CTA has views. Both are timed in turns in one
run, so that a busy machine slows both; the figure is the median of the ratios of neighbours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import nn

from crosstask import runtime
from crosstask.config import Task
from crosstask.methods import CTA
from crosstask.nets.encoders import make_encoder
from crosstask.nets.split import Classifier
from crosstask.tasks import make_task

ROUNDS, WARM_UP = 40, 5


def cta_step(encoder_name: str, x: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """Return one CTA update on the batch `x`, in the precision the benchmark uses."""
    encoder = make_encoder(encoder_name, x.shape[1])
    task = make_task(Task(), encoder.feature_dim)
    model = runtime.place(Classifier(encoder, nn.Linear(encoder.feature_dim, 10)), device)
    adapter = CTA(model, task.to(device))

    def step() -> None:
        with runtime.autocast(device):
            adapter.update(x, runtime.generator(device, "cost"))
            torch.clear_autocast_cache()

    return step


def bare_step(encoder_name: str, x: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """Return forward, backward and SGD update of the same encoder on the 2B images `x`, and nothing else."""
    encoder = runtime.place(make_encoder(encoder_name, x.shape[1]), device).train()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1e-2, momentum=0.9, fused=True)

    def step() -> None:
        with runtime.autocast(device):
            loss = encoder(x).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def compare(encoder_name: str, shape: tuple[int, int, int], batch: int, device: torch.device) -> tuple[float, float]:
    """Return the median seconds of a bare step, and the median ratio of a CTA step to the bare step beside it."""
    x = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
    bare, cta = bare_step(encoder_name, torch.cat([x, x]), device), cta_step(encoder_name, x, device)
    times = [(runtime.seconds(bare, device), runtime.seconds(cta, device)) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    return statistics.median(b for b, _ in times), statistics.median(c / b for b, c in times)


def main() -> None:
    """Measure and print."""
    device = runtime.pick_device()
    print(f"device: {runtime.device_name(device)}; {ROUNDS} rounds in turns, medians")
    for encoder, shape, batch in (("resnet-small", (1, 28, 28), 128), ("resnet-small", (3, 32, 32), 128)):
        bare, ratio = compare(encoder, shape, batch, device)
        size = "x".join(map(str, shape))
        print(f"{encoder} {size}, batch {batch}: bare step {1000 * bare:.1f} ms, CTA step {ratio:.2f} times that")


if __name__ == "__main__":
    main()
