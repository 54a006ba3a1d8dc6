"""Faces found in photographs: how many, which of those that are labelled, and how long it takes.

python benchmarks/face_detection.py photos/                          every photo of a folder
python benchmarks/face_detection.py photos/ --labels boxes.json      and the labelled faces in them

The file of labels is {name of a photo: [[left, top, width, height], ...]}. A labelled face is found
where its square and that of a face that was found have 0.4 of their union in common.
Faces beside the labelled ones are named with their places and scores, for a person to look at.
"""

import program

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import storage
from errors import BadFile, DataError, FacesError
from faces import detect, tracks
from sources import files, photo
from storage import records, shown
from tasks import inputs
from tools import timing

OVERLAP = 0.4


def squares(boxes: np.ndarray) -> np.ndarray:
    """Return boxes [n, 4] as squares around the same centres, as large as their longer sides."""
    # Some label the face from the brows down, some the head.
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], 1)


def labels(path: str | None) -> dict[str, np.ndarray]:
    """{name: [n, 4] boxes}. Raises DataError."""
    if path is None:
        return {}
    try:
        content: Any = records.loads(storage.read(path))
        rows = {name: np.array(boxes, float).reshape(-1, 4) for name, boxes in content.items()}
    except (OSError, BadFile, TypeError, ValueError, AttributeError) as error:
        raise DataError(f'--labels {shown(path)}: no file of labels ({error})') from error
    return {k: np.concatenate([v[:, :2], v[:, :2] + v[:, 2:]], 1) for k, v in rows.items()}


def matched(found: np.ndarray, wanted: np.ndarray) -> tuple[int, np.ndarray]:
    """(labelled faces that were found, numbers of the other faces)"""
    shares = tracks.overlap(squares(found), squares(wanted))
    # Of several faces at one label, the best counts; the others are strangers.
    used, count = set(), 0
    for column in shares.T:
        if len(column) and column.max() >= OVERLAP:
            count += 1
            used.add(int(column.argmax()))
    return count, np.array([i for i in range(len(found)) if i not in used], int)


def parser() -> argparse.ArgumentParser:
    """Flags."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=program.Formatter)
    p.add_argument('photos', help='folder of photographs')
    p.add_argument('--labels', help='JSON file of labelled faces')
    p.add_argument('--detector', help='a YuNet file instead of MTCNN')
    p.add_argument('--rounds', type=program.Whole(1, 1000), default=5, help='default: %(default)s')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each photo, and the sums -> exit status."""
    args = parser().parse_args(argv)
    find, known = detect.make(args.detector), labels(args.labels)
    listed = inputs.image_files(args.photos, '--input', files.MOST, tell=False)
    found_labels = missed = 0
    for image in listed.images:
        pixels = photo.to_8bit(photo.read(files.read_bytes(*image.where), files.MOST)).pixels
        least = detect.smallest(pixels)
        # Once to count, once more to be sure that the count holds.
        faces = find(pixels, least)
        if len(find(pixels, least).score) != len(faces.score):
            raise FacesError(f'{shown(image.path)}: other faces the second time: nothing is timed')
        name = Path(image.path).name
        count, others = matched(faces.boxes, known.get(name, np.zeros((0, 4))))
        found_labels, missed = found_labels + count, missed + len(known.get(name, ())) - count
        once = functools.partial(find, pixels, least)
        seconds = timing.rounds({name: once}, args.rounds, progress=lambda _: None)[name]
        h, w, _ = pixels.shape
        size, each = f'{w}x{h}', 1e3 * timing.median(seconds)
        print(f'{name:28} {size:10} {len(faces.score):3} faces {each:8.1f} ms')
        for i in others if name in known else ():
            x, y = faces.boxes[i].reshape(2, 2).mean(0)
            print(f'    not labelled: at {x:.0f},{y:.0f}, score {faces.score[i]:.3f}')
    if known:
        print(f'{found_labels} of {found_labels + missed} labelled faces found')
    return 0


if __name__ == '__main__':
    sys.exit(main())
