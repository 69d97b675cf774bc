"""Random views of a batch, made on its device in a few matrix products.

A crop, its resampling to the full size and a flip act on rows and columns apart, so each image's geometry is one small
matrix a side: `rows @ image @ columns.T`. A Gaussian blur is such a pair too and is multiplied into the first pair.
Colour jitter and graying are one 3x3 matrix an image. Every image draws its own parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstask.config import Views

# Rows: luminance Y, in-phase I, quadrature Q of the NTSC colour space; hue is an angle in the I-Q plane.
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class ViewSampler:
    """SimCLR's augmentations (Chen et al. 2020, app. A), batched. Call it: `view = sampler(x, generator)`.

    Args:
        views: the ranges and probabilities, each explained in `crosstask.config.Views`.
    """

    def __init__(self, views: Views | None = None) -> None:
        self.views = views or Views()

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view of each image.

        Args:
            x: float tensor [B, C, H, W] in [0, 1], C in {1, 3}.
            generator: on the device of `x`.

        Returns:
            A float tensor of the same shape in [0, 1].
        """
        return self.photometric(self.geometric(x, generator), generator)

    def geometric(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Crop, resample to the full size, and flip."""
        dtype, x = x.dtype, _exact(x)
        batch, _, height, width = x.shape
        uniform = _uniforms(x, 5, generator)
        area = self.views.crop[0] + (self.views.crop[1] - self.views.crop[0]) * uniform[0]
        widest = area.log().neg().clamp(0, math.log(4 / 3))  # beyond it, a large crop would leave the image
        ratio = torch.exp(widest * (2 * uniform[1] - 1))
        tall = (area / ratio).sqrt().clamp(max=1.0)
        wide = (area * ratio).sqrt().clamp(max=1.0)
        rows = _resampling(uniform[2] * (1 - tall), tall, height)
        columns = _resampling(uniform[3] * (1 - wide), wide, width)
        flipped = (uniform[4] < self.views.flip).view(batch, 1, 1)
        return _separable(x, rows, torch.where(flipped, columns.flip(1), columns)).to(dtype)

    def photometric(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Jitter brightness, contrast and colour, and blur."""
        dtype, x = x.dtype, _exact(x)
        uniform = _uniforms(x, 8, generator)
        strength = (uniform[0] < self.views.jitter).to(x.dtype)
        signed = strength * (2 * uniform - 1)
        brightness, contrast, saturation = (
            (1 + value * signed[1 + index]).view(-1, 1, 1, 1)
            for index, value in enumerate((self.views.brightness, self.views.contrast, self.views.saturation))
        )
        x = (x * brightness).clamp_(0, 1)
        mean = _luminance(x).mean(dim=(1, 2, 3), keepdim=True)
        x = torch.lerp(mean, x, contrast)
        if x.shape[1] == 3:
            keep_colour = (uniform[5] >= self.views.gray).to(x.dtype)
            x = _turn_colours(x, saturation.flatten() * keep_colour, 2 * math.pi * self.views.hue * signed[4])
        x = x.clamp_(0, 1)
        return (self._blurred(x, uniform[6:8]) if self.views.blur > 0 else x).to(dtype)

    def _blurred(self, x: Tensor, uniform: Tensor) -> Tensor:
        low, high = self.views.blur_sigma
        sigma = (low + (high - low) * uniform[1]) * (x.shape[-1] / 32)
        sigma = torch.where(uniform[0] < self.views.blur, sigma, 1e-3)
        return _separable(x, _blurring(sigma, x.shape[2]), _blurring(sigma, x.shape[3]))


def two_views(x: Tensor, sampler: ViewSampler, generator: torch.Generator) -> Tensor:
    """Return two random views of each image, [2B, C, H, W]: the first views of all images, then the second views."""
    return sampler(torch.cat([x, x]), generator)


def _exact(x: Tensor) -> Tensor:
    """Return half-precision images in float32, in which a crop's place is exact enough; others as they are."""
    return x.float() if x.dtype.itemsize < 4 else x


def _uniforms(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, x.shape[0], generator=generator, device=x.device).to(x.dtype)


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix a side to each image: `rows` [B, H, H] from the left, `columns` [B, W, W] from the right."""
    batch, channels, height, width = x.shape
    planes = x.contiguous() if channels > 1 else x.reshape(batch, 1, height, width)
    out = torch.matmul(torch.matmul(rows.unsqueeze(1), planes), columns.transpose(1, 2).unsqueeze(1))
    return out.contiguous(memory_format=torch.channels_last)


def _resampling(start: Tensor, extent: Tensor, size: int) -> Tensor:
    """Return [B, size, size] bilinear weights that stretch [start, start + extent] of the side [0, 1] to all of it."""
    pixels = torch.arange(size, device=start.device, dtype=start.dtype)
    source = (start[:, None] + extent[:, None] * (pixels + 0.5) / size) * size - 0.5
    source = source.clamp(0, size - 1)
    return (1 - (source[:, :, None] - pixels).abs()).clamp_(min=0)


def _blurring(sigma: Tensor, size: int) -> Tensor:
    """Return [B, size, size] Gaussian weights, each row summing to one."""
    pixels = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    distance = (pixels[:, None] - pixels) / sigma.view(-1, 1, 1)
    return torch.softmax(-0.5 * distance.square(), dim=2)


def _luminance(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    weights = torch.tensor(_RGB_TO_YIQ[0], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)


def _turn_colours(x: Tensor, saturation: Tensor, angle: Tensor) -> Tensor:
    """Scale the colour of each image by `saturation` [B] and turn its hue by `angle` [B] in radians."""
    to_yiq = torch.tensor(_RGB_TO_YIQ, device=x.device, dtype=x.dtype)
    turn = torch.zeros(x.shape[0], 3, 3, device=x.device, dtype=x.dtype)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * torch.cos(angle)
    turn[:, 2, 1] = saturation * torch.sin(angle)
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, x)
