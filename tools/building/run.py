"""A set from its input shards: what is there is left alone, what is missing is made."""

import collections
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from errors import BadFile, RunError
from storage import counted, records, shown
from tasks.batches import ahead

from . import accounts, destination, doubles, sources
from .accounts import Account
from .destination import Destination, Unreachable
from .engines import Engine
from .lock import FOLDER, Lock
from .progress import Meter
from .shard_task import SETTINGS, Build, Job
from .sources import InputShard

INDEX, REPORT = 'index.json', 'report.html'
READERS = 8  # accounts that are read at a time: a store takes its time for each


class Plan(NamedTuple):
    """What is to be made."""

    job: Job
    found: Sequence[InputShard]
    place: Destination
    first: int  # input shard
    end: int
    settings: dict[str, Any]  # on which the bytes depend
    price: float | None  # of an hour of a core
    near: int  # bits in which the hashes of near-duplicates differ at most; -1: none are dropped

    @property
    def whole(self) -> bool:
        """Whether all input shards are to be made, not a part of them."""
        return (self.first, self.end) == (0, len(self.found))


def build(plan: Plan, engine: Engine, page: Callable[['Plan'], str] | None) -> bool:
    """Make what is missing of a set, and its index; return whether there are faces to train on.

    page: the report, made from a plan whose shards are all there; for sets of raw photos
    Raises RunError: another builder, other settings than before, a disk or store that refuses.
    """
    try:
        return _build(plan, engine, page)
    except Unreachable as error:
        raise RunError(
            f'{error}. What is finished stays; the same command goes on with the rest'
        ) from error


def _build(plan: Plan, engine: Engine, page: Callable[['Plan'], str] | None) -> bool:
    with Lock(plan.place, plan.first, plan.end) as lock:
        # Nothing is written before it is sure that it belongs to what is there.
        _check_settings(plan)
        there = set(plan.place.sizes())
        wanted = plan.found[plan.first : plan.end]
        missing = [shard for shard in wanted if not _is_made(plan.job, shard, there)]
        if len(missing) < len(wanted):
            print(f'{len(wanted) - len(missing):,} of {len(wanted):,} shards are there already')
        if missing:
            _make(plan, missing, engine, lock)
        # Others may have built their parts in the meantime.
        there = set(plan.place.sizes())
        left = sum(not _is_made(plan.job, shard, there) for shard in plan.found)
        if not plan.whole or left:
            print(
                f'{counted(left, "shard")} of {len(plan.found):,} to go; when all are there, the '
                'same command without --shards writes the index'
            )
            return False
        return _finish(plan, engine, page)


def _check_settings(plan: Plan) -> None:
    """Write the settings of a new set; raise RunError for another one's."""
    place = shown(plan.place.place)
    now = {**plan.settings, 'shards': len(plan.found), 'source': sources.digest(plan.found)}
    there = plan.place.sizes()
    if SETTINGS not in there:
        # Somebody's own folder is not to be mixed with a set.
        foreign = sorted(name for name in there if not name.startswith(f'{FOLDER}/'))
        if foreign:
            raise RunError(
                f'--out {place} holds other files already ({shown(foreign[0])}): give a folder of '
                'its own'
            )
        text = json.dumps(now, indent=2) + '\n'
        destination.write(plan.place, SETTINGS, text.encode())
        return
    try:
        before = records.parse(plan.place.read(SETTINGS), dict[str, Any])
    except BadFile as error:
        raise RunError(f'{place}/{SETTINGS} is damaged ({error}): give another --out') from error
    # Names of the pictures first: their message is another one than that of a flag.
    for key in ('shards', 'source'):
        if before.get(key) != now[key]:
            raise RunError(
                f'--out {place} was begun from other pictures: SOURCE holds others than then, or '
                'is cut into shards of another length; give another --out'
            )
    for key, value in now.items():
        if before.get(key) != value:
            raise RunError(
                f'--out {place} was begun with {key} {before.get(key)}, not {value}: give the same '
                'as then, or another --out'
            )


