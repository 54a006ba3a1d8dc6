"""What surrounds the synthetic faces: background, clothes, hats, necklace, earrings, and the camera."""

import cv2
import numpy as np

from .canvas import bell, blur, cloud, curve, lin, mix, srgb8, step, stream
from .shape import half_width

DYES = (
    (128, 124, 120),
    (120, 122, 128),
    (210, 198, 180),
    (150, 120, 92),
    (110, 84, 62),
    (196, 170, 130),
    (90, 104, 130),
    (60, 84, 130),
    (120, 150, 170),
    (96, 112, 84),
    (70, 92, 70),
    (150, 60, 50),
    (180, 100, 70),
    (200, 150, 80),
    (112, 84, 96),
    (200, 166, 160),
    (235, 235, 230),
)


def background(sheet, p):
    """One of: studio gradient, lights out of focus, leaves, blurred bars, wall."""
    rng = stream(p.seed, 'background')
    kind = (_studio, _lamps, _leaves, _bars, _wall, _lamps, _bars, _studio)[int(rng.integers(8))]
    sheet.rgb[:] = kind(rng, sheet.size)


def dye(rng, low=20, high=200):
    """A colour that cloth, paint and wood have, at a brightness between low and high (sRGB 0..255)."""
    base = np.array(DYES[int(rng.integers(len(DYES)))], np.float64)
    return lin(
        np.clip(base / base.max() * rng.uniform(low, high) * (1 + rng.normal(0, 0.05, 3)), 5, 242)
    )


def _ramp(rng, s):
    """Smooth 0..1 slope in a random direction."""
    v = np.linspace(-1, 1, s, dtype=np.float32)
    a = rng.uniform(0, 2 * np.pi)
    return np.clip(0.5 + 0.5 * (np.cos(a) * v[None, :] + np.sin(a) * v[:, None]), 0, 1).astype(
        np.float32
    )


def _studio(rng, s):
    """Paper or canvas behind the sitter."""
    t = np.clip(_ramp(rng, s) + 0.12 * cloud(rng, (s, s), 3, 5), 0, 1)[..., None]
    out = mix(dye(rng, 30, 220), dye(rng, 20, 200), t)
    weave = blur(rng.standard_normal((s, s), dtype=np.float32), 0.8 * s / 512)
    return out * (1 + 0.05 * cloud(rng, (s, s), 12, 4) + 0.03 * weave)[..., None]


def _lamps(rng, s):
    """Lights far out of focus in front of a dark blur."""
    out = mix(
        dye(rng, 8, 70), dye(rng, 10, 90), step(cloud(rng, (s, s), 3, 3), -1.2, 1.2)[..., None]
    )
    for _ in range(int(rng.integers(14, 46))):
        c, r = rng.uniform(0, s, 2), rng.uniform(0.012, 0.065) * s
        disc = np.zeros((s, s), np.uint8)
        cv2.circle(disc, (int(c[0] * 16), int(c[1] * 16)), int(r * 16), 255, -1, cv2.LINE_AA, 4)
        disc = blur(disc.astype(np.float32) / 255, 1.2 * s / 512)
        rim = np.clip(disc - 0.35 * blur(disc, r * 0.35), 0, 1)
        glow = lin(rng.choice([(255, 214, 150), (255, 240, 220), (255, 150, 90), (150, 200, 255)]))
        out = out + (rim * rng.uniform(0.1, 0.55))[..., None] * glow
    return blur(out, 1.0 * s / 512)


def _leaves(rng, s):
    """Foliage: several layers of soft dabs, nearer ones sharper, with sky between."""
    out = mix(
        lin(28, 44, 22), lin(120, 150, 96), step(cloud(rng, (s, s), 4, 3), -1, 1.6)[..., None]
    )
    hue = rng.normal(0, 1)
    for k in range(3):
        layer = np.zeros((s, s, 3), np.uint8)
        n = int(140 * 1.8**k)
        c, long = rng.uniform(-0.05, 1.05, (n, 2)) * s, rng.uniform(0.012, 0.05, n) * s
        angle, shade = rng.normal(rng.uniform(0, 180), 40, n), rng.uniform(0.3, 1.3, n)
        for i in range(n):
            g = np.clip(np.array([86 + 22 * hue, 108, 58]) * shade[i] + rng.normal(0, 8, 3), 1, 255)
            at, axes = (int(c[i, 0] * 16), int(c[i, 1] * 16)), (int(long[i] * 16), int(long[i] * 6))
            cv2.ellipse(layer, at, axes, angle[i], 0, 360, g.tolist(), -1, cv2.LINE_AA, 4)
        cover = blur((layer.max(-1) > 0).astype(np.float32), (9, 5, 2.6)[k] * s / 512)[..., None]
        tint = blur(lin(layer), (9, 5, 2.6)[k] * s / 512)
        out = out * (1 - cover) + tint
    return out


