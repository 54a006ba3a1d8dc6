"""Photographs from files, through tasks/photos.py, into files."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

import storage
from errors import BadFile, RunError
from sources import decoders, files
from sources import photo as photo_file
from sources.photo import SUFFIXES, Photo
from storage import counted, shown, some

from . import photo_flags, photos
from .batches import ahead
from .inputs import Listed
from .loading import Loaded

# Suffixes by which --output names a file, and the kind that it is.
KINDS = {suffix: kind for kind, suffix in SUFFIXES.items()}
KINDS |= {'.jpeg': 'JPEG', '.tiff': 'TIFF', '.heif': 'HEIF'}


def kind_of(path: Path) -> str | None:
    """Kind of the file that --output names; None where it names a folder."""
    return None if path.is_dir() else KINDS.get(path.suffix.lower())


def is_file(path: Path) -> bool:
    """Whether --output names a file rather than a folder. Raises RunError for other pictures."""
    if not path.is_dir() and path.suffix.lower() in files.OTHER_SUFFIXES:
        raise RunError(f'--output {path}: photographs are written as {", ".join(KINDS)}')
    return kind_of(path) is not None


def check_output(args: argparse.Namespace, output: Path) -> None:
    """Raise RunError for a file that cannot be written as the flags have it."""
    # Before a photo is read: most would be restored in vain.
    kind = kind_of(output)
    if kind and args.faces_only:
        raise RunError(f'--output {output} is one file, --faces-only writes several: give a folder')
    wanted = photo_flags.FORMATS.get(args.format)
    if kind and wanted and kind != wanted:
        raise RunError(f'--output {output} is no {args.format}: leave --format out')
    if kind == 'HEIF':
        try:
            decoders.heif()
        except BadFile as error:
            raise RunError(f'--output {output}: {error}') from None


@dataclasses.dataclass
class Told:
    """What there is to say in the end."""

    bad: list[str]  # paths and reasons
    without: list[str]  # names of photos without a face
    photos: int = 0
    faces: int = 0
    kept: int = 0  # faces that were sharp enough to stay, at least in part
    whole: int = 0  # those that stayed as they were

    def lines(self, folder: Path) -> list[str]:
        """In words."""
        said = [
            f'{counted(self.photos, "photo")} with {counted(self.faces, "restored face")} written '
            f'to {shown(folder)}'
        ]
        if self.kept:
            said.append(
                f'{self.kept:,} of them sharper than the network can make them: {self.whole:,} '
                f'stayed as they were, {self.kept - self.whole:,} in part (--keep 0 restores all)'
            )
        if self.without:
            said.append(f'no face found in {some([shown(name) for name in self.without], 5)}')
        return said


def run(
    args: argparse.Namespace, loaded: Loaded, found: Listed, folder: Path
) -> tuple[list[str], list[str]]:
    """Restore the photos that were found -> (lines for the user, what was left out).

    folder: to write to, or a file
    Raises RunError: nothing could be restored, or a face is missing that was required.
    """
    # Everything that may be wrong with the flags, before the first photo is read.
    tools = photo_flags.build(args, loaded)
    told = Told(list(found.bad), [])
    writer = Writer(args, folder, told.bad)
    photos_in = _read(found, args, told.bad)
    each = writer.face if args.faces_only else None
    with writer:
        for done in photos.restored(photos_in, tools.detector, tools.network, tools.how, each):
            told.faces += len(done.found.boxes)
            if args.keep is None:
                told.kept += sum(share > 0 for share in done.keeps)
                told.whole += sum(share == 1 for share in done.keeps)
            if not len(done.found.boxes):
                told.without.append(done.name)
            told.photos += 1
            if not args.faces_only:
                writer.photo(done.name, done.photo)
    # Known when the last one was written.
    told.photos -= writer.refused
    if not told.photos:
        raise RunError(f'--input: nothing in it can be restored: {some(told.bad, 3)}')
    if told.without and args.require_face:
        raise RunError(
            f'--require-face: no face found in {some([shown(name) for name in told.without], 5)}; '
            'the photos are written all the same'
        )
    return told.lines(folder), told.bad


def _read(found: Listed, args: argparse.Namespace, bad: list[str]) -> Iterator[tuple[str, Photo]]:
    """Photos with their names, read one ahead; what cannot be read is added to the bad ones."""
    # Faces alone need no room for an enlarged photo.
    most = args.max_pixels or photo_flags.MOST
    factor = 1 if args.faces_only else args.scale

    def get(i: int) -> Photo | str:
        image = found.images[i]
        try:
            check_size(image.width, image.height, factor, most)
            photo = photo_file.read(files.read_bytes(*image.where), most)
            return with_metadata(photo, args.metadata)
        except OSError as error:
            return f'{shown(image.path)}: cannot be read: {error.strerror}'
        except BadFile as error:
            return f'{shown(image.path)}: {error}'

    # A bar belongs on a terminal, not in a log.
    quiet, total = not sys.stderr.isatty(), len(found.names)
    with ThreadPoolExecutor(1) as pool:
        read = track(ahead(pool, get, total, 1), 'restoring', total=total, disable=quiet)
        for name, photo in zip(found.names, read, strict=True):
            if isinstance(photo, str):
                bad.append(photo)
            else:
                yield name, photo


def check_size(width: int, height: int, scale: int, most: int) -> None:
    """Raise BadFile for a photo that is, or becomes, larger than `most` pixels."""
    raised = 'without --max-pixels'
    try:
        files.check_area(width, height, most)
    except BadFile as error:
        raise BadFile(f'{error} {raised}') from None
    pixels = width * height * scale**2
    if pixels > most:
        raise BadFile(
            f'too large: {width:,}x{height:,}, {scale} times as large '
            f'{width * scale:,}x{height * scale:,} = {pixels / 1e6:,.0f} million pixels, at most '
            f'{most / 1e6:,.1f} million are written {raised}; give a smaller --scale'
        )


def with_metadata(photo: Photo, kept: str) -> Photo:
    """Return a photo with as much of its metadata as --metadata says."""
    if kept == 'all':
        return photo
    return photo._replace(exif=None, icc=photo.icc if kept == 'colour' else None)


class Writer(contextlib.AbstractContextManager['Writer']):
    """Writes photos, or faces, one behind: while it encodes, the next one is restored."""

    def __init__(self, args: argparse.Namespace, folder: Path, bad: list[str]) -> None:
        """Take note of where, and as what.

        folder: or a file; bad: gets what its kind of file cannot hold
        """
        self.refused = 0  # photos among the bad ones
        self._file = None if args.faces_only else kind_of(folder)
        self._folder, self._bad = folder, bad
        self._kind = photo_flags.FORMATS.get(args.format) or self._file
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def photo(self, name: str, photo: Photo) -> None:
        """Write a photo. Raises RunError where the disk is full, maybe for the one before it."""
        # Its own kind, unless --format or the name of the file says another one.
        photo = photo._replace(kind=self._kind or photo.kind)
        path = self._folder
        if not self._file:
            path = self._folder / f'{name}{SUFFIXES[photo.kind]}'
        self._submit(name, path, photo)

    def face(self, name: str, number: int, face: np.ndarray) -> None:
        """Write a face."""
        kind = self._kind or 'PNG'
        path = self._folder / f'{name}-{number:02}{SUFFIXES[kind]}'
        self._submit(name, path, Photo(face, kind=kind))

    def _submit(self, name: str, path: Path, photo: Photo) -> None:
        # One at a time: a photo that waits takes memory.
        self._wait()
        self._last = self._pool.submit(self._write, name, path, photo)

    def _write(self, name: str, path: Path, photo: Photo) -> None:
        try:
            storage.write(path, photo_file.encoded(photo))
        except BadFile as error:
            self._bad.append(f'{shown(name)}: {error}')
            self.refused += 1

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last:
            last.result()

    def __exit__(self, *error: object) -> None:
        """Wait for what is being written; an error of that is the caller's."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()
