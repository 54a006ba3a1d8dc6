"""A set from its input shards: what is there is left alone, what is missing is made."""

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
from .destination import Destination
from .engines import Engine
from .lock import Lock
from .progress import Meter
from .shard_task import Build, Job
from .sources import InputShard

SETTINGS, INDEX, REPORT = 'build.json', 'index.json', 'report.html'
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

    @property
    def whole(self) -> bool:
        """Whether all input shards are to be made, not a part of them."""
        return (self.first, self.end) == (0, len(self.found))


def build(plan: Plan, engine: Engine, page: Callable[['Plan'], str] | None) -> None:
    """Make what is missing of a set, and its index.

    page: the report, made from a plan whose shards are all there; for sets of raw photos
    Raises RunError: another builder, other settings than before, a disk or store that refuses.
    """
    with Lock(plan.place, plan.first, plan.end) as lock:
        # Nothing is written before it is sure that it belongs to what is there.
        _check_settings(plan)
        if lock.alone:
            plan.place.clean()  # of what was killed
        there = plan.place.names()
        wanted = plan.found[plan.first : plan.end]
        missing = [shard for shard in wanted if not _is_made(plan.job, shard, there)]
        if len(missing) < len(wanted):
            print(f'{len(wanted) - len(missing):,} of {len(wanted):,} shards are there already')
        if missing:
            _make(plan, missing, engine)
        # Others may have built their parts in the meantime.
        left = sum(not _is_made(plan.job, shard, plan.place.names()) for shard in plan.found)
        if not plan.whole or left:
            print(
                f'{counted(left, "shard")} of {len(plan.found):,} to go; when all are there, the '
                'same command without --shards writes the index'
            )
            return
        _finish(plan, engine, page)


def _check_settings(plan: Plan) -> None:
    """Write the settings of a new set; raise RunError for another one's."""
    place = shown(plan.place.place)
    now = {**plan.settings, 'shards': len(plan.found), 'source': sources.digest(plan.found)}
    try:
        before = records.parse(plan.place.read(SETTINGS), dict[str, Any])
    except FileNotFoundError:
        # Somebody's own folder is not to be mixed with a set.
        foreign = sorted(name for name in plan.place.names() if '/' not in name)
        if foreign:
            raise RunError(
                f'--out {place} holds other files already ({shown(foreign[0])}): give a folder of '
                'its own'
            ) from None
        text = json.dumps(now, indent=2) + '\n'
        destination.write(plan.place, SETTINGS, text.encode())
        return
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


def _make(plan: Plan, missing: Sequence[InputShard], engine: Engine) -> None:
    works = (Build(plan.job, plan.place, shard) for shard in missing)
    with Meter(len(missing), engine.width, plan.price) as meter:
        for done in engine.run(works):
            meter.add(done)
    print(
        f'{counted(meter.photos, "photo")}, {counted(meter.faces, "face")}, {meter.kept:,} kept, '
        f'{counted(meter.bad, "file")} that could not be used'
    )


# ---- when every shard is there ----


def _finish(plan: Plan, engine: Engine, page: Callable[[Plan], str] | None) -> None:
    # Duplicates before the index, which tells the tars as they stay.
    if page:
        drop = doubles.found(each_account(plan))
        works = doubles.works(plan.place, plan.job.kind, each_account(plan), drop)
        if works:
            list(engine.run(works))
        count = sum(map(len, drop.values()))
        print(f'{counted(count, "near-duplicate")} dropped')
        destination.write(plan.place, REPORT, page(plan).encode())
    # Last of all: a set with an index is a whole one.
    content = _index(plan)
    destination.write(plan.place, INDEX, content)
    kept = json.loads(content)['faces']
    print(
        f'{counted(kept, "face")} in {shown(plan.place.place)}, '
        f'{INDEX} {hashlib.sha256(content).hexdigest()}'
    )


def each_account(plan: Plan) -> Iterator[Account]:
    """Accounts of all shards in order, a few read ahead."""

    def get(i: int) -> Account:
        return accounts.read(plan.place, plan.job.kind, i)

    with ThreadPoolExecutor(READERS) as pool:
        yield from ahead(pool, get, len(plan.found), READERS)


def _index(plan: Plan) -> bytes:
    """What the set consists of, shard by shard."""
    rows, total = [], 0
    for account in each_account(plan):
        total += account.kept
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
    return ''.join(lines).encode()


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    # A line for each shard, for those who look at it with other programs.
    for i, row in enumerate(rows):
        yield json.dumps(row) + (',\n' if i + 1 < len(rows) else '\n')
