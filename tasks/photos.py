"""Whole photographs: faces found, restored in batches across photos, and blended back.

    photo -> faces/detect.py -> faces/align.py -> network -> faces/paste.py -> photo

Faces alone go to the network, never a whole photo. A photo leaves as soon as all its faces are
back, so that few are in memory at once; however many faces it has, few of them are.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from faces import align, detect, keep, paste
from sources.decoders import to_8bit
from sources.photo import Photo

from .backgrounds import Background, lanczos

MOST_WAITING = 1 << 26  # pixels of photos that wait for their faces

Network = Callable[[Tensor], Tensor]  # [n, 3, s, s] uint8 -> [n, 3, S, S] uint8
Mask = Callable[[np.ndarray], np.ndarray]  # [n, S, S, 3] uint8 -> [n, S, S] float32, 0 to 1
# What is told of every restored face: name of the photo, number of the face, [S, S, 3] uint8.
EachFace = Callable[[str, int, np.ndarray], None]


def squares(faces: np.ndarray) -> np.ndarray:
    """Return soft squares as masks [n, S, S] of faces [n, S, S, 3]."""
    return np.repeat(paste.square(faces.shape[1])[None], len(faces), 0)


class How(NamedTuple):
    """What is done to a photo."""

    side: int  # pixels, of the faces that the network is given
    scale: int = 1  # by which the photo is enlarged
    # How much of the photo stays in its faces, 0 to 1; None: as each face deserves it.
    keep: float | None = 0.0
    min_face: int | None = None  # pixels; None: as detect.smallest has it
    batch: int = 8  # faces restored together
    background: Background | None = lanczos  # None: faces alone are wanted
    mask: Mask = squares


@dataclasses.dataclass
class Job:
    """A photo, the faces in it, and what has become of them so far."""

    name: str
    photo: Photo
    found: detect.Found
    matrices: list[np.ndarray]  # [2, 3] each, from the photo to its faces
    lifts: list[float]  # levels by which each face is to be lighter
    keeps: list[float]  # how much of the photo stays in each face
    gray: bool  # the photo has no colours
    left: int  # faces that are not painted yet
    rounded: np.ndarray  # the photo in 8 bits
    canvas: np.ndarray | None = None  # the enlarged photo, from its first face on


class Done(NamedTuple):
    """A restored photo."""

    name: str
    photo: Photo
    found: detect.Found  # the faces that were restored
    keeps: list[float]  # how much of the photo stayed in each


def restored(
    photos: Iterable[tuple[str, Photo]],
    detector: detect.Detector,
    network: Network,
    how: How,
    each_face: EachFace | None = None,
) -> Iterator[Done]:
    """Restore photos in order."""
    jobs = (found_in(name, photo, detector, how) for name, photo in photos)
    return restored_faces(jobs, network, how, each_face)


def found_in(name: str, photo: Photo, detector: detect.Detector, how: How) -> Job:
    """Find the faces of a photo."""
    # Detector and network see 8 bits, whatever the photo has.
    pixels = to_8bit(photo.pixels)
    return with_faces(
        name, photo, pixels, detector(pixels, how.min_face or detect.smallest(pixels)), how
    )


def with_faces(
    name: str,
    photo: Photo,
    pixels: np.ndarray,
    found: detect.Found,
    how: How,
    lifts: Sequence[float] | None = None,
    keeps: Sequence[float] | None = None,
) -> Job:
    """Return what is to be done for faces that were found.

    pixels: [h, w, 3] uint8 of the photo; lifts: levels by which each face is to be lighter
    keeps: how much of the photo stays in each face, where it is known already
    """
    matrices, wanted, stays = [], [], []
    for i, points in enumerate(found.points):
        m = align.matrix(points, how.side)
        if m is None:
            continue
        matrices.append(m)
        wanted.append(i)
        stays.append(keeps[i] if keeps else kept(pixels, points, how))
    placed = detect.Found(*(field[wanted] for field in found))
    lift = [lifts[i] if lifts else 0.0 for i in wanted]
    gray = paste.is_gray(pixels)
    return Job(name, photo, placed, matrices, lift, stays, gray, len(wanted), pixels)


def kept(pixels: np.ndarray, points: np.ndarray, how: How) -> float:
    """Return how much of a photo [h, w, 3] uint8 stays in its face with these points [5, 2]."""
    if how.keep is not None:
        return how.keep
    matrix = align.matrix(points, how.side)
    return 0.0 if matrix is None else keep.share(pixels, matrix, how.side)


def restored_faces(
    jobs: Iterable[Job], network: Network, how: How, each_face: EachFace | None = None
) -> Iterator[Done]:
    """Restore the faces of some photos, and return the photos in order."""
    waiting: deque[Job] = deque()
    faces: deque[tuple[Job, int]] = deque()
    for job in jobs:
        waiting.append(job)
        faces.extend([(job, i) for i in paste.order(job.matrices)])
        del job  # a photo that has left may be as large as all the rest
        # Whole batches as long as there are any; the rest too, where there is too much to keep.
        pixels = sum(j.photo.pixels[..., 0].size for j in waiting)
        while len(faces) >= how.batch or (faces and pixels >= MOST_WAITING):
            _batch(faces, network, how, each_face)
        yield from _finished(waiting, how)
    while faces:
        _batch(faces, network, how, each_face)
    yield from _finished(waiting, how)


def _batch(
    faces: deque[tuple[Job, int]], network: Network, how: How, each_face: EachFace | None
) -> None:
    """Restore the next faces together, and paint each into its photo."""
    # Faces of several photos may share a batch.
    some = [faces.popleft() for _ in range(min(how.batch, len(faces)))]
    crops = np.stack([_cut_out(job, i, how.side) for job, i in some])
    made = network(torch.from_numpy(crops).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    masks = how.mask(made) if how.background else made[..., 0]
    for (job, i), face, mask in zip(some, made, masks, strict=True):
        if each_face:
            each_face(job.name, i, face)
        if how.background:
            _paint(job, i, face, mask, how)
        job.left -= 1


def _cut_out(job: Job, i: int, side: int) -> np.ndarray:
    return align.warped(job.rounded, job.matrices[i], (side, side))


def _paint(job: Job, i: int, face: np.ndarray, mask: np.ndarray, how: How) -> None:
    if job.canvas is None:
        job.canvas = _background(job.photo, how)
    # Faces in the levels of the photo, as large as the network makes them.
    levels = np.iinfo(job.canvas.dtype).max // 255
    there = align.scaled(job.matrices[i], target=len(face) / how.side)
    placed = paste.Face(face.astype(np.float32) * levels, mask, there, job.lifts[i] * levels)
    paste.paste(job.canvas, [placed], how.scale, job.keeps[i], job.gray)


def _background(photo: Photo, how: How) -> np.ndarray:
    assert how.background  # or nothing would be painted
    return how.background(photo.pixels, how.scale)


def _finished(waiting: deque[Job], how: How) -> Iterator[Done]:
    """Return the first photos, as far as all their faces are painted."""
    while waiting and not waiting[0].left:
        job = waiting.popleft()
        photo = job.photo
        if how.background:
            alpha = None if photo.alpha is None else lanczos(photo.alpha, how.scale)
            pixels = _background(photo, how) if job.canvas is None else job.canvas
            photo = photo._replace(pixels=pixels, alpha=alpha)
        # The photo as it was read may be as large as what becomes of it: no one holds it now.
        found, keeps, name = job.found, job.keeps, job.name
        del job
        yield Done(name, photo, found, keeps)
