"""Images per second here beside those of peers that do the same work, in turns in one run. Ten minutes on two cores.

    pip install torch-ttt==0.0.2 torchvision einops
    python runs/compare_with_peers.py [CASE ...]

- simclr: an epoch of SimCLR here, and in the plain loop of most examples: a data set that augments one image at a time
  with torchvision's transforms, a `DataLoader` with a process for each core, float32.
- adaptation: CTA, 20 steps a batch, beside a loop as published repositories write it: a deep copy of the model and a
  new optimiser for every batch, float32, channels first. It has the batched views of this project: only what is around
  them differs.
- tent, ttt++: one step a batch, beside torch-ttt 0.0.2, which copies its engine for every batch.

Each pair is also timed with the peer under this project's precision. Medians over rounds, of the ratios of neighbours.
Networks: `resnet-small` on a CPU, `resnet18` on CUDA, 32 x 32 colour images, batches of 128; 256 in `simclr`.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch_ttt.engine.tent_engine import TentEngine
from torch_ttt.engine.ttt_pp_engine import TTTPPEngine
from torchvision import transforms

from crosstask import losses, runtime
from crosstask.config import SelfSupervised, Task
from crosstask.data.images import ImageSet
from crosstask.methods import CTA, PTBN, Source, Tent, TTTPlusPlus
from crosstask.nets.encoders import initialise, make_encoder
from crosstask.nets.split import Classifier
from crosstask.tasks import SimCLR, make_task
from crosstask.train.loop import Run
from crosstask.train.moments import projection_moments
from crosstask.train.pretrain import pretrain_self_supervised
from crosstask.train.statistics import feature_statistics

DEVICE = runtime.pick_device()
ON_GPU = DEVICE.type == "cuda"
ENCODER, IMAGES, ROUNDS = ("resnet18", 25600, 10) if ON_GPU else ("resnet-small", 1024, 10)
BATCH, STEPS, RATE, WARM_UP = 128, 20, 1e-3, 2
Work = Callable[[], object]
Case = tuple[int, Work, Callable[[str], Work]]
"""Images in one call; the call here; the peer's call in a precision."""


def network() -> Classifier:
    """Return a network whose running statistics are not those of the test batch."""
    encoder = make_encoder(ENCODER, 3)
    model = Classifier(encoder, nn.Linear(encoder.feature_dim, 10))
    initialise(model, torch.Generator().manual_seed(0))
    model.train()
    with torch.no_grad():
        for seed in range(20):
            model(torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.3)
    return model.eval().to(DEVICE)


def simclr_task(model: Classifier) -> SimCLR:
    task = make_task(Task(), model.encoder.feature_dim)
    assert isinstance(task, SimCLR)
    initialise(task, torch.Generator().manual_seed(1))
    return task.to(DEVICE)


def test_batch() -> Tensor:
    return torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(99)).to(DEVICE)


