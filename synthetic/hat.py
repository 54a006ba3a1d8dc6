"""Hats of the synthetic faces: beanie, baseball cap, hat with a brim."""

import numpy as np

from .canvas import bell, blur, curve, lin, mix, step, stream
from .scene import dye
from .shape import half_width


def hat(sheet, p):
    """Beanie, baseball cap or a hat with a brim."""
    if p.hat == 'none':
        return
    rng = stream(p.seed, 'hat')
    colour = dye(rng, 15, 190)
    {'beanie': _beanie, 'cap': _cap, 'brim': _brim}[p.hat](sheet, p, rng, colour)


def _dome(p, low, wide, top):
    """Right half of a crown [m, 2] from the middle of its lower edge to its top."""
    w = float(half_width(p, 0.24)) + wide + 0.022 * (p.hair in ('long', 'bob', 'afro'))
    return curve(
        [
            (w * 1.0, low + 0.03),
            (w * 1.015, low - 0.06),
            (w * 0.95, low - 0.15),
            (w * 0.72, top + 0.045),
            (w * 0.38, top + 0.008),
            (0, top),
        ],
        8,
    )


def _round_light(sheet, p, w):
    """Light on an upright cylinder of half width w."""
    t = np.clip(sheet.x / w, -1, 1)
    lamp = t * p.light[0] + np.sqrt(1 - t * t) * p.light[2]
    return (0.30 + 0.85 * np.maximum(lamp, 0)).astype(np.float32)


def _under(sheet, shape, p):
    """Shadow of a hat on brow and hair."""
    cast = sheet.cover(shape + (-0.02 * p.light[0], 0.030), soft=9)
    sheet.shade(1 - 0.60 * cast * (sheet.ids > 0))


def _beanie(sheet, p, rng, colour):
    """Knitted cap with a turned-up rim."""
    low, half = p.hairline + 0.055, _dome(p, p.hairline + 0.06, 0.035, -0.055)
    edge = curve(
        [(0, low), (0.14, low + 0.010), (half[0, 0] - 0.01, low + 0.042), (half[0, 0], low + 0.03)],
        6,
    )
    right = np.concatenate([edge, half[1:]])
    shape = np.concatenate([right, right[::-1] * (-1, 1)])
    _under(sheet, shape, p)
    w = half[:, 0].max()
    t = np.arcsin(np.clip(sheet.x / (w * 1.02), -1, 1))
    v = sheet.y + 0.10 * (sheet.x / w) ** 2
    rib = np.sin(t * 64)
    stitch = 0.80 + 0.16 * rib + 0.13 * np.sin(2 * np.pi * v * 88 + 2.2 * np.abs(np.sin(t * 64)))
    fold = step(v, low - 0.085, low - 0.08)
    fuzz = 1 + 0.08 * blur(rng.standard_normal(t.shape, dtype=np.float32), 0.8 * sheet.size / 512)
    band = 1 - 0.45 * bell(v, low - 0.088, 0.008) + 0.12 * fold
    other = dye(rng, 20, 200) if rng.random() < 0.5 else colour
    rgb = (
        mix(colour, other, fold[..., None])
        * (stitch * fuzz * band * _round_light(sheet, p, w * 1.03))[..., None]
    )
    sheet.paint(sheet.cover(shape, soft=0.9), rgb.astype(np.float32), 14)


