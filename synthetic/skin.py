"""The skin of the synthetic faces: a relief of head and neck, light on it, pores and colour.

The relief, a height field, is drawn on a small grid in face units, where its parts are sums of
separable bells, and then bent into the picture. Neck, ears and nose are here as well.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from . import labels
from .canvas import (
    Ground,
    Sheet,
    bell,
    blur,
    cloud,
    curve,
    lin,
    mirrored,
    mix,
    noise,
    step,
    stream,
)
from .mouth import lip_colour
from .shape import Person, eye_lids, half_width, head_outline

# The relief covers x -0.6 .. 0.6 and y -0.1 .. 1.1.
GRID, LOW, SPAN = 384, np.float32(-0.1), np.float32(1.2)
TONES = (
    (240, 204, 184),
    (232, 186, 160),
    (218, 166, 136),
    (196, 140, 108),
    (164, 110, 78),
    (122, 78, 54),
    (84, 54, 38),
)

# (x, y, width across, width down, height) of a bell; x > 0 stands for both sides of the face.
Bell = tuple[float, float, float, float, float]


# ---- the relief ----


def _axes() -> tuple[np.ndarray, np.ndarray]:
    """Face units of the relief's columns and rows."""
    v = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID * SPAN
    return v - SPAN / 2, v + LOW


def _add_bells(to: np.ndarray, bells: Sequence[Bell]) -> None:
    """Add bells to a field [GRID, GRID] in place."""
    x, y = _axes()
    for bx, by, sx, sy, height in bells:
        across = bell(x, bx, sx) + (bell(x, -bx, sx) if bx else 0)
        to += np.float32(height) * bell(y, by, sy)[:, None] * across[None, :]


def _bumps(p: Person) -> list[Bell]:
    """Bells of the face's form."""
    nose, mouth, f, old = p.nose_y, p.mouth_y, p.lip, p.age
    fat = 0.8 + 0.4 * p.smile
    # fmt: off
    return [
        # Brows, eyes and what surrounds them.
        (0.120, p.brow_y + 0.004, 0.080, 0.022, 0.016 if p.man else 0.010),
        (0,     0.420, 0.035, 0.030, 0.008),
        (0.118, 0.462, 0.056, 0.030, -0.030),
        (0.062, 0.452, 0.020, 0.030, -0.022),
        (0.128, 0.466, 0.040, 0.024, 0.026),
        (0.125, 0.500, 0.036, 0.008, 0.003 + 0.004 * old),
        (0.105, 0.516, 0.045, 0.012, -0.004 - 0.005 * old),
        # Cheeks, temples, forehead.
        (0.150, 0.570, 0.065, 0.052, 0.030 * fat),
        (0.185, 0.680, 0.040, 0.070, -0.014),
        (0.245, 0.360, 0.030, 0.075, -0.012),
        (0.235, 0.530, 0.030, 0.030, 0.006),
        (0,     0.30,  0.13,  0.09,  0.012),
        # Tip and wings of the nose, and the groove below it.
        (0,                0.603 + nose, 0.032 * p.nose_w, 0.024, 0.022),
        (0.044 * p.nose_w, 0.617 + nose, 0.018, 0.017, 0.026),
        (0.068 * p.nose_w, 0.612 + nose, 0.010, 0.020, -0.010),
        (0.020,            0.640 + nose, 0.011, 0.007, -0.008),
        (0,                0.668 + nose, 0.010, 0.020, -0.005),
        (0.016,            0.670 + nose, 0.009, 0.018, 0.0015),
        # Mouth and chin.
        (0,                 0.70,                          0.12,  0.05,  0.012),
        (0.022,             mouth - 0.013 * f,               0.026, 0.009, 0.009 * f),
        (0,                 mouth - 0.012 * f,               0.008, 0.009, -0.002),
        (0,                 mouth + 0.016 * f + 0.6 * p.gap, 0.05,  0.013, 0.017 * f),
        (p.mouth_w + 0.006, mouth,                           0.014, 0.014, -0.006),
        (0,                 mouth + 0.050 + 0.5 * p.gap,     0.055, 0.014, -0.016),
        (0,                 p.chin - 0.055,                0.050, 0.032, 0.028),
        (0.16,              0.82,                          0.04,  0.03,  0.010),
    ]
    # fmt: on


