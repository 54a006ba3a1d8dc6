"""NIQE: how far a picture's statistics are from those of pristine ones, without its truth.

Mittal, Soundararajan and Bovik, Making a "Completely Blind" Image Quality Analyzer, IEEE Signal
Processing Letters 2013. Arithmetic as in the authors' Matlab release: luma rounded to 8 bits, 7 x 7
window, blocks of 96 x 96 and, at half the size, 48 x 48. With the published model, on drawn faces
and textures, pyiqa 0.1.16 gives the same within 0.001 (0.011 where a blurred background is flat),
BasicSR 1.4.2 on grey within 0.07, as it computes in float32. BasicSR's default, the luma of YCbCr
from 16 to 235, is another figure: 4.26 instead of 4.11 of a face.

The published model is of 125 photographs of other things than faces and does not come with the
trainer. With a model of one's own pristine faces (`fit`) the figure is NIQE's, but comparable only
with figures of the same model, never with published ones; `Model.note` says which it is.
"""

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

import storage
from errors import BadFile, MetricError
from storage import printable, shown, tensors

from .frechet import Moments

BLOCK = 96  # pixels of a side; smaller pictures have no figure
FEATURES = 36  # 18 at each of two scales
LARGEST = 1 << 20  # bytes of a file of a model, which has 11 KB
PUBLISHED = 'published'  # note of the authors' model
_LUMA = 299, 587, 114  # thousandths of R, G and B in the luma of BT.601
# The window, normalised: one dimension of two equal ones.
_WINDOW = [math.exp(-i * i / (2 * (7 / 6) ** 2)) for i in range(-3, 4)]
_TAPS = [w / sum(_WINDOW) for w in _WINDOW]
# Differences from a local mean that are rounding errors: grey levels.
_NOTHING = 1e-9
_HUGE = 1e12  # more than any feature
# Neighbours whose products are looked at: steps down and to the right (sec. II.A, "paired
# products").
_STEPS = (0, 1), (1, 0), (1, 1), (1, -1)


class Model(NamedTuple):
    """The Gaussian of the features of pristine patches (sec. II.C)."""

    mean: Tensor  # [36] float64
    covariance: Tensor  # [36, 36] float64
    note: str  # what it was fitted on, or PUBLISHED


# ---- features ----


def features(image: Tensor) -> Tensor:
    """Statistics of the blocks of a picture [3, H, W] uint8 -> [n, 36] float64 (sec. II.A).

    n is the number of whole 96 x 96 blocks, row by row; what is left over to the right and below is
    left out. Rows of flat blocks, which have no statistics, hold NaN. ValueError for another type
    or shape, or fewer than 96 pixels a side.
    """
    return _described(image)[0]


