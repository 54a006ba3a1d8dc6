"""Degradation recipes: stages with their ranges, to be read like the paper's table.

A stage draws its parameters under its own name, per sample. `on` says where it acts: always (1),
with a probability, or where a named draw lies in a range. Names in `tied` are drawn once per batch,
which only the parity recipe needs. Where the order is drawn as well (`shuffled`), every stage
stands at every place that it may have and is skipped at all but one of them.
"""

import importlib
import math
from types import ModuleType
from typing import Any, NamedTuple

from . import (
    bilateral,  # noqa: F401  for recipe files, as some others
    blur,
    chroma_blur,
    codec,  # noqa: F401
    color_jitter,
    color_shift,
    diffjpeg,
    fade,  # noqa: F401
    grain,
    gray,
    halftone,  # noqa: F401
    jpeg,
    median,
    noise,
    quantize,
    resize,
    scanlines,  # noqa: F401
    unsharp,
    usm,
)
from .op import Op

# The operations by name: all that are imported above.
OPS: dict[str, Any] = {
    name: op
    for name, op in globals().items()
    if isinstance(op, ModuleType) and hasattr(op, 'RANGES')
}


class Place(NamedTuple):
    """Where a stage stands in an order that is drawn: it acts only if `part` is at `position`."""

    order: str  # name of the draw
    parts: int  # how many parts the order has
    position: int
    part: int


class Stage(NamedTuple):
    """One step of a recipe."""

    name: str
    op: Op[Any]
    on: float | tuple[str, float, float] = 1  # 1, a probability, or (name of a draw, low, high)
    ranges: dict[str, Any] = {}
    place: Place | None = None  # always in its place if None

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes: modules cannot be pickled, their names can."""
        return _stage_of, (self.name, self.op.__name__, *self[2:])


def _stage_of(name: str, op: str, *rest: Any) -> Stage:
    return Stage(name, importlib.import_module(op), *rest)


class Recipe(NamedTuple):
    """A chain of stages and what it does to the size."""

    name: str
    stages: tuple[Stage, ...]
    tied: frozenset[str] = frozenset()
    pool: int = 0  # size of the emulated queue of training pairs (parity only)
    scale: int = 4  # ground truth / network input


def _stage(
    name: str, op: Op[Any], on: float | tuple[str, float, float] = 1, **ranges: Any
) -> Stage:
    return Stage(name, op, on, ranges)


def shuffled(name: str, *parts: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return several parts in an order drawn per sample.

    No part may change the size of a picture.
    """
    return tuple(
        stage._replace(place=Place(name, len(parts), position, part))
        for position in range(len(parts))
        for part, stages in enumerate(parts)
        for stage in stages
    )


# iso, aniso, generalised iso and aniso, plateau iso and aniso
KINDS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
# Cutoffs of the final sinc, for small and large kernels alike.
FREE = ((math.pi / 3, math.pi), (math.pi / 3, math.pi))

Range = tuple[float, float]


def _second_order(
    name: str,
    *,
    resize1: Range,
    resize2: Range,
    sigma1: Range,
    sigma2: Range,
    scale1: Range,
    scale2: Range,
    quality1: Range,
    quality2: Range,
    encoder: Op[Any] = jpeg,
    by: str = 'size',
    tied: tuple[str, ...] = (),
) -> Recipe:
    """The chain of Real-ESRGAN (Wang et al. 2021, fig. 2).

    Blur, resize, noise and JPEG, twice, with a sinc before or after the last JPEG.
    """
    # fmt: off
    stages = (
        _stage('usm',      usm),
        _stage('blur1',    blur,     kinds=KINDS, sinc=0.1, sigma=(0.2, 3.0)),
        _stage('resize1',  resize,   updown=(0.2, 0.7, 0.1), factor=resize1, by=by),
        _stage('noise1',   noise,    sigma=sigma1, scale=scale1, gray=0.4),
        _stage('jpeg1',    encoder,  quality=quality1),
        _stage('blur2',    blur,     0.8, kinds=KINDS, sinc=0.1, sigma=(0.2, 1.5)),
        _stage('resize2',  resize,   to='lq', updown=(0.3, 0.4, 0.3), factor=resize2),
        _stage('noise2',   noise,    sigma=sigma2, scale=scale2, gray=0.4),
        # A coin: JPEG before the last resize and sinc, or after them.
        _stage('jpeg2a',   encoder,  ('order', 0.0, 0.5), quality=quality2),
        _stage('resize3',  resize,   to='lq'),
        _stage('sinc',     blur,     0.8, sinc=1.0, omega=FREE),
        _stage('jpeg2b',   encoder,  ('order', 0.5, 1.0), quality=quality2),
        _stage('quantize', quantize),
    )
    # fmt: on
    return Recipe(name, stages, frozenset(tied))