def relief(p: Person) -> np.ndarray:
    """Height of the head over the picture plane, [GRID, GRID] float32 in face units."""
    z = _head_form(p)
    _add_bells(z, _bumps(p))
    z += _bridge(p)
    return z - _fold_depth(p)


def _head_form(p: Person) -> np.ndarray:
    """The head without its features: round across, flatter towards the crown and the chin."""
    x, y = _axes()
    chin = 0.085 * step(y, p.chin - 0.08, p.chin - 0.01)  # it ends round
    half = np.maximum(np.hypot(half_width(p, y), chin), 1e-3)[:, None]
    t = np.minimum(np.abs(x)[None, :] / half, 1)
    heights = [0.03, 0.1, 0.25, 0.42, 0.6, 0.8, p.chin - 0.04, p.chin - 0.015, p.chin, 1]
    shares = [0.5, 0.72, 0.92, 1, 1, 0.96, 0.91, 0.83, 0.70, 0.6]
    crown = np.interp(y, heights, shares).astype(np.float32)[:, None]
    return 0.25 * crown * (1 - t**2.3) ** np.float32(0.62)


def _bridge(p: Person) -> np.ndarray:
    """Bridge of the nose: a ridge that rises and widens to the tip."""
    x, y = _axes()
    ny = p.nose_y
    places = [0.41, 0.455, 0.52, 0.59 + ny, 0.618 + ny, 0.66 + ny]
    high = np.interp(y, places, [0, 0.018, 0.036, 0.056, 0.048, 0]).astype(np.float32)
    wide = np.interp(y, [0.42, 0.46, 0.54, 0.61], [0.036, 0.028, 0.031, 0.040])
    wide = wide.astype(np.float32) * p.nose_w
    return blur(high[:, None], 4) * np.exp(-np.square(x[None, :] / wide[:, None]))


# ---- folds ----

# (points [k, 2], width in cells of the relief, depth); points with x > 0 stand for both sides.
Fold = tuple[ArrayLike, float, float]


def _folds(p: Person, rng: np.random.Generator) -> list[Fold]:
    """Lines of a face: nose to mouth, lids, eye corners, forehead."""
    deep, old = 0.3 + 0.8 * p.smile + 0.6 * p.age, max(0.0, p.age - 0.3)
    upper, lower = eye_lids(p, 1)
    rise = 0.008 * (1 - np.linspace(-1, 1, 17) ** 2)
    crease = upper + (0, -0.007) - np.stack([0 * upper[:, 0], rise], -1)
    cheek = [(0.062, 0.612), (0.082, 0.645), (0.104, 0.69), (0.116 + 0.01 * p.smile, 0.735)]
    return [
        (cheek, 3.0, 0.010 * deep),
        (crease[1:-1], 1.4, 0.010),
        (lower[3:] + (0.002, 0.022), 2.0, 0.0015 + 0.007 * old),
        *(_crow_foot(rng, old) for _ in range(int(7 * old))),
        *(_frown(p, rng, k, old) for k in range(int(5 * old))),
    ]


def _crow_foot(rng: np.random.Generator, old: float) -> Fold:
    """A wrinkle at the outer corner of the eye."""
    x, y = rng.uniform(0.185, 0.2), rng.uniform(0.455, 0.49)
    middle = (x + 0.02, y + rng.normal(-0.002, 0.006))
    return [(x, y), middle, (x + 0.04, y + rng.normal(0, 0.012))], 1.0, 0.006 * old


def _frown(p: Person, rng: np.random.Generator, k: int, old: float) -> Fold:
    """The k-th wrinkle of the forehead, from the brows up."""
    y = p.brow_y - 0.06 - 0.033 * k + rng.normal(0, 0.004)
    line = [
        (-0.16, y + 0.008),
        (-0.08, y + rng.normal(0, 0.003)),
        (0.0, y + 0.005),
        (0.1, y + rng.normal(0, 0.003)),
        (0.17, y + 0.008),
    ]
    return line, 1.5, 0.008 * old