def _cap(sheet, p, rng, colour):
    """Woven panels with seams, and a peak seen from the front."""
    low, half = p.hairline + 0.02, _dome(p, p.hairline + 0.05, 0.022, -0.04)
    right = np.concatenate([[(0, low)], half])
    dome = np.concatenate([right, right[::-1] * (-1, 1)])
    peak = curve(
        [
            (0, low + 0.052),
            (0.13, low + 0.060),
            (0.215, low + 0.055),
            (0.25, low + 0.030),
            (0.215, low - 0.012),
            (0.11, low - 0.034),
            (0, low - 0.040),
        ],
        8,
    )
    brim = np.concatenate([peak, peak[::-1] * (-1, 1)])
    _under(sheet, np.concatenate([brim + (0, 0.02)]), p)
    w = half[:, 0].max()
    fuzz = blur(rng.standard_normal(sheet.x.shape, dtype=np.float32), 0.7 * sheet.size / 512)
    weave = 1 + 0.07 * fuzz + 0.05 * np.sin((sheet.x + sheet.y) * 900)
    light = _round_light(sheet, p, w * 1.03) * weave
    sheet.paint(sheet.cover(dome, soft=0.7), (colour * light[..., None]).astype(np.float32), 14)
    for k in (-0.5, 0.0, 0.5):
        seam = curve([(k * 0.52 * 1.0, low - 0.04), (k * 0.46, 0.05), (k * 0.16, -0.03)], 8)
        sheet.shade(1 - 0.35 * sheet.stroke(seam, 0.002, soft=0.9))
    bend = (
        0.55 + 0.75 * step(sheet.y, low + 0.055, low - 0.03) + 0.10 * p.light[0] * sheet.x / 0.2
    ) * weave
    rows = 1 - 0.10 * bell(np.sin((sheet.y + 0.45 * sheet.x**2) * 330), 1, 0.3)
    sheet.paint(
        sheet.cover(brim, soft=0.7),
        (colour * np.float32(0.85) * (bend * rows)[..., None]).astype(np.float32),
        14,
    )
    for side in (-1, 1):
        sheet.shade(1 - 0.55 * sheet.stroke((peak[32:] + (0, -0.004)) * (side, 1), 0.005, soft=2.4))
        sheet.shade(1 - 0.5 * sheet.stroke(peak[:24] * (side, 1), 0.003, soft=1.0))


def _brim(sheet, p, rng, colour):
    """Straw or felt: the brim's ellipse, then the crown with its ribbon and pinch."""
    low, half = p.hairline + 0.015, _dome(p, p.hairline + 0.02, 0.012, -0.09)
    right = np.concatenate([[(0, low + 0.03)], half])
    dome = np.concatenate([right, right[::-1] * (-1, 1)])
    a = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    wide, droop = rng.uniform(0.40, 0.50), rng.uniform(0.0, 0.05)
    brim = np.stack(
        [
            wide * np.cos(a),
            low + 0.018 + (0.055 + droop * 0.4) * np.sin(a) + droop * np.cos(a) ** 2,
        ],
        -1,
    )
    _under(sheet, brim + (0, 0.03), p)
    straw = rng.random() < 0.5
    if straw:
        colour = lin(206, 178, 126)
        tex = 1 + 0.16 * np.sin(sheet.y * 520 + 3 * np.sin(sheet.x * 60)) * np.sin(sheet.x * 420)
    else:
        tex = 1 + 0.06 * blur(
            rng.standard_normal(sheet.x.shape, dtype=np.float32), 1.2 * sheet.size / 512
        )
    r = np.hypot(sheet.x / wide, (sheet.y - low) / 0.07)
    rgb = (
        colour
        * (tex * (0.58 + 0.35 * np.tanh(r)) * (1 + 0.5 * p.light[0] * sheet.x / wide))[..., None]
    )
    sheet.paint(sheet.cover(brim, soft=0.7), rgb.astype(np.float32), 14)
    light = _round_light(sheet, p, half[:, 0].max() * 1.03) * tex
    pinch = (
        1
        - 0.35 * bell(sheet.x, 0, 0.05) * step(sheet.y, 0.06, -0.06)
        - 0.45 * step(sheet.y, low - 0.03, low + 0.04)
    )
    ribbon = step(sheet.y + 0.10 * sheet.x**2, low - 0.055, low - 0.050)
    rgb = (
        mix(colour * np.ones((1, 1, 1), np.float32), dye(rng, 8, 90), ribbon[..., None])
        * (light * pinch)[..., None]
    )
    sheet.paint(sheet.cover(dome, soft=0.7), rgb.astype(np.float32), 14)
