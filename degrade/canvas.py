"""A batch whose samples differ in size: one padded tensor and the true sizes."""

from typing import NamedTuple

import numpy as np
import torch


class Canvas(NamedTuple):
    pix: torch.Tensor  # [B, 3, H, W] float32, nominal range [0, 1], RGB, channels-last in memory; uint8 0..255 where it is made of 8-bit
    # values (before the first stage; after JPEG by OpenCV); only [:, :, :h, :w] of a sample is meaningful
    size: np.ndarray  # [B, 2] int64 true height and width; on the CPU, where sizes are drawn


def of(x):
    """[B, 3, H, W] float32 -> a Canvas that it fills."""
    return Canvas(x, np.tile(np.array(x.shape[-2:], np.int64), (len(x), 1)))


def each_size(canvas, params, run, out=None):
    """Run `run(x [b, 3, h, w], params of these b) -> [b, 3, h', w']` on every group of samples that agree in size and in output size.

    out: [B, 2] sizes after the op where it changes them. Samples differ in size only after a per-sample resize; a batch that agrees (or a batch of one) is one call without a copy.
    """
    out = canvas.size if out is None else out
    keys, group = np.unique(np.concatenate([canvas.size, out], 1), axis=0, return_inverse=True)
    if len(keys) == 1:
        h, w = canvas.size[0]
        return of(run(unit(canvas.pix[:, :, :h, :w]), params))
    b, (h, w) = len(out), out.max(0)
    pix = canvas.pix.new_zeros(b, 3, h, w, dtype=torch.float32).contiguous(
        memory_format=torch.channels_last
    )
    for k, (h0, w0, h1, w1) in enumerate(keys):
        i = np.flatnonzero(group.ravel() == k)
        pix[torch.from_numpy(i), :, :h1, :w1] = run(
            unit(canvas.pix[i, :, :h0, :w0]), type(params)(*(f[i] for f in params))
        )
    return Canvas(pix, out)


def unit(x):
    """uint8 -> float32 in [0, 1], the same on every device; float32 as it is."""
    if x.dtype != torch.uint8:
        return x
    # By a tensor: on a GPU torch turns the division by a number into a product with its reciprocal, which differs in the last bit.
    return x.to(torch.float32) / torch.full((), 255.0, device=x.device)


def hwc(x):
    """[1, 3, h, w] tensor on the CPU -> [h, w, 3] array of its type, contiguous for OpenCV; a view where the tensor is channels-last."""
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


def unit_array(a):
    """uint8 array -> float32 in [0, 1]; a product is half the time of a quotient and differs by 6e-8 at most. float32 as it is."""
    return np.multiply(a, np.float32(1 / 255)) if a.dtype == np.uint8 else a


def nchw(a):
    """[h, w, 3] array -> [1, 3, h, w] channels-last tensor, a view."""
    return torch.from_numpy(a).permute(2, 0, 1)[None]
