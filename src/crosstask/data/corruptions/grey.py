"""Grey levels: what an image's floats mean, and how they are cut to bytes."""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance of ITU-R BT.601."""


def levels(x: Tensor) -> Tensor:
    """Return the whole grey levels 0 to 255, as floats, of an image x in [0, 1] that came from uint8."""
    return (x * 255).round_()


def cut(x: Tensor) -> Tensor:
    """Clip x to [0, 1] and return the whole grey levels below, 0 to 255, as floats.

    A value less than a millionth below a level counts as that level. So rounding noise never decides a pixel: the
    same image comes out of every batch and device. (The official code leaves such pixels to its own rounding noise.)
    """
    return (x * 255).add_(1e-6).clamp_(0, 255).floor_()


def truncate(x: Tensor) -> Tensor:
    """Return `cut(x)` as uint8."""
    return cut(x).to(torch.int16).to(torch.uint8)  # by way of int16: three times as fast as at once


def luminance(x: Tensor) -> Tensor:
    """Return [N, 1, H, W], the luminance (ITU-R BT.601) of x [N, 3, H, W]; x itself if it has one channel."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (weight * channel for weight, channel in zip(LUMINANCE, x.unbind(1), strict=True))
    return (red + green + blue).unsqueeze(1)
