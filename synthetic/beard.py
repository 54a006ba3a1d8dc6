"""Beards of the synthetic faces: stubble, full beard, moustache, goatee."""

import numpy as np

from . import labels
from .canvas import Sheet, curve, lin, noise, step, stream
from .shape import Person, half_width


def beard(sheet: Sheet, p: Person) -> None:
    """Paint stubble, a bluish shade with dots, or a beard of strands.

    It keeps the class skin, as the annotators of portraits have it.
    """
    if p.beard == 'none':
        return
    rng = stream(p.seed, 'beard')
    area = _beard_area(sheet, p)
    rgb = np.array(p.hair_rgb) * 0.9
    full = p.beard != 'stubble'
    veil = area * (0.62 if full else 0.22)
    sheet.paint(veil * np.clip(1 + 0.12 * noise(rng, area.shape, 30), 0.6, 1.3), lin(rgb * 0.8))

    roots, pixels = _roots(sheet, rng, area, 14000 if full else 9000)
    if len(roots) == 0:
        return
    points = _strands(rng, p, area, roots, pixels)

    # Lower strands first, so that the upper ones lie over them; the lamp's side is brighter.
    order = np.argsort(roots[:, 1], kind='stable')[::-1]
    lamp = 1 + 0.25 * np.sign(p.light[0]) * np.tanh(roots[:, :1] / 0.12)
    shade = rng.uniform(0.6, 1.3, (len(roots), 1)) * lamp
    colours = (rgb * shade)[order][:, None, :]
    sheet.hairs(points[order], colours, np.ones(len(roots)), 0.85 if full else 0.45)


# ---- where it grows ----


def _beard_area(sheet: Sheet, p: Person) -> np.ndarray:
    """Where this kind of beard grows, [s, s] 0..1."""
    x, y = np.abs(sheet.x), sheet.y
    rim = [0, 0.05, 0.11, 0.17, 0.23, 0.27], [0.79, 0.79, 0.745, 0.70, 0.63, 0.47]
    line = np.interp(x, *rim).astype(np.float32)
    upper, corner = _upper_lip(x, y, p), _corner(x, y, p)
    if p.beard == 'stubble':
        area = np.maximum(_jaw(sheet, p, line), upper)
    elif p.beard == 'full':
        both = np.maximum(_jaw(sheet, p, line), upper)
        area = np.maximum(both, corner * step(y, 0.85, 0.7))
    elif p.beard == 'moustache':
        area = upper
    else:
        both = np.maximum(_goatee(x, y, p, line), upper)
        area = np.maximum(both, corner * step(y, p.mouth_y + 0.06, p.mouth_y))

    # On skin and neck only, not on the mouth and the eyes, and not below the chin.
    hidden = labels.MOUTH, labels.UPPER_LIP, labels.LOWER_LIP, labels.LEFT_EYE, labels.RIGHT_EYE
    area = area * ~np.isin(sheet.ids, hidden) * np.isin(sheet.ids, (labels.SKIN, labels.NECK))
    return area * step(y, p.chin + 0.035, p.chin + 0.005)


def _jaw(sheet: Sheet, p: Person, line: np.ndarray) -> np.ndarray:
    """Below the line on chin and cheeks, and in front of the ears."""
    x, y, w = np.abs(sheet.x), sheet.y, half_width(p, sheet.y)
    jaw = step(y, line - 0.022, line + 0.028)
    return np.maximum(jaw, step(x / np.maximum(w, 0.01), 0.86, 0.97) * step(y, 0.46, 0.56))


def _upper_lip(x: np.ndarray, y: np.ndarray, p: Person) -> np.ndarray:
    nose = 0.662 + p.nose_y, 0.688 + p.nose_y + 0.16 * x
    upper = step(x, p.mouth_w + 0.026, p.mouth_w - 0.012) * step(y, *nose)
    return upper * step(y, p.mouth_y + 0.01, p.mouth_y - 0.01)


def _goatee(x: np.ndarray, y: np.ndarray, p: Person, line: np.ndarray) -> np.ndarray:
    """A chin that tapers downwards."""
    taper = np.maximum(0, y - p.mouth_y)
    sides = step(x, 0.108 - 0.38 * taper, 0.076 - 0.38 * taper)
    goatee = sides * step(y, p.mouth_y - 0.01, p.mouth_y + 0.01)
    return goatee * step(y, line - 0.03, line)


def _corner(x: np.ndarray, y: np.ndarray, p: Person) -> np.ndarray:
    """Strips beside the corners of the mouth, which join moustache and chin."""
    outside = step(x, p.mouth_w + 0.026, p.mouth_w + 0.012)
    return outside * step(x, p.mouth_w - 0.004, p.mouth_w + 0.006) * step(y, 0.69, 0.71)


# ---- the strands ----


def _roots(
    sheet: Sheet, rng: np.random.Generator, area: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Roots of at most n hairs, [m, 2] face units, and their pixels [m, 2]."""
    where = np.stack([rng.uniform(-0.28, 0.28, n), rng.uniform(0.45, 0.97, n)], -1)
    where = where.astype(np.float32)
    pixels = np.clip(np.round(sheet.pixels(where)).astype(int), 0, sheet.size - 1)
    grows = area[pixels[:, 1], pixels[:, 0]] > rng.uniform(0.1, 0.95, n)
    return where[grows], pixels[grows]


def _strands(
    rng: np.random.Generator, p: Person, area: np.ndarray, roots: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """Curves [n, m, 2] of the hairs."""
    n, full = len(roots), p.beard != 'stubble'
    long = (rng.uniform(0.014, 0.034, n) if full else rng.uniform(0.002, 0.005, n))[:, None]

    # Outwards and down; on the upper lip to the side.
    out = np.stack([roots[:, 0] * 1.6 + rng.normal(0, 0.25, n), 0.85 + 0 * roots[:, 0]], -1)
    lip = (roots[:, 1] < p.mouth_y)[:, None] & (np.abs(roots[:, 0]) < 0.12)[:, None]
    aside = np.sign(roots[:, 0]) * 0.7 + rng.normal(0, 0.2, n)
    out = np.where(lip, np.stack([aside, np.full(n, 0.5)], -1), out)
    long = np.where(lip, long * 0.75, long)

    # Neighbours lean the same way.
    if full:
        out[:, 0] += 0.5 * noise(rng, area.shape, 60)[pixels[:, 1], pixels[:, 0]]
    middle = roots + out * long * 0.5 + rng.normal(0, 0.0016, (n, 2))
    return curve(np.stack([roots, middle, roots + out * long * np.array([0.5, 1])], 1), 3)
