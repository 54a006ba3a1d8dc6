"""One uploaded photograph, restored within limits: bytes in, files to show and to keep out."""

import hashlib
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from errors import BadFile
from faces import detect
from sources import decoders
from sources import photo as photo_file
from sources.photo import SUFFIXES, Photo
from storage import counted, printable
from tasks import photos
from tasks.photo_flags import Tools

LARGEST_VIEW = 2048  # pixels of the longer side of what a page shows
FACE, MARGIN = 384, 0.25  # pixels of the side of a face that is shown, and of its box around it
MOST_FACES = 24  # that are shown


@dataclass
class Known:
    """What detector and network said of a photo: asked once more, they say it at once."""

    digest: bytes  # of the file
    found: detect.Found | None = None
    # Batches of restored faces, in order, at the last fidelity.
    made: list[Tensor] = field(default_factory=list)
    fidelity: float | None = None

    def detector(self, ask: detect.Detector) -> detect.Detector:
        """Return the detector for one time that the photo is restored."""

        def find(photo: np.ndarray, min_face: int = detect.MIN_FACE) -> detect.Found:
            if self.found is None:
                self.found = ask(photo, min_face)
            return self.found

        return find

    def network(self, ask: photos.Network, fidelity: float | None) -> photos.Network:
        """Return the network, at this fidelity, for one time that the photo is restored."""
        if fidelity != self.fidelity:
            self.made, self.fidelity = [], fidelity
        numbers = itertools.count()

        def restore(faces: Tensor) -> Tensor:
            number = next(numbers)
            if number == len(self.made):
                self.made.append(ask(faces))
            return self.made[number]

        return restore


class Result(NamedTuple):
    """What became of an upload."""

    said: str  # a sentence
    name: str  # of the file
    data: bytes  # the file itself, of the photo's own kind
    before: bytes  # WebP of the photo, as large as `after`
    after: bytes  # WebP of the result
    faces: list[tuple[bytes, bytes]]  # WebP of the largest ones, before and after
    known: Known


class Restorer:
    """Restores uploads.

    tools: detector, network, and how they are used
    most:  pixels of a photo, and of what becomes of it
    most_bytes: of a file
    dial: sets the fidelity of the network; None where it has one only
    """

    def __init__(
        self,
        tools: Tools,
        most: int,
        most_bytes: int,
        dial: Callable[[float], None] | None = None,
    ) -> None:
        """Take note of tools and limits."""
        self._tools, self._most, self.most_bytes = tools, most, most_bytes
        self._dial = dial

    @property
    def limits(self) -> str:
        """What may be uploaded, in words."""
        # HEIC among them where its plugin is installed.
        *kinds, last = (decoders.NAMES[kind] for kind in decoders.available())
        most = f'{self.most_bytes / 1e6:,.3g} MB and {self._most / 1e6:,.3g} million pixels'
        return f'a PNG, JPEG, {", ".join(kinds)} or {last} of at most {most}'

    def __call__(
        self,
        path: Path,
        scale: int,
        keep: float | None,
        fidelity: float | None = None,
        known: Known | None = None,
    ) -> Result:
        """Restore a file.

        scale: by which the photo is enlarged; keep: as of photos.How
        fidelity: see loading.between; None for a network that has one only
        known: of the last time: the networks are not asked again about the same file
        Raises BadFile for whatever cannot be restored.
        """
        data = self._bytes(path)
        # By its content: the page may have another photo by now than when it was last asked.
        digest = hashlib.sha256(data).digest()
        if known is None or known.digest != digest:
            known = Known(digest)
        # Photos are restored one at a time, so that the network can be turned in place.
        if self._dial and fidelity is not None:
            self._dial(fidelity)
        try:
            photo = self._photo(data, scale)
            done = self._done(photo, scale, keep, fidelity, known)
            return _result(path.stem, photo, done, scale, known)
        except (MemoryError, torch.OutOfMemoryError):
            raise BadFile(
                'this machine has too little memory for it: upload a smaller one'
            ) from None

    def _bytes(self, path: Path) -> bytes:
        try:
            data = path.read_bytes()
        except OSError:
            raise BadFile('it was deleted from this machine: upload it again') from None
        if len(data) > self.most_bytes:
            raise BadFile(f'too large: {len(data) / 1e6:,.1f} MB; upload {self.limits}')
        return data

    def _photo(self, data: bytes, scale: int) -> Photo:
        try:
            photo = photo_file.read(data, self._most)
        except BadFile as error:
            raise BadFile(f'{error}; upload {self.limits}') from None
        h, w, _ = photo.pixels.shape
        # Memory is what counts, and most of it is the result's.
        if w * h * scale**2 > self._most:
            raise BadFile(
                f'{w:,}x{h:,} pixels, {scale} times as large, are {w * h * scale**2 / 1e6:,.1f} '
                'million: choose a smaller scale'
            )
        return photo

    def _done(
        self, photo: Photo, scale: int, keep: float | None, fidelity: float | None, known: Known
    ) -> photos.Done:
        detector = known.detector(self._tools.detector)
        network = known.network(self._tools.network, fidelity)
        how = self._tools.how._replace(scale=scale, keep=keep)
        (done,) = photos.restored([('', photo)], detector, network, how)
        return done


