"""What surrounds the synthetic faces: background, clothes, necklace, earrings, and the camera."""

from collections.abc import Callable

import cv2
import numpy as np

from . import labels
from .canvas import (
    Sheet,
    bell,
    blur,
    circle,
    cloud,
    curve,
    lin,
    mirrored,
    mix,
    one_of,
    srgb8,
    step,
    stream,
)
from .shape import Person, half_width

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
LAMPS = (255, 214, 150), (255, 240, 220), (255, 150, 90), (150, 200, 255)
MORTARS = (196, 188, 176), (150, 144, 138), (110, 104, 98)
CHAINS = (212, 170, 90), (200, 200, 205), (190, 140, 110)
EARRINGS = (214, 176, 96), (206, 206, 212), (90, 130, 150), (170, 60, 70)


def dye(rng: np.random.Generator, low: float = 20, high: float = 200) -> np.ndarray:
    """A colour that cloth, paint and wood have, linear [3].

    low, high: brightness of its brightest channel, sRGB 0..255
    """
    # The hue comes from the table, the brightness is drawn.
    base = np.array(DYES[int(rng.integers(len(DYES)))], np.float64)
    rgb = base / base.max() * rng.uniform(low, high) * (1 + rng.normal(0, 0.05, 3))
    return lin(np.clip(rgb, 5, 242))


# ---- background ----


def background(sheet: Sheet, p: Person) -> None:
    """Paint a studio gradient, lights out of focus, leaves, blurred bars, or a wall."""
    rng = stream(p.seed, 'background')
    kinds = (_studio, _lamps, _leaves, _bars, _wall, _lamps, _bars, _studio)
    paint: Callable[[np.random.Generator, int], np.ndarray] = kinds[int(rng.integers(8))]
    sheet.rgb[:] = paint(rng, sheet.size)


def _ramp(rng: np.random.Generator, s: int) -> np.ndarray:
    """Smooth 0..1 slope in a random direction."""
    v = np.linspace(-1, 1, s, dtype=np.float32)
    a = rng.uniform(0, 2 * np.pi)
    slope = 0.5 + 0.5 * (np.cos(a) * v[None, :] + np.sin(a) * v[:, None])
    return np.clip(slope, 0, 1).astype(np.float32)


def _studio(rng: np.random.Generator, s: int) -> np.ndarray:
    """Paper or canvas behind the sitter."""
    # Two dyes along a slope with clouds, on a fine weave.
    t = np.clip(_ramp(rng, s) + 0.12 * cloud(rng, (s, s), 3, 5), 0, 1)[..., None]
    out = mix(dye(rng, 30, 220), dye(rng, 20, 200), t)
    weave = blur(rng.standard_normal((s, s), dtype=np.float32), 0.8 * s / 512)
    return out * (1 + 0.05 * cloud(rng, (s, s), 12, 4) + 0.03 * weave)[..., None]


def _lamps(rng: np.random.Generator, s: int) -> np.ndarray:
    """Lights far out of focus in front of a dark blur."""
    dark, less = dye(rng, 8, 70), dye(rng, 10, 90)
    out = mix(dark, less, step(cloud(rng, (s, s), 3, 3), -1.2, 1.2)[..., None])
    for _ in range(int(rng.integers(14, 46))):
        # A lamp: place and radius in pixels.
        c, r = rng.uniform(0, s, 2), rng.uniform(0.012, 0.065) * s
        disc = np.zeros((s, s), np.uint8)
        cv2.circle(disc, (int(c[0] * 16), int(c[1] * 16)), int(r * 16), 255, -1, cv2.LINE_AA, 4)
        disc = blur(disc.astype(np.float32) / 255, 1.2 * s / 512)

        # A lens that is not in focus shows discs with a bright rim.
        rim = np.clip(disc - 0.35 * blur(disc, r * 0.35), 0, 1)
        glow = lin(rng.choice(LAMPS))
        out = out + (rim * rng.uniform(0.1, 0.55))[..., None] * glow
    return blur(out, 1.0 * s / 512)


def _leaves(rng: np.random.Generator, s: int) -> np.ndarray:
    """Foliage: three layers of soft dabs, nearer ones sharper, with sky between."""
    sky = step(cloud(rng, (s, s), 4, 3), -1, 1.6)[..., None]
    out = mix(lin(28, 44, 22), lin(120, 150, 96), sky)
    green = np.array([86 + 22 * rng.normal(0, 1), 108, 58])
    for k, soft in enumerate((9, 5, 2.6)):
        layer = _dabs(rng, s, int(140 * 1.8**k), green)
        cover = blur((layer.max(-1) > 0).astype(np.float32), soft * s / 512)[..., None]
        out = out * (1 - cover) + blur(lin(layer), soft * s / 512)
    return out


