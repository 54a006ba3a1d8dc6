"""One builder for each input shard of a destination, on any machine that reaches it.

A builder leaves a note of the shards it is at, and renews it while it lives. The note of one that
was killed counts no longer: at once on the machine where it ran, after some minutes on others.
"""

import contextlib
import dataclasses
import functools
import os
import socket
import threading
import time
import uuid
from types import TracebackType

import msgspec

from errors import BadFile, RunError
from storage import records, shown

from . import destination
from .destination import Destination, Unreachable

FOLDER = 'building'  # of what is of no use when a set is finished
RENEW = 15.0  # seconds
STALE = 120.0  # seconds since a note was renewed
SAME = 30.0  # seconds by which a clock may have been set since a process began


@dataclasses.dataclass(frozen=True)
class Note:
    """Who is building what."""

    first: int  # input shard
    end: int  # the one after the last
    host: str
    pid: int
    born: float  # when that process began, seconds since 1970
    token: str
    renewed: float  # seconds since 1970

    @property
    def lives(self) -> bool:
        """Whether its builder may still be at work."""
        # The number of a process is given again: when it began tells whose it is.
        if self.host == _here():
            return abs(_born(self.pid) - self.born) < SAME
        return time.time() - self.renewed < STALE

    @property
    def silent(self) -> bool:
        """Whether its builder, on another machine, has not renewed it as it should have."""
        return self.host != _here() and time.time() - self.renewed > 3 * RENEW


class Lock(contextlib.AbstractContextManager['Lock']):
    """Hold input shards of a destination. Use it as a context manager.

    Raises RunError where somebody else is building one of them.
    """

    def __init__(self, place: Destination, first: int, end: int) -> None:
        """first, end: input shards, the last one left out"""
        born = _born(os.getpid())
        token = uuid.uuid4().hex
        self._place = place
        self._note = Note(first, end, _here(), os.getpid(), born, token, time.time())
        self.lost = False  # somebody else took this one for dead
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renewed, daemon=True, name='lock')

    def __enter__(self) -> 'Lock':
        # The note first, or two that begin at once would not see each other.
        self._refuse()
        self._write()
        try:
            self._refuse()
        except (RunError, Unreachable):
            self._place.remove(_name(self._note))
            raise
        self._thread.start()
        return self

    def _refuse(self) -> None:
        """Raise RunError for somebody else at the same shards; remove the notes of the dead."""
        # Notes are looked at one by one, since several may build different shards.
        others = []
        for other in notes(self._place):
            if not other.lives:
                self._place.remove(_name(other))
            elif other.token != self._note.token:
                others.append(other)
        for other in others:
            if other.first < self._note.end and self._note.first < other.end:
                # A job that was taken from a machine is begun again on another one.
                if other.silent:
                    print(f'waiting for process {other.pid} of {other.host}, which is silent')
                    time.sleep(max(STALE - (time.time() - other.renewed), 0) + 1)
                    return self._refuse()
                raise RunError(
                    f'--out {shown(self._place.place)}: process {other.pid} of {other.host} builds '
                    f'shards {other.first}:{other.end} of it: wait, or stop that one; on several '
                    'machines give each --shards of its own, or all of them one --ray'
                )

    def _write(self) -> None:
        note = dataclasses.replace(self._note, renewed=time.time())
        destination.write(self._place, _name(note), msgspec.json.encode(note))

    def _renewed(self) -> None:
        while not self._ended.wait(RENEW):
            # What is refused now will be refused to the shards, too, which say so.
            with contextlib.suppress(RunError, Unreachable):
                try:
                    self._place.read(_name(self._note))
                except FileNotFoundError:
                    self.lost = True
                    return
                self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(RunError, Unreachable):
            self._place.remove(_name(self._note))


@functools.cache
def _here() -> str:
    """This machine; or this container, whose processes have numbers of their own."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found.append(os.readlink('/proc/self/ns/pid'))
    return ' '.join(found)


def _born(pid: int) -> float:
    """When a process began, in seconds since 1970; 0 if there is none of this number."""
    # Imported here, as it needs what not every system has.
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except (psutil.Error, OSError):
        return 0.0


def notes(place: Destination) -> list[Note]:
    """Notes that builders have left."""
    found = []
    for name in sorted(place.sizes()):
        if name.startswith(f'{FOLDER}/lock-'):
            # One that has just been removed, or is damaged, holds nobody up.
            with contextlib.suppress(FileNotFoundError, BadFile):
                found.append(records.parse(place.read(name), Note))
    return found


def _name(note: Note) -> str:
    return f'{FOLDER}/lock-{note.token}.json'
