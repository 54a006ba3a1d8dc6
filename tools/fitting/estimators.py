"""What can be measured of a low-quality picture without knowing the good one.

None of these numbers has to be right for the fit: it compares them with the same numbers of
synthetic pictures. They have to move with what they are named after, whatever else there is.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from degrade import jpeg


class Planes(NamedTuple):
    """A picture as the estimators take it."""

    rgb: np.ndarray  # [h, w, 3] uint8
    ycc: np.ndarray  # [3, h, w] float32 luma and chroma, 0 to 255
    quality: float  # of the last JPEG compression, see `quality_of`
    edges: 'Edges'
    rings: np.ndarray  # [33] mean power of the luma by frequency, in 64ths; see `rings_of`


class Edges(NamedTuple):
    """Profiles across the strongest edges of the luma, from dark to bright."""

    profiles: np.ndarray  # [n, 2 REACH FINE + 1] float32; 0 on the dark side, 1 on the bright
    angle: np.ndarray  # [n] radians of the gradient, modulo pi


class Estimator(NamedTuple):
    """One number of a picture."""

    name: str
    title: str  # for pages, with its unit
    measure: Callable[[Planes], float]


# ---- JPEG ----

NO_JPEG = 100.0
HIT = 0.9  # coefficients of a compressed picture lie so close to multiples of their steps
LEAST_SCORE = 0.35


@cache
def _dct() -> np.ndarray:
    k = np.arange(8)
    basis = np.cos((2 * k + 1) * k[:, None] * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


@cache
def _steps() -> np.ndarray:
    """[100, 64] float32 steps of the luma at qualities 1 to 100."""
    tables = [jpeg.table(quality, True).ravel() for quality in range(1, 101)]
    return np.array(tables, np.float32)


def _coefficients(plane: np.ndarray) -> np.ndarray:
    """[blocks, 8, 8] coefficients of the DCT of a plane."""
    h, w = (n // 8 * 8 for n in plane.shape)
    blocks = plane[:h, :w].reshape(h // 8, 8, w // 8, 8).transpose(0, 2, 1, 3) - 128
    return (_dct() @ blocks @ _dct().T).reshape(-1, 8, 8)


def quality_of(luma: np.ndarray) -> float:
    """JPEG quality of the last compression, if its grid begins in the corner; else 100.

    Coefficients of 8x8 blocks are multiples of the table's steps. Divisors of a step fit as well,
    so that the coarsest table is taken that fits nearly as well as the best.
    """
    values = _coefficients(luma).reshape(-1, 64)

    # The mean of a block and what was quantised to nothing say little about the step.
    places = np.nonzero(np.abs(values) > 2)
    some = places[1] > 0
    values, place = values[places][some], places[1][some]
    if len(values) < 50:
        return NO_JPEG
    steps = _steps()[:, place]
    # The share that lies near a multiple, beyond what chance would put there.
    hits = (np.abs(values - steps * np.rint(values / steps)) < HIT).mean(1)
    chance = np.minimum(2 * HIT / steps, 1).mean(1)
    score = (hits - chance) / np.maximum(1 - chance, 0.2)
    best = score.max()
    if best <= LEAST_SCORE:
        return NO_JPEG
    first = int(np.flatnonzero(score > 0.93 * best)[0])
    return float(first + score[first : first + 5].argmax() + 1)


def quality(p: Planes) -> float:
    """JPEG quality."""
    return p.quality


# ---- noise ----

BANDS = 3, 9  # of u + v: neither what pictures are made of, nor what JPEG keeps least of
CHROMA_BANDS = 2, 6
FLATTEST = 0.3  # of the blocks
SIGMAS = np.concatenate([[0], np.geomspace(0.3, 80, 60)])


@cache
def _left(step: int) -> np.ndarray:
    """[SIGMAS] variance of normal numbers that were rounded to multiples of a step."""
    if step <= 1:
        return SIGMAS**2
    # What lies between (k - 1/2) and (k + 1/2) steps becomes k steps, on both sides of 0.
    k = np.arange(1, 40)
    with np.errstate(divide='ignore'):
        beyond = _upper(step * (k - 0.5) / SIGMAS[:, None])
    mass = 2 * (beyond - np.append(beyond[:, 1:], np.zeros((len(SIGMAS), 1)), 1))
    return (mass * (step * k) ** 2).sum(1)


def _upper(z: np.ndarray) -> np.ndarray:
    """Share of normal numbers above z."""
    return np.vectorize(lambda v: math.erfc(v / math.sqrt(2)) / 2)(z)


def _flattest(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients [blocks, 8, 8], indices of the blocks with the least at low frequencies)."""
    values = _coefficients(plane)
    u = np.add.outer(np.arange(8), np.arange(8))
    rough = (values[:, (u > 0) & (u < BANDS[0])] ** 2).sum(1)
    return values, np.argsort(rough)[: max(int(FLATTEST * len(values)), 4)]