def _dabs(rng: np.random.Generator, s: int, n: int, green: np.ndarray) -> np.ndarray:
    """Leaves [s, s, 3] uint8 sRGB; black where there is none."""
    layer = np.zeros((s, s, 3), np.uint8)
    c, long = rng.uniform(-0.05, 1.05, (n, 2)) * s, rng.uniform(0.012, 0.05, n) * s
    angle, shade = rng.normal(rng.uniform(0, 180), 40, n), rng.uniform(0.3, 1.3, n)
    for i in range(n):
        colour = np.clip(green * shade[i] + rng.normal(0, 8, 3), 1, 255).tolist()
        at, axes = (int(c[i, 0] * 16), int(c[i, 1] * 16)), (int(long[i] * 16), int(long[i] * 6))
        cv2.ellipse(layer, at, axes, angle[i], 0, 360, colour, -1, cv2.LINE_AA, 4)
    return layer


def _bars(rng: np.random.Generator, s: int) -> np.ndarray:
    """Shelves, windows or curtains, blurred."""
    out = np.ones((s, s, 3), np.float32) * dye(rng, 30, 150)
    for _ in range(int(rng.integers(8, 34))):
        x, y = rng.uniform(-0.1, 1, 2)
        # Upright bars are the more frequent: windows, books, curtains.
        if rng.random() < 0.7:
            w, h = rng.uniform(0.01, 0.12), rng.uniform(0.3, 1.2)
        else:
            w, h = rng.uniform(0.2, 0.9), rng.uniform(0.01, 0.06)
        bar = (_pixels(y, h, s), _pixels(x, w, s))
        out[bar] = mix(out[bar], dye(rng, 15, 225), np.float32(rng.uniform(0.5, 1)))
    # The camera is never quite level, and the background never in focus.
    turn = cv2.getRotationMatrix2D((s / 2, s / 2), rng.normal(0, 4), 1.1)
    out = cv2.warpAffine(out, turn, (s, s), borderMode=cv2.BORDER_REFLECT)
    out = blur(out, rng.uniform(2.5, 11) * s / 512)
    return out * (1 + 0.08 * cloud(rng, (s, s), 4, 4))[..., None]


def _pixels(start: float, length: float, s: int) -> slice:
    """Pixels of an interval of one axis, given in shares of the picture."""
    first, last = np.clip(np.array([start, start + length]) * s, 0, s).astype(int)
    return slice(first, last)


def _wall(rng: np.random.Generator, s: int) -> np.ndarray:
    """Bricks or plaster, a little out of focus."""
    out = dye(rng, 60, 190) * (1 + 0.10 * cloud(rng, (s, s), 6, 6))[..., None]
    if rng.random() < 0.65:
        out = _bricks(rng, s, out)
    out = blur(np.maximum(out, 0), rng.uniform(0.6, 2.4) * s / 512)
    return out * (0.75 + 0.5 * _ramp(rng, s))[..., None]


def _bricks(rng: np.random.Generator, s: int, out: np.ndarray) -> np.ndarray:
    """Rows of bricks of slightly different tones, with mortar between."""
    y, x = np.mgrid[0:s, 0:s].astype(np.float32) / s
    rows = rng.uniform(9, 16)
    # Every second row is shifted by half a brick.
    row = np.floor(y * rows)
    u = x * rows * 0.42 + 0.5 * (row % 2)
    # A hash of row and column picks the brick's tone.
    cell = (row * 31 + np.floor(u) * 17).astype(int)
    tone = rng.normal(1, 0.16, 4096).astype(np.float32)[cell % 4096]
    flat = step(np.abs(y * rows - row - 0.5), 0.42, 0.47)
    joint = np.maximum(flat, step(np.abs(u - np.floor(u) - 0.5), 0.465, 0.49))
    out = mix(out * tone[..., None], one_of(rng, MORTARS), joint[..., None])
    return out * (1 + 0.10 * cloud(rng, (s, s), 60, 3))[..., None]


# ---- clothes ----


