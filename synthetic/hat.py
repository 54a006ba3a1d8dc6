"""Hats of the synthetic faces: beanie, baseball cap, hat with a brim."""

import numpy as np

from . import labels
from .canvas import Sheet, bell, blur, curve, lin, mirrored, mix, step, stream
from .scene import dye
from .shape import Person, half_width


def hat(sheet: Sheet, p: Person) -> None:
    """Paint a beanie, a baseball cap or a hat with a brim."""
    if p.hat == 'none':
        return
    rng = stream(p.seed, 'hat')
    colour = dye(rng, 15, 190)
    {'beanie': _beanie, 'cap': _cap, 'brim': _brim}[p.hat](sheet, p, rng, colour)


# ---- what all hats share ----


def _dome(p: Person, low: float, wide: float, top: float) -> np.ndarray:
    """Right half of a crown [m, 2], from the middle of its lower edge to its top."""
    w = float(half_width(p, 0.24)) + wide + 0.022 * (p.hair in ('long', 'bob', 'afro'))
    knots = [
        (w * 1.0, low + 0.03),
        (w * 1.015, low - 0.06),
        (w * 0.95, low - 0.15),
        (w * 0.72, top + 0.045),
        (w * 0.38, top + 0.008),
        (0, top),
    ]
    return curve(knots, 8)


def _round_light(sheet: Sheet, p: Person, w: float) -> np.ndarray:
    """Light on an upright cylinder of half width w, [s, s]."""
    t = np.clip(sheet.x / w, -1, 1)
    lamp = t * p.light[0] + np.sqrt(1 - t * t) * p.light[2]
    return (0.30 + 0.85 * np.maximum(lamp, 0)).astype(np.float32)


def _under(sheet: Sheet, shape: np.ndarray, p: Person) -> None:
    """Shadow of a hat on brow and hair."""
    cast = sheet.cover(shape + (-0.02 * p.light[0], 0.030), soft=9)
    sheet.shade(1 - 0.60 * cast * (sheet.ids > labels.BACKGROUND))


