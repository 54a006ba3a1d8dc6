"""One input shard becomes one output shard.

A process may be lost over a file, be it that a decoder crashes or that memory runs out. From the
second attempt on, a journal says which file a shard is at; one over which it was lost three times
is left out and named.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from errors import BadFile, FacesError
from storage import printable, records

from . import accounts, destination, lock, sources
from .accounts import Account, Face
from .archive import Archive
from .copies import Copies
from .destination import Destination
from .sources import InputShard

MANY = 5  # photos that may end in errors nobody has thought of, and then half of them
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

    def made(self, name: str, data: bytes, shard: int, number: int) -> list[Made]:
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
        journal = Journal(self.place, self.shard.number) if attempt else None
        copies = self.job.copies()
        account = self._account(journal, copies)
        number, kind = self.shard.number, self.job.kind
        if copies:
            self._write(accounts.name(kind, number, '.sheet.json'), copies.sheet())
        # Last: the shard is done when this is there.
        self._write(accounts.name(kind, number, '.json'), account)
        if journal:
            journal.remove()
        return Outcome(
            shard=number,
            photos=account.photos,
            faces=len(account.faces),
            kept=account.kept,
            bad=len(account.bad),
            bytes=sum(written.bytes for written in account.archives.values()),
            seconds=time.process_time() - started,
        )

    def _write(self, name: str, value: Any) -> None:
        destination.write(self.place, name, accounts.encoded(value))

    def _account(self, journal: 'Journal | None', copies: Copies | None) -> Account:
        """Write the tars of the shard, and give account of it."""
        account, unforeseen = Account(self.shard.number, 0, [], [], {}), 0
        archive = accounts.name(self.job.kind, self.shard.number, '.tar')
        names = {
            folder: f'{folder}/{archive}' if folder else archive for folder in self.job.folders
        }
        with contextlib.ExitStack() as stack:
            tars = {
                folder: stack.enter_context(Archive(stack.enter_context(self.place.writing(name))))
                for folder, name in names.items()
            }
            # One photo at a time: a shard takes as much memory as its largest photo.
            for photo, data in sources.photos(self.shard):
                account.photos += 1
                try:
                    made = self._made(photo, data, len(account.faces), journal)
                except BadFile as error:
                    account.bad.append((printable(photo), printable(str(error))))
                    unforeseen += isinstance(error, _Unforeseen)
                    self._check(unforeseen, account)
                    continue
                for each in made:
                    account.faces.append(each.face)
                    if copies and each.copy is not None:
                        copies.add(each.face, each.copy)
                    for folder, files in each.files.items():
                        for name, content in files.items():
                            tars[folder].add(name, content)
        # Their hashes are known once they are closed.
        account.archives = {names[folder]: tar.written for folder, tar in tars.items()}
        return account

    @staticmethod
    def _check(unforeseen: int, account: Account) -> None:
        """Raise RuntimeError where it is not the photos that are at fault."""
        if unforeseen > max(MANY, account.photos / 2):
            raise RuntimeError(
                f'{unforeseen} of {account.photos} photos end in errors that are no fault of '
                f'theirs, such as {account.bad[-1][1]}'
            )

    def _made(
        self, photo: str, data: bytes | BadFile, number: int, journal: 'Journal | None'
    ) -> list[Made]:
        """Faces of a photo. Raises BadFile."""
        if isinstance(data, BadFile):
            raise data
        if journal:
            journal.begin(photo)
        try:
            return self.job.made(photo, data, self.shard.number, number)
        except (BadFile, FacesError, MemoryError, OSError):
            raise
        except Exception as error:
            # Of millions of photos one may be what nobody has thought of: it costs itself.
            raise _Unforeseen(f'{type(error).__name__}: {error}') from error


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
        # As if it were lost now; it is taken back by the next photo.
        now = {**self._lost, photo: times + 1}
        destination.write(self._place, self._name, msgspec.json.encode(now))

    def remove(self) -> None:
        """The shard is done."""
        self._place.remove(self._name)
