"""One input shard becomes one output shard.

A process may be lost over a file, be it that a decoder crashes or that memory runs out. From the
second attempt on, a journal says which file a shard is at; one over which it was lost three times
is left out and named.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from errors import BadFile, FacesError, RunError
from storage import printable, records, shown

from . import accounts, destination, lock, sources
from .accounts import Account, Face
from .archive import Archive
from .copies import Copies
from .destination import Destination
from .sources import Gone, InputShard

SETTINGS = 'build.json'  # the first file of a set
MANY = 5  # photos that may fail without being at fault, and then half of them
NO_MEMORY = -4  # OpenCV's code of an error
LOST = 3  # times that a process was lost over a file: then it is the file's fault


class Made(NamedTuple):
    """A face, and its files."""

    face: Face
    files: Mapping[str, Mapping[str, bytes]]  # by folder of the archives and name
    copy: np.ndarray | None = None  # [s, s, 3] uint8 RGB, small, for the report


class Job(Protocol):
    """What is made of photos; it is passed to other processes."""

    @property
    def kind(self) -> str:
        """How names of files begin."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the set that each hold a tar of a shard; '' for the set itself."""

    def made(self, name: str, data: bytes, shard: int, number: int) -> Iterable[Made]:
        """Make the faces of a photo.

        number: of the first of them in the shard
        Raises BadFile for a photo that cannot be used.
        """

    def copies(self) -> Copies | None:
        """What chooses small copies of the faces of a shard; None where none are wanted."""


class Outcome(NamedTuple):
    """What a task has done."""

    shard: int
    photos: int = 0
    faces: int = 0  # that were found
    kept: int = 0
    bad: int = 0
    bytes: int = 0  # written to tars
    seconds: float = 0.0  # of one core


class Work(Protocol):
    """Something to be done in another process, as often as it takes."""

    @property
    def title(self) -> str:
        """For messages."""

    def __call__(self, attempt: int) -> Outcome:
        """Do it. attempt: from 0"""


