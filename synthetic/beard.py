"""Beards of the synthetic faces: stubble, full beard, moustache, goatee."""

import numpy as np

from .canvas import curve, lin, noise, step, stream
from .shape import half_width


def _beard_area(sheet, p):
    """Where a beard grows, 0..1: jaw, chin, upper lip by kind."""
    x, y = np.abs(sheet.x), sheet.y
    w = half_width(p, sheet.y)
    line = np.interp(
        x, [0, 0.05, 0.11, 0.17, 0.23, 0.27], [0.79, 0.79, 0.745, 0.70, 0.63, 0.47]
    ).astype(np.float32)
    jaw = step(y, line - 0.022, line + 0.028)
    jaw = np.maximum(jaw, step(x / np.maximum(w, 0.01), 0.86, 0.97) * step(y, 0.46, 0.56))
    upper = step(x, p.mouth_w + 0.026, p.mouth_w - 0.012) * step(
        y, 0.662 + p.nose_y, 0.688 + p.nose_y + 0.16 * x
    )
    upper = upper * step(y, p.mouth_y + 0.01, p.mouth_y - 0.01)
    taper = np.maximum(0, y - p.mouth_y)
    goat = step(x, 0.108 - 0.38 * taper, 0.076 - 0.38 * taper) * step(
        y, p.mouth_y - 0.01, p.mouth_y + 0.01
    )
    goat = goat * step(y, line - 0.03, line)
    corner = (
        step(x, p.mouth_w + 0.026, p.mouth_w + 0.012)
        * step(x, p.mouth_w - 0.004, p.mouth_w + 0.006)
        * step(y, 0.69, 0.71)
    )
    area = {
        'stubble': np.maximum(jaw, upper),
        'full': np.maximum(np.maximum(jaw, upper), corner * step(y, 0.85, 0.7)),
        'moustache': upper,
        'goatee': np.maximum(
            np.maximum(goat, upper), corner * step(y, p.mouth_y + 0.06, p.mouth_y)
        ),
    }[p.beard]
    lip = np.isin(sheet.ids, (10, 11, 12, 4, 5))
    return area * ~lip * np.isin(sheet.ids, (1, 17)) * step(y, p.chin + 0.035, p.chin + 0.005)


def beard(sheet, p):
    """Stubble (a bluish shade with dots) or a beard of strands; it keeps the class skin, as the annotators of portraits do."""
    if p.beard == 'none':
        return
    rng = stream(p.seed, 'beard')
    area = _beard_area(sheet, p)
    rgb = np.array(p.hair_rgb) * 0.9
    full = p.beard != 'stubble'
    sheet.paint(
        area * (0.62 if full else 0.22) * np.clip(1 + 0.12 * noise(rng, area.shape, 30), 0.6, 1.3),
        lin(rgb * 0.8),
    )
    n = 14000 if full else 9000
    where = np.stack([rng.uniform(-0.28, 0.28, n), rng.uniform(0.45, 0.97, n)], -1).astype(
        np.float32
    )
    px = np.clip(np.round(sheet.pixels(where)).astype(int), 0, sheet.size - 1)
    grows = area[px[:, 1], px[:, 0]] > rng.uniform(0.1, 0.95, n)
    where, px = where[grows], px[grows]
    n = len(where)
    if n == 0:
        return
    long = (rng.uniform(0.014, 0.034, n) if full else rng.uniform(0.002, 0.005, n))[:, None]
    out = np.stack([where[:, 0] * 1.6 + rng.normal(0, 0.25, n), 0.85 + 0 * where[:, 0]], -1)
    lip = (where[:, 1] < p.mouth_y)[:, None] & (np.abs(where[:, 0]) < 0.12)[:, None]
    out = np.where(
        lip,
        np.stack([np.sign(where[:, 0]) * 0.7 + rng.normal(0, 0.2, n), np.full(n, 0.5)], -1),
        out,
    )
    long = np.where(lip, long * 0.75, long)
    clump = 0.5 * noise(rng, area.shape, 60)[px[:, 1], px[:, 0]] if full else 0
    out[:, 0] += clump  # neighbours lean the same way
    mid = where + out * long * 0.5 + rng.normal(0, 0.0016, (n, 2))
    points = curve(np.stack([where, mid, where + out * long * np.array([0.5, 1])], 1), 3)
    order = np.argsort(where[:, 1], kind='stable')[::-1]
    shade = rng.uniform(0.6, 1.3, (n, 1)) * (
        1 + 0.25 * np.sign(p.light[0]) * np.tanh(where[:, :1] / 0.12)
    )
    sheet.hairs(points[order], (rgb * shade)[order][:, None, :], np.ones(n), 0.85 if full else 0.45)