def clothes(sheet: Sheet, p: Person) -> None:
    """Paint shoulders in a shirt, jersey, jacket or polo neck."""
    rng = stream(p.seed, 'clothes')
    colour = dye(rng, 12, 225)
    kind = ('round', 'vee', 'shirt', 'jacket', 'polo')[int(rng.integers(5))]
    deep = _neckline(rng, kind)
    half = _shoulders(p, kind, deep)
    cover = sheet.cover(mirrored(half), soft=0.6)

    # The lamp lights one side, the chin shades the middle; shoulders lie behind the focus.
    under = step(sheet.y, 1.0, 0.9) * step(np.abs(sheet.x), 0.26, 0.15)
    light = 0.80 + 0.55 * np.clip(sheet.x * np.sign(p.light[0]) * 1.3, -0.5, 0.5) - 0.45 * under
    fabric = _fabric(sheet, rng, colour)
    rgb = blur(fabric, rng.uniform(0.4, 1.3) * sheet.size / 512) * light[..., None]

    shadow = sheet.cover(mirrored(half) + (0, -0.006), soft=5)
    sheet.shade(1 - 0.4 * shadow * np.isin(sheet.ids, (labels.NECK, labels.SKIN)))
    sheet.paint(cover, rgb.astype(np.float32), labels.CLOTH)
    if kind in ('round', 'polo'):
        seam = sheet.stroke(half[:20] + (0, 0.014), 0.002, soft=0.8)
        sheet.shade(1 - 0.35 * seam * cover)
    if kind in ('shirt', 'jacket'):
        _collar(sheet, p, rgb, kind, deep)


def _neckline(rng: np.random.Generator, kind: str) -> float:
    """Lowest point of the neckline."""
    # Both are drawn whatever the kind, so that what follows does not depend on it.
    round_, vee = rng.uniform(0.955, 1.0), rng.uniform(1.03, 1.09)
    return {'round': round_, 'vee': vee, 'shirt': 1.03, 'jacket': 1.08, 'polo': 0.90}[kind]


def _neck_width(p: Person) -> float:
    return 0.155 + (0.012 if p.man else 0)


def _shoulders(p: Person, kind: str, deep: float) -> np.ndarray:
    """Right half [m, 2] of the outline of the clothes, from the neckline to the sleeve."""
    wide, neck = 0.03 * p.man, _neck_width(p)
    side = 0.885 if kind == 'polo' else float(mix(0.935, deep, 0.3))
    # From the middle of the neckline along the collar to the shoulder and down.
    knots = [
        (0, deep),
        (0.06, deep - 0.008 if kind != 'vee' else deep - 0.05),
        (neck * 0.92, side),
        (neck + 0.02, 0.925),
        (0.28 + wide, 0.955),
        (0.40 + wide, 0.995),
        (0.50, 1.06),
        (0.6, 1.3),
    ]
    half = np.array(knots) if kind in ('vee', 'shirt', 'jacket') else curve(knots, 6)
    return np.concatenate([half, [(0.0, 1.3)]])


def _collar(sheet: Sheet, p: Person, rgb: np.ndarray, kind: str, deep: float) -> None:
    """Two flaps; on a jacket they are lapels."""
    low, neck = 0.10 if kind == 'shirt' else 0.22, _neck_width(p)
    knots = np.array(
        [
            (neck * 0.95, 0.895),
            (neck + 0.035, 0.935),
            (0.105, 0.95 + low * 0.8),
            (0.015, deep + 0.004),
            (neck * 0.72, 0.96),
        ]
    )
    for side in (-1, 1):
        flap = knots * (side, 1)
        sheet.shade(1 - 0.45 * sheet.cover(flap + (0.004 * side, 0.012), soft=4))
        bright = np.float32(1.12 if side * p.light[0] > 0 else 0.9)
        sheet.paint(sheet.cover(flap, soft=0.6), rgb * bright, labels.CLOTH)
        sheet.shade(1 - 0.4 * sheet.stroke(flap[[1, 2, 3]], 0.002, soft=0.8))