def source() -> ImageSet:
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return ImageSet(name="random pixels", images=pixels, labels=None, class_names=())


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Two random views of one image at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = [transforms.functional.to_pil_image(image) for image in images]
        self.draw = transforms.Compose([
            transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2), transforms.ToTensor(),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.draw(self.images[index]), self.draw(self.images[index])


def simclr() -> Case:
    images, how = source(), SelfSupervised(epochs=1, batch_size=256)
    model, own = runtime.place(network(), DEVICE), network()
    task, projector = simclr_task(model), simclr_task(own)
    run = Run(seed=0, device=DEVICE)
    workers = max(1, os.cpu_count() or 1)
    loader = DataLoader(
        TwoViews(images.images), batch_size=256, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=True, pin_memory=ON_GPU,
    )  # fmt: skip
    trainee = nn.Sequential(own.encoder, projector.get_submodule("projector")).train()
    optimiser = torch.optim.SGD(trainee.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def plain(precision: str) -> Work:
        def epoch() -> None:
            for first, second in loader:
                views = torch.cat([first, second]).to(DEVICE, non_blocking=True)
                with runtime.autocast(DEVICE, precision):
                    loss = losses.nt_xent(trainee(views), 0.5)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

        return epoch

    return len(images), lambda: pretrain_self_supervised(model.encoder, task, images, how, run), plain


def adaptation() -> Case:
    model, x = network(), test_batch()
    task = simclr_task(model)
    adapter = CTA(runtime.place(copy.deepcopy(model), DEVICE), task, steps=STEPS, keep=1.0)
    ours = x.contiguous(memory_format=torch.channels_last)

    def plain(precision: str) -> Work:
        def call() -> Tensor:
            twin = copy.deepcopy(model)
            twin.encoder.train()
            optimiser = torch.optim.SGD(twin.encoder.parameters(), lr=1e-2, momentum=0.9)
            with runtime.autocast(DEVICE, precision):
                for step in range(STEPS):
                    loss = task(twin.encoder, x, runtime.generator(DEVICE, step))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    torch.clear_autocast_cache()
                with torch.no_grad():
                    return twin(x)

        return call

    return BATCH, here(adapter, ours), plain


def tent() -> Case:
    model, x = network(), test_batch()
    adapter = runtime.place(Tent(model, steps=1, learning_rate=RATE), DEVICE)
    peer = TentEngine(copy.deepcopy(model), {"lr": RATE, "num_steps": 1}).eval()
    return BATCH, here(adapter, x.contiguous(memory_format=torch.channels_last)), there(peer, x)


def ttt_plus_plus() -> Case:
    model, x, run = network(), test_batch(), Run(seed=0, device=DEVICE)
    task, images = simclr_task(model), source()
    moments = feature_statistics(model.encoder, images, run) | projection_moments(model.encoder, task, images, run)
    adapter = runtime.place(TTTPlusPlus(model, task, moments, steps=1, learning_rate=RATE, queue=0), DEVICE)
    peer = TTTPPEngine(copy.deepcopy(model), "head", optimization_parameters={"lr": RATE, "num_steps": 1})
    peer.compute_statistics([(runtime.to_unit_floats(part, DEVICE),) for part in images.images.split(256)])
    return BATCH, here(adapter, x.contiguous(memory_format=torch.channels_last)), there(peer.eval(), x)


def here(adapter: nn.Module, x: Tensor) -> Work:
    def call() -> Tensor:
        adapter.reset()  # type: ignore[operator]
        with runtime.autocast(DEVICE):
            return adapter(x)

    return call


def there(peer: nn.Module, x: Tensor) -> Callable[[str], Work]:
    def in_precision(precision: str) -> Work:
        def call() -> Tensor:
            with runtime.autocast(DEVICE, precision):
                return peer(x)

        return call

    return in_precision


def whose_statistics() -> None:
    """Print whether TENT, before it learns, normalises by the statistics of the source or of the batch."""
    model, x = network(), test_batch()
    frozen = TentEngine(copy.deepcopy(model), {"lr": 1e-12, "num_steps": 1}).eval()
    for name, logits in (("here", Tent(model, steps=0)(x)), ("torch-ttt", frozen(x)[0])):
        gaps = [float((logits - adapter(x)).abs().max()) for adapter in (Source(model), PTBN(model))]
        print(f"TENT {name}, before it learns: {gaps[0]:.4f} off source statistics, {gaps[1]:.4f} off the batch's")


CASES = {"simclr": simclr, "adaptation": adaptation, "tent": tent, "ttt++": ttt_plus_plus}


def main() -> None:
    own = runtime.resolve_precision(DEVICE, "auto")
    print(f"device: {runtime.device_name(DEVICE)}, torch {torch.__version__}; {ENCODER}; {ROUNDS} rounds in turns")
    for name in sys.argv[1:] or CASES:
        images, ours, theirs = CASES[name]()
        for precision in dict.fromkeys(("float32", own)):
            pair = ours, theirs(precision)
            times = [[runtime.seconds(work, DEVICE) for work in pair] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
            speeds = [images / statistics.median(column) for column in zip(*times, strict=True)]
            ratios = sorted(b / a for a, b in times)
            print(
                f"{name}: {speeds[0]:,.0f} images per second here in {own}, {speeds[1]:,.0f} there in {precision}: "
                f"{statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )
    whose_statistics()


if __name__ == "__main__":
    main()