def _result(stem: str, photo: Photo, done: photos.Done, scale: int, known: Known) -> Result:
    kind, data = _encoded(done.photo)
    h, w, _ = done.photo.pixels.shape
    # A page of a hundred million pixels would take minutes to load.
    shrink = min(1, LARGEST_VIEW / max(h, w))
    size = max(round(w * shrink), 1), max(round(h * shrink), 1)
    return Result(
        _said(done, photo, scale),
        f'{stem}-restored{SUFFIXES[kind]}',
        data,
        _webp(_resized(photo, size)),
        _webp(_resized(done.photo, size)),
        _faces(photo, done, scale),
        known,
    )


def _encoded(photo: Photo) -> tuple[str, bytes]:
    """(kind, file) of the photo's own kind, or of PNG, which holds whatever there is."""
    # WebP ends at 16,383 pixels a side, and a bitmap that was clear is not written so.
    try:
        return photo.kind, photo_file.encoded(photo)
    except BadFile:
        return 'PNG', photo_file.encoded(photo._replace(kind='PNG'))


def _said(done: photos.Done, photo: Photo, scale: int) -> str:
    h, w, _ = photo.pixels.shape
    faces, whole = len(done.keeps), sum(share == 1 for share in done.keeps)
    if faces:
        untouched = f', {whole:,} left as they were' if whole else ''
        size = f'{w * scale:,}x{h * scale:,} pixels'
        return f'{counted(faces - whole, "face")} restored{untouched}; {size}'
    if scale == 1:
        return 'no face found: the photo is unchanged'
    return f'no face found: enlarged only, to {w * scale:,}x{h * scale:,} pixels'


# ---- what is looked at ----


def _resized(photo: Photo, size: tuple[int, int]) -> Photo:
    """The photo at (width, height)."""
    how = cv2.INTER_AREA if size[0] < photo.pixels.shape[1] else cv2.INTER_LANCZOS4
    pixels = cv2.resize(photo.pixels, size, interpolation=how)
    alpha = None if photo.alpha is None else cv2.resize(photo.alpha, size, interpolation=how)
    return photo._replace(pixels=pixels, alpha=alpha)


def _webp(photo: Photo) -> bytes:
    """A file for a browser, in the photo's own colours; grey ones are stored as colours here."""
    # A profile of greys does not fit to colours; what the camera told stays out of such pictures.
    icc = None if photo.gray else photo.icc
    return photo_file.encoded(photo._replace(kind='WEBP', gray=False, icc=icc, exif=None))


def _faces(photo: Photo, done: photos.Done, scale: int) -> list[tuple[bytes, bytes]]:
    """The largest faces before and after."""
    boxes = done.found.boxes
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).max(1), kind='stable')[:MOST_FACES]
    return [(_face(photo, boxes[i], 1), _face(done.photo, boxes[i], scale)) for i in order]


def _face(photo: Photo, box: np.ndarray, scale: int) -> bytes:
    """WebP of a box of the photo before it was enlarged, and a margin."""
    h, w, _ = photo.pixels.shape
    # Square where the photo allows it, since the gallery's places are.
    centre, side = (box[:2] + box[2:] + 1) / 2 * scale, (box[2:] - box[:2]).max() * scale
    reach = (0.5 + MARGIN) * side
    left, top = np.clip(centre - reach, 0, (w - 1, h - 1)).astype(int)
    right, bottom = np.clip(centre + reach, (left + 1, top + 1), (w, h)).astype(int)
    part = photo._replace(pixels=photo.pixels[top:bottom, left:right], alpha=None)
    shrink = FACE / (bottom - top)
    return _webp(_resized(part, (max(round((right - left) * shrink), 1), FACE)))


# ---- what the page is told ----


class Answer(NamedTuple):
    """What there is to show, with paths of files."""

    said: str
    views: tuple[str, str] | None = None  # before and after
    faces: list[tuple[str, str]] | None = None  # with captions
    file: str | None = None
    known: Known | None = None


def answer(
    restorer: Restorer,
    folder: str,
    path: str | None,
    scale: int,
    keep: float | None,
    fidelity: float | None,
    known: Known | None,
) -> Answer:
    """Restore an upload, or say why not.

    folder: to write to; path: of the upload, None where there is none; the others: see Restorer
    """
    if path is None:
        return Answer('choose a photo first')
    name = printable(Path(path).name, 60)
    try:
        result = restorer(Path(path), scale, keep, fidelity, known)
    except BadFile as error:
        return Answer(f'{name}: {error}')
    return _written(result, name, Path(tempfile.mkdtemp(dir=folder)))


def _written(result: Result, name: str, folder: Path) -> Answer:
    """An answer whose files lie in a folder."""

    def written(file: str, data: bytes) -> str:
        (folder / file).write_bytes(data)
        return str(folder / file)

    views = written('before.webp', result.before), written('after.webp', result.after)
    faces = [
        (written(f'{i}-{when}.webp', data), when)
        for i, pair in enumerate(result.faces)
        for when, data in zip(('before', 'after'), pair, strict=True)
    ]
    file = written(result.name, result.data)
    return Answer(f'{name}: {result.said}', views, faces or None, file, result.known)
