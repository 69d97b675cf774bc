"""What two processes cost beside one: a SimCLR step of `resnet18-narrow`, 128 images and one thread a process.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 runs/two_processes.py

The first process prints medians over 30 rounds in turns: a step alone, without a word to the other; what the step's
messages take by themselves; a step together; and the share of it that a step alone would take. A minute on two cores.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import distributed as dist
from torch import nn

from crosstask import distributed, losses, runtime
from crosstask.config import Task
from crosstask.nets.encoders import make_encoder
from crosstask.tasks import make_task
from crosstask.views import ViewSampler, two_views

CPU = torch.device("cpu")
ROUNDS, BATCH = 30, 128


class Step(nn.Module):
    """SimCLR's loss on new views of the same images, among all processes or in each alone."""

    def __init__(self, *, gathers: bool) -> None:
        super().__init__()
        self.encoder = runtime.place(make_encoder("resnet18-narrow", 3), CPU)
        self.task = make_task(Task(), self.encoder.feature_dim)
        self.sampler, self.gathers = ViewSampler(), gathers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        z = self.task.projector(self.encoder(two_views(x, self.sampler, runtime.generator(CPU, "views"))))
        if not self.gathers:
            return losses.nt_xent(z, 0.2)
        return losses.nt_xent(distributed.gather_pairs(z), 0.2, distributed.own_pair_rows(len(z), CPU))


def stepping(step: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Return what takes a step of SGD."""
    optimiser = torch.optim.SGD(step.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def take() -> None:
        with runtime.autocast(CPU), distributed.comparing():
            loss = step(x)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return take


def messages(parameters: int) -> Callable[[], None]:
    """Return what sends a step's messages and nothing else: gradients, projections and their gradients."""
    gradients, projections = torch.zeros(parameters), torch.zeros(2 * BATCH, 128)

    def send() -> None:
        dist.all_reduce(gradients)
        dist.all_gather([projections.clone() for _ in range(distributed.world())], projections)
        dist.all_reduce(torch.zeros(2 * BATCH * distributed.world(), 128))

    return send


def main() -> None:
    """Measure and print."""
    x = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    alone, shared = Step(gathers=False), Step(gathers=True)
    parameters = sum(p.numel() for p in shared.parameters())
    ways = {
        "a step alone": stepping(alone, x),
        "its messages": messages(parameters),
        "a step together": stepping(distributed.in_step(shared, shared), x),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 3):
        for name, take in ways.items():
            distributed.wait()
            times[name].append(runtime.seconds(take, CPU))
    median = {name: statistics.median(each[3:]) for name, each in times.items()}
    if distributed.rank() == 0:
        for name, seconds in median.items():
            print(f"{name}: {1000 * seconds:.1f} ms")
        ratios = [a / b for a, b in zip(times["a step alone"][3:], times["a step together"][3:], strict=True)]
        print(f"a step alone takes {statistics.median(ratios):.1%} of a step together; {parameters} parameters")


if __name__ == "__main__":
    with distributed.together():
        main()
