"""A photo that exists in two sizes: the small one restored, compared with the large one.

python benchmarks/natural_truth.py same_240p.jpg same_1080p.jpg --scale 4
python benchmarks/natural_truth.py same_240p.jpg same_1080p.jpg --run runs/mine --scale 4

The first compares both weights that come along, the second a network of yours.

What made the small photo small is nobody's recipe. The large one is brought to the enlarged size by
averaging and registered to the Lanczos enlargement of the small one (an affine map by ECC,
Evangelidis and Psarakis 2008), so that nobody is judged by half a pixel. PSNR and SSIM are those of
the squares around the faces. --out writes a picture: Lanczos, restored, truth.
"""

import program

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

import infer
import storage
from errors import RunError
from metrics.psnr import psnr
from metrics.ssim import ssim
from sources import files, photo
from sources.photo import Photo
from tasks import backgrounds, loading, photo_flags, photos, shipped

LANCZOS = 'Lanczos'
SMOOTH = 2.0  # pixels: sigma of what is registered


class Compared(NamedTuple):
    """Pictures of one size [h, w, 3] uint8, and the squares of the faces in them."""

    given: dict[str, np.ndarray]  # by what made them, Lanczos first
    truth: np.ndarray
    squares: np.ndarray  # [n, 4] left, top, right, bottom


def read(path: str) -> Photo:
    """Read a photo with 8 bits a channel."""
    return photo.to_8bit(photo.read(files.read_bytes(path)))


def registered(truth: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return the large photo [h, w, 3] in the place and size of another picture."""
    h, w, _ = to.shape
    sized = cv2.resize(truth, (w, h), interpolation=cv2.INTER_AREA)
    gray = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float32) for x in (to, sized)]
    soft = [cv2.GaussianBlur(x, (0, 0), SMOOTH) for x in gray]
    # Detail that only one of them has would pull at it: both are smoothed.
    start = np.eye(2, 3, dtype=np.float32)
    _, m = cv2.findTransformECC(soft[0], soft[1], start, cv2.MOTION_AFFINE)
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(sized, m, (w, h), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def compared(small: str, large: str, ways: Mapping[str, photo_flags.Tools]) -> Compared:
    """Restore the small photo in some ways. Raises RunError where it has no face."""
    own = read(small)
    given: dict[str, np.ndarray] = {}
    for name, tools in ways.items():
        (done,) = photos.restored([(small, own)], tools.detector, tools.network, tools.how)
        if not len(done.found.boxes):
            raise RunError(f'{small}: no face found')
        # What surrounds the faces is this enlargement in all of them.
        given.setdefault(LANCZOS, backgrounds.lanczos(own.pixels, tools.how.scale))
        given[name] = done.photo.pixels
        squares = np.rint(done.found.boxes * tools.how.scale).astype(int).clip(0)
    return Compared(given, registered(read(large).pixels, given[LANCZOS]), squares)


def scores(found: Compared) -> dict[str, tuple[float, float]]:
    """{name: (PSNR in dB, SSIM)}, means over the faces."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in found.given}
    for left, top, right, bottom in found.squares:
        wanted = tensor(found.truth[top:bottom, left:right])
        for name, pixels in found.given.items():
            face = tensor(pixels[top:bottom, left:right])
            rows[name].append((float(psnr(face, wanted)), float(ssim(face, wanted))))
    return {name: tuple(np.mean(row, 0).tolist()) for name, row in rows.items()}


def tensor(x: np.ndarray) -> torch.Tensor:
    """Return a picture [h, w, 3] as a batch [1, 3, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]


def picture(found: Compared, suffix: str) -> bytes:
    """File of the largest face and what is around it: what is given, then the truth."""
    sides = (found.squares[:, 2:] - found.squares[:, :2]).max(1)
    left, top, right, bottom = found.squares[sides.argmax()]
    margin = int(sides.max()) // 2
    h, w, _ = found.truth.shape
    y = slice(max(top - margin, 0), min(bottom + margin, h))
    x = slice(max(left - margin, 0), min(right + margin, w))
    strip = np.concatenate([p[y, x] for p in (*found.given.values(), found.truth)], 1)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
    return cv2.imencode(suffix, strip[..., ::-1], quality)[1].tobytes()


def ways_of(args: argparse.Namespace) -> dict[str, photo_flags.Tools]:
    """The network that the flags name, or both that come along."""
    if args.run or args.weights or args.fidelity is not None:
        named = {'restored': (args.run, args.weights)}
    else:
        named = {name: (None, name) for name in (shipped.USUAL, shipped.SHARP)}
    return {
        name: photo_flags.build(
            args, loading.load(run, weights, args.device, usual=True, fidelity=args.fidelity)
        )
        for name, (run, weights) in named.items()
    }


def parser() -> argparse.ArgumentParser:
    """Flags: those of infer.py, and the large photo."""
    p = infer.parser()
    p.description = __doc__
    p.add_argument('large', help='the same photo with more pixels')
    p.add_argument('--out', help='PNG or JPEG: Lanczos, restored, truth')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores -> exit status."""
    args = parser().parse_args(argv)
    if args.out and Path(args.out).suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise RunError(f'--out {args.out}: give a name that ends in .png or .jpg')
    found = compared(args.source, args.large, ways_of(args))
    rows = scores(found)
    plain = rows[LANCZOS]
    for name, (decibels, structure) in rows.items():
        gains = f'{decibels - plain[0]:+6.2f} dB {structure - plain[1]:+7.4f}'
        print(f'{name:12} {decibels:6.2f} dB {structure:7.4f}   over Lanczos {gains}')
    if args.out:
        storage.write(args.out, picture(found, Path(args.out).suffix))
    return 0


if __name__ == '__main__':
    sys.exit(main())
