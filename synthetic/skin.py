"""The skin of the synthetic faces: a relief (height field) of head and neck, light on it, pores and colour; neck, ears, nose.

The relief is drawn on a small grid in face units, where its parts are sums of separable bells, then bent into the picture.
"""

import cv2
import numpy as np

from .canvas import bell, blur, cloud, curve, lin, mix, noise, step, stream
from .mouth import lip_colour
from .shape import eye_lids, half_width, head_outline

GRID, LOW, SPAN = (
    384,
    np.float32(-0.1),
    np.float32(1.2),
)  # the relief covers x -0.6..0.6, y -0.1..1.1
TONES = (
    (240, 204, 184),
    (232, 186, 160),
    (218, 166, 136),
    (196, 140, 108),
    (164, 110, 78),
    (122, 78, 54),
    (84, 54, 38),
)


def _axes():
    """Face units of the relief's columns and rows."""
    v = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID * SPAN
    return v - SPAN / 2, v + LOW


def _bumps(p):
    """(x, y, sx, sy, height) bells on the face; x > 0 stands for both sides."""
    ny, my, f, fat = p.nose_y, p.mouth_y, p.lip, 0.8 + 0.4 * p.smile
    old = p.age
    return [
        (0.120, p.brow_y + 0.004, 0.080, 0.022, 0.016 if p.man else 0.010),
        (0, 0.420, 0.035, 0.030, 0.008),
        (0.118, 0.462, 0.056, 0.030, -0.030),
        (0.062, 0.452, 0.020, 0.030, -0.022),
        (0.128, 0.466, 0.040, 0.024, 0.026),
        (0.125, 0.500, 0.036, 0.008, 0.003 + 0.004 * old),
        (0.105, 0.516, 0.045, 0.012, -0.004 - 0.005 * old),
        (0.150, 0.570, 0.065, 0.052, 0.030 * fat),
        (0.185, 0.680, 0.040, 0.070, -0.014),
        (0.245, 0.360, 0.030, 0.075, -0.012),
        (0.235, 0.530, 0.030, 0.030, 0.006),
        (0, 0.30, 0.13, 0.09, 0.012),
        (0, 0.603 + ny, 0.032 * p.nose_w, 0.024, 0.022),
        (0.044 * p.nose_w, 0.617 + ny, 0.018, 0.017, 0.026),
        (0.068 * p.nose_w, 0.612 + ny, 0.010, 0.020, -0.010),
        (0.020, 0.640 + ny, 0.011, 0.007, -0.008),
        (0, 0.668 + ny, 0.010, 0.020, -0.005),
        (0.016, 0.670 + ny, 0.009, 0.018, 0.0015),
        (0, 0.70, 0.12, 0.05, 0.012),
        (0.022, my - 0.013 * f, 0.026, 0.009, 0.009 * f),
        (0, my - 0.012 * f, 0.008, 0.009, -0.002),
        (0, my + 0.016 * f + 0.6 * p.gap, 0.05, 0.013, 0.017 * f),
        (p.mouth_w + 0.006, my, 0.014, 0.014, -0.006),
        (0, my + 0.050 + 0.5 * p.gap, 0.055, 0.014, -0.016),
        (0, p.chin - 0.055, 0.050, 0.032, 0.028),
        (0.16, 0.82, 0.04, 0.03, 0.010),
    ]


def _folds(p, rng):
    """(curve, width, depth) of the lines of a face: nose to mouth, lids, forehead, eye corners; x > 0 for both sides."""
    deep, old = 0.3 + 0.8 * p.smile + 0.6 * p.age, max(0.0, p.age - 0.3)
    upper, lower = eye_lids(p, 1)
    crease = (
        upper
        + (0, -0.007)
        - np.stack([0 * upper[:, 0], 0.008 * (1 - np.linspace(-1, 1, 17) ** 2)], -1)
    )
    out = [
        (
            [(0.062, 0.612), (0.082, 0.645), (0.104, 0.69), (0.116 + 0.01 * p.smile, 0.735)],
            3.0,
            0.010 * deep,
        ),
        (crease[1:-1], 1.4, 0.010),
        (lower[3:] + (0.002, 0.022), 2.0, 0.0015 + 0.007 * old),
    ]
    for _ in range(int(7 * old)):
        x, y = rng.uniform(0.185, 0.2), rng.uniform(0.455, 0.49)
        out.append(
            (
                [
                    (x, y),
                    (x + 0.02, y + rng.normal(-0.002, 0.006)),
                    (x + 0.04, y + rng.normal(0, 0.012)),
                ],
                1.0,
                0.006 * old,
            )
        )
    for k in range(int(5 * old)):
        y = p.brow_y - 0.06 - 0.033 * k + rng.normal(0, 0.004)
        out.append(
            (
                [
                    (-0.16, y + 0.008),
                    (-0.08, y + rng.normal(0, 0.003)),
                    (0.0, y + 0.005),
                    (0.1, y + rng.normal(0, 0.003)),
                    (0.17, y + 0.008),
                ],
                1.5,
                0.008 * old,
            )
        )
    return out