def _is_made(job: Job, shard: InputShard, there: set[str]) -> bool:
    archive = accounts.name(job.kind, shard.number, '.tar')
    tars = {f'{folder}/{archive}' if folder else archive for folder in job.folders}
    # The account is written last.
    return {accounts.name(job.kind, shard.number, '.json'), *tars} <= there


def _make(plan: Plan, missing: Sequence[InputShard], engine: Engine, lock: Lock) -> None:
    works = (Build(plan.job, plan.place, shard) for shard in missing)
    with Meter(len(missing), engine.width, plan.price) as meter:
        for done in engine.run(works):
            meter.add(done)
            if lock.lost:
                raise RunError(
                    f'--out {shown(plan.place.place)}: another builder took this one for dead, as '
                    'its note had not been renewed: what is finished stays'
                )
    print(
        f'{counted(meter.photos, "photo")}, {counted(meter.faces, "face")}, {meter.kept:,} kept, '
        f'{counted(meter.bad, "file")} that could not be used'
    )


# ---- when every shard is there ----


def _finish(plan: Plan, engine: Engine, page: Callable[[Plan], str] | None) -> bool:
    # Duplicates before the index, which tells the tars as they stay.
    if page:
        drop = doubles.found(each_account(plan), plan.near)
        works = doubles.works(plan.place, plan.job.kind, each_account(plan), drop)
        if works:
            list(engine.run(works))
        count = sum(map(len, drop.values()))
        print(f'{counted(count, "near-duplicate")} dropped')
        destination.write(plan.place, REPORT, page(plan).encode())
    # Nobody else builds here: what was never finished is of those that were killed.
    plan.place.clean()
    for name in plan.place.sizes():
        if name.startswith(f'{FOLDER}/shard-'):
            plan.place.remove(name)
    # Last of all: a set with an index is a whole one.
    content, dropped = _index(plan)
    destination.write(plan.place, INDEX, content)
    if dropped:
        reasons = ', '.join(f'{n:,} {reason}' for reason, n in dropped.most_common())
        print(f'dropped: {reasons}; {shown(plan.place.place)}/{REPORT} shows them')
    kept = json.loads(content)['faces']
    print(
        f'{counted(kept, "face")} in {shown(plan.place.place)}, '
        f'{INDEX} {hashlib.sha256(content).hexdigest()}'
    )
    return kept > 0


def each_account(plan: Plan) -> Iterator[Account]:
    """Accounts of all shards in order, a few read ahead."""

    def get(i: int) -> Account:
        return accounts.read(plan.place, plan.job.kind, i)

    with ThreadPoolExecutor(READERS) as pool:
        yield from ahead(pool, get, len(plan.found), READERS)


def _index(plan: Plan) -> tuple[bytes, collections.Counter[str]]:
    """(what the set consists of, shard by shard; how many faces were dropped for which reason)"""
    rows, total, sizes = [], 0, plan.place.sizes()
    dropped: collections.Counter[str] = collections.Counter()
    for account in each_account(plan):
        total += account.kept
        dropped.update(face.dropped for face in account.faces if face.dropped)
        for name, written in account.archives.items():
            if sizes.get(name) != written.bytes:
                raise RunError(
                    f'{shown(plan.place.place)}/{name} has {sizes.get(name, 0):,} bytes, not '
                    f'{written.bytes:,}: remove it, and the same command makes the shard anew'
                )
        rows.append(
            {
                'shard': account.shard,
                'photos': account.photos,
                'faces': account.kept,
                'archives': msgspec.to_builtins(account.archives),
            }
        )
    head = {'kind': plan.job.kind, 'faces': total}
    lines = itertools.chain([json.dumps(head)[:-1] + ', "shards": [\n'], _lines(rows), [']}\n'])
    return ''.join(lines).encode(), dropped


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    # A line for each shard, for those who look at it with other programs.
    for i, row in enumerate(rows):
        yield json.dumps(row) + (',\n' if i + 1 < len(rows) else '\n')