def _first_order(name: str, *, sigma: Range, shrink: Range) -> Recipe:
    """CodeFormer's chain."""
    # fmt: off
    return Recipe(name, (
        _stage('blur',     blur,     kinds=(0.5, 0.5), taps=(41, 41), sigma=sigma),
        _stage('shrink',   resize,   shrink=shrink, modes=(0, 1)),
        _stage('noise',    noise,    kinds=(1,), sigma=(0, 20), gray=0.0),
        _stage('jpeg',     jpeg,     quality=(30, 90)),
        _stage('final',    resize,   to='lq', modes=(0, 1)),
        _stage('quantize', quantize),
    ))
    # fmt: on


def _down(mode: int, **scale: Any) -> tuple[Stage, ...]:
    """Smaller and back, with 8-bit values each time."""
    modes = tuple(int(m == mode) for m in range(mode + 1))
    # fmt: off
    return (
        _stage('shrink', resize,   to='gt', modes=modes, **scale),
        _stage('shrunk', quantize, up=True),
        _stage('grow',   resize,   to='gt', modes=modes),
        _stage('grown',  quantize, up=True),
    )
    # fmt: on


# fmt: off

# ---- ranges ----

_AI6126_2024: dict[str, Any] = dict(
    resize1=(0.2, 1.5),   resize2=(0.3, 1.2),
    sigma1=(1, 20),       sigma2=(1, 15),
    scale1=(0.05, 2.0),   scale2=(0.05, 1.5),
    quality1=(50, 95),    quality2=(70, 95),
)
_REALESRGAN: dict[str, Any] = dict(
    resize1=(0.15, 1.5),  resize2=(0.3, 1.2),
    sigma1=(1, 30),       sigma2=(1, 25),
    scale1=(0.05, 3.0),   scale2=(0.05, 2.5),
    quality1=(30, 95),    quality2=(30, 95),
)
# What Real-ESRGAN's public training code draws once per batch.
_PER_BATCH = (
    'resize1/updown', 'resize1/scale', 'resize1/mode', 'noise1/kind', 'noise1/plane',
    'blur2/on',
    'resize2/updown', 'resize2/scale', 'resize2/mode', 'noise2/kind', 'noise2/plane',
    'order', 'resize3/mode',
)

# ---- parts of the recipes that shuffle their steps ----

# What HiFaceGAN and MFPSNet make of imgaug's augmenters.
_BLUR = (
    _stage('blur',    blur,     motion=0.5, length=(10, 20), sigma=(3, 8), taps=None),
    _stage('blurred', quantize),
)
_NOISE = (
    _stage('noise',   noise,    kinds=(1, 0, 1, 1), gray=0.0,
           sigma=(20, 40), laplace=(20, 40), rate=(15, 30)),
    _stage('noisy',   quantize),
)
_JPEG = (
    _stage('jpeg',    jpeg,     compression=(50, 85)),
)
_DOWN = _down(resize.BICUBIC, factor=(1 / 8, 1 / 4))