def _bars(rng, s):
    """Shelves, windows or curtains, blurred."""
    out = np.ones((s, s, 3), np.float32) * dye(rng, 30, 150)
    for _ in range(int(rng.integers(8, 34))):
        x0, y0 = rng.uniform(-0.1, 1, 2)
        upright = rng.random() < 0.7
        w, h = (
            (rng.uniform(0.01, 0.12), rng.uniform(0.3, 1.2))
            if upright
            else (rng.uniform(0.2, 0.9), rng.uniform(0.01, 0.06))
        )
        xs, ys = (
            np.clip(np.array([x0, x0 + w]) * s, 0, s).astype(int),
            np.clip(np.array([y0, y0 + h]) * s, 0, s).astype(int),
        )
        out[ys[0] : ys[1], xs[0] : xs[1]] = mix(
            out[ys[0] : ys[1], xs[0] : xs[1]], dye(rng, 15, 225), np.float32(rng.uniform(0.5, 1))
        )
    turn = cv2.getRotationMatrix2D((s / 2, s / 2), rng.normal(0, 4), 1.1)
    out = cv2.warpAffine(out, turn, (s, s), borderMode=cv2.BORDER_REFLECT)
    return (
        blur(out, rng.uniform(2.5, 11) * s / 512) * (1 + 0.08 * cloud(rng, (s, s), 4, 4))[..., None]
    )


def _wall(rng, s):
    """Bricks or plaster, a little out of focus."""
    y, x = np.mgrid[0:s, 0:s].astype(np.float32) / s
    out = dye(rng, 60, 190) * (1 + 0.10 * cloud(rng, (s, s), 6, 6))[..., None]
    if rng.random() < 0.65:
        rows = rng.uniform(9, 16)
        row = np.floor(y * rows)
        u = x * rows * 0.42 + 0.5 * (row % 2)
        cell = (row * 31 + np.floor(u) * 17).astype(int)
        tone = rng.normal(1, 0.16, 4096).astype(np.float32)[cell % 4096]
        joint = np.maximum(
            step(np.abs(y * rows - row - 0.5), 0.42, 0.47),
            step(np.abs(u - np.floor(u) - 0.5), 0.465, 0.49),
        )
        mortar = lin(*((196, 188, 176), (150, 144, 138), (110, 104, 98))[int(rng.integers(3))])
        out = (
            mix(out * tone[..., None], mortar, joint[..., None])
            * (1 + 0.10 * cloud(rng, (s, s), 60, 3))[..., None]
        )
    return (
        blur(np.maximum(out, 0), rng.uniform(0.6, 2.4) * s / 512)
        * (0.75 + 0.5 * _ramp(rng, s))[..., None]
    )


def _fabric(sheet, rng, colour):
    """Woven colour [s, s, 3]: plain weave, knit, stripes, checks, dots or denim, with folds."""
    s, x, y = sheet.size, sheet.x, sheet.y
    kind = int(rng.integers(6))
    warp = x + 0.02 * cloud(rng, (s, s), 4, 2), y + 0.05 * x * x + 0.02 * cloud(rng, (s, s), 4, 2)
    fine = blur(rng.standard_normal((s, s), dtype=np.float32), 0.7 * s / 512)
    out = np.ones((s, s, 1), np.float32) * colour
    other = mix(
        colour, dye(rng, 20, 220), np.float32(rng.uniform(0.4, 0.85))
    )  # a print never has the contrast of its dyes
    if kind == 1:  # knit: rows of slanted stitches
        u, v = warp[0] * 62, warp[1] * 46
        stitch = (
            np.sin(2 * np.pi * (v + 0.6 * np.abs(u - np.floor(u) - 0.5))) * 0.5
            + np.cos(2 * np.pi * u) * 0.35
        )
        out = out * (0.86 + 0.24 * stitch)[..., None]
    if kind == 2:
        out = mix(
            out, other, step(np.sin(2 * np.pi * warp[1] * rng.uniform(8, 18)), -0.2, 0.2)[..., None]
        )
    if kind == 3:
        f = rng.uniform(7, 16)
        a, b = (
            step(np.sin(2 * np.pi * warp[0] * f), -0.1, 0.1),
            step(np.sin(2 * np.pi * warp[1] * f), -0.1, 0.1),
        )
        out = mix(out, other, (0.5 * (a + b))[..., None])
    if kind == 4:
        f = rng.uniform(9, 18)
        row = np.floor(warp[1] * f)
        dot = np.hypot((warp[0] * f + 0.5 * (row % 2)) % 1 - 0.5, warp[1] * f - row - 0.5)
        out = mix(out, other, step(dot, 0.32, 0.20)[..., None])
    if kind == 5:
        out = (
            lin(50, 70, 108)
            * (1 + 0.20 * np.sin(2 * np.pi * (x + 0.6 * y) * 150) + 0.25 * fine)[..., None]
        )
    folds = cloud(rng, (s, s), 5, 3)
    slope = blur(np.abs(folds), 2 * s / 512)
    return out * (1 + 0.09 * fine)[..., None] * np.clip(0.62 + 0.5 * slope, 0.35, 1.3)[..., None]


