"""Does `torch.compile` pay? One step of CTA as it is and with its encoder compiled, in turns in one run.

    python runs/compiled_step.py [MODE]

Modes as `torch.compile` has them; on CUDA try `default` and `reduce-overhead`, which captures CUDA graphs. Prints the
seconds that compiling takes, images per second of both, and the median ratio of neighbours. A few minutes on two CPU
cores, where a C++ compiler is needed.
"""

from __future__ import annotations

import statistics
import sys

import torch

from crosstask import runtime
from crosstask.bench.cost import BATCH, CPU_CASES, CUDA_CASES, WARM_UP, cta

ROUNDS = 20


def main() -> None:
    device, mode = runtime.pick_device(), sys.argv[1] if len(sys.argv) > 1 else "default"
    print(f"device: {runtime.device_name(device)}, torch {torch.__version__}; {mode}; {ROUNDS} rounds in turns")
    for encoder, shape in CUDA_CASES if device.type == "cuda" else CPU_CASES:
        x = torch.rand(BATCH, *shape, device=device).contiguous(memory_format=torch.channels_last)
        (_, step), (compiled, compiled_step) = cta(encoder, x, device), cta(encoder, x, device)
        compiled.model.get_submodule("encoder").compile(mode=mode)
        first = runtime.seconds(compiled_step, device)
        works = (step, compiled_step)
        times = [[runtime.seconds(work, device) for work in works] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
        speeds = [BATCH / statistics.median(column) for column in zip(*times, strict=True)]
        ratio = statistics.median(a / b for a, b in times)
        print(
            f"{encoder} {'x'.join(map(str, shape))}: {speeds[0]:,.0f} images per second, {speeds[1]:,.0f} compiled: "
            f"{ratio:.2f} times, after {first:.0f} s of compiling"
        )


if __name__ == "__main__":
    main()
