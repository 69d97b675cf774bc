"""Random numbers that belong to an image, not to the batch it came in.

A generator with a state gives an image other noise as soon as the batch, its order or the chunk changes. Here a
number is a function of (stream, image index, how many numbers the image has drawn), computed with integer arithmetic
that is the same on every device: a counter-based generator. Nothing global is read or written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(number: int) -> int:
    """Return the 64-bit two's complement of `number`: what int64 tensors, which wrap around, compute with."""
    number &= 0xFFFF_FFFF_FFFF_FFFF
    return number - (1 << 64) if number >> 63 else number


_STRIDE = _signed(0x9E37_79B9_7F4A_7C15)  # 2^64 / golden ratio, odd: consecutive counters land far apart
_FACTOR = _signed(0xD6E8_FEB8_6659_FD93)  # odd, with well mixed bits


def stream_key(*parts: object) -> int:
    """Return the 64-bit key of a named stream of random numbers, e.g. `stream_key(seed, "fog", 3)`."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return _signed(int.from_bytes(digest[:8], "little"))


def _mix_(numbers: Tensor) -> Tensor:
    """Scramble contiguous int64 `numbers` in place: a bijection in which each bit depends on all bits.

    Two rounds of "high half into low half, multiply". The halves are read as int32 because int64 has no logical shift.
    """
    halves = numbers.view(torch.int32).view(*numbers.shape, 2)
    low, high = halves[..., 0], halves[..., 1]
    for _ in range(2):
        low.bitwise_xor_(high)
        numbers.mul_(_FACTOR)
    low.bitwise_xor_(high)
    return numbers


class ImageRandom:
    """Random tensors for a batch of images; each image's numbers depend on `key` and its own index only.

    Args:
        key: the stream, from `stream_key`.
        indices: int64 [N], the images' positions in their set; they choose the numbers.
        device: where the tensors are made; the bits of uniforms and integers are the same everywhere.

    Every call draws fresh numbers: the n-th call gives an image the same numbers in any batch.
    """

    def __init__(self, key: int, indices: Tensor, device: torch.device) -> None:
        self.count, self.device = len(indices), device
        self._keys = _mix_(_mix_((indices.to(device) + 1) * _STRIDE) + key).unsqueeze(1)
        self._drawn = 0

    def _words(self, count: int) -> Tensor:
        """Return int64 [N, count]: 64 random bits each."""
        counters = torch.arange(self._drawn + 1, self._drawn + count + 1, device=self.device) * _STRIDE
        self._drawn += count
        return _mix_(self._keys + counters)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return float64 [N, *shape], uniform in the open interval (0, 1), in steps of 2^-32."""
        size = math.prod(shape)
        halves = self._words((size + 1) // 2).view(torch.int32)[:, :size]
        return halves.to(torch.float64).add_(2**31 + 0.5).mul_(2.0**-32).reshape(self.count, *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return float64 [N, *shape], standard normal (Box & Muller 1958), at most 6.8 in size."""
        size = math.prod(shape)
        pairs = self.uniform((2, (size + 1) // 2))
        radius = pairs[:, 0].log().mul_(-2).sqrt_()
        angle = pairs[:, 1] * (2 * math.pi)
        torch.mul(radius, angle.cos(), out=pairs[:, 0])
        torch.mul(radius, angle.sin_(), out=pairs[:, 1])
        return pairs.flatten(1)[:, :size].reshape(self.count, *shape)

    def integers(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Return int64 [N, *shape], each of low, ..., high - 1 equally often (to within 2^-32)."""
        return self.uniform(shape).mul_(high - low).to(torch.int64).add_(low)
