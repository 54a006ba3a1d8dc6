"""A batch whose samples differ in size: one padded tensor and the true sizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


class Canvas(NamedTuple):
    """Images of a batch, each in the top left corner of its part of one tensor."""

    # [B, 3, H, W] float32 in the nominal range [0, 1], RGB, channels-last in memory; or uint8 in
    # 0..255 where all values are 8-bit (before the first stage; after JPEG by OpenCV).
    # Only [:, :, :h, :w] of a sample is meaningful.
    pix: torch.Tensor
    # [B, 2] int64 true height and width; on the CPU, where sizes are drawn.
    size: np.ndarray


def of(x: torch.Tensor) -> Canvas:
    """Return a Canvas that the images [B, 3, H, W] fill completely."""
    return Canvas(x, np.full((len(x), 2), x.shape[-2:], np.int64))


def each_size(
    canvas: Canvas,
    params: Any,
    run: Callable[[torch.Tensor, Any], torch.Tensor],
    out: np.ndarray | None = None,
) -> Canvas:
    """Run `run(x [b, 3, h, w], params of these b)` on every group of samples of equal sizes.

    A group agrees in input and output size. `out` [B, 2] gives the output sizes where they differ
    from the input's. Sizes differ only after a resize with parameters of its own for each sample;
    a batch of one size, or of one image, is a single call without a copy.
    """
    out = canvas.size if out is None else out
    keys, group = np.unique(np.concatenate([canvas.size, out], 1), axis=0, return_inverse=True)
    if len(keys) == 1:
        h, w = canvas.size[0]
        return of(run(unit(canvas.pix[:, :, :h, :w]), params))

    # The padding is zero, so that the result is the same whatever the memory held before.
    H, W = out.max(0)
    pix = canvas.pix.new_zeros(len(out), 3, H, W, dtype=torch.float32)
    pix = pix.contiguous(memory_format=torch.channels_last)
    for k, (h0, w0, h1, w1) in enumerate(keys):
        members = np.flatnonzero(group.ravel() == k)
        x = unit(canvas.pix[members, :, :h0, :w0])
        y = run(x, type(params)(*(field[members] for field in params)))
        pix[torch.from_numpy(members), :, :h1, :w1] = y
    return Canvas(pix, out)


def reflected(x: torch.Tensor, r: int) -> torch.Tensor:
    """Pad [B, C, h, w] by r on every side, mirrored without repeating the edge.

    A picture that is smaller than r is mirrored again and again, as np.pad does it.
    """
    # torch has only the mirroring that happens once.
    if r < min(x.shape[-2:]):
        return F.pad(x, (r, r, r, r), 'reflect')
    for dim in (-2, -1):
        n = x.shape[dim]
        period = max(2 * n - 2, 1)
        i = torch.arange(-r, n + r, device=x.device).remainder(period)
        x = x.index_select(dim, torch.minimum(i, period - i))
    return x


def unit(x: torch.Tensor) -> torch.Tensor:
    """Convert uint8 to float32 in [0, 1], equally on every device; float32 is returned as it is."""
    if x.dtype != torch.uint8:
        return x
    # Divide by a tensor: on a GPU torch turns the division by a number into a product with its
    # reciprocal, which differs in the last bit.
    return x.to(torch.float32) / torch.full((), 255.0, device=x.device)


def hwc(x: torch.Tensor) -> np.ndarray:
    """Return a CPU tensor [1, 3, h, w] as an array [h, w, 3], contiguous as OpenCV needs it.

    A view where the tensor is channels-last.
    """
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


def unit_array(a: np.ndarray) -> np.ndarray:
    """Convert a uint8 array to float32 in [0, 1]; float32 is returned as it is.

    A product takes half the time of a quotient and differs from it by at most 6e-8.
    """
    return np.multiply(a, np.float32(1 / 255)) if a.dtype == np.uint8 else a


def nchw(a: np.ndarray) -> torch.Tensor:
    """Return an array [h, w, 3] as a channels-last tensor [1, 3, h, w], a view."""
    return torch.from_numpy(a).permute(2, 0, 1)[None]