def relief(p):
    """Height of the head over the picture plane, [GRID, GRID] float32 in face units."""
    x, y = _axes()
    half = half_width(p, y)
    half = np.maximum(np.hypot(half, 0.085 * step(y, p.chin - 0.08, p.chin - 0.01)), 1e-3)[
        :, None
    ]  # the chin ends round
    t = np.minimum(np.abs(x)[None, :] / half, 1)
    crown = np.interp(
        y,
        [0.03, 0.1, 0.25, 0.42, 0.6, 0.8, p.chin - 0.04, p.chin - 0.015, p.chin, 1],
        [0.5, 0.72, 0.92, 1, 1, 0.96, 0.91, 0.83, 0.70, 0.6],
    ).astype(np.float32)[:, None]
    z = 0.25 * crown * (1 - t**2.3) ** np.float32(0.62)
    for bx, by, sx, sy, h in _bumps(p):
        across = bell(x, bx, sx) + (bell(x, -bx, sx) if bx else 0)
        z += np.float32(h) * bell(y, by, sy)[:, None] * across[None, :]
    # Bridge of the nose: a ridge that rises and widens to the tip.
    ny = p.nose_y
    high = np.interp(
        y, [0.41, 0.455, 0.52, 0.59 + ny, 0.618 + ny, 0.66 + ny], [0, 0.018, 0.036, 0.056, 0.048, 0]
    ).astype(np.float32)
    wide = (
        np.interp(y, [0.42, 0.46, 0.54, 0.61], [0.036, 0.028, 0.031, 0.040]).astype(np.float32)
        * p.nose_w
    )
    z += blur(high[:, None], 4) * np.exp(-np.square(x[None, :] / wide[:, None]))
    return z - _fold_depth(p)


def _fold_depth(p):
    """Depth of all folds, [GRID, GRID]."""
    rng, out = stream(p.seed, 'folds'), np.zeros((GRID, GRID), np.float32)
    for line, width, depth in _folds(p, rng):
        mark = np.zeros((GRID, GRID), np.uint8)
        pts = curve(line, 6)
        for side in (-1, 1) if pts[:, 0].min() > 0 else (1,):
            xy = (pts * (side, 1) - (-SPAN / 2, LOW)) / SPAN * GRID - 0.5
            cv2.polylines(mark, [np.round(xy * 16).astype(np.int32)], False, 255, 1, cv2.LINE_AA, 4)
        out += blur(mark.astype(np.float32) / 255, width) * np.float32(depth * 2.2 * width**0.5)
    return blur(out, 0.7)