@dataclass(frozen=True)
class Build:
    """Work: make the output shard of an input shard."""

    job: Job
    place: Destination
    shard: InputShard

    @property
    def title(self) -> str:
        """See Work."""
        return f'shard {self.shard.number} ({self.shard.title})'

    def __call__(self, attempt: int) -> Outcome:
        """See Work."""
        started = time.process_time()
        self._check_place()
        journal = Journal(self.place, self.shard.number) if attempt else None
        copies = self.job.copies()
        try:
            account = self._account(journal, copies)
        except _MadeAlreadyError:
            if journal:
                journal.remove()
            return self._outcome(accounts.read(self.place, self.job.kind, self.shard.number), 0.0)
        number, kind = self.shard.number, self.job.kind
        if copies:
            self._write(accounts.name(kind, number, '.sheet.json'), copies.sheet())
        # Last: the shard is done when this is there.
        self._write(accounts.name(kind, number, '.json'), account)
        if journal:
            journal.remove()
        return self._outcome(account, time.process_time() - started)

    def _outcome(self, account: Account, seconds: float) -> Outcome:
        return Outcome(
            shard=account.shard,
            photos=account.photos,
            faces=len(account.faces),
            kept=account.kept,
            bad=len(account.bad),
            bytes=sum(written.bytes for written in account.archives.values()),
            seconds=seconds,
        )

    def _check_place(self) -> None:
        """Raise RunError on a machine that has another folder under this name, or none."""
        try:
            self.place.read(SETTINGS)
        except FileNotFoundError:
            raise RunError(
                f'--out {shown(self.place.place)} is not there on {socket.gethostname()}: every '
                'machine has to reach it under the same name'
            ) from None

    def _is_made(self) -> bool:
        try:
            self.place.read(accounts.name(self.job.kind, self.shard.number, '.json'))
        except FileNotFoundError:
            return False
        return True

    def _write(self, name: str, value: Any) -> None:
        destination.write(self.place, name, accounts.encoded(value))

    def _account(self, journal: 'Journal | None', copies: Copies | None) -> Account:
        """Write the tars of the shard, and give account of it."""
        account, faults = Account(self.shard.number, 0, [], [], {}), list[BadFile]()
        archive = accounts.name(self.job.kind, self.shard.number, '.tar')
        names = {
            folder: f'{folder}/{archive}' if folder else archive for folder in self.job.folders
        }
        with contextlib.ExitStack() as stack:
            tars = {
                folder: stack.enter_context(Archive(stack.enter_context(self.place.writing(name))))
                for folder, name in names.items()
            }
            # One photo at a time, and of it one face.
            for photo, data in sources.photos(self.shard):
                account.photos += 1
                try:
                    for made in self._made(photo, data, len(account.faces), journal):
                        self._add(made, account, copies, tars)
                except BadFile as error:
                    account.bad.append((printable(photo), printable(str(error))))
                    faults.append(error)
            self._check(faults, account)
            # Whoever was slower than another that was given the same shard writes nothing: faces
            # may have been dropped from it since.
            if self._is_made():
                raise _MadeAlreadyError
        # Their hashes are known once they are closed.
        account.archives = {names[folder]: tar.written for folder, tar in tars.items()}
        return account

    @staticmethod
    def _add(
        made: Made, account: Account, copies: Copies | None, tars: Mapping[str, Archive]
    ) -> None:
        """Add a face to what is made of a shard."""
        account.faces.append(made.face)
        if copies and made.copy is not None:
            copies.add(made.face, made.copy)
        for folder, files in made.files.items():
            for name, content in files.items():
                tars[folder].add(name, content)

    def _check(self, faults: Sequence[BadFile], account: Account) -> None:
        """Raise where so many photos fail that they cannot all be at fault."""
        many = max(MANY, account.photos / 2)
        gone = [str(fault) for fault in faults if isinstance(fault, Gone)]
        if len(gone) > many:
            raise RunError(
                f'{self.title}: {len(gone)} of {account.photos} pictures cannot be read on '
                f'{socket.gethostname()} ({gone[0]}): is SOURCE still there? What is finished '
                'stays; the same command goes on with the rest'
            )
        unforeseen = [str(fault) for fault in faults if isinstance(fault, _Unforeseen)]
        if len(unforeseen) > many:
            raise RuntimeError(
                f'{len(unforeseen)} of {account.photos} photos end in errors that are no fault of '
                f'theirs, such as {unforeseen[0]}'
            )

    def _made(
        self, photo: str, data: bytes | BadFile, number: int, journal: 'Journal | None'
    ) -> Iterator[Made]:
        """Faces of a photo. Raises BadFile, and ExhaustedError where memory ran out."""
        if isinstance(data, BadFile):
            raise data
        if journal:
            journal.begin(photo)
        try:
            yield from self.job.made(photo, data, self.shard.number, number)
        except (BadFile, FacesError, OSError):
            self._end(journal)
            raise
        except Exception as error:
            # That memory ran out may be the fault of what else is running: as if it were lost.
            if _is_exhaustion(error):
                raise ExhaustedError(f'{type(error).__name__}: {error}') from error
            self._end(journal)
            # Of millions of photos one may be what nobody has thought of: it costs itself.
            raise _Unforeseen(f'{type(error).__name__}: {error}') from error
        self._end(journal)

    @staticmethod
    def _end(journal: 'Journal | None') -> None:
        if journal:
            journal.end()


class ExhaustedError(Exception):
    """Memory that ran out."""


class _MadeAlreadyError(Exception):
    """Another worker has made the shard in the meantime."""


def _is_exhaustion(error: Exception) -> bool:
    """Whether an error tells of memory, of the machine or of a GPU."""
    of_opencv = isinstance(error, cv2.error) and error.code == NO_MEMORY
    of_cuda = isinstance(error, RuntimeError) and 'CUDA' in str(error)
    return isinstance(error, MemoryError) or of_opencv or of_cuda


class _Unforeseen(BadFile):
    """What became of a photo that nobody had thought of."""


class Journal:
    """Which photo of a shard is being worked at, and over which ones a process was lost."""

    def __init__(self, place: Destination, shard: int) -> None:
        """Read what an earlier attempt has left."""
        self._place = place
        self._name = f'{lock.FOLDER}/shard-{shard:06}.json'
        # A damaged one was being written when its process was lost: it blames nobody.
        self._lost: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, BadFile):
            self._lost = records.parse(place.read(self._name), dict[str, int])

    def begin(self, photo: str) -> None:
        """Note that this photo is next. Raises BadFile for one that has cost too many processes."""
        times = self._lost.get(photo, 0)
        if times >= LOST:
            raise BadFile(f'the process that read it was lost {times} times')
        # As if it were lost now: nobody will be there to say so.
        self._write({**self._lost, photo: times + 1})

    def end(self) -> None:
        """Note that it was not lost over that photo."""
        self._write(self._lost)

    def _write(self, lost: Mapping[str, int]) -> None:
        # Python's encoder, which takes names that are no UTF-8.
        destination.write(self._place, self._name, json.dumps(lost).encode())

    def remove(self) -> None:
        """The shard is done."""
        self._place.remove(self._name)
