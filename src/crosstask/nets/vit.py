"""A vision transformer for small images."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from crosstask.nets.base import LAYER_SCALE, ChannelNorm, Encoder, Patches


class Attention(nn.Module):
    """Multi-head self-attention of tokens [B, N, C] (Vaswani et al. 2017, sec. 3.2).

    Written out: with so few tokens, PyTorch's fused attention is six times slower on a processor in bfloat16.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        shares = ((query / query.shape[-1] ** 0.5) @ key.transpose(2, 3)).softmax(dim=3)
        return self.out((shares @ value).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and a perceptron on the positions of maps [B, C, H, W], each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.scale1 * self.attention(self.norm1(tokens))
        tokens = tokens + self.scale2 * self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


@final
class VisionTransformer(Encoder):
    """Patches as tokens, pre-norm attention and GELU perceptrons (Dosovitskiy et al. 2021), for images of any size.

    Between blocks the tokens stand as maps, and the blocks in stages, so that methods that tap maps find them where
    other encoders have them. Differences from the paper: position embeddings are sines and cosines, computed from the
    size, and the features are the tokens' mean, without a class token (Beyer et al. 2022, Better plain ViT baselines);
    residual branches have layer scales, without which it hardly learns by SGD; no dropout.

    Args:
        stages: number of stages.
        depth: blocks in each.
        width: of the tokens, a multiple of 4 and of `heads`.
        heads: of the attention.
        hidden: width inside the perceptrons.
        patch: side of a patch, in pixels; images are padded with their mean colour to a multiple of it.
        channels: image channels, 1 or 3.
    """

    def __init__(
        self, *, stages: int, depth: int, width: int, heads: int, hidden: int, patch: int, channels: int
    ) -> None:
        super().__init__(channels)
        self.patches = Patches(channels, width, patch)
        self.stages = nn.Sequential()
        for _ in range(stages):
            blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(depth)))
            self.stages.append(blocks)
        blocks.append(ChannelNorm(width))
        self.feature_dim = width

    def stem(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        return x + positions(x.shape[2], x.shape[3], self.feature_dim, x.device).to(self.patches.weight.dtype)


def positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the position embeddings [C, H, W] of a grid: sines and cosines of x and y (Chen, Xie & He 2021, MoCo v3).

    Four channels share a frequency; the frequencies fall from 1 to nearly 1 / 10,000, evenly in their logarithm.

    Args:
        height, width: of the grid, in patches.
        channels: a multiple of 4.
        device: where the embeddings are made.
    """
    quarter = channels // 4
    frequencies = 10_000 ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    down, across = (
        frequencies[:, None] * torch.arange(size, device=device, dtype=torch.float32) for size in (height, width)
    )
    waves = [across.sin()[:, None, :], across.cos()[:, None, :], down.sin()[:, :, None], down.cos()[:, :, None]]
    return torch.cat([wave.expand(quarter, height, width) for wave in waves])


def vit_lite_narrow(channels: int = 3) -> VisionTransformer:
    """ViT-Lite-6/4 (Hassani et al. 2021) at half its width: 0.8 M parameters, 128 features, for two CPU cores."""
    return VisionTransformer(stages=3, depth=2, width=128, heads=4, hidden=256, patch=4, channels=channels)