def _noise_of(plane: np.ndarray, steps: np.ndarray) -> float:
    """Sigma of the noise of a plane before its coefficients were rounded to steps [8, 8].

    From the middle frequencies of the flattest blocks.
    """
    values, flat = _flattest(plane)
    u = np.add.outer(np.arange(8), np.arange(8))
    middle = (u >= BANDS[0]) & (u < BANDS[1])
    energy = (values[flat][:, middle] ** 2).mean()
    expected = np.mean([_left(int(step)) for step in steps[middle]], 0)
    return float(np.interp(energy, expected, SIGMAS))


def _table(p: Planes, is_luma: bool) -> np.ndarray:
    if p.quality == NO_JPEG:
        return np.ones((8, 8))
    return jpeg.table(int(p.quality), is_luma)


def noise(p: Planes) -> float:
    """Sigma of the luma's noise in grey levels, before JPEG."""
    return _noise_of(p.ycc[0], _table(p, True))


def chroma_noise(p: Planes) -> float:
    """Deviation of chroma where the luma is flat, grey levels: little of it survives JPEG."""
    _, flat = _flattest(p.ycc[0])
    u = np.add.outer(np.arange(8), np.arange(8))
    middle = (u >= CHROMA_BANDS[0]) & (u < CHROMA_BANDS[1])
    energies = [(_coefficients(plane)[flat][:, middle] ** 2).mean() for plane in p.ycc[1:]]
    return float(np.sqrt(np.mean(energies)))


# ---- chroma of JPEG ----


def _finest(plane: np.ndarray, axis: int) -> float:
    return float(np.abs(np.diff(plane, 2, axis)).mean())


def chroma_across(p: Planes) -> float:
    """How much less finest detail chroma has across than down: 4:2:2 has little."""
    across, down = (sum(_finest(c, axis) for c in p.ycc[1:]) for axis in (1, 0))
    return float(np.log((across + 0.05) / (down + 0.05)))


def chroma_detail(p: Planes) -> float:
    """Finest detail of chroma, of which 4:2:0 leaves little, against that of the luma."""
    chroma = sum(_finest(c, axis) for c in p.ycc[1:] for axis in (0, 1))
    luma = sum(_finest(p.ycc[0], axis) for axis in (0, 1))
    return float(np.log((chroma + 0.1) / (luma + 0.1)))


# ---- edges ----

REACH, FINE = 6, 2  # pixels on each side of an edge, and values a pixel
SECTORS, MOST_EDGES = 4, 400
SOFT = 1.4  # sigma in pixels of what edges are sought in
ALONG = (-2.0, -1.0, 0.0, 1.0, 2.0)  # pixels: lines beside each other that are averaged
LEAST_CONTRAST = 12.0  # grey levels
LEAST_EDGES = 8


def edges_of(luma: np.ndarray, balanced: bool = False) -> Edges:
    """Find the strongest edges, and what lies across them.

    balanced: as many of each direction, since a blur that has one weakens the edges across it
    """
    soft = cv2.GaussianBlur(luma, (0, 0), SOFT)
    gx, gy = (cv2.Scharr(soft, cv2.CV_32F, *d) / 32 for d in ((1, 0), (0, 1)))
    strength = cv2.magnitude(gx, gy)
    strength[:REACH] = strength[-REACH:] = 0
    strength[:, :REACH] = strength[:, -REACH:] = 0
    # Profiles must lie inside of the picture, and on the crest of the gradient.
    ridge = _ridges(strength, gx, gy)
    if balanced:
        sector, most = _sector(np.arctan2(gy, gx)), MOST_EDGES // SECTORS
        parts = [_strongest(np.where(sector == k, ridge, 0), most) for k in range(SECTORS)]
        chosen = np.concatenate(parts)
    else:
        chosen = _strongest(ridge, MOST_EDGES)
    if not len(chosen):
        return Edges(np.zeros((0, 2 * REACH * FINE + 1), np.float32), np.zeros(0))
    y, x = np.unravel_index(chosen, luma.shape)
    dx, dy = gx[y, x] / strength[y, x], gy[y, x] / strength[y, x]
    profiles = _profiles(luma, x, y, dx, dy)

    # In units of the contrast.
    dark, bright = profiles[:, : 2 * FINE].mean(1), profiles[:, -2 * FINE :].mean(1)
    kept = bright - dark > LEAST_CONTRAST
    scaled = (profiles - dark[:, None])[kept] / (bright - dark)[kept, None]
    return Edges(scaled, np.arctan2(dy, dx)[kept] % np.pi)


