"""Whole photographs: faces found, restored in batches across photos, and blended back.

    photo -> faces/detect.py -> faces/align.py -> network -> faces/paste.py -> photo

Faces alone go to the network, never a whole photo. A photo leaves as soon as all its faces are
back, so that few are in memory at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from faces import align, detect, paste
from sources.photo import Photo

MOST_WAITING = 1 << 26  # pixels of photos that wait for their faces

Network = Callable[[Tensor], Tensor]  # [n, 3, s, s] uint8 -> [n, 3, S, S] uint8


class How(NamedTuple):
    """What is done to a photo."""

    side: int  # pixels, of the faces that the network is given
    scale: int = 1  # by which the photo is enlarged
    fidelity: float = 0.0  # how much of the photo stays in its faces, 0 to 1
    min_face: int = detect.MIN_FACE  # pixels
    batch: int = 8  # faces restored together


class Job(NamedTuple):
    """A photo, and the faces in it."""

    name: str
    photo: Photo
    found: detect.Found
    matrices: list[np.ndarray]  # [2, 3] each, from the photo to `faces`
    faces: list[np.ndarray]  # [side, side, 3] uint8 each


class Done(NamedTuple):
    """A restored photo."""

    name: str
    photo: Photo
    faces: list[np.ndarray]  # [S, S, 3] uint8 each, as the network made them
    found: detect.Found


def restored(
    photos: Iterable[tuple[str, Photo]], detector: detect.Detector, network: Network, how: How
) -> Iterator[Done]:
    """Restore photos in order."""
    waiting: list[Job] = []
    for name, photo in photos:
        waiting.append(found_in(name, photo, detector, how))
        # Enough faces for a batch, or too much to keep.
        faces = sum(len(job.faces) for job in waiting)
        pixels = sum(job.photo.pixels[..., 0].size for job in waiting)
        if faces >= how.batch or pixels >= MOST_WAITING:
            yield from _finished(waiting, network, how)
            waiting = []
    yield from _finished(waiting, network, how)


def found_in(name: str, photo: Photo, detector: detect.Detector, how: How) -> Job:
    """Find and cut out the faces of a photo."""
    pixels = _8bit(photo.pixels)
    found = detector(pixels, how.min_face)
    matrices = []
    for points in found.points:
        matrices.append(align.matrix(points, how.side))
    faces = [align.warped(pixels, m, (how.side, how.side)) for m in matrices]
    return Job(name, photo, found, matrices, faces)


def _finished(jobs: Sequence[Job], network: Network, how: How) -> Iterator[Done]:
    """Restore the faces of some photos together, and put them back one photo after the other."""
    faces = [face for job in jobs for face in job.faces]
    back: list[np.ndarray] = []
    for i in range(0, len(faces), how.batch):
        some = torch.from_numpy(np.stack(faces[i : i + how.batch])).permute(0, 3, 1, 2)
        back += list(network(some).permute(0, 2, 3, 1).numpy())
    for job in jobs:
        own, back = back[: len(job.faces)], back[len(job.faces) :]
        yield Done(job.name, blended(job, own, how), own, job.found)


def blended(job: Job, faces: Sequence[np.ndarray], how: How) -> Photo:
    """Return the enlarged photo with its restored faces."""
    pixels = enlarged(job.photo.pixels, how.scale)
    levels = np.iinfo(pixels.dtype).max // 255
    placed = []
    for face, m in zip(faces, job.matrices, strict=True):
        there = align.scaled(m, target=len(face) / how.side)
        placed.append(paste.Face(face.astype(np.float32) * levels, paste.square(len(face)), there))
    paste.paste(pixels, placed, how.scale, how.fidelity)
    alpha = job.photo.alpha
    return job.photo._replace(
        pixels=pixels, alpha=None if alpha is None else enlarged(alpha, how.scale)
    )


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge [h, w] or [h, w, 3] by Lanczos's filter; always a new array."""
    if scale == 1:
        return pixels.copy()
    h, w = pixels.shape[:2]
    return cv2.resize(pixels, (w * scale, h * scale), interpolation=cv2.INTER_LANCZOS4)


def _8bit(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
