"""The baseline: one image at a time with OpenCV and NumPy, as augmentation code usually does it.

float32 HWC throughout, filter2D with the true kernel size, cv2.resize, NumPy's own random
generators, libjpeg through imencode. It executes the plans of a recipe (kinds, sizes, scales,
qualities) with noise fields of its own.
"""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from degrade import (
    Recipe,
    blur,
    color_jitter,
    color_shift,
    gray,
    jpeg,
    median,
    noise,
    quantize,
    resize,
    take,
    unsharp,
    usm,
)
from degrade.op import ChainParams, Op

INTERPOLATION = {
    resize.AREA: cv2.INTER_AREA,
    resize.AREA_CV: cv2.INTER_AREA,
    resize.BILINEAR: cv2.INTER_LINEAR,
    resize.BICUBIC: cv2.INTER_CUBIC,
    resize.BICUBIC_AA: cv2.INTER_CUBIC,
    resize.NEAREST: cv2.INTER_NEAREST,
}
SHARPEN = cv2.getGaussianKernel(usm.TAPS, 0).astype(np.float32)
BORDER = cv2.BORDER_REFLECT_101


def degrade(
    image: np.ndarray, recipe: Recipe, params: ChainParams, rng: np.random.Generator
) -> np.ndarray:
    """Degrade one image [h, w, 3] uint8 RGB -> [h', w', 3] float32. params: of this sample"""
    # Every operation sees the whole image before the next begins: nothing is fused or batched.
    x = image.astype(np.float32) / 255
    for stage, p in zip(recipe.stages, params, strict=True):
        x = RUN[stage.op](x, p, rng)
    return x


def worker(recipe: Recipe, params: ChainParams) -> Callable[[np.ndarray, int], np.ndarray]:
    """What a process does with images of these numbers; params: of all samples."""
    rng = np.random.default_rng(0)
    return lambda image, i: degrade(image, recipe, take(params, i), rng)


def grey_levels(x: np.ndarray) -> np.ndarray:
    """Round float32 in [0, 1] to uint8."""
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)


# ---- blur ----


def kernel(p: blur.Params) -> np.ndarray:
    """The blur kernel [n, n] float32 of one sample, as the papers give it."""
    taps = int(p.taps)
    off = np.arange(taps) - taps // 2
    x, y = np.meshgrid(off, off)
    # Rounding to float32 comes last, as in the original functions.
    if p.kind == blur.SINC:
        k = _sinc(p, x, y)
    elif p.kind == blur.MOTION:
        k = _motion(p)
    else:
        k = _profile(p, x, y)
    return (k / k.sum()).astype(np.float32)


