"""Learned position embeddings: they tell a network where in the whole picture a pixel lies."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size], bilinear; x itself where the size is right."""
    if list(x.shape[-2:]) == list(size):
        return x
    return F.interpolate(x, tuple(size), mode='bilinear')


def embedding(position: Tensor, size: Sequence[int], place: Tensor | None) -> Tensor:
    """What is added to features of `size`: the embedding [1, C, P, Q], or what of it is theirs.

    place: [B, 4] float32 left, top, width and height of what the features show, as shares of the
        whole picture; None if they show all of it
    Returns [1, C, *size], with a place [B, C, *size]; bilinear between the embedding's pixels.
    """
    if place is None:
        return resized(position, size)
    left, top, width, height = place.unbind(1)
    rows = _weights(top, height, size[0], position.shape[2])
    columns = _weights(left, width, size[1], position.shape[3])
    # Products, not grid_sample, whose gradient is not deterministic on a GPU.
    return torch.einsum('bhp,cpq,bwq->bchw', rows, position[0], columns)


def _weights(start: Tensor, extent: Tensor, count: int, side: int) -> Tensor:
    """[B, count, side] of linear interpolation at the centres of `count` pixels; rows sum to 1."""
    centres = (torch.arange(count, device=start.device) + 0.5) / count
    at = (start[:, None] + extent[:, None] * centres) * side - 0.5
    # Beyond the outermost centres their value is kept, as F.interpolate does.
    distance = at.clamp(0, side - 1)[..., None] - torch.arange(side, device=start.device)
    return (1 - distance.abs()).clamp_min(0)