def clothes(sheet, p):
    """Shoulders in a shirt, jersey, jacket or polo neck."""
    rng = stream(p.seed, 'clothes')
    colour = dye(rng, 12, 225)
    kind = ('round', 'vee', 'shirt', 'jacket', 'polo')[int(rng.integers(5))]
    wide = 0.03 * p.man
    deep = {
        'round': rng.uniform(0.955, 1.0),
        'vee': rng.uniform(1.03, 1.09),
        'shirt': 1.03,
        'jacket': 1.08,
        'polo': 0.90,
    }[kind]
    neck = 0.155 + (0.012 if p.man else 0)
    out = [
        (0, deep),
        (0.06, deep - 0.008 if kind != 'vee' else deep - 0.05),
        (neck * 0.92, mix(0.935, deep, 0.3) if kind != 'polo' else 0.885),
        (neck + 0.02, 0.925),
        (0.28 + wide, 0.955),
        (0.40 + wide, 0.995),
        (0.50, 1.06),
        (0.6, 1.3),
    ]
    half = np.array(out) if kind in ('vee', 'shirt', 'jacket') else curve(out, 6)
    half = np.concatenate([half, [(0.0, 1.3)]])
    cover = sheet.cover(np.concatenate([half, half[::-1] * (-1, 1)]), soft=0.6)
    under = step(sheet.y, 1.0, 0.9) * step(np.abs(sheet.x), 0.26, 0.15)  # the chin's shadow
    light = 0.80 + 0.55 * np.clip(sheet.x * np.sign(p.light[0]) * 1.3, -0.5, 0.5) - 0.45 * under
    rgb = (
        blur(_fabric(sheet, rng, colour), rng.uniform(0.4, 1.3) * sheet.size / 512)
        * light[..., None]
    )  # shoulders lie behind the focus
    shadow = sheet.cover(np.concatenate([half, half[::-1] * (-1, 1)]) + (0, -0.006), soft=5)
    sheet.shade(1 - 0.4 * shadow * np.isin(sheet.ids, (17, 1)))
    sheet.paint(cover, rgb.astype(np.float32), 18)
    if kind in ('round', 'polo'):
        seam = sheet.stroke(half[:20] + (0, 0.014), 0.002, soft=0.8)
        sheet.shade(1 - 0.35 * seam * cover)
    if kind in ('shirt', 'jacket'):
        _collar(sheet, p, rgb, kind, neck, deep)


def _collar(sheet, p, rgb, kind, neck, deep):
    """Two flaps; on a jacket lapels of its own cloth over a shirt."""
    low = 0.10 if kind == 'shirt' else 0.22
    for side in (-1, 1):
        flap = np.array(
            [
                (neck * 0.95, 0.895),
                (neck + 0.035, 0.935),
                (0.105, 0.95 + low * 0.8),
                (0.015, deep + 0.004),
                (neck * 0.72, 0.96),
            ]
        ) * (side, 1)
        shade = sheet.cover(flap + (0.004 * side, 0.012), soft=4)
        sheet.shade(1 - 0.45 * shade)
        sheet.paint(
            sheet.cover(flap, soft=0.6),
            rgb * np.float32(1.12 if side * p.light[0] > 0 else 0.9),
            18,
        )
        sheet.shade(1 - 0.4 * sheet.stroke(flap[[1, 2, 3]], 0.002, soft=0.8))


def necklace(sheet, p):
    """A fine chain with a pendant, or pearls."""
    if not p.necklace:
        return
    rng = stream(p.seed, 'necklace')
    deep, pearl = rng.uniform(0.955, 0.985), rng.random() < 0.4
    u = np.linspace(-1, 1, 400)
    line = np.stack([0.150 * p.width * u, deep - 0.075 * u * u], -1)
    gold = lin(*((212, 170, 90), (200, 200, 205), (190, 140, 110))[int(rng.integers(3))])
    on = np.isin(sheet.ids, (17, 18)).astype(np.float32)
    sheet.shade(1 - 0.40 * on * sheet.stroke(line + (0, 0.006), 0.006, soft=2))
    if pearl:
        return _pearls(sheet, line, on, rng)
    links = 0.55 + 0.6 * np.sin(sheet.x * 2 * np.pi * 95) ** 2 * bell(
        np.sin(sheet.y * 300), 0.6, 0.8
    )
    cover = sheet.stroke(line, 0.0055, soft=0.4) * on
    sheet.paint(cover, (gold * links[..., None]).astype(np.float32), 16)
    c, r = line[200] + (0, 0.012), rng.uniform(0.008, 0.014)
    ring = np.linspace(0, 2 * np.pi, 24)
    drop = c + np.stack([0.8 * np.cos(ring), np.sin(ring)], -1) * r
    glow = 0.5 + 0.9 * bell(
        np.hypot(sheet.x - c[0] + 0.3 * r, sheet.y - c[1] + 0.4 * r), 0, 0.6 * r
    )
    sheet.paint(sheet.cover(drop, soft=0.4) * on, (gold * glow[..., None]).astype(np.float32), 16)


