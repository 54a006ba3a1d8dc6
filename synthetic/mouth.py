"""Mouth of the synthetic faces: lips, the line between them, the open mouth with its teeth."""

import numpy as np

from . import labels
from .canvas import Ground, Sheet, bell, curve, lin, mix, noise, one_of, step, stream
from .shape import Person, lips

STICKS = (178, 40, 52), (196, 84, 92), (150, 34, 66), (206, 104, 96), (126, 42, 48)
WHITES = (232, 224, 210), (240, 236, 228), (220, 206, 180)


def lip_colour(
    sheet: Sheet, p: Person, ground: Ground, gloss: np.ndarray, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Write colour, fine creases and gloss of the lips into the skin.

    gloss: [s, s] of the skin, changed in place, as `ground` is
    skin:  [3] linear colour of the skin
    Returns the covers [s, s] of the upper and the lower lip.
    """
    top, inner_top, inner_low, low = (curve(c, 6) for c in lips(p))
    upper = sheet.cover(np.concatenate([top, inner_top[::-1]]), soft=0.9)
    lower = sheet.cover(np.concatenate([inner_low, low[::-1]]), soft=0.9)

    # Lipstick hides part of the natural colour.
    rng = stream(p.seed, 'lips')
    made_up = not p.man and rng.random() < 0.55
    colour = skin * np.array([0.88, 0.50, 0.52], np.float32)
    stick = one_of(rng, STICKS)
    if made_up:
        share = np.float32(rng.uniform(0.4, 0.85))
        colour = mix(colour, stick * (1 - 0.35 * p.tone), share)

    # Creases run down the lips: many cells across, few down.
    crease = noise(rng, upper.shape, (40, 190)) + 0.6 * noise(rng, upper.shape, (60, 330))
    both = np.clip(upper + lower, 0, 1)
    strength = 0.95 if made_up else 0.72
    rgb = colour * (1 + 0.07 * crease)[..., None] * (1 - 0.22 * upper)[..., None]
    ground.albedo += (rgb - ground.albedo) * (both * strength)[..., None]
    ground.gx += 0.10 * crease * both
    gloss += both * (2.0 if made_up else 0.8)
    return upper, lower


def mouth(sheet: Sheet, p: Person) -> None:
    """Paint the line between the lips, or the open mouth with its teeth."""
    _, inner_top, inner_low, _ = (curve(c, 6) for c in lips(p))
    line = mix(inner_top, inner_low, 0.3)
    dark = sheet.stroke(line, 0.0045 if p.gap == 0 else 0.002, soft=1.3)
    ends = bell(np.abs(sheet.x), p.mouth_w, 0.009) * bell(sheet.y, line[0, 1], 0.008)
    shade = np.clip(0.75 * dark + 0.40 * ends, 0, 1)[..., None]
    sheet.shade(1 - shade * np.array([0.80, 1, 1], np.float32))
    if p.gap:
        _open_mouth(sheet, p, inner_top, inner_low)


def _open_mouth(sheet: Sheet, p: Person, inner_top: np.ndarray, inner_low: np.ndarray) -> None:
    """Inside of the mouth: dark throat, tongue, upper teeth, sometimes lower teeth."""
    rng = stream(p.seed, 'teeth')
    cover = sheet.cover(np.concatenate([inner_top, inner_low[::-1]]), soft=0.7)
    x, y = sheet.x, sheet.y
    top = np.interp(x, inner_top[:, 0], inner_top[:, 1]).astype(np.float32)
    low = np.interp(x, inner_low[:, 0], inner_low[:, 1]).astype(np.float32)
    # Throat, with the tongue in the middle of its lower edge.
    rgb = lin(70, 26, 26) * np.ones((*x.shape, 1), np.float32)
    rgb += (lin(150, 70, 70) - rgb) * (bell(x, 0, 0.04) * step(low - y, 0.02, 0.0))[..., None]

    edges = np.array([0.0, 0.029, 0.052, 0.071, 0.086, 0.098, 0.107]) * rng.uniform(0.92, 1.05)
    tooth, shade = _upper_teeth(sheet, p, top, edges)
    white = one_of(rng, WHITES) * np.float32(0.80)
    rgb += (white * shade[..., None].astype(np.float32) - rgb) * tooth[..., None].astype(np.float32)
    if p.gap > 0.026 and rng.random() < 0.6:
        row = step(y, low - 0.010, low - 0.007) * step(np.abs(x), 0.05, 0.03) * (1 - tooth)
        gaps = _gaps(np.abs(x), edges[:5] * 0.7, 0.001, [1] * 5)
        rgb += (white * (0.35 * (1 - gaps))[..., None] - rgb) * row[..., None].astype(np.float32)

    # The lips shade what is close to them.
    rgb *= (1 - 0.6 * bell(y, top, 0.005) - 0.3 * bell(y, low, 0.004))[..., None]
    sheet.paint(cover, rgb.astype(np.float32), labels.MOUTH)


def _upper_teeth(
    sheet: Sheet, p: Person, top: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cover and shade [s, s] of the upper row, which turns away to the sides.

    top:   [s, s] height of the upper lip's lower edge
    edges: [7] distances of the gaps between the teeth from the middle
    """
    x, y = np.abs(sheet.x), sheet.y
    long = 0.038 - 0.14 * x - 0.003 * bell(x, 0.0405 * edges[1] / 0.029, 0.010)

    # The gaps widen towards the teeth's ends.
    spread = x * (1 + 0.08 * step(top + long - y, 0.006, 0.0))
    gaps = _gaps(spread, edges, 0.0012, [0.36] + [0.42] * 6)
    ends = top + long + 0.0012, top + long - 0.0012
    tooth = step(y, *ends) * step(x, edges[-1] + 0.004, edges[-1])

    # Each tooth is round, and all are darker towards the corners and below the lip.
    bulge = 1 - 0.25 * np.abs(np.cos(np.interp(x, edges, np.arange(7)) * np.pi)) ** 6
    sides = 1 - 0.80 * step(x, 0.035, p.mouth_w)
    deep = (0.45 + 0.55 * step(y, top - 0.002, top + 0.011)) * sides
    return tooth, bulge * (1 - gaps) * deep


def _gaps(x: np.ndarray, edges: np.ndarray, width: float, depths: list[float]) -> np.ndarray:
    """Dark lines [s, s] between teeth, at these distances from the middle."""
    gaps = np.zeros_like(x)
    for edge, depth in zip(edges, depths, strict=True):
        gaps = gaps + bell(x, edge, width) * depth
    return gaps