def _sinc(p: blur.Params, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The circular low-pass filter; its centre is a limit."""
    centre = p.taps // 2
    d = np.hypot(x, y)
    d[centre, centre] = 1
    k = p.omega * _j1(p.omega * d) / (2 * np.pi * d)
    k[centre, centre] = p.omega**2 / (4 * np.pi)
    return k


def _motion(p: blur.Params) -> np.ndarray:
    """A turned line whose ends may weigh differently (imgaug)."""
    line = np.zeros((p.taps, p.taps), np.float32)
    line[p.taps // 2] = np.linspace(p.beta, 1 - p.beta, p.taps)
    centre = (int(p.taps) // 2,) * 2
    turn = cv2.getRotationMatrix2D(centre, -math.degrees(p.theta), 1)
    return cv2.warpAffine(line, turn, line.shape)


def _profile(p: blur.Params, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gaussian, generalised Gaussian or plateau, as a function of the elliptical radius."""
    c, s = math.cos(p.theta), math.sin(p.theta)
    q = ((x * c + y * s) / p.sigma_x) ** 2 + ((y * c - x * s) / p.sigma_y) ** 2
    if p.kind in (blur.ISO, blur.ANISO):
        return np.exp(-q / 2)
    if p.kind in (blur.GEN_ISO, blur.GEN_ANISO):
        return np.exp(-(q**p.beta) / 2)
    return 1 / (1 + q**p.beta)


def _j1(x: np.ndarray) -> np.ndarray:
    """Bessel function of the first kind and order one, by its integral; SciPy is no dependency."""
    t = (np.arange(96) + 0.5) * (np.pi / 96)
    return np.cos(t - x[..., None] * np.sin(t)).mean(-1)


# ---- operations: x [h, w, 3] float32, parameters of one sample -> the same, or [h', w', 3] ----


def run_blur(x: np.ndarray, p: blur.Params, rng: np.random.Generator) -> np.ndarray:
    """Correlate with the kernel."""
    if p.kind == blur.DELTA:
        return x
    return cv2.filter2D(x, -1, kernel(p), borderType=BORDER)


def run_median(x: np.ndarray, p: median.Params, rng: np.random.Generator) -> np.ndarray:
    """Take medians of squares; OpenCV's are of uint8 for all sides."""
    if p.side == 1:
        return x
    return cv2.medianBlur(grey_levels(x), int(p.side)).astype(np.float32) / 255


def run_resize(x: np.ndarray, p: resize.Params, rng: np.random.Generator) -> np.ndarray:
    """Resize."""
    h, w = int(p.size[0]), int(p.size[1])
    return cv2.resize(x, (w, h), interpolation=INTERPOLATION[int(p.mode)])


def run_noise(x: np.ndarray, p: noise.Params, rng: np.random.Generator) -> np.ndarray:
    """Add noise of one kind and clip."""
    shape = (*x.shape[:2], 1 if p.gray else 3)
    if p.kind == noise.NONE:
        return x
    if p.kind == noise.GAUSSIAN:
        n = rng.standard_normal(shape, dtype=np.float32) * np.float32(p.amount)
    elif p.kind == noise.LAPLACE:
        n = rng.laplace(0, p.amount, shape).astype(np.float32)
    elif p.kind == noise.SIGNED:
        counts = rng.poisson(255 * p.amount, shape)
        n = (counts * rng.choice((-1, 1), shape) / 255).astype(np.float32)
    else:
        n = _poisson(x, p, rng)
    return np.clip(x + n, 0, 1)


def _poisson(x: np.ndarray, p: noise.Params, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise whose rate follows from the number of distinct levels (Real-ESRGAN)."""
    # Levels are counted after rounding to 8 bits; the rate is the next power of two.
    base = (x @ np.array(noise.LUMA, np.float32))[..., None] if p.gray else x
    level = grey_levels(base)
    distinct = np.count_nonzero(np.bincount(level.ravel(), minlength=256))
    V = 2 ** math.ceil(math.log2(distinct))
    x8 = level.astype(np.float32) / 255
    return (rng.poisson(x8 * V).astype(np.float32) / V - x8) * np.float32(p.amount)


def run_jpeg(x: np.ndarray, p: jpeg.Params, rng: np.random.Generator) -> np.ndarray:
    """Encode by libjpeg and decode."""
    if not p.quality:
        return x
    how = [cv2.IMWRITE_JPEG_QUALITY, int(p.quality)]
    how += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, jpeg.OPENCV[int(p.sampling)]]
    _, data = cv2.imencode('.jpg', grey_levels(x)[..., ::-1], how)
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert bgr is not None
    return bgr[..., ::-1].astype(np.float32) / 255


def run_usm(x: np.ndarray, p: usm.Params, rng: np.random.Generator) -> np.ndarray:
    """Sharpen where the difference from the blurred image is large, with a soft mask."""
    if not p.on:
        return x
    # The threshold is in grey levels; the mask is blurred so that no edge of it shows.
    residual = x - cv2.sepFilter2D(x, -1, SHARPEN, SHARPEN, borderType=BORDER)
    mask = (np.abs(residual) * 255 > usm.THRESHOLD).astype(np.float32)
    soft = cv2.sepFilter2D(mask, -1, SHARPEN, SHARPEN, borderType=BORDER)
    return x + soft * (np.clip(x + usm.WEIGHT * residual, 0, 1) - x)


def run_unsharp(x: np.ndarray, p: unsharp.Params, rng: np.random.Generator) -> np.ndarray:
    """Add a share of the difference from the blurred image."""
    if not p.amount:
        return x
    side = 2 * math.ceil(3 * p.sigma) + 1
    soft = cv2.GaussianBlur(x, (side, side), float(p.sigma), borderType=BORDER)
    return np.clip(cv2.addWeighted(x, 1 + float(p.amount), soft, -float(p.amount), 0), 0, 1)


def run_color_shift(x: np.ndarray, p: color_shift.Params, rng: np.random.Generator) -> np.ndarray:
    """Add a number to every channel."""
    return np.clip(x + p.shift.astype(np.float32), 0, 1) if p.shift.any() else x


def run_gray(x: np.ndarray, p: gray.Params, rng: np.random.Generator) -> np.ndarray:
    """Take the colour away."""
    if not p.on:
        return x
    return cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def run_color_jitter(x: np.ndarray, p: color_jitter.Params, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue in their order; hue through HSV."""
    if (p.factor == color_jitter.NEUTRAL).all():
        return x
    for part in p.order:
        f = np.float32(p.factor[part])
        luma = (x @ np.array(noise.LUMA, np.float32))[..., None]
        if part == color_jitter.BRIGHTNESS:
            x = f * x
        elif part == color_jitter.CONTRAST:
            x = f * x + (1 - f) * luma.mean()
        elif part == color_jitter.SATURATION:
            x = f * x + (1 - f) * luma
        else:
            hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + 360 * f) % 360
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        x = np.clip(x, 0, 1)
    return x


def run_quantize(x: np.ndarray, p: quantize.Params, rng: np.random.Generator) -> np.ndarray:
    """Round to multiples of 1/255."""
    return np.clip(np.rint(x * 255), 0, 255) / 255 if p.on else x


def can(recipe: Recipe) -> bool:
    """Whether OpenCV has all that a recipe takes: not DiffJPEG, and no filter of Pillow's."""
    pillows = {resize.BICUBIC_AA, resize.LANCZOS}
    modes = [s.ranges.get('modes', ()) for s in recipe.stages if s.op is resize]
    used = {mode for weights in modes for mode, weight in enumerate(weights) if weight}
    return used.isdisjoint(pillows) and all(stage.op in RUN for stage in recipe.stages)


# By the module of the operation that each of them stands in for.
RUN: dict[Op[Any], Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]] = {
    blur: run_blur,
    median: run_median,
    resize: run_resize,
    noise: run_noise,
    jpeg: run_jpeg,
    usm: run_usm,
    unsharp: run_unsharp,
    color_shift: run_color_shift,
    gray: run_gray,
    color_jitter: run_color_jitter,
    quantize: run_quantize,
}
