"""What `infer.py --keep auto` is worth: faces of several sizes, sharp and spoilt, and their truth.

python benchmarks/kept_detail.py faces/ --count 12
python benchmarks/kept_detail.py faces/ --count 12 --run runs/mine

A face of 512 pixels is the truth. Averaged to fewer pixels and spoilt, it is a photograph, which
infer.py's own steps restore and enlarge to 512 again. PSNR is that of the middle of the face:
restored as a whole (--keep 0), not at all (--keep 1), and by default (--keep auto), with the mean
share of the photo that then stays. Give faces that the network was not trained on.
"""

import program

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

import infer
from benchmarks.natural_truth import tensor
from errors import RunError
from faces import align, detect
from faces.align import SIDE
from metrics.psnr import psnr
from sources import files, photo
from sources.photo import Photo
from tasks import inputs, loading, photo_flags, photos

SIZES = 128, 256, 512  # pixels of the face in the photograph
MIDDLE = slice(SIDE // 8, -SIDE // 8)  # nothing is blended there
SMALL = 64  # pixels that an enlarged photograph was made of
SHARPENED, RADIUS = 1.0, 1.2  # amount, and sigma in pixels
STREAK = 1 / 40  # of the face: length of a motion


class Score(NamedTuple):
    """Means over the faces."""

    restored: float  # dB
    photo: float  # dB
    auto: float  # dB
    share: float  # of the photo that stays


# ------------------------------------------------------------------------------------------------
# Photographs.


def compressed(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """JPEG of [h, w, 3] uint8."""

    def spoil(face: np.ndarray) -> np.ndarray:
        how = [cv2.IMWRITE_JPEG_QUALITY, quality]
        data = cv2.imencode('.jpg', face[..., ::-1], how)[1]
        return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])

    return spoil


def noisy(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """White noise, the same for every face."""

    def spoil(face: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, sigma, face.shape)
        return np.clip(np.rint(face + noise), 0, 255).astype(np.uint8)

    return spoil


def enlarged(face: np.ndarray) -> np.ndarray:
    """A face of SMALL pixels, as large as this one."""
    small = cv2.resize(face, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, face.shape[:2], interpolation=cv2.INTER_CUBIC))


def moved(face: np.ndarray) -> np.ndarray:
    """A motion from left to right."""
    taps = round(len(face) * STREAK) | 1
    return np.asarray(cv2.filter2D(face, -1, np.full((1, taps), 1 / taps, np.float32)))


def sharpened(face: np.ndarray) -> np.ndarray:
    """As cameras and programs do it."""
    soft = cv2.GaussianBlur(face, (0, 0), RADIUS).astype(np.float32)
    return np.clip(np.rint(face + SHARPENED * (face - soft)), 0, 255).astype(np.uint8)


KINDS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'clean': lambda face: face,
    'JPEG 80': compressed(80),
    'JPEG 40': compressed(40),
    'JPEG 15': compressed(15),
    'noise 10': noisy(10),
    'noise 20': noisy(20),
    'enlarged from 64': enlarged,
    'motion': moved,
    'sharpened': sharpened,
}


def truths(source: str, count: int) -> list[np.ndarray]:
    """Return faces [SIDE, SIDE, 3] uint8. Raises RunError for others."""
    found = inputs.image_files(source, 'FACES', files.MOST, say=lambda _: None, tell=False)
    faces = []
    for image in found.images[:count]:
        face = photo.to_8bit(photo.read(files.read_bytes(*image.where))).pixels
        if face.shape != (SIDE, SIDE, 3):
            raise RunError(f'{image.path} is no face of {SIDE}x{SIDE} pixels')
        faces.append(face)
    return faces


# ------------------------------------------------------------------------------------------------
# Restoring.


def points_of(side: int) -> np.ndarray:
    """Return the five points [5, 2] of a photograph that is nothing but an aligned face."""
    return align.scaled_points(align.TEMPLATE, side / SIDE)


def scored(kind: str, side: int, faces: Sequence[np.ndarray], tools: photo_flags.Tools) -> Score:
    """Restore photographs of one kind and size in three ways."""
    rows = []
    for truth in faces:
        small = cv2.resize(truth, (side, side), interpolation=cv2.INTER_AREA)
        given = KINDS[kind](small)
        done = [restored(given, tools, keep) for keep in (0.0, 1.0, None)]
        rows.append([*(decibels(one.photo.pixels, truth) for one in done), done[-1].keeps[0]])
    return Score(*np.mean(rows, 0).tolist())


def restored(face: np.ndarray, tools: photo_flags.Tools, keep: float | None) -> photos.Done:
    """Restore a photograph of a face, and enlarge it to SIDE."""
    # Where the points are is known: what is measured is not the detector.
    side = len(face)
    box = np.array([[0.0, 0, side - 1, side - 1]])
    found = detect.Found(box, points_of(side)[None], np.ones(1))
    how = tools.how._replace(scale=SIDE // side, keep=keep)
    job = photos.with_faces('', Photo(face), face, found, how)
    (done,) = photos.restored_faces([job], tools.network, how)
    return done


def decibels(given: np.ndarray, truth: np.ndarray) -> float:
    """PSNR of the middle, at most 60."""
    a, b = (tensor(x[MIDDLE, MIDDLE]) for x in (given, truth))
    return min(float(psnr(a, b)), 60.0)


# ------------------------------------------------------------------------------------------------
# The command.


def parser() -> argparse.ArgumentParser:
    """Flags: those of infer.py, and the number of faces."""
    p = infer.parser()
    p.description = __doc__
    p.add_argument('--count', type=program.ranges.COUNT, default=12, help='faces (default: 12)')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    args = parser().parse_args(argv)
    faces = truths(args.source, args.count)
    loaded = loading.load(args.run, args.weights, args.device, usual=True, fidelity=args.fidelity)
    tools = photo_flags.build(args, loaded)
    print(f'{"photograph":18}{"face":>6}{"restored":>10}{"photo":>8}{"auto":>8}{"stays":>8}')
    for kind in KINDS:
        for side in SIZES:
            score = scored(kind, side, faces, tools)
            figures = f'{score.restored:10.2f}{score.photo:8.2f}{score.auto:8.2f}{score.share:8.0%}'
            print(f'{kind:18}{side:6}{figures}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
