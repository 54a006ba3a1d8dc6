"""A face and its mask turned, enlarged, cut out, mirrored and tinted: parameters drawn per sample, then applied to both in one go.

Geometry is composed into one matrix per sample and executed once, bilinear for the picture, nearest for the mask; so are the colours. A mirrored mask has its
left and right ids exchanged in the same breath. What lies outside of the picture is black, and background.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from degrade.upload import upload

from . import masks

_GRID = (
    2.0**20
)  # matrices are multiples of 2^-20, so that float64 coordinates are exact, and the nearest pixel is the same on every machine
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class Params(NamedTuple):
    matrix: np.ndarray  # [B, 2, 3] float64, position (x, y, 1) of a pixel before the mirror -> (x, y) in the source, pixels
    flip: np.ndarray  # [B] bool, mirrored, after all other geometry
    colour: np.ndarray  # [B, 3, 4] float64, (R, G, B, 1) in [0, 1] -> R, G, B


def sample(
    draw,
    size,
    *,
    flip=0.5,  # probability
    rotate=0.5,  # probability; else upright
    angle=25.0,  # degrees to either side
    zoom=1.25,  # enlarged by up to this, then a window of the old size cut out
    jitter=0.5,  # probability; else colours as they are
    brightness=16 / 255,  # added, up to this, either sign
    contrast=0.25,  # factor about mid-grey, 1 -+ this
    saturation=0.25,  # factor about the luma, 1 -+ this
    hue=18.0,
):  # degrees to either side, about the grey axis
    """draw: Draw; size: (H, W) of the pictures -> Params. All of these are mild: faces are aligned, and stay so."""
    degrees = np.where(
        draw.uniform('rotate/on') < rotate, draw.uniform('rotate/angle', -angle, angle), 0
    )
    place = draw.uniform('crop/x'), draw.uniform('crop/y')
    on = draw.uniform('jitter/on') < jitter
    tint = [
        np.where(on, draw.uniform(f'jitter/{name}', middle - most, middle + most), middle)
        for name, middle, most in (
            ('brightness', 0, brightness),
            ('contrast', 1, contrast),
            ('saturation', 1, saturation),
            ('hue', 0, hue),
        )
    ]
    return Params(
        matrix(size, degrees, draw.uniform('zoom', 1, zoom), place),
        draw.uniform('flip') < flip,
        colour(*tint),
    )


def matrix(size, degrees, zoom, place):
    """[B, 2, 3] of a picture (H, W) turned counter-clockwise about its centre, enlarged, and cut out at place (x, y): 0 left or top, 1 right or bottom."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.stack([c, -s, s, c], -1).reshape(-1, 2, 2)
    sides = np.array(size[::-1], np.float64)[:, None]  # W, H
    zoom, centre = np.asarray(zoom, np.float64), (sides - 1) / 2
    start = (
        0.5 + np.stack(place) * (zoom - 1) * sides
    ) / zoom - 0.5  # [2, B] where the first pixel lies in the turned picture
    shift = turn @ (start - centre).T[..., None] + centre
    return np.round(np.concatenate([turn / zoom[:, None, None], shift], 2) * _GRID) / _GRID


def colour(brightness, contrast, saturation, hue):
    """[B] each -> [B, 3, 4]: contrast about 0.5 and brightness, then saturation, then hue; the last two leave greys as they are."""
    h = np.radians(hue)[:, None, None]
    turn = (
        np.cos(h) * np.eye(3)
        + (1 - np.cos(h)) / 3
        + np.sin(h) / 3**0.5 * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    )  # Rodrigues
    s, c = saturation[:, None, None], contrast[:, None, None]
    linear = c * turn @ (s * np.eye(3) + (1 - s) * _LUMA)
    offset = np.broadcast_to((0.5 * (1 - contrast) + brightness)[:, None, None], (len(h), 3, 1))
    return np.concatenate([linear, offset], 2)


def run_ref(image, mask, p, i):
    """Sample i: image [H, W, 3] uint8, mask [H, W] uint8 -> [H, W, 3] float64 in [0, 1], [H, W] uint8."""
    h, w = mask.shape
    padded = np.zeros((h + 2, w + 2, 3))  # one black pixel around, and beyond it is more of it
    padded[1:-1, 1:-1] = image / 255
    out, ids = np.empty((h, w, 3)), np.zeros((h, w), np.uint8)
    for y in range(h):
        for x in range(w):
            sx, sy = p.matrix[i] @ (x, y, 1)
            # Bilinear: the four pixels around, each by its share.
            left, top = np.floor((sx, sy)).astype(int)
            fx, fy = sx - left, sy - top
            (a, b), (c, d) = (
                [padded[min(max(v, -1), h) + 1, min(max(u, -1), w) + 1] for u in (left, left + 1)]
                for v in (top, top + 1)
            )
            out[y, x] = (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * c + fx * d)
            # Nearest.
            u, v = np.floor((sx + 0.5, sy + 0.5)).astype(int)
            if 0 <= u < w and 0 <= v < h:
                ids[y, x] = mask[v, u]
    if p.flip[i]:
        out, ids = out[:, ::-1], masks.mirrored(ids)
    return np.clip(out @ p.colour[i, :, :3].T + p.colour[i, :, 3], 0, 1), ids


def run_torch(image, mask, p):
    """image [B, 3, H, W] uint8, mask [B, H, W] uint8, of one device -> [B, 3, H, W] float32 in [0, 1], channels-last, [B, H, W] uint8."""
    image, mask = _move(image, mask, p)
    return _tint(image, p), mask


def _move(image, mask, p):
    """The geometry of `run_torch`."""
    h, w = mask.shape[1:]
    m = upload(p.matrix, mask.device)
    x, y = (torch.arange(n, dtype=torch.float64, device=mask.device) for n in (w, h))
    sx, sy = (
        m[:, i, 0, None, None] * x + m[:, i, 1, None, None] * y[:, None] + m[:, i, 2, None, None]
        for i in (0, 1)
    )  # [B, H, W]
    grid = torch.stack([(2 * sx + 1) / w - 1, (2 * sy + 1) / h - 1], 3).float()
    out = F.grid_sample(
        (image / 255).contiguous(), grid, mode='bilinear', padding_mode='zeros', align_corners=False
    )  # contiguous: twice as fast on a CPU
    u, v = (sx + 0.5).floor().long(), (sy + 0.5).floor().long()
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    nearest = (
        mask.flatten(1)
        .gather(1, (v.clamp(0, h - 1) * w + u.clamp(0, w - 1)).flatten(1))
        .view_as(mask)
    )
    ids = torch.where(inside, nearest, 0)

    flip = upload(p.flip, mask.device)
    swapped = upload(masks.SWAP, mask.device)[ids.flip(2).long()]
    return torch.where(flip[:, None, None, None], out.flip(3), out), torch.where(
        flip[:, None, None], swapped, ids
    )


def _tint(image, p):
    """The colours of `run_torch`: image [B, 3, H, W] float32 in [0, 1]."""
    m = upload(p.colour.astype(np.float32), image.device)
    out = torch.baddbmm(m[:, :, 3:], m[:, :, :3], image.flatten(2)).clamp_(0, 1)
    return out.view_as(image).contiguous(memory_format=torch.channels_last)
