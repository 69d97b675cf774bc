"""The only training loop: seeded batches, SGD with a warm-up and a cosine, and exact resume after a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crosstask import distributed, runtime
from crosstask.config import Optimisation
from crosstask.data.images import ImageSet
from crosstask.errors import TrainingError
from crosstask.files import written_whole

Objective = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Maps images [B, C, H, W] in [0, 1], labels [B] (empty if there are none) and a generator to the loss of a step."""

Progress = Callable[[int, int, float], None]
"""Is told the steps done, the steps in all, and the recent mean loss."""

_REPORT_EVERY = 25
_SAVING_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a training run happens and where it may be taken up again.

    Attributes:
        seed: fixes the order of the images and every random view.
        device, precision: see `runtime.autocast`.
        state: a file that holds weights, optimiser state and step while the run is under way; None: not kept. It is
            written as often as costs 2 % of the time, at most once a second.
        key: says what the state belongs to; a state with another key is not taken up.
        progress: told about every 25 steps.
    """

    seed: int
    device: torch.device
    precision: str = "auto"
    state: Path | None = None
    key: str = ""
    progress: Progress | None = None


def fit(objective: Objective, trainee: nn.Module, images: ImageSet, how: Optimisation, run: Run) -> list[float]:
    """Train all parameters of `trainee` on `images` and return the mean loss of every 25 steps.

    Every random draw of step k comes from (seed, k), so a run taken up from a saved state ends in the same bits as one
    that was never interrupted. Several processes (`crosstask.distributed`) have a share of each batch and views of
    their own; their gradients are averaged, and the first saves the state. More than two may add them in another order
    when taken up: then the end is the same within rounding.

    Raises:
        TrainingError: the loss is no longer finite. The saved state is of a step before.
        ConfigError: a batch cannot be divided among the processes.
    """
    pixels = images.images.to(run.device)
    labels = images.labels if images.labels is not None else torch.empty(len(pixels), 0, dtype=torch.int64)
    labels = labels.to(run.device)
    parameters = [p for p in trainee.parameters() if p.requires_grad]
    optimiser = _optimiser(parameters, how)
    total = math.ceil(how.epochs * (len(pixels) // min(how.batch_size, len(pixels))))
    start, losses = _resume(run, trainee, optimiser)
    distributed.check_agreed(start, "the step to go on from")
    take = distributed.in_step(trainee, _Step(objective, trainee))
    recent = torch.zeros((), device=run.device)
    next_save = time.monotonic() + 1
    for step, indices in _batches(len(pixels), how.batch_size, start, total, run.seed):
        for group in optimiser.param_groups:
            group["lr"] = how.learning_rate * _schedule(step, total, how.warmup)
        chosen = distributed.share(indices).to(run.device)
        x = runtime.to_unit_floats(pixels[chosen], run.device)
        with runtime.autocast(run.device, run.precision), distributed.comparing():
            loss = take(x, labels[chosen], runtime.generator(run.device, run.seed, "step", step, *distributed.other()))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        recent += loss.detach()
        done = step + 1
        if done % _REPORT_EVERY == 0 or done == total:
            losses.append(_finite(float(distributed.mean(recent)) / ((done - 1) % _REPORT_EVERY + 1), done))
            recent.zero_()
            if run.progress:
                run.progress(done, total, losses[-1])
            if run.state and distributed.rank() == 0 and time.monotonic() > next_save:
                began = time.monotonic()
                _save(run, trainee, optimiser, done, losses)
                next_save = time.monotonic() + max(1, (time.monotonic() - began) / _SAVING_SHARE)
    return losses


class _Step(nn.Module):
    """An objective as the module that several processes take turns around: its parameters are the trainee's."""

    def __init__(self, objective: Objective, trainee: nn.Module) -> None:
        super().__init__()
        self.objective, self.trainee = objective, trainee

    def forward(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(generator.initial_seed())  # for dropout and its like, which ask for no generator
            return self.objective(x, y, generator)


def _optimiser(parameters: list[nn.Parameter], how: Optimisation) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; vectors (norm scales, biases) are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": how.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=how.learning_rate, momentum=0.9, nesterov=True, fused=True)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate: a rise over a share `warmup` of the steps, then a cosine to zero."""
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _batches(count: int, batch_size: int, start: int, total: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, image indices), shuffled anew each epoch; the incomplete last batch of an epoch is left out."""
    batch_size = min(batch_size, count)
    per_epoch = count // batch_size
    order, epoch = torch.empty(0), -1
    for step in range(start, total):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.randperm(count, generator=runtime.generator(torch.device("cpu"), seed, "epoch", epoch))
        offset = step % per_epoch * batch_size
        yield step, order[offset : offset + batch_size]


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise TrainingError(f"the loss became {loss} within the steps up to {step}; lower the learning rate and run again")


def _save(run: Run, trainee: nn.Module, optimiser: torch.optim.Optimizer, step: int, losses: list[float]) -> None:
    assert run.state is not None
    tensors = {f"weights.{name}": tensor for name, tensor in trainee.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in slots.items() if isinstance(value, Tensor)}
    with written_whole(run.state) as temporary:
        about = {"key": run.key, "step": str(step), "losses": json.dumps(losses)}
        runtime.save_tensors(tensors, temporary, about)


def _resume(run: Run, trainee: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, list[float]]:
    """Load the saved state if it is whole and belongs to this run; return the step to go on from and the losses."""
    if run.state is None or not run.state.is_file():
        return 0, []
    try:
        with safe_open(run.state, "pt") as file:
            about = file.metadata()
            if about.get("key") != run.key:
                return 0, []
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return 0, []
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    trainee.load_state_dict(weights)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, slot = name.split(".", 2)
            # The fused step walks raw memory: the momentum must lie as its parameter does, channels last or not.
            slots.setdefault(int(index), {})[slot] = torch.empty_like(parameters[int(index)]).copy_(tensor)
    optimiser.load_state_dict(optimiser.state_dict() | {"state": slots})
    return int(about["step"]), json.loads(about["losses"])
