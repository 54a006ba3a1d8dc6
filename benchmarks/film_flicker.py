"""How much restored faces flicker in a film: followed over time, against frame by frame.

python benchmarks/film_flicker.py clip.mp4 --run runs/mine

Both ways restore the same frames with the same network. Of all faces that are followed:
  place   variance, in square pixels of the film, of the points by which a face is placed
  light   variance, in square levels, of a face's mean level in what comes out
  detail  variance, in square levels, of the pixels of a face in what comes out
each of what is left when the slow part, which belongs to the scene, is taken away: of values less
their smoothed ones, from frame to frame. Light and detail are measured in one and the same place.
"""

import program

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

import infer
import storage
from errors import RunError
from faces import align, paste, tracks
from sources import film as film_file
from sources.photo import Photo
from tasks import films, loading, photo_flags, photos
from tasks.films import Seen, Work
from tasks.photo_flags import Tools
from tasks.photos import Done

SIDE = 64  # pixels of the faces that are measured
INNER = slice(SIDE // 4, -SIDE // 4)  # of them: eyes to mouth


def steps(values: np.ndarray) -> np.ndarray:
    """Return from frame to frame what is not slow of values [n, ...]: [n - 1, ...]."""
    return np.diff(values - tracks.smooth(values), axis=0)


def in_turn(work: Work, tools: Tools) -> Iterator[Done]:
    """Restore every frame as a photo of its own."""
    given = ((str(f.number), Photo(f.pixels)) for f in film_file.frames(work.film))
    return photos.restored(given, tools.detector, tools.network, tools.how)


def followed(work: Work, tools: Tools, seen: Seen) -> Iterator[Done]:
    """Restore the frames as infer.py does it."""
    known = films.looks(work, seen)
    jobs = (films.job(f, seen, known, work.how) for f in film_file.frames(work.film))
    return photos.restored_faces(jobs, tools.network, tools.how)


def measured(done: Iterable[Done], seen: Seen, scale: int) -> dict[str, float]:
    """Return light and detail of restored frames."""
    # In the smoothed places for both ways, so that only what is painted differs.
    faces: list[list[np.ndarray]] = [[] for _ in seen.tracks]
    for frame in done:
        number = int(frame.name)
        for i, track in films.at(seen, number):
            m = align.matrix(track.points[number - track.start], SIDE)
            assert m is not None  # smoothed points lie apart
            there = align.scaled(m, source=scale)
            face = align.warped(frame.photo.pixels, there, (SIDE, SIDE), how=cv2.INTER_LINEAR)
            faces[i].append(face[INNER, INNER].astype(np.float64) @ paste.LUMA)
    rest = [steps(np.stack(face)) for face in faces]
    return {
        'light': _variance([x.mean((1, 2)) for x in rest]),
        'detail': _variance(rest),
    }


def _variance(parts: Sequence[np.ndarray]) -> float:
    return float(np.concatenate([part.ravel() for part in parts]).var())


def compared(work: Work, tools: Tools) -> dict[str, dict[str, float]]:
    """Return {way: {what: variance}}. Raises RunError for a film without faces."""
    seen = films.found(work, tools.detector)
    if not seen.tracks:
        raise RunError(f'{work.film.path}: no face found')
    # The same frames and faces for both.
    single = {'place': _variance([steps(track.points) for track in seen.found])}
    single |= measured(in_turn(work, tools), seen, work.how.scale)
    ours = {'place': _variance([steps(track.points) for track in seen.tracks])}
    ours |= measured(followed(work, tools, seen), seen, work.how.scale)
    return {'frame by frame': single, 'followed': ours}


def parser() -> argparse.ArgumentParser:
    """Flags: those of infer.py, less those of files."""
    p = infer.parser()
    p.description = __doc__
    p.add_argument('--json', help='file for the figures')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    args = parser().parse_args(argv)
    # As infer.py takes it: with the flag, or without.
    args.input = args.input or args.source
    if not args.input or not film_file.is_film(args.input):
        raise RunError('name a film')
    film_file.check_installed()
    loaded = loading.load(args.run, args.weights, args.device, usual=True, fidelity=args.fidelity)
    tools = photo_flags.build(args, loaded)
    film = film_file.probe(args.input, photo_flags.MOST)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(film, Path(folder), tools.how, lambda items, what, total: items)
        figures = compared(work, tools)
    for what in ('place', 'light', 'detail'):
        before, after = (figures[way][what] for way in figures)
        print(f'{what:7} {before:9.4f} frame by frame {after:9.4f} followed: {after / before:.1%}')
    if args.json:
        note = {'film': Path(args.input).name, 'torch': torch.__version__, 'figures': figures}
        storage.write_json(args.json, note)
    return 0


if __name__ == '__main__':
    sys.exit(main())