def _pearls(sheet, line, on, rng):
    """A row of beads, each with its own highlight."""
    r = rng.uniform(0.0075, 0.011)
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    for d in np.arange(0, at[-1], 2 * r):
        c = np.array([np.interp(d, at, line[:, 0]), np.interp(d, at, line[:, 1])])
        _bead(sheet, c, r, lin(226, 214, 200), on, 16)


def _bead(sheet, c, r, colour, on, ident):
    """A small shaded ball."""
    box = sheet.window(c[0], c[1], r * 1.5, r * 1.5)
    x, y = (sheet.x[box] - c[0]) / r, (sheet.y[box] - c[1]) / r
    d = np.sqrt(x * x + y * y)
    edge = 1.0 / (r * sheet.size)
    cover = step(d, 1 + edge / 2, 1 - edge / 2) * on[box]
    tone = (
        0.95 - 0.55 * step(d, 0.3, 1.05) - 0.2 * y + 0.9 * bell(np.hypot(x + 0.3, y + 0.4), 0, 0.3)
    )
    sheet.rgb[box] += ((colour * tone[..., None]).astype(np.float32) - sheet.rgb[box]) * cover[
        ..., None
    ]
    sheet.ids[box][cover > 0.5] = ident


def earrings(sheet, p):
    """Stud, hoop or drop below both lobes; hidden lobes let them hang out of the hair."""
    if not p.earring:
        return
    rng = stream(p.seed, 'earring')
    kind = int(rng.integers(3))
    metal = lin(
        *((214, 176, 96), (206, 206, 212), (90, 130, 150), (170, 60, 70))[int(rng.integers(4))]
    )
    everywhere = np.ones(sheet.ids.shape, np.float32)
    for side in (-1, 1):
        c = np.array([side * (float(half_width(p, 0.58)) + 0.018), 0.592])
        if kind == 0:
            _bead(sheet, c, rng.uniform(0.009, 0.012), metal, everywhere, 15)
        elif kind == 1:
            r, a = 0.034, np.linspace(0, 2 * np.pi, 40)
            ring = c + (0, r) + np.stack([0.6 * np.cos(a), np.sin(a)], -1) * r
            glow = 0.55 + 0.9 * bell(
                np.sin(np.arctan2(sheet.y - c[1] - r, sheet.x - c[0]) * 1.5 + 1), 1, 0.4
            )
            sheet.shade(
                1
                - 0.35
                * sheet.stroke(ring + (-0.006 * p.light[0], 0.006), 0.006, soft=2, closed=True)
            )
            sheet.paint(
                sheet.stroke(ring, 0.007, soft=0.4, closed=True),
                (metal * glow[..., None]).astype(np.float32),
                15,
            )
        else:
            sheet.paint(
                sheet.stroke(np.array([c, c + (0, 0.05)]), 0.0035, soft=0.4),
                metal * np.ones((1, 1, 3), np.float32),
                15,
            )
            for k, r in enumerate((0.007, 0.009, 0.013)):
                _bead(sheet, c + (0, 0.012 + 0.022 * k), r, metal * (1 + 0.2 * k), everywhere, 15)


def camera(sheet, p):
    """-> [s, s, 3] uint8 sRGB: exposure, a little vignette and lens blur, grain of one to two grey levels."""
    rng = stream(p.seed, 'camera')
    s = sheet.size
    v = np.linspace(-1, 1, s, dtype=np.float32) ** 2
    tint = np.exp(rng.normal(0, 0.025, 3)).astype(np.float32) * np.float32(rng.uniform(0.82, 1.15))
    rgb = blur(sheet.rgb, 0.45 * s / 512) * (1 - 0.10 * (v[:, None] + v[None, :]))[..., None] * tint
    out = srgb8(rgb).astype(np.float32) + rng.standard_normal(
        (s, s, 1), dtype=np.float32
    ) * np.float32(rng.uniform(0.8, 1.4))
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)