def _fabric(sheet: Sheet, rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Woven colour [s, s, 3]: plain weave, knit, stripes, checks, dots or denim, with folds."""
    s, x, y = sheet.size, sheet.x, sheet.y
    kind = int(rng.integers(6))
    u = x + 0.02 * cloud(rng, (s, s), 4, 2)  # along and across the weave
    v = y + 0.05 * x * x + 0.02 * cloud(rng, (s, s), 4, 2)
    fine = blur(rng.standard_normal((s, s), dtype=np.float32), 0.7 * s / 512)
    out = np.ones((s, s, 1), np.float32) * colour

    # A print never has the contrast of its dyes.
    other = mix(colour, dye(rng, 20, 220), np.float32(rng.uniform(0.4, 0.85)))
    if kind == 1:
        out = out * _knit(u, v)[..., None]
    elif kind == 5:
        twill = 1 + 0.20 * np.sin(2 * np.pi * (x + 0.6 * y) * 150) + 0.25 * fine
        out = lin(50, 70, 108) * twill[..., None]
    elif kind:
        out = mix(out, other, _print(rng, kind, u, v)[..., None])

    # Folds are dark where the cloud crosses zero.
    folds = cloud(rng, (s, s), 5, 3)
    slope = blur(np.abs(folds), 2 * s / 512)
    return out * (1 + 0.09 * fine)[..., None] * np.clip(0.62 + 0.5 * slope, 0.35, 1.3)[..., None]


def _knit(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Brightness of rows of slanted stitches."""
    u, v = u * 62, v * 46
    slant = np.sin(2 * np.pi * (v + 0.6 * np.abs(u - np.floor(u) - 0.5)))
    return 0.86 + 0.24 * (slant * 0.5 + np.cos(2 * np.pi * u) * 0.35)


def _print(rng: np.random.Generator, kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a print has its second colour, 0..1: stripes (2), checks (3) or dots (4)."""
    if kind == 2:
        return step(np.sin(2 * np.pi * v * rng.uniform(8, 18)), -0.2, 0.2)
    if kind == 3:
        f = rng.uniform(7, 16)
        a, b = (step(np.sin(2 * np.pi * w * f), -0.1, 0.1) for w in (u, v))
        return 0.5 * (a + b)
    f = rng.uniform(9, 18)
    # Dots are staggered from row to row.
    row = np.floor(v * f)
    distance = np.hypot((u * f + 0.5 * (row % 2)) % 1 - 0.5, v * f - row - 0.5)
    return step(distance, 0.32, 0.20)


# ---- jewels ----


def necklace(sheet: Sheet, p: Person) -> None:
    """Paint a fine chain with a pendant, or pearls."""
    if not p.necklace:
        return
    rng = stream(p.seed, 'necklace')
    deep, pearl = rng.uniform(0.955, 0.985), rng.random() < 0.4
    u = np.linspace(-1, 1, 400)
    line = np.stack([0.150 * p.width * u, deep - 0.075 * u * u], -1)
    metal = one_of(rng, CHAINS)
    on = np.isin(sheet.ids, (labels.NECK, labels.CLOTH)).astype(np.float32)
    sheet.shade(1 - 0.40 * on * sheet.stroke(line + (0, 0.006), 0.006, soft=2))
    if pearl:
        _pearls(sheet, line, on, rng)
    else:
        _chain(sheet, line, on, rng, metal)


def _pearls(sheet: Sheet, line: np.ndarray, on: np.ndarray, rng: np.random.Generator) -> None:
    """A row of beads, each with its own highlight."""
    r = rng.uniform(0.0075, 0.011)
    # Beads touch: their distance along the line is their diameter.
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    for d in np.arange(0, at[-1], 2 * r):
        c = np.array([np.interp(d, at, line[:, 0]), np.interp(d, at, line[:, 1])])
        _bead(sheet, c, r, lin(226, 214, 200), on, labels.NECKLACE)


def _chain(
    sheet: Sheet, line: np.ndarray, on: np.ndarray, rng: np.random.Generator, metal: np.ndarray
) -> None:
    """Links that glitter, and a pendant in the middle."""
    spark = bell(np.sin(sheet.y * 300), 0.6, 0.8)
    links = 0.55 + 0.6 * np.sin(sheet.x * 2 * np.pi * 95) ** 2 * spark
    cover = sheet.stroke(line, 0.0055, soft=0.4) * on
    sheet.paint(cover, (metal * links[..., None]).astype(np.float32), labels.NECKLACE)

    c, r = line[200] + (0, 0.012), rng.uniform(0.008, 0.014)
    drop = c + circle(24, across=0.8) * r
    spot = np.hypot(sheet.x - c[0] + 0.3 * r, sheet.y - c[1] + 0.4 * r)
    rgb = (metal * (0.5 + 0.9 * bell(spot, 0, 0.6 * r))[..., None]).astype(np.float32)
    sheet.paint(sheet.cover(drop, soft=0.4) * on, rgb, labels.NECKLACE)


def _bead(
    sheet: Sheet, c: np.ndarray, r: float, colour: np.ndarray, on: np.ndarray, ident: int
) -> None:
    """A small shaded ball of radius r around c, where `on` [s, s] lets it be seen."""
    box = sheet.window(c[0], c[1], r * 1.5, r * 1.5)
    # In radii from the centre.
    x, y = (sheet.x[box] - c[0]) / r, (sheet.y[box] - c[1]) / r
    d = np.sqrt(x * x + y * y)
    edge = 1.0 / (r * sheet.size)
    cover = step(d, 1 + edge / 2, 1 - edge / 2) * on[box]
    shine = 0.9 * bell(np.hypot(x + 0.3, y + 0.4), 0, 0.3)
    tone = 0.95 - 0.55 * step(d, 0.3, 1.05) - 0.2 * y + shine
    rgb = (colour * tone[..., None]).astype(np.float32)
    sheet.rgb[box] += (rgb - sheet.rgb[box]) * cover[..., None]
    sheet.ids[box][cover > 0.5] = ident


def earrings(sheet: Sheet, p: Person) -> None:
    """Paint a stud, hoop or drop below both lobes; of hidden lobes they hang out of the hair."""
    if not p.earring:
        return
    rng = stream(p.seed, 'earring')
    kind = int(rng.integers(3))
    metal = one_of(rng, EARRINGS)
    everywhere = np.ones(sheet.ids.shape, np.float32)
    for side in (-1, 1):
        # The lobe hangs beside the jaw.
        c = np.array([side * (float(half_width(p, 0.58)) + 0.018), 0.592])
        if kind == 0:
            _bead(sheet, c, rng.uniform(0.009, 0.012), metal, everywhere, labels.EARRING)
        elif kind == 1:
            _hoop(sheet, p, c, metal)
        else:
            _drop(sheet, c, metal, everywhere)


def _hoop(sheet: Sheet, p: Person, c: np.ndarray, metal: np.ndarray) -> None:
    r = 0.034
    ring = c + (0, r) + circle(40, across=0.6) * r
    shadow = sheet.stroke(ring + (-0.006 * p.light[0], 0.006), 0.006, soft=2, closed=True)
    sheet.shade(1 - 0.35 * shadow)
    angle = np.arctan2(sheet.y - c[1] - r, sheet.x - c[0])
    glow = 0.55 + 0.9 * bell(np.sin(angle * 1.5 + 1), 1, 0.4)
    rgb = (metal * glow[..., None]).astype(np.float32)
    sheet.paint(sheet.stroke(ring, 0.007, soft=0.4, closed=True), rgb, labels.EARRING)


def _drop(sheet: Sheet, c: np.ndarray, metal: np.ndarray, everywhere: np.ndarray) -> None:
    """Three beads on a wire."""
    wire = sheet.stroke(np.array([c, c + (0, 0.05)]), 0.0035, soft=0.4)
    sheet.paint(wire, metal * np.ones((1, 1, 3), np.float32), labels.EARRING)
    for k, r in enumerate((0.007, 0.009, 0.013)):
        place, colour = c + (0, 0.012 + 0.022 * k), metal * (1 + 0.2 * k)
        _bead(sheet, place, r, colour, everywhere, labels.EARRING)


# ---- camera ----


def camera(sheet: Sheet, p: Person) -> np.ndarray:
    """Take the picture, [s, s, 3] uint8 sRGB.

    Exposure, a little vignette and lens blur, grain of one to two grey levels.
    """
    rng = stream(p.seed, 'camera')
    s = sheet.size
    v = np.linspace(-1, 1, s, dtype=np.float32) ** 2
    vignette = (1 - 0.10 * (v[:, None] + v[None, :]))[..., None]
    tint = np.exp(rng.normal(0, 0.025, 3)).astype(np.float32) * np.float32(rng.uniform(0.82, 1.15))
    rgb = blur(sheet.rgb, 0.45 * s / 512) * vignette * tint

    grain = rng.standard_normal((s, s, 1), dtype=np.float32) * np.float32(rng.uniform(0.8, 1.4))
    return np.clip(srgb8(rgb).astype(np.float32) + grain + 0.5, 0, 255).astype(np.uint8)
