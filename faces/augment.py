"""Augmentation of a face and its mask: rotation, zoom, crop, mirror and colour.

Parameters are drawn per sample and then applied to both. The geometry is composed into one matrix
per sample and executed once, bilinear for the picture, nearest for the mask; so are the colours. A
mirrored mask has its left and right ids exchanged in the same step. Outside of the picture
everything is black and background.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from degrade.draw import Draw
from degrade.kernels import upload

from . import masks

# Matrices are multiples of 2^-20, so that float64 coordinates are exact and the nearest pixel is
# the same on every machine.
_GRID = 2.0**20
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class Params(NamedTuple):
    """Drawn parameters of B samples."""

    # [B, 2, 3] float64: position (x, y, 1) of a pixel before mirroring -> (x, y) in the source, px
    matrix: np.ndarray
    flip: np.ndarray  # [B] bool: mirrored, after all other geometry
    colour: np.ndarray  # [B, 3, 4] float64: (R, G, B, 1) in [0, 1] -> R, G, B


# ---- parameters ----


def sample(
    draw: Draw,
    size: tuple[int, int],
    *,
    flip: float = 0.5,  # probability
    rotate: float = 0.5,  # probability; else upright
    angle: float = 25.0,  # degrees to either side
    zoom: float = 1.25,  # largest magnification, from which a window of the old size is cropped
    jitter: float = 0.5,  # probability; else colours are unchanged
    brightness: float = 16 / 255,  # largest offset of either sign
    contrast: float = 0.25,  # factor about mid-grey, 1 -+ this
    saturation: float = 0.25,  # factor about the luma, 1 -+ this
    hue: float = 18.0,  # degrees to either side, about the grey axis
) -> Params:
    """Draw the parameters of pictures of size (H, W).

    All defaults are mild: faces are aligned, and stay so.
    """
    # Geometry.
    rotated = draw.uniform('rotate/on') < rotate
    degrees = np.where(rotated, draw.uniform('rotate/angle', -angle, angle), 0)
    place = draw.uniform('crop/x'), draw.uniform('crop/y')

    # Colours: (name, neutral value, largest deviation from it).
    on = draw.uniform('jitter/on') < jitter
    ranges = (
        ('brightness', 0, brightness),
        ('contrast', 1, contrast),
        ('saturation', 1, saturation),
        ('hue', 0, hue),
    )
    tint = [
        np.where(on, draw.uniform(f'jitter/{name}', neutral - most, neutral + most), neutral)
        for name, neutral, most in ranges
    ]
    return Params(
        matrix(size, degrees, draw.uniform('zoom', 1, zoom), place),
        draw.uniform('flip') < flip,
        colour(*tint),
    )


def matrix(
    size: tuple[int, int],
    degrees: np.ndarray,
    zoom: np.ndarray,
    place: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """[B, 2, 3] that rotates counter-clockwise about the centre, magnifies and crops.

    size:          (H, W) of the picture
    degrees, zoom: [B]
    place:         (x, y), [B] each, of the crop: 0 is left or top, 1 right or bottom
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.stack([c, -s, s, c], -1).reshape(-1, 2, 2)

    # Where the first pixel of the crop lies in the rotated picture; pixel centres are at integers,
    # hence the halves.
    zoom = np.asarray(zoom, np.float64)
    sides = np.array(size[::-1], np.float64)[:, None]  # W, H
    centre = (sides - 1) / 2
    start = (0.5 + np.stack(place) * (zoom - 1) * sides) / zoom - 0.5  # [2, B]

    shift = turn @ (start - centre).T[..., None] + centre
    return np.round(np.concatenate([turn / zoom[:, None, None], shift], 2) * _GRID) / _GRID


def colour(
    brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue: np.ndarray
) -> np.ndarray:
    """[B, 3, 4] of parameters [B]: contrast about 0.5 and brightness, then saturation, then hue.

    Saturation and hue leave greys as they are.
    """
    # Hue: a rotation about the grey axis (Rodrigues' formula).
    h = np.radians(hue)[:, None, None]
    turn = (
        np.cos(h) * np.eye(3)
        + (1 - np.cos(h)) / 3
        + np.sin(h) / 3**0.5 * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    )

    s, c = saturation[:, None, None], contrast[:, None, None]
    linear = c * turn @ (s * np.eye(3) + (1 - s) * _LUMA)
    offset = np.broadcast_to((0.5 * (1 - contrast) + brightness)[:, None, None], (len(h), 3, 1))
    return np.concatenate([linear, offset], 2)


