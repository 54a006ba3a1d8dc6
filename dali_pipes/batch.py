"""The contract between data and network, and what the loaders do to decoded images."""

from typing import NamedTuple

import cv2
import numpy as np
import torch

from degrade.upload import upload


class Batch(NamedTuple):
    """What a network is trained on. Images are RGB, float32 in [0, 1] and channels-last."""

    # [B, 3, h, w], multiples of 1/255 where it was degraded.
    input: torch.Tensor
    # [B, 3, H, W] with H = recipe.scale * h. For a parser [B, H, W] uint8 class ids; for landmarks
    # [B, K, 3] float32 x, y in pixels and whether that lies inside the picture.
    target: torch.Tensor
    # [B] int64 sample numbers.
    sample: torch.Tensor
    # As the target, but never sharpened: what a discriminator takes for real. The same tensor where
    # the two are equal; None where the target is no picture.
    plain: torch.Tensor | None
    # [B, 4] float32 left, top, width and height of crops, as shares of the whole picture; None of
    # whole pictures.
    place: torch.Tensor | None = None


def flipped(x: torch.Tensor, flip: np.ndarray, there: torch.Tensor | None = None) -> torch.Tensor:
    """Mirror the samples of x [B, H, W, C] uint8 for which flip [B] bool is set.

    there: flip on a GPU, where it is there already
    """
    if x.device.type != 'cpu':
        there = upload(flip, x.device) if there is None else there
        return torch.where(there[:, None, None, None], x.flip(2), x)
    x = x.clone()
    for i in np.flatnonzero(flip):
        # OpenCV drops the dimension of a single channel.
        mirrored = torch.from_numpy(cv2.flip(x[i].numpy(), 1))
        x[i] = mirrored.view(x[i].shape)
    return x


def assembled(
    cached: torch.Tensor | None, decoded: torch.Tensor | None, rows: torch.Tensor
) -> torch.Tensor:
    """Merge the images of a batch.

    cached:  images in the order of their places; None if there are none
    decoded: the others, likewise
    rows:    of `rows_of`, on the device of the images
    Returns [B, ...].
    """
    if cached is None:
        assert decoded is not None
        return decoded
    if decoded is None:
        return cached
    return torch.cat([cached, decoded])[rows]


def rows_of(places: np.ndarray, count: int) -> np.ndarray:
    """[count] int64: which image of first the others and then those at `places` [k] goes where."""
    rows = np.empty(count, np.int64)
    rows[np.setdiff1d(np.arange(count), places)] = np.arange(count - len(places))
    rows[places] = np.arange(count - len(places), count)
    return rows