def _sector(angle: np.ndarray) -> np.ndarray:
    """Directions modulo pi by number: 0 is across vertical edges."""
    return np.rint(angle / (np.pi / SECTORS)).astype(int) % SECTORS


def _strongest(ridge: np.ndarray, most: int) -> np.ndarray:
    """Flat indices of the largest positive values."""
    count = min(most, int((ridge > 0).sum()))
    return np.argpartition(ridge, -count, None)[-count:] if count else np.arange(0)


def _ridges(strength: np.ndarray, gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """The gradient's strength where it is the largest across the edge, else 0."""
    h, w = strength.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    unit = np.maximum(strength, 1e-6)
    sides = [
        cv2.remap(strength, x + s * gx / unit, y + s * gy / unit, cv2.INTER_LINEAR)
        for s in (-1.0, 1.0)
    ]
    return np.where((strength >= sides[0]) & (strength > sides[1]), strength, 0)


def _profiles(
    luma: np.ndarray, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> np.ndarray:
    """[n, 2 REACH FINE + 1] of lines through (x, y) in the direction (dx, dy)."""
    across = np.arange(-REACH * FINE, REACH * FINE + 1) / FINE
    total = np.zeros((len(x), len(across)), np.float32)
    for along in ALONG:
        px = x[:, None] + dx[:, None] * across - dy[:, None] * along
        py = y[:, None] + dy[:, None] * across + dx[:, None] * along
        total += cv2.remap(
            luma,
            px.astype(np.float32),
            py.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return total / len(ALONG)


def _mean_profile(profiles: np.ndarray) -> np.ndarray:
    """Mean without the outer quarters, at every place."""
    ordered = np.sort(profiles, 0)
    n = len(ordered)
    return ordered[n // 4 : max(n - n // 4, n // 4 + 1)].mean(0)


def _width(profiles: np.ndarray) -> float:
    """Sigma in pixels of the Gaussian that a step would have been blurred by."""
    # The steepest place of a blurred step is 1 / sigma sqrt(2 pi).
    slope = np.diff(_mean_profile(profiles)).max() * FINE
    return float(1 / (np.sqrt(2 * np.pi) * max(slope, 0.02)))


def blur(p: Planes) -> float:
    """Width of edges: sigma in pixels."""
    profiles = p.edges.profiles
    return _width(profiles) if len(profiles) >= LEAST_EDGES else 8.0


def anisotropy(p: Planes) -> float:
    """Log of the ratio of the widths in the directions where edges are widest and narrowest."""
    edges = edges_of(p.ycc[0], balanced=True)
    sector = _sector(edges.angle)
    parts = [edges.profiles[sector == k] for k in range(SECTORS)]
    widths = [_width(part) for part in parts if len(part) >= LEAST_EDGES]
    return float(np.log(max(widths) / min(widths))) if len(widths) > 1 else 0.0


def overshoot(p: Planes) -> float:
    """Halos: how far edges exceed both of their sides, as a share of the contrast."""
    if len(p.edges.profiles) < LEAST_EDGES:
        return 0.0
    mean, middle = _mean_profile(p.edges.profiles), REACH * FINE
    return float(mean[middle:].max() - 1 - mean[: middle + 1].min())


# ---- resolution and colour ----


def rings_of(luma: np.ndarray) -> np.ndarray:
    """[33] mean power in rings of frequencies; the last holds the corners of the spectrum."""
    h, w = luma.shape
    window = np.hanning(h)[:, None] * np.hanning(w)
    # A window, as the borders of a picture are edges of its period.
    power = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    ring = np.minimum((frequency * 64).astype(int), 32)
    return np.bincount(ring.ravel(), power.ravel(), 33) / np.maximum(np.bincount(ring.ravel()), 1)


def resolution(p: Planes) -> float:
    """Frequency up to which there is more than noise, as a share of the highest possible."""
    # The highest frequencies hold noise, if anything.
    floor = np.median(p.rings[28:])
    above = np.flatnonzero(p.rings[:32] > 4 * floor)
    return float((above[-1] + 1) / 32) if len(above) else 0.0


def _cast(p: Planes, channel: int) -> float:
    means = p.rgb.reshape(-1, 3).mean(0) + 1
    return float(np.log(means[channel] / means[1]))


def red(p: Planes) -> float:
    """Log of red against green, on average."""
    return _cast(p, 0)


def blue(p: Planes) -> float:
    """Log of blue against green, on average."""
    return _cast(p, 2)


def saturation(p: Planes) -> float:
    """Mean distance between the largest and the smallest channel, grey levels."""
    return float(np.ptp(p.rgb.astype(np.int16), 2).mean())


def brightness(p: Planes) -> float:
    """Mean luma."""
    return float(p.ycc[0].mean())


def contrast(p: Planes) -> float:
    """Standard deviation of the luma."""
    return float(p.ycc[0].std())


ESTIMATORS = (
    Estimator('noise', 'noise of the luma, grey levels', noise),
    Estimator('chroma_noise', 'noise of the chroma, grey levels', chroma_noise),
    Estimator('quality', 'JPEG quality (100: no grid)', quality),
    Estimator('chroma_detail', 'finest detail of chroma against luma, log', chroma_detail),
    Estimator('chroma_across', 'chroma detail across against down, log', chroma_across),
    Estimator('blur', 'width of edges, pixels', blur),
    Estimator('anisotropy', 'width of edges by direction, log ratio', anisotropy),
    Estimator('overshoot', 'halos, share of the contrast', overshoot),
    Estimator('resolution', 'highest frequency above noise', resolution),
    Estimator('red', 'red against green, log', red),
    Estimator('blue', 'blue against green, log', blue),
    Estimator('saturation', 'saturation, grey levels', saturation),
    Estimator('brightness', 'mean luma, grey levels', brightness),
    Estimator('contrast', 'deviation of the luma, grey levels', contrast),
)
NAMES = tuple(e.name for e in ESTIMATORS)


# ---- what no page shows ----

SCALES = 0.7, 1.2, 2.0  # sigmas in pixels at which gradients are looked at
QUANTILES = 0.5, 0.9, 0.98, 0.998


def details(p: Planes) -> np.ndarray:
    """[40] more about blur and noise, in numbers that mean little on their own.

    The spectrum, the mean profile across edges, and how strong gradients are at three scales.
    """
    spectrum = np.log(p.rings[1:31].reshape(15, 2).mean(1) + 1e-3)
    profile = np.zeros(REACH * FINE + 1)
    if len(p.edges.profiles) >= LEAST_EDGES:
        profile = _mean_profile(p.edges.profiles)[REACH : REACH + len(profile)]
    gradients = []
    for sigma in SCALES:
        soft = cv2.GaussianBlur(p.ycc[0], (0, 0), sigma)
        slope = np.hypot(*(cv2.Sobel(soft, cv2.CV_32F, *d) / 8 for d in ((1, 0), (0, 1))))
        gradients.append(np.log(np.quantile(slope, QUANTILES) + 0.1))
    return np.concatenate([spectrum, profile, *gradients])


def planes(rgb: np.ndarray) -> Planes:
    """Prepare a picture [h, w, 3] uint8 of at least 32 pixels each way."""
    # JFIF's, which JPEG has.
    matrix = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    flat = rgb.reshape(-1, 3).astype(np.float32) @ matrix.T.astype(np.float32)
    ycc = (flat + np.array([0, 128, 128], np.float32)).reshape(*rgb.shape).transpose(2, 0, 1)
    ycc = np.ascontiguousarray(ycc)
    return Planes(rgb, ycc, quality_of(ycc[0]), edges_of(ycc[0]), rings_of(ycc[0]))


def measure(rgb: np.ndarray) -> np.ndarray:
    """[14 + 40] float64 of a picture [h, w, 3] uint8: ESTIMATORS, and then `details`."""
    p = planes(rgb)
    return np.concatenate([[e.measure(p) for e in ESTIMATORS], details(p)])
