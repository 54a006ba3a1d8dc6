"""The second pass over a set of faces: near-duplicates, also across shards, are dropped.

It looks at the hashes alone. A shard that loses faces is written again without them; what is
decided does not depend on which shards were before, so that the pass may be broken off anywhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from errors import BadFile, RunError
from faces import duplicates
from storage import counted, shown
from training import log

from . import accounts, destination
from .accounts import DUPLICATE, Account, Face
from .archive import Archive, Written, members
from .destination import Destination
from .shard_task import Outcome


def found(each: Iterable[Account], near: int) -> dict[int, frozenset[str]]:
    """Keys of the faces to be dropped, by shard; of those that are alike the best one stays.

    near: bits in which their hashes differ, at most; -1 where none are to be dropped

    The best has the highest resolution; of equal ones the first in the set.
    """
    numbers: list[int] = []
    keys: list[str] = []
    hashes: list[int] = []
    ranks: list[float] = []
    for account in each:
        for face in passed(account.faces):
            numbers.append(account.shard)
            keys.append(face.key)
            hashes.append(int(face.hash, 16))
            ranks.append(face.measures.get('resolution') or 0.0)
    # Clusters of the whole set: which shard a face is in plays no part.
    drop: dict[int, set[str]] = {}
    if hashes and near >= 0:
        print(f'comparing {counted(len(hashes), "face")}', flush=True)
        bar = log.bar('comparing faces, tables')
        labels = duplicates.clusters(duplicates.words(hashes), near, bar)
        for i in np.flatnonzero(~duplicates.best(labels, np.array(ranks))):
            drop.setdefault(numbers[i], set()).add(keys[i])
    return {number: frozenset(keys) for number, keys in drop.items()}


def passed(faces: Iterable[Face]) -> Iterator[Face]:
    """Those that failed no measure."""
    return (face for face in faces if face.dropped in ('', DUPLICATE))


def outdated(account: Account, drop: frozenset[str]) -> bool:
    """Whether a shard still has faces that are to be dropped."""
    return any(face.key in drop for face in account.faces if not face.dropped)


@dataclass(frozen=True)
class Drop:
    """Work: write a shard again without some of its faces."""

    place: Destination
    kind: str
    number: int
    keys: frozenset[str]

    @property
    def title(self) -> str:
        """See Work."""
        return f'shard {self.number} of {shown(self.place.place)}'

    def __call__(self, attempt: int) -> Outcome:
        """See Work."""
        account = accounts.read(self.place, self.kind, self.number)
        for face in account.faces:
            face.dropped = DUPLICATE if face.key in self.keys else face.dropped
        for name in account.archives:
            account.archives[name] = self._rewritten(name, account)
        # Last, as ever: a shard whose account is older is written once more.
        name = accounts.name(self.kind, self.number, '.json')
        destination.write(self.place, name, accounts.encoded(account))
        return Outcome(self.number, kept=account.kept)

    def _rewritten(self, name: str, account: Account) -> Written:
        """Write a tar without the faces that are dropped. Raises RunError for a damaged one."""
        wanted = {face.key for face in account.faces if not face.dropped}
        with (
            self.place.reading(name) as old,
            self.place.writing(name) as new,
            Archive(new) as archive,
        ):
            # Copied as they are: nothing is encoded a second time.
            seen = set()
            try:
                for member, data in members(old):
                    seen.add(key := member.partition('.')[0])
                    if key not in self.keys:
                        archive.add(member, data)
            except BadFile as error:
                raise self._damaged(name, str(error)) from error
            # A tar that was cut between two members reads without an error.
            if lost := wanted - seen:
                raise self._damaged(name, f'{len(lost)} of its faces are missing')
        return archive.written

    def _damaged(self, name: str, reason: str) -> RunError:
        return RunError(
            f'{shown(self.place.place)}/{name} is damaged ({reason}): remove it, and the same '
            'command makes the shard anew'
        )


def works(
    place: Destination, kind: str, each: Iterable[Account], drop: Mapping[int, frozenset[str]]
) -> Sequence[Drop]:
    """What has to be written again."""
    none = frozenset[str]()
    every = ((account, drop.get(account.shard, none)) for account in each)
    return [Drop(place, kind, a.shard, keys) for a, keys in every if outdated(a, keys)]
