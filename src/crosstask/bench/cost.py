"""`make bench`: what one adaptation step of CTA costs, beside its parts and beside the peak of the processor.

In turns in one run, so that a busy machine slows all alike: a step of CTA; forward and backward of the same loss on
views that are there already; a bare step, forward, backward and SGD of the same encoder on as many images and nothing
else; and a product of square matrices, as large as is fastest, whose best time gives the peak. Figures are medians over
rounds, of ratios between neighbours where they compare two of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crosstask import runtime
from crosstask.config import Task
from crosstask.methods import CTA
from crosstask.nets.encoders import make_encoder
from crosstask.nets.split import Classifier
from crosstask.tasks import make_task

ROUNDS, WARM_UP, BATCH = 40, 5, 128
CPU_CASES = (("resnet-small", (1, 28, 28)), ("resnet-small", (3, 32, 32)), ("resnet18-narrow", (3, 32, 32)))
CUDA_CASES = (("resnet18", (3, 32, 32)), ("resnet50", (3, 32, 32)))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step of CTA costs.

    Attributes:
        images_per_second: images adapted to once, a second.
        over_bare: its time as a multiple of a bare step's.
        outside: share of its time that is neither forward nor backward: views, update, the way back to the source.
        of_peak: its floating-point operations a second, as a share of the processor's peak in matrix products.
        passes_of_peak: the same for forward and backward alone.
    """

    images_per_second: float
    over_bare: float
    outside: float
    of_peak: float
    passes_of_peak: float


def cta(encoder_name: str, x: Tensor, device: torch.device) -> tuple[CTA, Callable[[], None]]:
    """Return CTA and one update of it on the batch `x`, in the precision the benchmark uses."""
    encoder = make_encoder(encoder_name, x.shape[1])
    task = make_task(Task(), encoder.feature_dim)
    model = runtime.place(Classifier(encoder, nn.Linear(encoder.feature_dim, 10)), device)
    adapter = CTA(model, task.to(device))

    def step() -> None:
        with runtime.autocast(device):
            adapter.update(x, runtime.generator(device, "cost"))
            torch.clear_autocast_cache()

    return adapter, step


def passes(adapter: CTA, x: Tensor, device: torch.device) -> Callable[[], None]:
    """Return forward and backward of the adapter's loss on views of `x` that are drawn once."""
    encoder = adapter.model.get_submodule("encoder")
    views = adapter.task.views(x, runtime.generator(device, "cost"))

    def both() -> None:
        with runtime.autocast(device):
            loss = adapter.task.loss(encoder(views), views, encoder)
        torch.autograd.grad(loss, adapter.moving_parameters)
        torch.clear_autocast_cache()

    return both


def bare_step(encoder_name: str, x: Tensor, device: torch.device) -> Callable[[], None]:
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


def product(device: torch.device) -> tuple[float, Callable[[], object]]:
    """Return the floating-point operations of a large matrix product in the benchmark's precision, and the product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device)
    a = a.bfloat16() if runtime.fast_bfloat16(device) else a
    out = torch.empty_like(a)
    return 2.0 * size**3, lambda: torch.mm(a, a, out=out)


def operations(work: Callable[[], None]) -> float:
    """Return the floating-point operations of the convolutions and matrix products of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def measure(encoder_name: str, shape: tuple[int, int, int], batch: int, device: torch.device, rounds: int) -> Cost:
    """Measure a step of CTA on a batch of that many images of that shape (C, H, W)."""
    x = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
    adapter, step = cta(encoder_name, x, device)
    both, bare = passes(adapter, x, device), bare_step(encoder_name, torch.cat([x, x]), device)
    product_flops, multiply = product(device)
    flops = operations(both)
    works = (step, both, bare, multiply)
    every = [[runtime.seconds(work, device) for work in works] for _ in range(WARM_UP + rounds)][WARM_UP:]
    peak = product_flops / min(times[3] for times in every)
    return Cost(
        images_per_second=batch / statistics.median(times[0] for times in every),
        over_bare=statistics.median(times[0] / times[2] for times in every),
        outside=1 - statistics.median(times[1] / times[0] for times in every),
        of_peak=flops / statistics.median(times[0] for times in every) / peak,
        passes_of_peak=flops / statistics.median(times[1] for times in every) / peak,
    )


def main() -> None:
    """Measure and print."""
    device = runtime.pick_device()
    print(f"device: {runtime.device_name(device)}; {ROUNDS} rounds in turns, medians; batches of {BATCH}")
    for encoder, shape in CUDA_CASES if device.type == "cuda" else CPU_CASES:
        cost = measure(encoder, shape, BATCH, device, ROUNDS)
        print(
            f"{encoder} {'x'.join(map(str, shape))}: CTA {cost.images_per_second:.0f} images/s a step, "
            f"{cost.over_bare:.2f} times a bare step, {cost.outside:.0%} outside forward and backward; "
            f"{cost.of_peak:.0%} of the peak, forward and backward {cost.passes_of_peak:.0%}"
        )


if __name__ == "__main__":
    main()