# Face Renovation's four steps.
_RENOVATION = (
    _down(resize.BILINEAR, divide=(4, 8)),
    (
        _stage('noise',   noise,    kinds=(1, 0, 1), sigma=(0, 2), laplace=(0, 2), gray=0.0),
        _stage('noisy',   quantize),
    ),
    (
        _stage('blur',    blur,     ('filter', 0.0, 0.5), taps=(7, 15), sigma=(0.01, 10)),
        _stage('median',  median,   ('filter', 0.5, 1.0), side=(7, 15)),
        _stage('blurred', quantize),
    ),
    (
        _stage('jpeg',    jpeg,     quality=(50, 85)),
    ),
)

# ---- the recipes ----

_ALL = (
    # The AI6126 (2024/25) challenge's chain, every parameter per sample, with real JPEG. The
    # default.
    _second_order('ai6126_2024', **_AI6126_2024),

    # The same as the public training code has it: drawn per batch where it does, DiffJPEG,
    # coordinates by scale, one grey plane for a batch.
    _second_order('ai6126_2024_parity', **_AI6126_2024, encoder=diffjpeg,
                  by='scale', tied=_PER_BATCH),

    # Real-ESRGAN's published x4 ranges.
    _second_order('realesrgan', **_REALESRGAN),

    # The 2022/23 challenges' first-order chain (MMEditing semantics).
    Recipe('ai6126_2022', (
        _stage('blur',     blur,     kinds=(0.5, 0.5), taps=(41, 41), sigma=(0.2, 5.0)),
        _stage('shrink',   resize,   factor=(1 / 16, 1.0), modes=(0, 1, 1, 1)),
        _stage('noise',    noise,    kinds=(1,), sigma=(0, 25), gray=0.0),
        _stage('jpeg',     jpeg,     quality=(50, 95)),
        _stage('grow',     resize,   to='gt', modes=(0, 1, 1, 1)),
        _stage('round',    quantize),
        _stage('final',    resize,   to='lq', modes=(0, 0, 0, 1)),
        _stage('quantize', quantize),
    )),

    # GFPGAN (Wang et al. 2021, sec. 4.1) with its training code's colours, brought to the network's
    # input size.
    Recipe('gfpgan', (
        _stage('blur',     blur,     kinds=(0.5, 0.5), taps=(41, 41), sigma=(0.1, 10.0)),
        _stage('shrink',   resize,   shrink=(0.8, 8.0), modes=(0, 1)),
        _stage('noise',    noise,    kinds=(1,), sigma=(0, 20), gray=0.0),
        _stage('jpeg',     jpeg,     quality=(60, 100)),
        _stage('final',    resize,   to='lq', modes=(0, 1)),
        _stage('shift',    color_shift,  0.3,  shift=(-20, 20)),
        _stage('gray',     gray,         0.01),
        _stage('jitter',   color_jitter, 0.3,  brightness=(0.5, 1.5), contrast=(0.5, 1.5),
               saturation=(0, 1.5), hue=(-0.1, 0.1)),
        _stage('quantize', quantize),
    )),

    # Faces of photographs as they are met: soft lenses, small faces, the sharpening and the chroma
    # of phones and web pages, noise or grain, JPEG of every quality. The order is that of
    # ai6126_2022; blur, sharpening and chroma have the ranges that were fitted to real faces
    # (`simple`), noise and JPEG wider ones, since what a network hardly sees it hardly removes.
    # Colours and brightness stay: they are the photographer's.
    Recipe('photos', (
        _stage('blur',     blur,     0.8, kinds=(0.6, 0.4), taps=(41, 41), sigma=(0.2, 6.0)),
        _stage('shrink',   resize,   factor=(0.07, 1.0), modes=(2, 1, 1, 0, 1, 0, 1)),
        _stage('sharpen',  unsharp,  0.4, sigma=(0.5, 1.5), amount=(0.2, 1.5)),
        _stage('noise',    noise,    0.7, kinds=(0.7, 0.3), sigma=(0, 18), scale=(0.05, 1.5),
               gray=0.3),
        _stage('grain',    grain,    0.2, size=(0.3, 0.8), amount=(1, 12), midtones=0.3, gray=0.6),
        _stage('chroma',   chroma_blur, 0.4, sigma=(0.5, 1.6)),
        _stage('jpeg',     jpeg,     0.9, quality=(40, 98)),
        _stage('grow',     resize,   to='gt', modes=(0, 1, 1, 1)),
        _stage('round',    quantize),
        _stage('final',    resize,   to='lq', modes=(0, 0, 0, 1)),
        _stage('quantize', quantize),
    )),

    # Each thing once, in the picture's own pixels, where it can be measured: what ranges are fitted
    # to (tools/prepare.py fit).
    Recipe('simple', (
        _stage('blur',     blur,     kinds=(0.7, 0.3), taps=None, sigma=(0.2, 6.0)),
        _stage('final',    resize,   to='lq', modes=(1, 1, 1)),
        _stage('sharpen',  unsharp,  0.3, sigma=(0.6, 1.5), amount=(0.3, 1.5)),
        _stage('shift',    color_shift, red=(-8, 8), green=(0, 0), blue=(-8, 8)),
        _stage('jitter',   color_jitter, brightness=(0.8, 1.2), contrast=(0.8, 1.2),
               saturation=(0.6, 1.2), hue=(0, 0)),
        _stage('noise',    grain,    size=(0.3, 0.8), amount=(0, 10), midtones=0, gray=1),
        _stage('speckle',  grain,    size=(0.3, 0.8), amount=(0, 10), midtones=0, gray=0),
        _stage('chroma',   chroma_blur, 0.5, sigma=(0.5, 2.0)),
        _stage('jpeg',     jpeg,     0.9, quality=(40, 95)),
        _stage('quantize', quantize),
    )),

    # CodeFormer (Zhou et al. 2022, sec. 4.1) in its training code's ranges: of stage 2, which
    # learns from almost nothing, and of stage 3. Brought to the network's input size, too.
    _first_order('codeformer_stage2', sigma=(1, 15),    shrink=(4, 30)),
    _first_order('codeformer',        sigma=(0.1, 10),  shrink=(1, 12)),

    # Face Renovation (the SaintWatson project's degrader): four steps in an order drawn for every
    # sample, with 8-bit values after each; same size.
    Recipe('face_renovation', shuffled('order', *_RENOVATION), scale=1),

    # HiFaceGAN (Yang et al. 2020, sec. 4.1): all of it in an order drawn for every sample, or one
    # step alone; same size.
    Recipe('hifacegan',       shuffled('order', _BLUR, _NOISE, _JPEG, _DOWN), scale=1),
    Recipe('hifacegan_down',  _DOWN,  scale=1),
    Recipe('hifacegan_noise', _NOISE, scale=1),
    Recipe('hifacegan_blur',  _BLUR,  scale=1),
    Recipe('hifacegan_jpeg',  _JPEG,  scale=1),
    Recipe('hifacegan_mosaic', (
        _stage('shrink',   resize,   to='gt', divide=(16, 16), modes=(0, 0, 0, 1)),
        _stage('shrunk',   quantize, up=True),
        _stage('grow',     resize,   to='gt', modes=(0, 0, 0, 0, 0, 1)),
    ), scale=1),

    # MFPSNet (faces of 128 pixels): the same steps in one order; same size.
    Recipe('mfps', (
        *_BLUR, *_NOISE, *_JPEG, *_down(resize.BICUBIC, factor=(1 / 2, 1 / 2)),
    ), scale=1),

    # The classical benchmark: antialiased bicubic, nothing else.
    Recipe('bicubic', (
        _stage('final',    resize,   to='lq', modes=(0, 0, 0, 0, 1)),
        _stage('quantize', quantize),
    )),
)

# fmt: on

RECIPES = {recipe.name: recipe for recipe in _ALL}
SAME_SIZE = tuple(name for name, recipe in RECIPES.items() if recipe.scale == 1)
