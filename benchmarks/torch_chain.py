"""The other baseline: a whole batch at a time with torch, as trainers on GPUs usually do it.

What decides about sizes and kinds is drawn once for the batch, as in Real-ESRGAN's training code
(recipes whose draws are `tied`), so that every operation is one call: F.interpolate, a grouped
convolution, DiffJPEG, and noise by torch's own generators on the device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from degrade import Recipe, blur, canvas, diffjpeg, noise, quantize, resize, usm
from degrade.op import ChainParams
from degrade.upload import upload

# x [B, 3, h, w] float32 in [0, 1] and the parameters of a stage -> the same, or [B, 3, h', w'].
Operation = Callable[[Tensor, Any], Tensor]

# Drawn per batch, with DiffJPEG: how Real-ESRGAN, neosr and traiNNer-redux degrade.
RECIPE = 'ai6126_2024_parity'
BATCH = 32
INTERPOLATION = {resize.AREA: 'area', resize.BILINEAR: 'bilinear', resize.BICUBIC: 'bicubic'}


def degrade(
    x: Tensor,
    recipe: Recipe,
    params: ChainParams,
    operations: Mapping[Any, Operation] | None = None,
) -> Tensor:
    """Degrade a batch [B, 3, H, W] uint8 -> [B, 3, h, w] float32 in [0, 1].

    operations: by the modules they stand in for (default: RUN)
    """
    run = operations or RUN
    y = canvas.unit(x)
    for stage, p in zip(recipe.stages, params, strict=True):
        y = run[stage.op](y, p)
    return y


# ---- operations ----


def run_blur(x: Tensor, p: blur.Params) -> Tensor:
    """Convolve every image with a kernel of its own."""
    if (p.kind == blur.DELTA).all():
        return x
    return blur.apply_torch(x, blur.kernels(p, x.device))


def run_resize(x: Tensor, p: resize.Params) -> Tensor:
    """Resize the whole batch to one size by one filter."""
    now, size, step = list(x.shape[-2:]), p.size[0].tolist(), p.step[0].tolist()
    if now == size:
        return x
    # Given a factor, torch steps by its inverse; given a size, by the ratio of the sizes.
    by_size = [n / m for n, m in zip(now, size, strict=True)] == step
    how = {'size': size} if by_size else {'scale_factor': [1 / s for s in step]}
    return F.interpolate(x, **how, mode=INTERPOLATION[int(p.mode[0])])


def run_noise(x: Tensor, p: noise.Params) -> Tensor:
    """Add noise of one kind, drawn by torch on the device."""
    # One kind for the batch.
    gray = upload(p.gray, x.device)
    amount = upload(p.amount, x.device).float()
    if p.kind[0] == noise.NONE:
        return x
    if p.kind[0] == noise.GAUSSIAN:
        z = torch.where(gray.view(-1, 1, 1, 1), torch.randn_like(x[:1, :1]), torch.randn_like(x))
        return noise.gaussian_torch(x, z, amount)

    # Waits once per sample for the number of its levels, as the public code does.
    level, V = noise.level_torch(x, gray)
    V = V.to(x.device, x.dtype)
    counts = torch.poisson(level / 255.0 * V.view(-1, 1, 1, 1))
    counts = torch.where(gray.view(-1, 1, 1, 1), counts[:, :1], counts)
    return noise.poisson_torch(x, counts, level, V, amount)


def run_jpeg(x: Tensor, p: diffjpeg.Params) -> Tensor:
    """Quantise the cosines of every image; nothing is encoded."""
    return diffjpeg.apply_torch(x.clamp(0, 1), p.quality) if p.quality.all() else x


def run_usm(x: Tensor, p: usm.Params) -> Tensor:
    """Sharpen the whole batch."""
    return usm.apply_torch(x) if p.on.any() else x


def run_quantize(x: Tensor, p: quantize.Params) -> Tensor:
    """Round to multiples of 1/255."""
    return (x.clamp(0, 1) * 255).round() / 255


# By the module of the operation that each of them stands in for.
RUN: dict[Any, Operation] = {
    blur: run_blur,
    resize: run_resize,
    noise: run_noise,
    diffjpeg: run_jpeg,
    usm: run_usm,
    quantize: run_quantize,
}
