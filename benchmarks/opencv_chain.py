"""The baseline: the same degradation written plainly for one image at a time with OpenCV and NumPy, as augmentation code usually is.

float32 HWC throughout, filter2D with the true kernel size, cv2.resize, NumPy's own random generators, libjpeg through imencode. It executes the plans of a recipe
(kinds, sizes, scales, qualities), with noise fields of its own.
"""

import math

import cv2
import numpy as np

from degrade import blur, jpeg, median, noise, quantize, resize, usm

INTERPOLATION = {
    resize.AREA: cv2.INTER_AREA,
    resize.AREA_CV: cv2.INTER_AREA,
    resize.BILINEAR: cv2.INTER_LINEAR,
    resize.BICUBIC: cv2.INTER_CUBIC,
    resize.BICUBIC_AA: cv2.INTER_CUBIC,
    resize.NEAREST: cv2.INTER_NEAREST,
}
SHARPEN = cv2.getGaussianKernel(usm.TAPS, 0).astype(np.float32)


def kernel(p):
    """[n, n] float32."""
    off = np.arange(p.taps) - p.taps // 2
    x, y = np.meshgrid(off, off)
    if p.kind == blur.SINC:
        d = np.hypot(x, y)
        d[p.taps // 2, p.taps // 2] = 1
        k = p.omega * _j1(p.omega * d) / (2 * np.pi * d)
        k[p.taps // 2, p.taps // 2] = p.omega**2 / (4 * np.pi)
    elif p.kind == blur.MOTION:
        line = np.zeros((p.taps, p.taps), np.float32)
        line[p.taps // 2] = np.linspace(p.beta, 1 - p.beta, p.taps)
        k = cv2.warpAffine(
            line,
            cv2.getRotationMatrix2D((int(p.taps) // 2,) * 2, -math.degrees(p.theta), 1),
            line.shape,
        )
    else:
        c, s = math.cos(p.theta), math.sin(p.theta)
        q = ((x * c + y * s) / p.sigma_x) ** 2 + ((y * c - x * s) / p.sigma_y) ** 2
        if p.kind in (blur.ISO, blur.ANISO):
            k = np.exp(-q / 2)
        elif p.kind in (blur.GEN_ISO, blur.GEN_ANISO):
            k = np.exp(-(q**p.beta) / 2)
        else:
            k = 1 / (1 + q**p.beta)
    return (k / k.sum()).astype(np.float32)


def _j1(x):
    t = (np.arange(96) + 0.5) * (np.pi / 96)
    return np.cos(t - x[..., None] * np.sin(t)).mean(-1)


def run_blur(x, p, rng):
    if p.kind == blur.DELTA:
        return x
    return cv2.filter2D(x, -1, kernel(p), borderType=cv2.BORDER_REFLECT_101)


def run_median(x, p, rng):
    if p.side == 1:
        return x
    return (
        cv2.medianBlur(np.clip(np.rint(x * 255), 0, 255).astype(np.uint8), int(p.side)).astype(
            np.float32
        )
        / 255
    )


def run_resize(x, p, rng):
    return cv2.resize(x, (int(p.size[1]), int(p.size[0])), interpolation=INTERPOLATION[int(p.mode)])


def run_noise(x, p, rng):
    h, w, _ = x.shape
    shape = h, w, 1 if p.gray else 3
    if p.kind == noise.NONE:
        return x
    if p.kind == noise.GAUSSIAN:
        n = rng.standard_normal(shape, dtype=np.float32) * np.float32(p.amount)
    elif p.kind == noise.LAPLACE:
        n = rng.laplace(0, p.amount, shape).astype(np.float32)
    elif p.kind == noise.SIGNED:
        n = (rng.poisson(255 * p.amount, shape) * rng.choice((-1, 1), shape) / 255).astype(
            np.float32
        )
    else:
        base = (x @ np.array(noise.LUMA, np.float32))[..., None] if p.gray else x
        level = np.clip(np.rint(base * 255), 0, 255).astype(np.uint8)
        V = 2 ** math.ceil(math.log2(np.count_nonzero(np.bincount(level.ravel(), minlength=256))))
        x8 = level.astype(np.float32) / 255
        n = (rng.poisson(x8 * V).astype(np.float32) / V - x8) * np.float32(p.amount)
    return np.clip(x + n, 0, 1)


def run_jpeg(x, p, rng):
    if not p.quality:
        return x
    u8 = np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)
    data = cv2.imencode('.jpg', u8[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(p.quality)])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


def run_usm(x, p, rng):
    if not p.on:
        return x
    residual = x - cv2.sepFilter2D(x, -1, SHARPEN, SHARPEN, borderType=cv2.BORDER_REFLECT_101)
    mask = (np.abs(residual) * 255 > usm.THRESHOLD).astype(np.float32)
    soft = cv2.sepFilter2D(mask, -1, SHARPEN, SHARPEN, borderType=cv2.BORDER_REFLECT_101)
    return x + soft * (np.clip(x + usm.WEIGHT * residual, 0, 1) - x)


def run_quantize(x, p, rng):
    return np.clip(np.rint(x * 255), 0, 255) / 255 if p.on else x


RUN = {
    blur: run_blur,
    median: run_median,
    resize: run_resize,
    noise: run_noise,
    jpeg: run_jpeg,
    usm: run_usm,
    quantize: run_quantize,
}


def degrade(image, recipe, params, rng):
    """image [h, w, 3] uint8 RGB, params of one sample -> [h', w', 3] float32."""
    x = image.astype(np.float32) / 255
    for stage, p in zip(recipe.stages, params):
        x = RUN[stage.op](x, p, rng)
    return x
