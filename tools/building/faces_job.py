"""Raw photographs become aligned faces, each with what is known of it beside it."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from faces import align, detect, duplicates, measures
from faces.detect import Detector
from faces.measures import Limits
from sources import files
from tasks import images
from tasks.face_parser import FaceParser

from . import accounts, thresholds
from .accounts import Face
from .copies import Copies
from .htj2k_job import htj2k
from .shard_task import Made
from .sheets import small

# Faces of half the least side are still looked for: they are a part of what the report shows.
LOOKED_FOR = 1 / 2
DIGITS = 4  # of a measure


@dataclass(frozen=True)
class Faces:
    """Job: every face of a photo brought upright, as inference does it, and judged.

    size: side of the aligned faces in pixels
    format: 'png', or 'jph' for lossless HTJ2K
    detector: a YuNet file instead of MTCNN
    parser: run of a face parser, which says how much of a face is covered
    """

    size: int
    format: str
    detector: str | None
    parser: str | None
    limits: Limits

    kind = 'faces'
    folders = ('',)

    def made(self, name: str, data: bytes, shard: int, number: int) -> Iterator[Made]:
        """See Job."""
        photo = files.decode_sound(data, convert=True)
        least = round(LOOKED_FOR * self.limits.side[0])
        found = _detector(self.detector)(photo, max(detect.smallest(photo), least))
        jpeg = measures.jpeg_quality(data)
        # The surest face of a photo comes first, as the detector has them.
        for box, points, score in zip(*found, strict=True):
            matrix = align.matrix(points, align.SIDE)
            # Points on one spot are no face.
            if matrix is None:
                continue
            key = f'{shard:06}-{number:06}'
            number += 1
            face = Face(key, name, box.round(2).tolist(), points.round(2).tolist())
            square = align.warped(photo, matrix, (align.SIDE, align.SIDE))
            self._judge(face, square, matrix, box, points, score, photo, jpeg)
            members = {} if face.dropped else {'': self._members(face, square, matrix, photo)}
            yield Made(face, members, small(square))

    def _judge(
        self,
        face: Face,
        square: np.ndarray,
        matrix: np.ndarray,
        box: np.ndarray,
        points: np.ndarray,
        score: float,
        photo: np.ndarray,
        jpeg: float,
    ) -> None:
        """Fill in what is known of a face, by its square of 512 pixels: limits are of that."""
        known = measures.measure(
            square,
            matrix=matrix,
            box=box,
            points=points,
            score=score,
            photo=photo.shape[:2],
            jpeg=jpeg,
            parser=_parser(self.parser) if self.parser else None,
        )
        face.measures = {field: _rounded(value) for field, value in known._asdict().items()}
        face.dropped = measures.failed(known, self.limits)
        # Copies of one photo give points that differ a little: the hash is of a square that follows
        # all of them, not of one that may jump.
        near = align.nearest_matrix(points, align.SIDE)
        hashed = align.warped(photo, near, (align.SIDE, align.SIDE))
        face.hash = f'{duplicates.phash(hashed):0{duplicates.BITS // 4}x}'

    def _members(
        self, face: Face, square: np.ndarray, matrix: np.ndarray, photo: np.ndarray
    ) -> dict[str, bytes]:
        """Files of a face that is kept. What is known of it goes with its picture."""
        if self.size != align.SIDE:
            wanted = align.scaled(matrix, target=self.size / align.SIDE)
            square = align.warped(photo, wanted, (self.size, self.size))
        picture = f'{face.key}.{self.format}'
        return {
            picture: self._encoded(square, face.source),
            f'{face.key}.json': accounts.encoded(face),
        }

    def _encoded(self, face: np.ndarray, name: str) -> bytes:
        if self.format == 'jph':
            return htj2k(face, name)
        return images.png(torch.from_numpy(face).permute(2, 0, 1))

    def copies(self) -> Copies:
        """See Job."""
        return Copies(thresholds.named(self.limits))


def _rounded(value: float) -> float | None:
    """A measure for an account: with as many digits as it has meaning."""
    if not math.isfinite(value):
        return None
    return float(f'{value:.{DIGITS}g}')


@functools.cache
def _detector(path: str | None) -> Detector:
    return detect.make(path)


@functools.cache
def _parser(run: str) -> measures.Parser:
    torch.set_num_threads(1)
    parser = FaceParser(run, 'cpu')

    def parsed(face: np.ndarray) -> np.ndarray:
        # As large as what it was trained on; the shares that are asked for depend on no size.
        side = (parser.size, parser.size)
        small = cv2.resize(face, side, interpolation=cv2.INTER_AREA)
        ids = parser(torch.from_numpy(small).permute(2, 0, 1)[None])
        return ids[0].numpy()

    return parsed