def _described(image: Tensor) -> tuple[Tensor, Tensor]:
    """([n, 36] features, [n] sharpness: the mean deviation from the local mean, in levels)."""
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(f'niqe of {tuple(image.shape)} {image.dtype}: [3, H, W] uint8 is needed')
    if min(image.shape[1:]) < BLOCK:
        raise ValueError(
            f'niqe: a picture of {image.shape[1]} x {image.shape[2]} has no block of '
            f'{BLOCK} x {BLOCK}'
        )
    h, w = (side // BLOCK * BLOCK for side in image.shape[1:])
    red, green, blue = image[:, :h, :w].int()
    # In whole numbers, so that halves are rounded up everywhere.
    thousandths = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    luma = ((thousandths + 500) // 1000).double()

    # Two scales, of which the first also tells how sharp a block is.
    normalised, deviation = _normalised(luma)
    fine = _statistics(_blocks(normalised, BLOCK))
    coarse = _statistics(_blocks(_normalised(_halved(luma))[0], BLOCK // 2))
    found = torch.cat([fine, coarse], 1)
    flat = found.isnan().any(1, keepdim=True)
    return found.where(~flat, torch.nan), _blocks(deviation, BLOCK).mean((1, 2))


def _normalised(luma: Tensor) -> tuple[Tensor, Tensor]:
    """(normalised luminance, local standard deviation) [H, W] of sec. II.A, equations 1 to 3."""
    mean, square = _windowed(torch.stack([luma, luma.square()]))
    deviation = (square - mean.square()).abs().sqrt()
    apart = luma - mean
    # A flat place is exactly 0: the sign of a rounding error is no statistic.
    apart = apart.where(apart.abs() > _NOTHING, 0.0)
    return apart / (deviation + 1), deviation


def _windowed(x: Tensor) -> Tensor:
    """Weighted means [n, H, W] under the 7 x 7 window; borders are repeated."""
    padded = F.pad(x[None], (3, 3, 3, 3), mode='replicate')[0]
    for dim in (1, 2):
        length = padded.shape[dim] - 6
        # The window is symmetric: each pair of taps is one multiplication.
        out = padded.narrow(dim, 3, length) * _TAPS[3]
        for i in range(3):
            pair = padded.narrow(dim, i, length) + padded.narrow(dim, 6 - i, length)
            out.add_(pair, alpha=_TAPS[i])
        padded = out
    return padded


def _cubic(x: float) -> float:
    """Keys' kernel with a = -1/2 (IEEE Transactions on Acoustics 1981)."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2


# Matlab's imresize by one half: the kernel is stretched over eight pixels.
_CUBIC = [_cubic((i - 3.5) / 2) for i in range(8)]
_HALVING = [w / sum(_CUBIC) for w in _CUBIC]


def _halved(x: Tensor) -> Tensor:
    """[H, W] of even sides -> [H/2, W/2], as Matlab's imresize; borders are mirrored."""
    for dim in (0, 1):
        side = x.shape[dim]
        # Three pixels beyond each border, of which the outermost is there twice.
        ends = x.narrow(dim, 0, 3).flip(dim), x.narrow(dim, side - 3, 3).flip(dim)
        padded = torch.cat([ends[0], x, ends[1]], dim).movedim(dim, 0)
        taps = [w * padded[i : i + side - 1 : 2] for i, w in enumerate(_HALVING)]
        x = torch.stack(taps).sum(0).movedim(0, dim)
    return x


def _blocks(x: Tensor, side: int) -> Tensor:
    """[H, W] -> [n, side, side], row by row."""
    return x.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)


def _statistics(blocks: Tensor) -> Tensor:
    """18 features of each block [n, s, s] of normalised luminance -> [n, 18].

    Shape and mean width of the block's values; shape, mean and both widths of the products of
    neighbours in four directions (equations 4 to 8). Neighbours wrap around within the block.
    """
    shape, left, right = _fitted(blocks)
    found = [shape, (left + right) / 2]
    for step in _STEPS:
        shape, left, right = _fitted(blocks * blocks.roll(step, (1, 2)))
        ratio = (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        found += [shape, (right - left) * ratio, left, right]
    return torch.stack(found, 1)


# Shapes that are tried, and the ratio (E|x|)^2 / E x^2 that each has; it grows with the shape.
_SHAPES = torch.arange(200, 10_001, dtype=torch.float64) / 1000
_RATIOS = (
    2 * torch.lgamma(2 / _SHAPES) - torch.lgamma(1 / _SHAPES) - torch.lgamma(3 / _SHAPES)
).exp()


def _fitted(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussian of values [n, s, s]: (shape, left width, right width) [n].

    By matching moments (Lasmar, Stitou and Berthoumieu, ICIP 2009; sec. II.A, equation 6).
    """
    x = x.flatten(1)
    squares = x.square()
    negative, positive = x < 0, x > 0
    left = ((squares * negative).sum(1) / negative.sum(1)).sqrt()
    right = ((squares * positive).sum(1) / positive.sum(1)).sqrt()
    skew = left / right
    ratio = x.abs().mean(1).square() / squares.mean(1)
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()

    # The nearest entry of the table, which is sorted.
    shapes, ratios = _SHAPES.to(x.device), _RATIOS.to(x.device)
    above = torch.searchsorted(ratios, wanted.nan_to_num()).clamp(1, len(ratios) - 1)
    nearer = wanted - ratios[above - 1] < ratios[above] - wanted
    shape = shapes[above - nearer.long()]
    width = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape, left * width, right * width


# ---- model and score ----


def fit(images: Iterable[Tensor], sharp: float = 0.75, note: str = '') -> Model:
    """Fit the model to pristine pictures, each [3, H, W] uint8, 96 x 96 or more.

    sharp: blocks count that are sharper than this share of their picture's sharpest one; 0.75 in
        the paper (sec. II.B, "Patch Selection")
    note: what the pictures are

    Raises MetricError for too few blocks: a covariance of 36 features needs more than 36.
    """
    moments = Moments()
    for image in images:
        found, sharpness = _described(image)
        chosen = (sharpness > sharp * sharpness.max()) & ~found.isnan().any(1)
        moments.update(found[chosen])
    if moments.count <= FEATURES:
        raise MetricError(
            f'NIQE: a model of {moments.count} sharp blocks: more than {FEATURES} are needed, give '
            'more or larger pictures'
        )
    return Model(moments.mean, moments.covariance, note or f'fitted on {moments.count:,} blocks')


def score(image: Tensor, model: Model) -> float:
    """NIQE of a picture [3, H, W] uint8: 0 or more, lower is better (sec. II.D, equation 10).

    NaN for a picture that is flat everywhere. ValueError as `features`.
    """
    moments = Moments()
    found = features(image).cpu()
    moments.update(found[~found.isnan().any(1)])
    if not moments.count:
        return float('nan')
    # One block alone has no spread.
    own = moments.covariance if moments.count > 1 else torch.zeros_like(model.covariance)
    apart = model.mean - moments.mean
    # Few blocks leave the mean of both covariances singular at times, hence the pseudo-inverse.
    inverse = torch.linalg.pinv((model.covariance + own) / 2)
    return math.sqrt(max((apart @ inverse @ apart).item(), 0.0))


# ---- files ----


def save(path: str | Path, model: Model) -> None:
    """Write a model as a safetensors file of 11 KB. Raises RunError if it cannot be written."""
    weights = {'mean': model.mean, 'covariance': model.covariance.contiguous()}
    storage.write(path, safetensors.torch.save(weights, {'niqe': model.note}))


def load(path: str | Path) -> Model:
    """Read a model that `save` wrote, or the authors' as an .npz (mu_pris_param, cov_pris_param).

    The latter's note is PUBLISHED. Raises MetricError for any other file.
    """
    try:
        data = storage.read(path, LARGEST)
        return _published(data) if data.startswith(b'PK') else _own(path, data)
    except (OSError, BadFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MetricError(
            f"{shown(path)}: no model of NIQE ({reason}); give one fitted here, or the authors' as "
            'an .npz with mu_pris_param and cov_pris_param'
        ) from error


def _own(path: str | Path, data: bytes) -> Model:
    weights = tensors.parse(data)
    note = tensors.metadata(path).get('niqe')
    if note is None or not {'mean', 'covariance'} <= set(weights):
        raise BadFile('holds other weights')
    return _checked(weights['mean'], weights['covariance'], printable(note, 200))


def _published(data: bytes) -> Model:
    try:
        # Compressed members may claim more than memory holds.
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
        if sum(member.file_size for member in members) > LARGEST:
            raise BadFile('larger inside than a model is')
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            mean, covariance = (
                torch.from_numpy(np.asarray(arrays[name], np.float64))
                for name in ('mu_pris_param', 'cov_pris_param')
            )
    except BadFile:
        raise
    except Exception as error:
        # Of damaged bytes: BadZipFile, KeyError, ValueError, EOFError, zlib.error, ...
        raise BadFile(tensors.first_line(error)) from None
    return _checked(mean, covariance, PUBLISHED)


def _checked(mean: Tensor, covariance: Tensor, note: str) -> Model:
    """Raise BadFile for arrays that are no Gaussian of 36 dimensions."""
    if mean.numel() != FEATURES or tuple(covariance.shape) != (FEATURES, FEATURES):
        raise BadFile(f'{list(mean.shape)} and {list(covariance.shape)} are no 36 features')
    mean, covariance = mean.flatten().double(), covariance.double()
    # Larger ones would overflow in the inverse.
    if not all((x.abs() < _HUGE).all() for x in (mean, covariance)):
        raise BadFile('holds numbers that are not finite, or huge')
    values = torch.linalg.eigvalsh((covariance + covariance.T) / 2)
    if not torch.allclose(covariance, covariance.T) or values[0] < -1e-6 * values[-1]:
        raise BadFile('its matrix is no covariance')
    return Model(mean, covariance, note)