def _cast(z, light, reach=26):
    """Share of each point that the relief itself puts into shadow (marching towards the light), [GRID, GRID] 0..1."""
    small = cv2.resize(z, (GRID // 2, GRID // 2), interpolation=cv2.INTER_AREA)
    cell, out = 2 * SPAN / GRID, np.zeros((GRID // 2, GRID // 2), np.float32)
    lx, ly, lz = light
    for k in range(1, reach):
        move = np.float32([[1, 0, -lx * k], [0, 1, -ly * k]])
        near = cv2.warpAffine(small, move, small.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        out = np.maximum(out, np.clip((near - small - lz * k * cell) / (0.012 + 0.001 * k), 0, 1))
    return cv2.resize(blur(out, 1.6), (GRID, GRID), interpolation=cv2.INTER_CUBIC)


def _tint(p):
    """Where the skin is redder, and where it is darker, [GRID, GRID] each."""
    x, y = _axes()
    red, dark = np.zeros((GRID, GRID), np.float32), np.zeros((GRID, GRID), np.float32)

    def add(to, bx, by, sx, sy, h):
        to += (
            np.float32(h)
            * bell(y, by, sy)[:, None]
            * (bell(x, bx, sx) + (bell(x, -bx, sx) if bx else 0))[None, :]
        )

    blush = 0.5 + 0.5 * p.smile + (0 if p.man else 0.3)
    add(red, 0.155, 0.595, 0.065, 0.05, 0.5 * blush)
    add(red, 0, 0.605, 0.045, 0.035, 0.4)
    add(red, 0, p.chin - 0.05, 0.06, 0.03, 0.25)
    add(red, 0.125, 0.475, 0.06, 0.035, 0.25)
    add(dark, 0.11, 0.505, 0.05, 0.016, 0.22 + 0.3 * p.age)
    add(dark, 0.075, 0.458, 0.022, 0.03, 0.35)
    add(dark, 0.125, 0.452, 0.05, 0.012, 0.22)
    return red, dark


def _bend(sheet, fields):
    """Relief-grid fields [GRID, GRID] each -> picture fields [s, s] each."""
    mx, my = (sheet.x + SPAN / 2) / SPAN * GRID - 0.5, (sheet.y - LOW) / SPAN * GRID - 0.5
    return [cv2.remap(f, mx, my, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for f in fields]


def tone(p):
    """The person's skin colour, linear RGB [3]."""
    rng, at = stream(p.seed, 'tone'), p.tone * (len(TONES) - 1)
    k = min(int(at), len(TONES) - 2)
    base = mix(lin(*TONES[k]), lin(*TONES[k + 1]), np.float32(at - k))
    return (
        base
        * np.exp(rng.normal(0, 0.028, 3)).astype(np.float32)
        * np.float32(rng.uniform(0.9, 1.05))
    )


def _texture(sheet, p):
    """Colour factor [s, s, 3] and bump (dx, dy) of the skin: mottling, pores, freckles, moles."""
    rng, s = stream(p.seed, 'texture'), (sheet.size, sheet.size)
    grain = rng.standard_normal(s, dtype=np.float32)
    fine, mid, wide = (blur(grain, k * sheet.size / 512) for k in (0.9, 2.0, 4.5))
    pores = fine - 0.6 * mid - 0.4 * wide
    pores *= np.float32(3.2) * (1 + 0.5 * noise(rng, s, 9))
    mottle = cloud(rng, s, 10, 4)
    factor = np.stack([1 + 0.022 * mottle, 1 + 0.048 * mottle, 1 + 0.050 * mottle], -1)
    factor *= (1 - 0.018 * np.maximum(pores, -1))[..., None]
    freckled = rng.random() < 0.35 * (1 - p.tone)
    n = int(rng.integers(90, 320)) if freckled else int(rng.integers(2, 14))
    spots = np.zeros((2 * s[0], 2 * s[1]), np.uint8)
    where = rng.normal(0, 1, (n, 2)) * ((0.12, 0.07) if freckled else (0.15, 0.2)) + (0, 0.56)
    where = np.round((sheet.pixels(where) * 2 + 0.5) * 16).astype(int).tolist()
    for (cx, cy), r in zip(where, rng.uniform(8, 24, n) * s[0] / 512):
        cv2.circle(spots, (cx, cy), int(r * 1.5), int(rng.integers(60, 200)), -1, cv2.LINE_AA, 4)
    spots = blur(
        cv2.resize(spots, s, interpolation=cv2.INTER_AREA).astype(np.float32) / 255,
        0.6 * s[0] / 512,
    )
    factor *= 1 - spots[..., None] * np.array([0.25, 0.42, 0.5], np.float32)
    gy, gx = np.gradient(pores)
    return factor, gx, gy


def lit(albedo, nx, ny, light, shadow, ao, gloss):
    """Skin in light: Lambert that creeps around the edge (most in red), sky light from above, two widths of shine."""
    nz = 1 / np.sqrt(1 + nx * nx + ny * ny)
    nx, ny = -nx * nz, -ny * nz
    lx, ly, lz = light
    cosine = nx * lx + ny * ly + nz * lz
    half = np.array([lx, ly, lz + 1]) / np.linalg.norm([lx, ly, lz + 1])
    shine = np.maximum(0, nx * half[0] + ny * half[1] + nz * half[2]).astype(np.float32)
    out = np.empty_like(albedo)
    fill = (0.20 + 0.10 * nz - 0.08 * ny - 0.05 * nx * np.sign(lx)) * ao
    for c, (wrap, sky, leak) in enumerate(
        ((0.30, 0.96, 0.30), (0.16, 1.0, 0.12), (0.12, 1.06, 0.10))
    ):
        direct = np.maximum(0, (cosine + wrap) / (1 + wrap)) * (1 - shadow * (1 - leak))
        out[..., c] = albedo[..., c] * (0.95 * direct + fill * sky)
    shine = shine**9 * np.float32(0.035) + shine**36 * np.float32(0.055)
    return out + (shine * gloss * (1 - 0.8 * shadow) * ao)[..., None]


def _ground(sheet, p):
    """Normals' slopes, shadow, ambient occlusion, redness and darkness of the face at each pixel."""
    z = relief(p)
    gy, gx = np.gradient(z, SPAN / GRID)
    ao = np.clip(1 - 9 * np.maximum(0, blur(z, 9) - z - 0.004), 0.5, 1) * np.clip(
        1 - 14 * np.maximum(0, blur(z, 4) - z), 0.6, 1
    )
    red, dark = _tint(p)
    c, s = np.cos(p.pose.roll), np.sin(p.pose.roll)
    lx, ly, lz = p.light
    shadow = 0.85 * _cast(z, (c * lx + s * ly, -s * lx + c * ly, lz))
    gx, gy, shadow, ao, red, dark = _bend(sheet, (gx, gy, shadow, blur(ao, 1), red, dark))
    return c * gx - s * gy, s * gx + c * gy, shadow, ao, red, dark


def face_light(sheet, p):
    """Everything `head` needs, and what the painters of lips, ears and beard reuse."""
    gx, gy, shadow, ao, red, dark = _ground(sheet, p)
    factor, bx, by = _texture(sheet, p)
    colour = tone(p) * factor
    warm = red[..., None] * np.array([0.06, -0.24, -0.20], np.float32) * (1 - 0.4 * p.tone)
    colour *= (
        1
        + warm
        - dark[..., None] * np.array([0.42, 0.50, 0.46], np.float32) * (0.55 + 0.25 * p.tone)
    )
    return dict(
        albedo=colour, gx=gx + 0.075 * bx, gy=gy + 0.075 * by, shadow=shadow, ao=ao, fx=bx, fy=by
    )


def neck(sheet, p, ground):
    """Neck and upper chest, in the shadow of the chin."""
    w = (0.165 if p.man else 0.14) * p.width
    half = [(w, 0.70), (w, 0.86), (w * 1.06, 0.95), (w * 1.45, 1.03), (0.40, 1.10), (0.5, 1.25)]
    half = curve(half, 8)
    cover = sheet.cover(np.concatenate([half, half[::-1] * (-1, 1)]))
    slope = np.interp(sheet.y, [0.8, 0.95, 1.05], [0, 0, 0.4]).astype(np.float32)
    side = np.clip(sheet.x / (w * 1.08), -0.98, 0.98)
    cords = bell(np.abs(sheet.x), 0.045 + 0.25 * (1.05 - sheet.y), 0.018)
    gx = (
        -side / np.sqrt(1 - side * side) * 0.75
        + ground['fx'] * 0.05
        - 0.25 * np.sign(sheet.x) * cords
    )
    chin = sheet.cover(head_outline(p) + (0.03 * -np.sign(p.light[0]), 0.040), soft=9)
    shade = np.maximum(chin, 0.7 * step(sheet.y, 0.99, 0.90))
    rgb = lit(
        ground['albedo'] * 0.92,
        gx,
        slope + 0.15 - ground['fy'] * 0.05,
        p.light,
        shade,
        1 - 0.50 * shade,
        0.5,
    )
    sheet.paint(cover, rgb, 17)
    return cover


def ear(sheet, p, side, ground):
    """One ear behind the head: rim, hollow and lobe."""
    w = half_outline_x(p)
    ring = np.array(
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
    ring = curve((ring + (w, 0)) * (side, 1), 8, closed=True)
    cover = sheet.cover(ring)
    centre = ring.mean(0)
    inner = sheet.cover(centre + (ring - centre) * 0.52 + (side * 0.003, -0.004), soft=3.0)
    fold = sheet.stroke((centre + (ring - centre) * 0.66)[8:44], 0.003, soft=1.6)
    rim = sheet.stroke(centre + (ring - centre) * 0.80, 0.005, soft=2.2, closed=True)
    gx = (sheet.x - centre[0]) * 22 - side * 0.3
    ruddy = ground['albedo'] * np.array([0.95, 0.80, 0.78], np.float32)
    rgb = lit(
        ruddy, gx, (sheet.y - centre[1]) * 3, p.light, 0.25 + 0.5 * inner, 1 - 0.6 * inner, 0.6
    )
    rgb *= (1 + 0.30 * rim - 0.35 * fold - 0.30 * step(np.abs(sheet.x), w + 0.012, w - 0.004))[
        ..., None
    ]
    sheet.paint(cover, rgb, 8 if side > 0 else 9)
    return cover


def half_outline_x(p):
    """Half width of the head where the ears sit."""
    return float(half_width(p, 0.5))


def head(sheet, p, ground):
    """The face itself, with the lips' colour already in the skin; returns its cover."""
    cover = sheet.cover(head_outline(p), soft=0.5)
    albedo, gloss = (
        ground['albedo'],
        np.full(cover.shape, 0.75 + 0.25 * bell(p.age, 0.5, 0.5), np.float32),
    )
    upper, lower = lip_colour(sheet, p, ground, gloss, tone(p))
    gloss *= (
        1
        + 0.8 * bell(sheet.x, 0, 0.05) * step(sheet.y, 0.68, 0.6)
        - 0.4 * step(sheet.y, 0.70, 0.80)
    )
    rgb = lit(albedo, ground['gx'], ground['gy'], p.light, ground['shadow'], ground['ao'], gloss)
    # The outline turns away from the camera: darker and redder, most along the jaw.
    turn = step(blur(cover, 9 * sheet.size / 512), 0.96, 0.45) * (
        0.25 + 0.75 * step(sheet.y, 0.62, 0.86)
    )
    rgb *= 1 - turn[..., None] * np.array([0.50, 0.60, 0.62], np.float32)
    sheet.paint(cover, rgb, 1)
    _nostrils(sheet, p)
    sheet.ids[(upper > 0.5) & (cover > 0.5)] = 11
    sheet.ids[(lower > 0.5) & (cover > 0.5)] = 12
    return cover


def _nostrils(sheet, p):
    """Two soft dark openings, the shade under the wings, and the class of the nose."""
    ny, w = p.nose_y, p.nose_w
    for side in (-1, 1):
        hole = np.array(
            [
                (0.011, 0.635),
                (0.018, 0.6300),
                (0.028, 0.6290),
                (0.036, 0.6335),
                (0.028, 0.6375),
                (0.017, 0.6385),
            ]
        )
        hole = curve((hole * (w, 1) + (0, ny)) * (side, 1), 6, closed=True)
        sheet.shade(
            1 - sheet.cover(hole, soft=2.2)[..., None] * np.array([0.62, 0.74, 0.76], np.float32)
        )
        wing = curve(
            np.array([(0.058, 0.600), (0.066, 0.615), (0.064, 0.630), (0.052, 0.638)])
            * (side * w, 1)
            + (0, ny),
            6,
        )
        sheet.shade(
            1
            - 0.34
            * sheet.stroke(wing, 0.004, soft=2.6)[..., None]
            * np.array([0.8, 1, 1], np.float32)
        )
    half = curve(
        np.array(
            [
                (0, 0.645),
                (0.03, 0.643),
                (0.058, 0.638),
                (0.066, 0.62),
                (0.055, 0.595),
                (0.034, 0.55),
                (0.026, 0.50),
                (0.022, 0.455),
                (0, 0.45),
            ]
        )
        * (w, 1)
        + (0, ny),
        6,
    )
    sheet.ids[sheet.cover(np.concatenate([half, half[::-1] * (-1, 1)])) > 0.5] = 2