# ---- reference ----


def run_ref(
    image: np.ndarray, mask: np.ndarray, p: Params, i: int
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one picture and its mask with the parameters of sample i.

    image [H, W, 3] uint8, mask [H, W] uint8 -> [H, W, 3] float64 in [0, 1], [H, W] uint8
    """
    h, w = mask.shape
    # One black pixel around it; what is further out is clamped to that.
    padded = np.zeros((h + 2, w + 2, 3))
    padded[1:-1, 1:-1] = image / 255
    out, ids = np.empty((h, w, 3)), np.zeros((h, w), np.uint8)
    for y in range(h):
        for x in range(w):
            sx, sy = p.matrix[i] @ (x, y, 1)
            out[y, x] = _bilinear_ref(padded, sx, sy)
            # Nearest.
            u, v = np.floor((sx + 0.5, sy + 0.5)).astype(int)
            if 0 <= u < w and 0 <= v < h:
                ids[y, x] = mask[v, u]
    # The mirror image comes after all other geometry, the colours come last.
    if p.flip[i]:
        out, ids = out[:, ::-1], masks.mirrored(ids)
    return np.clip(out @ p.colour[i, :, :3].T + p.colour[i, :, 3], 0, 1), ids


def _bilinear_ref(padded: np.ndarray, x: float, y: float) -> np.ndarray:
    """Weighted mean of the four pixels around a position in the picture without its padding."""
    h, w = padded.shape[0] - 2, padded.shape[1] - 2
    left, top = np.floor((x, y)).astype(int)
    fx, fy = x - left, y - top
    columns = [min(max(u, -1), w) + 1 for u in (left, left + 1)]
    rows = [min(max(v, -1), h) + 1 for v in (top, top + 1)]
    (a, b), (c, d) = ([padded[row, column] for column in columns] for row in rows)
    return (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * c + fx * d)


# ---- batches ----


def run_torch(
    image: torch.Tensor, mask: torch.Tensor, p: Params
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch on its device.

    image [B, 3, H, W] uint8, mask [B, H, W] uint8 -> [B, 3, H, W] float32 in [0, 1], channels-last,
    and [B, H, W] uint8
    """
    # All that is small travels in one copy.
    arrays = [p.flip, masks.SWAP, p.matrix, p.colour.astype(np.float32)]
    flip, swap, matrix, colour = upload(arrays, mask.device)
    x, y = _positions(matrix, mask)
    out, ids = _bilinear(image, x, y), _nearest(mask, x, y)

    # The mirror image, in which a left eye is a right one.
    out = torch.where(flip[:, None, None, None], out.flip(3), out)
    swapped = swap[ids.flip(2).long()]
    return _tint(out, colour), torch.where(flip[:, None, None], swapped, ids)


def _positions(m: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y in the source of every pixel, [B, H, W] float64 each. m: matrices [B, 2, 3]"""
    h, w = mask.shape[1:]
    x, y = (torch.arange(n, dtype=torch.float64, device=mask.device) for n in (w, h))
    source_x, source_y = (
        m[:, i, 0, None, None] * x + m[:, i, 1, None, None] * y[:, None] + m[:, i, 2, None, None]
        for i in (0, 1)
    )
    return source_x, source_y


def _bilinear(image: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sample [B, 3, H, W] uint8 at positions [B, H, W], 0 outside: float32 in [0, 1]."""
    h, w = image.shape[2:]
    # -1 and 1 are the outer edges of the first and the last pixel.
    grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], 3).float()
    # Contiguous, which is twice as fast on a CPU.
    return F.grid_sample(
        (image / 255).contiguous(), grid, mode='bilinear', padding_mode='zeros', align_corners=False
    )


def _nearest(mask: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sample ids [B, H, W] at the pixels nearest to positions [B, H, W], background outside."""
    h, w = mask.shape[1:]
    u, v = (x + 0.5).floor().long(), (y + 0.5).floor().long()
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    place = v.clamp(0, h - 1) * w + u.clamp(0, w - 1)
    return torch.where(inside, mask.flatten(1).gather(1, place.flatten(1)).view_as(mask), 0)


def _tint(image: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Apply the colour matrices m [B, 3, 4] float32 to [B, 3, H, W] float32 in [0, 1]."""
    # One matrix product for all colours of a picture, whose offset is the fourth column.
    out = torch.baddbmm(m[:, :, 3:], m[:, :, :3], image.flatten(2)).clamp_(0, 1)
    return out.view_as(image).contiguous(memory_format=torch.channels_last)