def _fuzz(sheet: Sheet, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Fine irregularity of cloth; sigma in 1/512 of the picture."""
    grain = rng.standard_normal(sheet.x.shape, dtype=np.float32)
    return blur(grain, sigma * sheet.size / 512)


# ---- beanie ----


def _beanie(sheet: Sheet, p: Person, rng: np.random.Generator, colour: np.ndarray) -> None:
    """Knitted cap with a turned-up rim."""
    low, half = p.hairline + 0.055, _dome(p, p.hairline + 0.06, 0.035, -0.055)
    side = half[0, 0]
    edge = curve([(0, low), (0.14, low + 0.010), (side - 0.01, low + 0.042), (side, low + 0.03)], 6)
    shape = mirrored(np.concatenate([edge, half[1:]]))
    _under(sheet, shape, p)

    # The stitches run around the head: the angle t across, the height v along a curved row.
    w = half[:, 0].max()
    t = np.arcsin(np.clip(sheet.x / (w * 1.02), -1, 1))
    v = sheet.y + 0.10 * (sheet.x / w) ** 2
    rib = np.sin(t * 64)
    stitch = 0.80 + 0.16 * rib + 0.13 * np.sin(2 * np.pi * v * 88 + 2.2 * np.abs(np.sin(t * 64)))

    # The rim is folded up, sometimes in another colour.
    fold = step(v, low - 0.085, low - 0.08)
    fuzz = 1 + 0.08 * _fuzz(sheet, rng, 0.8)
    band = 1 - 0.45 * bell(v, low - 0.088, 0.008) + 0.12 * fold
    other = dye(rng, 20, 200) if rng.random() < 0.5 else colour
    light = stitch * fuzz * band * _round_light(sheet, p, w * 1.03)
    rgb = mix(colour, other, fold[..., None]) * light[..., None]
    sheet.paint(sheet.cover(shape, soft=0.9), rgb.astype(np.float32), labels.HAT)


# ---- baseball cap ----


def _cap(sheet: Sheet, p: Person, rng: np.random.Generator, colour: np.ndarray) -> None:
    """Woven panels with seams, and a peak seen from the front."""
    low, half = p.hairline + 0.02, _dome(p, p.hairline + 0.05, 0.022, -0.04)
    dome = mirrored(np.concatenate([[(0, low)], half]))
    peak = _peak(low)
    _under(sheet, mirrored(peak) + (0, 0.02), p)

    # Panels.
    fuzz = _fuzz(sheet, rng, 0.7)
    weave = 1 + 0.07 * fuzz + 0.05 * np.sin((sheet.x + sheet.y) * 900)
    light = _round_light(sheet, p, half[:, 0].max() * 1.03) * weave
    rgb = (colour * light[..., None]).astype(np.float32)
    sheet.paint(sheet.cover(dome, soft=0.7), rgb, labels.HAT)
    for k in (-0.5, 0.0, 0.5):
        seam = curve([(k * 0.52 * 1.0, low - 0.04), (k * 0.46, 0.05), (k * 0.16, -0.03)], 8)
        sheet.shade(1 - 0.35 * sheet.stroke(seam, 0.002, soft=0.9))
    _paint_peak(sheet, p, peak, low, weave, colour)


def _peak(low: float) -> np.ndarray:
    """Right half of the peak's outline, from its front edge over the side to the dome."""
    knots = [
        (0, low + 0.052),
        (0.13, low + 0.060),
        (0.215, low + 0.055),
        (0.25, low + 0.030),
        (0.215, low - 0.012),
        (0.11, low - 0.034),
        (0, low - 0.040),
    ]
    return curve(knots, 8)


def _paint_peak(
    sheet: Sheet, p: Person, peak: np.ndarray, low: float, weave: np.ndarray, colour: np.ndarray
) -> None:
    """The peak with its rows of stitches, dark where it meets the dome and at its front edge."""
    bend = 0.55 + 0.75 * step(sheet.y, low + 0.055, low - 0.03) + 0.10 * p.light[0] * sheet.x / 0.2
    rows = 1 - 0.10 * bell(np.sin((sheet.y + 0.45 * sheet.x**2) * 330), 1, 0.3)
    rgb = colour * np.float32(0.85) * (bend * weave * rows)[..., None]
    sheet.paint(sheet.cover(mirrored(peak), soft=0.7), rgb.astype(np.float32), labels.HAT)
    for side in (-1, 1):
        joint = sheet.stroke((peak[32:] + (0, -0.004)) * (side, 1), 0.005, soft=2.4)
        sheet.shade(1 - 0.55 * joint)
        sheet.shade(1 - 0.5 * sheet.stroke(peak[:24] * (side, 1), 0.003, soft=1.0))


# ---- hat with a brim ----


def _brim(sheet: Sheet, p: Person, rng: np.random.Generator, colour: np.ndarray) -> None:
    """Straw or felt: the brim's ellipse, then the crown with its ribbon and pinch."""
    low, half = p.hairline + 0.015, _dome(p, p.hairline + 0.02, 0.012, -0.09)
    dome = mirrored(np.concatenate([[(0, low + 0.03)], half]))
    wide, droop = rng.uniform(0.40, 0.50), rng.uniform(0.0, 0.05)
    brim = _ellipse(low, wide, droop)
    _under(sheet, brim + (0, 0.03), p)

    # Straw has its own colour.
    if rng.random() < 0.5:
        colour = lin(206, 178, 126)
        tex = 1 + 0.16 * np.sin(sheet.y * 520 + 3 * np.sin(sheet.x * 60)) * np.sin(sheet.x * 420)
    else:
        tex = 1 + 0.06 * _fuzz(sheet, rng, 1.2)

    # The brim is dark towards the crown.
    r = np.hypot(sheet.x / wide, (sheet.y - low) / 0.07)
    light = tex * (0.58 + 0.35 * np.tanh(r)) * (1 + 0.5 * p.light[0] * sheet.x / wide)
    rgb = colour * light[..., None]
    sheet.paint(sheet.cover(brim, soft=0.7), rgb.astype(np.float32), labels.HAT)

    # The crown, pinched in front, with a ribbon above the brim.
    light = _round_light(sheet, p, half[:, 0].max() * 1.03) * tex
    dent = 0.35 * bell(sheet.x, 0, 0.05) * step(sheet.y, 0.06, -0.06)
    pinch = 1 - dent - 0.45 * step(sheet.y, low - 0.03, low + 0.04)
    ribbon = step(sheet.y + 0.10 * sheet.x**2, low - 0.055, low - 0.050)
    cloth = mix(colour * np.ones((1, 1, 1), np.float32), dye(rng, 8, 90), ribbon[..., None])
    rgb = cloth * (light * pinch)[..., None]
    sheet.paint(sheet.cover(dome, soft=0.7), rgb.astype(np.float32), labels.HAT)


def _ellipse(low: float, wide: float, droop: float) -> np.ndarray:
    """Outline of the brim [72, 2], whose sides droop."""
    a = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    y = low + 0.018 + (0.055 + droop * 0.4) * np.sin(a) + droop * np.cos(a) ** 2
    return np.stack([wide * np.cos(a), y], -1)