def _fold_depth(p: Person) -> np.ndarray:
    """Depth of all folds, [GRID, GRID]."""
    rng, out = stream(p.seed, 'folds'), np.zeros((GRID, GRID), np.float32)
    for line, width, depth in _folds(p, rng):
        mark = np.zeros((GRID, GRID), np.uint8)
        points = curve(line, 6)
        for side in (-1, 1) if points[:, 0].min() > 0 else (1,):
            xy = (points * (side, 1) - (-SPAN / 2, LOW)) / SPAN * GRID - 0.5
            cv2.polylines(mark, [np.round(xy * 16).astype(np.int32)], False, 255, 1, cv2.LINE_AA, 4)
        # Blurring thins a line; the factor restores its depth, nearly.
        out += blur(mark.astype(np.float32) / 255, width) * np.float32(depth * 2.2 * width**0.5)
    return blur(out, 0.7)


# ---- colour ----


def tone(p: Person) -> np.ndarray:
    """The person's skin colour, linear RGB [3]."""
    rng, at = stream(p.seed, 'tone'), p.tone * (len(TONES) - 1)
    k = min(int(at), len(TONES) - 2)
    base = mix(lin(*TONES[k]), lin(*TONES[k + 1]), np.float32(at - k))
    vary = np.exp(rng.normal(0, 0.028, 3)).astype(np.float32)
    return base * vary * np.float32(rng.uniform(0.9, 1.05))


def _tint(p: Person) -> tuple[np.ndarray, np.ndarray]:
    """Where the skin is redder, and where it is darker, [GRID, GRID] each."""
    blush = 0.5 + 0.5 * p.smile + (0 if p.man else 0.3)
    # fmt: off
    redder = [
        (0.155, 0.595,         0.065, 0.05,  0.5 * blush),  # cheeks
        (0,     0.605,         0.045, 0.035, 0.4),          # nose
        (0,     p.chin - 0.05, 0.06,  0.03,  0.25),
        (0.125, 0.475,         0.06,  0.035, 0.25),         # lids
    ]
    darker = [
        (0.11,  0.505,         0.05,  0.016, 0.22 + 0.3 * p.age),  # below the eyes
        (0.075, 0.458,         0.022, 0.03,  0.35),
        (0.125, 0.452,         0.05,  0.012, 0.22),
    ]
    # fmt: on
    red, dark = np.zeros((GRID, GRID), np.float32), np.zeros((GRID, GRID), np.float32)
    _add_bells(red, redder)
    _add_bells(dark, darker)
    return red, dark


