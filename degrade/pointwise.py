"""What operations that look at no neighbours share: a formula for the whole canvas at once.

They have no kernels of their own: on a GPU they are a few of torch's operations, which neither wait
for anything nor need the sizes of the samples.
"""

from collections.abc import Callable

import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .upload import upload


def column(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """One number per sample, [B] or per sample and channel, [B, 3]: float32 [B, 1 or 3, 1, 1]."""
    there = upload(np.asarray(values, np.float32), device)
    return there.view(len(values), -1, 1, 1)


def applied(c: Canvas, on: np.ndarray, f: Callable[[torch.Tensor], torch.Tensor]) -> Canvas:
    """Return f(pixels [B, 3, H, W] float32) clamped to [0, 1]; where not `on` [B], what was there.

    f may compute what it likes outside of the samples, and of samples that are skipped.
    """
    if not on.any():
        return c
    # Of samples that are skipped the very values stay, not values that are nearly the same.
    x = canvas.unit(c.pix)
    y = f(x).clamp(0, 1)
    if not on.all():
        y = torch.where(column(on, x.device) > 0, y, x)
    return c._replace(pix=y.contiguous(memory_format=torch.channels_last))


def combined(
    c: Canvas,
    other: Canvas,
    on: np.ndarray,
    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Canvas:
    """The same of two canvases of the same samples: f(pixels of c, pixels of the other)."""
    # A blur may leave a canvas that is smaller than the one it was given.
    h, w = other.pix.shape[-2:]
    there = canvas.unit(other.pix)
    return applied(c._replace(pix=c.pix[:, :, :h, :w]), on, lambda x: f(x, there))


def no_record(size: np.ndarray) -> np.ndarray:
    """Structs of nothing but the size, as there is no kernel."""
    return cuda.record([], size)
