"""Whole photographs: how many a second, and where the time goes.

python benchmarks/photo_throughput.py photos/ --run runs/mine              100 photos of 1920x1080
python benchmarks/photo_throughput.py photos/ --run runs/mine --count 20

The pictures of the folder, brought to one size and repeated, are JPEG files of quality 92. First
one stage after the other is timed: reading, finding faces, the network, blending, writing. Then
infer.py restores the same files, which reads one photo ahead and writes one behind. Before anything
is timed, both have to write the same bytes for the first photo.
"""

import program

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

import infer
import storage
from errors import FacesError, RunError
from sources import files, photo
from storage import counted
from tasks import inputs, loading, photo_flags, photos
from tasks.photo_flags import Tools

Seconds = dict[str, float]
QUALITY = 92
STAGES = 'reading', 'detection', 'network', 'blending', 'writing'


def prepared(source: str, folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write `count` photos of (width, height) made of those of a folder."""
    found = inputs.image_files(source, '--input', files.MOST, say=lambda _: None, tell=False)
    paths = []
    for i in range(count):
        image = found.images[i % len(found.images)]
        own = photo.to_8bit(photo.read(files.read_bytes(*image.where), files.MOST)).pixels
        picture = filled(own, size)
        paths.append(folder / f'{i:04}.jpg')
        cv2.imwrite(str(paths[-1]), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return paths


def filled(picture: Any, size: tuple[int, int]) -> Any:
    """Resize a picture so that it covers a size, and cut off what is more."""
    width, height = size
    h, w, _ = picture.shape
    # No photo keeps a border, which would have no faces.
    by = max(width / w, height / h)
    how = cv2.INTER_AREA if by < 1 else cv2.INTER_CUBIC
    covering = max(round(w * by), width), max(round(h * by), height)
    return cv2.resize(picture, covering, interpolation=how)[:height, :width]


def timed(seconds: Seconds, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose time is added to a sum."""

    def run(*args: Any) -> Any:
        start = time.perf_counter()
        done = function(*args)
        seconds[name] += time.perf_counter() - start
        return done

    return run


def staged(paths: Sequence[Path], tools: Tools, out: Path) -> tuple[Seconds, int]:
    """Restore photos one stage after the other -> ({stage: seconds}, faces)."""
    # Nothing in parallel here, or times would not add up.
    seconds: Seconds = defaultdict(float)
    read = timed(seconds, 'reading', lambda path: photo.read(files.read_bytes(path)))
    write = timed(seconds, 'writing', lambda path, made: storage.write(path, photo.encoded(made)))
    detector = timed(seconds, 'detection', tools.detector)
    network = timed(seconds, 'network', tools.network)
    faces, start = 0, time.perf_counter()
    given = ((path.name, read(path)) for path in paths)
    for done in photos.restored(given, detector, network, tools.how):
        write(out / done.name, done.photo)
        faces += len(done.found.boxes)
    # Blending is what remains.
    seconds['blending'] = time.perf_counter() - start - sum(seconds.values())
    return seconds, faces


def parser() -> argparse.ArgumentParser:
    """Flags: those of infer.py, and how many photos there are."""
    p = infer.parser()
    p.description = __doc__
    p.add_argument('--count', type=program.Whole(1, 100_000), default=100, help='photos')
    p.add_argument('--width', type=program.Whole(16, 1 << 14), default=1920, help='of a photo')
    p.add_argument('--height', type=program.Whole(16, 1 << 14), default=1080, help='of a photo')
    p.add_argument('--json', help='file for the figures')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    args = parser().parse_args(argv)
    source = args.input or args.source
    if not source:
        raise RunError('name a folder of photos')
    tools = photo_flags.build(
        args, loading.load(args.run, args.weights, args.device, usual=True, fidelity=args.fidelity)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'in').mkdir()
        paths = prepared(source, folder / 'in', args.count, (args.width, args.height))
        # The first photo twice; it warms caches and libraries, too.
        check(paths[:1], args, tools, folder)
        seconds, faces = staged(paths, tools, folder / 'staged')
        start = time.perf_counter()
        whole(args, folder / 'in', folder / 'whole')
        rate = len(paths) / (time.perf_counter() - start)
    total = sum(seconds.values())
    for stage in STAGES:
        each, share = 1e3 * seconds[stage] / args.count, seconds[stage] / total
        print(f'{stage:10} {each:8.1f} ms {share:6.1%}')
    print(
        f'{args.count / total:.2f} photos/s one stage after the other, {rate:.2f} by infer.py; '
        f'{counted(faces, "face")} in {counted(args.count, "photo")} of {args.width}x{args.height}'
    )
    if args.json:
        figures = {'seconds': dict(seconds), 'faces': faces, 'photos': args.count, 'rate': rate}
        storage.write_json(args.json, figures | {'torch': torch.__version__})
    return 0


def check(paths: Sequence[Path], args: argparse.Namespace, tools: Tools, folder: Path) -> None:
    """Raise FacesError unless both ways write the same bytes."""
    staged(paths, tools, folder / 'one')
    whole(args, paths[0], folder / 'other')
    one, other = ((folder / n / paths[0].name).read_bytes() for n in ('one', 'other'))
    if one != other:
        raise FacesError(f'{paths[0].name}: infer.py writes another photo: nothing is timed')


def whole(args: argparse.Namespace, source: Path, out: Path) -> None:
    """Restore photos by infer.py."""
    argv = ['--input', source, '--output', out, '--device', args.device, '--scale', args.scale]
    argv += ['--run', args.run] if args.run else ['--weights', args.weights] if args.weights else []
    argv += ['--batch', args.batch, '--no-aligned']
    with contextlib.redirect_stdout(io.StringIO()):
        if infer.main([str(a) for a in argv]) != 0:
            raise FacesError('infer.py fails: nothing is timed')


if __name__ == '__main__':
    sys.exit(main())