def _texture(sheet: Sheet, p: Person) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour factor [s, s, 3] and slopes (across, down) of mottling, pores, freckles and moles."""
    rng, s = stream(p.seed, 'texture'), (sheet.size, sheet.size)
    grain = rng.standard_normal(s, dtype=np.float32)
    fine, mid, wide = (blur(grain, k * sheet.size / 512) for k in (0.9, 2.0, 4.5))
    pores = fine - 0.6 * mid - 0.4 * wide
    pores *= np.float32(3.2) * (1 + 0.5 * noise(rng, s, 9))

    mottle = cloud(rng, s, 10, 4)
    factor = np.stack([1 + 0.022 * mottle, 1 + 0.048 * mottle, 1 + 0.050 * mottle], -1)
    factor *= (1 - 0.018 * np.maximum(pores, -1))[..., None]
    factor *= 1 - _spots(sheet, p, rng)[..., None] * np.array([0.25, 0.42, 0.5], np.float32)
    gy, gx = np.gradient(pores)
    return factor, np.asarray(gx), np.asarray(gy)


def _spots(sheet: Sheet, p: Person, rng: np.random.Generator) -> np.ndarray:
    """Freckles on nose and cheeks, or a few moles anywhere; [s, s] 0..1."""
    s = sheet.size
    freckled = rng.random() < 0.35 * (1 - p.tone)
    n = int(rng.integers(90, 320)) if freckled else int(rng.integers(2, 14))
    where = rng.normal(0, 1, (n, 2)) * ((0.12, 0.07) if freckled else (0.15, 0.2)) + (0, 0.56)
    where = np.round((sheet.pixels(where) * 2 + 0.5) * 16).astype(int).tolist()
    radii = rng.uniform(8, 24, n) * s / 512

    spots = np.zeros((2 * s, 2 * s), np.uint8)
    for (cx, cy), r in zip(where, radii, strict=True):
        dark = int(rng.integers(60, 200))
        cv2.circle(spots, (cx, cy), int(r * 1.5), dark, -1, cv2.LINE_AA, 4)
    small = cv2.resize(spots, (s, s), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return blur(small, 0.6 * s / 512)


# ---- light ----


def lit(
    albedo: np.ndarray,
    nx: np.ndarray,
    ny: np.ndarray,
    light: tuple[float, float, float],
    shadow: np.ndarray,
    ao: np.ndarray,
    gloss: np.ndarray | float,
) -> np.ndarray:
    """Skin in light, [s, s, 3] linear.

    nx, ny: slopes of the surface
    light:  direction to the lamp
    shadow: share of the lamp's light that is taken away
    ao:     share of the sky's light that arrives
    gloss:  strength of the shine

    Lambert's light creeps around the edge, most in red; the sky lights from above; the shine has
    two widths.
    """
    nz = 1 / np.sqrt(1 + nx * nx + ny * ny)
    nx, ny = -nx * nz, -ny * nz
    lx, ly, lz = light
    cosine = nx * lx + ny * ly + nz * lz
    out = np.empty_like(albedo)
    fill = (0.20 + 0.10 * nz - 0.08 * ny - 0.05 * nx * np.sign(lx)) * ao

    # Of red, green, blue: how far light creeps, the sky's colour, what leaks into the shadow.
    channels = (0.30, 0.96, 0.30), (0.16, 1.0, 0.12), (0.12, 1.06, 0.10)
    for c, (wrap, sky, leak) in enumerate(channels):
        direct = np.maximum(0, (cosine + wrap) / (1 + wrap)) * (1 - shadow * (1 - leak))
        out[..., c] = albedo[..., c] * (0.95 * direct + fill * sky)

    # Blinn's half vector, between lamp and camera.
    half = np.array([lx, ly, lz + 1]) / np.linalg.norm([lx, ly, lz + 1])
    shine = np.maximum(0, nx * half[0] + ny * half[1] + nz * half[2]).astype(np.float32)
    shine = shine**9 * np.float32(0.035) + shine**36 * np.float32(0.055)
    return out + (shine * gloss * (1 - 0.8 * shadow) * ao)[..., None]


def _cast(z: np.ndarray, light: tuple[float, float, float], reach: int = 26) -> np.ndarray:
    """Share of each point that the relief itself puts into shadow, [GRID, GRID] 0..1.

    Found by marching towards the light, at half the resolution.
    """
    small = cv2.resize(z, (GRID // 2, GRID // 2), interpolation=cv2.INTER_AREA)
    cell, out = 2 * SPAN / GRID, np.zeros((GRID // 2, GRID // 2), np.float32)
    lx, ly, lz = light
    for k in range(1, reach):
        move = np.array([[1, 0, -lx * k], [0, 1, -ly * k]], np.float32)
        near = cv2.warpAffine(small, move, small.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        out = np.maximum(out, np.clip((near - small - lz * k * cell) / (0.012 + 0.001 * k), 0, 1))
    return cv2.resize(blur(out, 1.6), (GRID, GRID), interpolation=cv2.INTER_CUBIC)


def _bend(sheet: Sheet, fields: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Bend fields [GRID, GRID] of the relief into the picture, [s, s] each."""
    mx, my = (sheet.x + SPAN / 2) / SPAN * GRID - 0.5, (sheet.y - LOW) / SPAN * GRID - 0.5
    return [cv2.remap(f, mx, my, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for f in fields]


def face_light(sheet: Sheet, p: Person) -> Ground:
    """Everything `head` needs, and what the painters of lips, ears and neck use again."""
    gx, gy, shadow, ao, red, dark = _ground(sheet, p)
    factor, fx, fy = _texture(sheet, p)
    colour = tone(p) * factor
    warm = red[..., None] * np.array([0.06, -0.24, -0.20], np.float32) * (1 - 0.4 * p.tone)
    deep = dark[..., None] * np.array([0.42, 0.50, 0.46], np.float32) * (0.55 + 0.25 * p.tone)
    colour *= 1 + warm - deep
    return Ground(
        albedo=colour,
        gx=gx + 0.075 * fx,
        gy=gy + 0.075 * fy,
        shadow=shadow,
        ao=ao,
        fx=fx,
        fy=fy,
    )


def _ground(sheet: Sheet, p: Person) -> tuple[np.ndarray, ...]:
    """Slopes, shadow, ambient occlusion, redness and darkness of the face at each pixel."""
    z = relief(p)
    gy, gx = np.gradient(z, SPAN / GRID)
    wide = np.clip(1 - 9 * np.maximum(0, blur(z, 9) - z - 0.004), 0.5, 1)
    ao = wide * np.clip(1 - 14 * np.maximum(0, blur(z, 4) - z), 0.6, 1)
    red, dark = _tint(p)

    # The relief is upright: the light turns into its frame, and the slopes turn back.
    c, s = np.cos(p.pose.roll), np.sin(p.pose.roll)
    lx, ly, lz = p.light
    shadow = 0.85 * _cast(z, (c * lx + s * ly, -s * lx + c * ly, lz))
    gx, gy, shadow, ao, red, dark = _bend(sheet, (gx, gy, shadow, blur(ao, 1), red, dark))
    return c * gx - s * gy, s * gx + c * gy, shadow, ao, red, dark


# ---- painting ----


def neck(sheet: Sheet, p: Person, ground: Ground) -> None:
    """Paint neck and upper chest, in the shadow of the chin."""
    w = (0.165 if p.man else 0.14) * p.width
    half = [(w, 0.70), (w, 0.86), (w * 1.06, 0.95), (w * 1.45, 1.03), (0.40, 1.10), (0.5, 1.25)]
    cover = sheet.cover(mirrored(curve(half, 8)))

    # A cylinder with two cords, which leans towards the chest.
    slope = np.interp(sheet.y, [0.8, 0.95, 1.05], [0, 0, 0.4]).astype(np.float32)
    side = np.clip(sheet.x / (w * 1.08), -0.98, 0.98)
    cords = bell(np.abs(sheet.x), 0.045 + 0.25 * (1.05 - sheet.y), 0.018)
    gx = -side / np.sqrt(1 - side * side) * 0.75 + ground.fx * 0.05
    gx = gx - 0.25 * np.sign(sheet.x) * cords
    gy = slope + 0.15 - ground.fy * 0.05

    chin = sheet.cover(head_outline(p) + (0.03 * -np.sign(p.light[0]), 0.040), soft=9)
    shade = np.maximum(chin, 0.7 * step(sheet.y, 0.99, 0.90))
    rgb = lit(ground.albedo * 0.92, gx, gy, p.light, shade, 1 - 0.50 * shade, 0.5)
    sheet.paint(cover, rgb, labels.NECK)


def ear(sheet: Sheet, p: Person, side: int, ground: Ground) -> None:
    """Paint one ear behind the head: rim, hollow and lobe."""
    w = float(half_width(p, 0.5))  # of the head where the ears are
    knots = np.array(
        [
            (0, 0.445),
            (0.022, 0.432),
            (0.038, 0.452),
            (0.038, 0.50),
            (0.028, 0.55),
            (0.020, 0.588),
            (0.006, 0.60),
            (-0.01, 0.585),
            (-0.03, 0.5),
        ]
    )
    ring = curve((knots + (w, 0)) * (side, 1), 8, closed=True)
    cover = sheet.cover(ring)

    # The parts follow the outline, drawn in towards its middle.
    centre = ring.mean(0)
    out = ring - centre
    inner = sheet.cover(centre + out * 0.52 + (side * 0.003, -0.004), soft=3.0)
    fold = sheet.stroke((centre + out * 0.66)[8:44], 0.003, soft=1.6)
    rim = sheet.stroke(centre + out * 0.80, 0.005, soft=2.2, closed=True)

    gx, gy = (sheet.x - centre[0]) * 22 - side * 0.3, (sheet.y - centre[1]) * 3
    ruddy = ground.albedo * np.array([0.95, 0.80, 0.78], np.float32)
    rgb = lit(ruddy, gx, gy, p.light, 0.25 + 0.5 * inner, 1 - 0.6 * inner, 0.6)
    joint = step(np.abs(sheet.x), w + 0.012, w - 0.004)
    rgb *= (1 + 0.30 * rim - 0.35 * fold - 0.30 * joint)[..., None]
    sheet.paint(cover, rgb, labels.LEFT_EAR if side > 0 else labels.RIGHT_EAR)


def head(sheet: Sheet, p: Person, ground: Ground) -> None:
    """Paint the face itself; the lips' colour becomes part of the skin."""
    cover = sheet.cover(head_outline(p), soft=0.5)
    gloss = np.full(cover.shape, 0.75 + 0.25 * bell(p.age, 0.5, 0.5), np.float32)
    upper, lower = lip_colour(sheet, p, ground, gloss, tone(p))
    shiny = 0.8 * bell(sheet.x, 0, 0.05) * step(sheet.y, 0.68, 0.6)  # forehead and nose
    gloss *= 1 + shiny - 0.4 * step(sheet.y, 0.70, 0.80)
    rgb = lit(ground.albedo, ground.gx, ground.gy, p.light, ground.shadow, ground.ao, gloss)

    # The outline turns away from the camera: darker and redder, most along the jaw.
    turn = step(blur(cover, 9 * sheet.size / 512), 0.96, 0.45)
    turn = turn * (0.25 + 0.75 * step(sheet.y, 0.62, 0.86))
    rgb *= 1 - turn[..., None] * np.array([0.50, 0.60, 0.62], np.float32)
    sheet.paint(cover, rgb, labels.SKIN)

    _nostrils(sheet, p)
    _mark_nose(sheet, p)
    sheet.ids[(upper > 0.5) & (cover > 0.5)] = labels.UPPER_LIP
    sheet.ids[(lower > 0.5) & (cover > 0.5)] = labels.LOWER_LIP


def _nostrils(sheet: Sheet, p: Person) -> None:
    """Two soft dark openings, and the shade under the wings of the nose."""
    ny, w = p.nose_y, p.nose_w
    # fmt: off
    opening = np.array([
        (0.011, 0.635),  (0.018, 0.6300), (0.028, 0.6290),
        (0.036, 0.6335), (0.028, 0.6375), (0.017, 0.6385),
    ])
    below = np.array([(0.058, 0.600), (0.066, 0.615), (0.064, 0.630), (0.052, 0.638)])
    # fmt: on
    dark, red = np.array([0.62, 0.74, 0.76], np.float32), np.array([0.8, 1, 1], np.float32)
    for side in (-1, 1):
        hole = curve((opening * (w, 1) + (0, ny)) * (side, 1), 6, closed=True)
        sheet.shade(1 - sheet.cover(hole, soft=2.2)[..., None] * dark)
        wing = curve(below * (side * w, 1) + (0, ny), 6)
        sheet.shade(1 - 0.34 * sheet.stroke(wing, 0.004, soft=2.6)[..., None] * red)


def _mark_nose(sheet: Sheet, p: Person) -> None:
    """The class of the nose."""
    # fmt: off
    knots = np.array([
        (0,     0.645), (0.03,  0.643), (0.058, 0.638), (0.066, 0.62), (0.055, 0.595),
        (0.034, 0.55),  (0.026, 0.50),  (0.022, 0.455), (0,     0.45),
    ])
    # fmt: on
    half = curve(knots * (p.nose_w, 1) + (0, p.nose_y), 6)
    sheet.ids[sheet.cover(mirrored(half)) > 0.5] = labels.NOSE
