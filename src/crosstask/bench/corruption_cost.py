"""`make bench`: how fast images are corrupted, beside a per-image loop over `imagecorruptions-imaug` on one core.

The peer knows ImageNet-C's constants only. For every corruption and severity it is timed in turns with ours on the same
32 x 32 images, under the same constants and under CIFAR-10-C's; whatever slows the machine slows all three. The last
lines are the whole of CIFAR-10-C: 19 corruptions x 5 severities x 10,000 images, every one of them made.
"""

from __future__ import annotations

import warnings
from functools import partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from crosstask import runtime
from crosstask.data.corruptions import available, corrupt
from crosstask.data.severities import BENCHMARK

IMAGES, PEER_IMAGES, SEVERITIES = 10_000, 40, (1, 2, 3, 4, 5)
COMPARED_IMAGES = 5_120
"""Ours work best on whole chunks; the peer's time for an image does not depend on their number."""


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    images = pictures(IMAGES)
    device = runtime.pick_device()
    peer = load_peer()
    if peer is None:
        print("imagecorruptions-imaug cannot be imported: pip install imagecorruptions-imaug")
    else:
        compare(peer, images[:COMPARED_IMAGES])
    whole(images, torch.device("cpu"), "one core")
    if device.type == "cuda":
        whole(images, device, runtime.device_name(device))


def pictures(count: int) -> Tensor:
    """Return uint8 [count, 3, 32, 32]: coloured blobs with a little grain, all grey levels in use."""
    generator = runtime.generator(torch.device("cpu"), "pictures")
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
    grain = 0.04 * torch.randn(smooth.shape, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)


def load_peer() -> ModuleType | None:
    """Return the module `imagecorruptions`, held to one thread, or None where it cannot be imported."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import cv2
            import imagecorruptions
    except ImportError:
        return None
    cv2.setNumThreads(1)
    return imagecorruptions


def compare(peer: ModuleType, images: Tensor) -> None:
    """Print microseconds for an image, mean over the severities, and how many times faster ours are in sum."""
    print(f"{'us for an image':>20} {'peer':>9} {'ours, the same constants':>26} {'ours, CIFAR-10-C':>18}")
    arrays = list(images[:PEER_IMAGES].permute(0, 2, 3, 1).contiguous().numpy())
    total = np.zeros(3)
    for name in BENCHMARK:
        times = np.mean([_side_by_side(peer, arrays, images, name, severity) for severity in SEVERITIES], axis=0)
        total += times
        print(f"{name:>20} {times[0]:9.1f} {times[1]:26.1f} {times[2]:18.1f}", flush=True)
    print(f"{'sum of the fifteen':>20} {total[0]:9.1f} {total[1]:26.1f} {total[2]:18.1f}")
    print(f"{'times faster':>20} {'':>9} {total[0] / total[1]:26.1f} {total[0] / total[2]:18.1f}")


def _side_by_side(
    peer: ModuleType, arrays: list[np.ndarray], images: Tensor, name: str, severity: int
) -> tuple[float, float, float]:
    """Return microseconds for an image: the peer's, ours under ImageNet-C's constants and under CIFAR-10-C's."""
    peer.corrupt(arrays[0], severity=severity, corruption_name=name)
    theirs = runtime.seconds(
        lambda: [peer.corrupt(array, severity=severity, corruption_name=name) for array in arrays], images.device
    )
    ours = []
    for table in ("imagenet", "cifar"):
        corrupt(images[:64], name, severity, seed=0, table=table)
        seconds = runtime.seconds(partial(corrupt, images, name, severity, seed=0, table=table), images.device)
        ours.append(1e6 * seconds / len(images))
    return 1e6 * theirs / len(arrays), ours[0], ours[1]


def whole(images: Tensor, device: torch.device, where: str) -> None:
    """Print how long all of CIFAR-10-C takes."""
    images = images.to(device)
    corrupt(images[:64], BENCHMARK[0], 1, seed=0)
    runtime.forget_peak_memory(device)
    cells = [(name, severity) for name in available() for severity in SEVERITIES]
    seconds = sum(runtime.seconds(partial(corrupt, images, *cell, seed=0), device) for cell in cells)
    count = len(cells) * len(images)
    peak = runtime.peak_memory_mb(device)
    print(f"CIFAR-10-C, {count:,} images on {where}: {seconds:.1f} s; peak memory of the process {peak:,.0f} MB")


if __name__ == "__main__":
    main()
