"""Sets are made whole or not at all, by any engine, with the same bytes."""

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import resource
import signal
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest

from errors import BadFile, DataError, RunError
from faces import measures
from sources import shards as tars
from tools import build
from tools.building import (
    accounts,
    destination,
    doubles,
    engines,
    fingerprint,
    lock,
    run,
    shard_task,
    sheets,
    sources,
    thresholds,
)
from tools.building.accounts import Account, Face
from tools.building.archive import Archive, Written, members
from tools.building.copies import Copies
from tools.building.shard_task import Build, Made, Outcome


def tar_of(path, files):
    with tarfile.open(path, 'w') as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def png(seed, height=8, width=8):
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode('.png', pixels)[1].tobytes()


def begun(folder):
    """A destination that a set was begun in."""
    place = destination.make(str(folder))
    destination.write(place, shard_task.SETTINGS, b'{}')
    return place


def contents(folder):
    """{name: bytes} of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob('*'))
        if path.is_file()
    }


@pytest.fixture
def heap(tmp_path):
    """Seven pictures, two of them in a folder, and two tars of three."""
    root = tmp_path / 'heap'
    (root / 'below').mkdir(parents=True)
    for i in range(5):
        (root / f'{i + 8}.png').write_bytes(png(i))
    for i in range(2):
        (root / 'below' / f'{i}.jpg').write_bytes(
            cv2.imencode('.jpg', np.full((9, 7, 3), 10 * i, np.uint8))[1].tobytes()
        )
    for name in 'a.tar', 'b.tar':
        tar_of(root / name, {f'{i}.png': png(ord(name[0]) + i) for i in range(3)})
        (root / f'{name}.json').write_text('{}')
    return root


# ---- input shards ----


def test_input_shards(heap):
    found = sources.find(str(heap), 3)
    assert [shard.number for shard in found] == list(range(5))
    assert [shard.names for shard in found] == [
        ('a.tar',),
        ('b.tar',),
        ('8.png', '9.png', '10.png'),
        ('11.png', '12.png', 'below/0.jpg'),
        ('below/1.jpg',),
    ]
    read = [photo for shard in found for photo in sources.photos(shard)]
    assert [name for name, _ in read[:3]] == ['a.tar/0.png', 'a.tar/1.png', 'a.tar/2.png']
    assert len(read) == 13 and dict(read)['below/1.jpg'] == (heap / 'below/1.jpg').read_bytes()
    assert sources.described(found) == '2 tars and 7 pictures: 5 input shards'


def test_digest_is_of_names_sizes_and_cuts(heap, tmp_path, monkeypatch):
    import shutil

    before = sources.digest(sources.find(str(heap), 3))
    shutil.copytree(heap, tmp_path / 'elsewhere')
    assert sources.digest(sources.find(str(tmp_path / 'elsewhere'), 3)) == before
    assert sources.digest(sources.find(str(heap), 4)) != before
    monkeypatch.chdir(tmp_path)
    for pattern in 'heap/*.png', './heap/*.png', str(heap / '*.png'):
        (shard,) = sources.find(pattern, 9)
        assert shard.names[:2] == ('8.png', '9.png') and os.path.isabs(shard.paths[0])
    (heap / '8.png').write_bytes(png(0) + b'more')
    assert sources.digest(sources.find(str(heap), 3)) != before
    (heap / '8.png').write_bytes(png(0))
    assert sources.digest(sources.find(str(heap), 3)) == before
    (heap / '8.png').rename(heap / '7.png')
    assert sources.digest(sources.find(str(heap), 3)) != before


def test_what_cannot_be_read_is_named(heap):
    data = (heap / 'a.tar').read_bytes()
    (heap / 'a.tar').write_bytes(data[:1900])
    (heap / '9.png').unlink()
    found = sources.find(str(heap), 9)
    (heap / '10.png').unlink()
    os.mkfifo(heap / '10.png')
    (heap / '11.png').unlink()
    read = [photo for shard in found for photo in sources.photos(shard)]
    bad = {name: str(reason) for name, reason in read if isinstance(reason, BadFile)}
    assert set(bad) == {'a.tar', '10.png', '11.png'}
    assert bad['a.tar'].startswith('truncated') and bad['11.png'] == 'not there any more'
    # What came before the damage is there.
    assert 'a.tar/0.png' in dict(read)


def test_one_that_is_too_large_costs_itself_alone(tmp_path, monkeypatch):
    files = {'a.png': png(1), 'b.png': bytes(3000), 'c.png': png(2)}
    tar_of(tmp_path / 'x.tar', files)
    monkeypatch.setattr(tars, 'LARGEST_FILE', 2000)
    (shard,) = sources.find(str(tmp_path), 9)
    read = dict(sources.photos(shard))
    assert read['x.tar/a.png'] == files['a.png'] and read['x.tar/c.png'] == files['c.png']
    assert str(read['x.tar/b.png']) == 'too large: 3,000 bytes, at most 2,000 are read'


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match='no image files found'):
        sources.find(str(tmp_path), 3)


# ---- archives and destinations ----


def test_archives_are_their_members(tmp_path):
    files = {f'{i:06}.png': os.urandom(700 * i) for i in range(4)}
    written = []
    for path in tmp_path / 'a.tar', tmp_path / 'b.tar':
        with open(path, 'wb') as file:
            with Archive(file) as archive:
                for name, data in files.items():
                    archive.add(name, data)
            written.append(archive.written)
        time.sleep(0.01)
    data = (tmp_path / 'a.tar').read_bytes()
    assert data == (tmp_path / 'b.tar').read_bytes()
    assert written == 2 * [Written(len(data), hashlib.sha256(data).hexdigest())]
    assert dict(members(io.BytesIO(data))) == files
    # As training reads it.
    places = tars.index(tmp_path / 'a.tar', tmp_path)
    assert {name: data[at : at + length] for name, (at, length) in places.items()} == files
    with pytest.raises(BadFile, match='damaged'):
        dict(members(io.BytesIO(data[:2000])))


def test_a_file_is_whole_or_not_there(tmp_path):
    place = destination.make(str(tmp_path / 'out'))
    assert set(place.sizes()) == set()
    with pytest.raises(KeyError), place.writing('LQ/a.tar') as file:
        file.write(b'half')
        assert set(place.sizes()) == set()
        raise KeyError
    assert contents(tmp_path) == {}
    with place.writing('LQ/a.tar') as file:
        file.write(b'whole')
    assert set(place.sizes()) == {'LQ/a.tar'} and place.read('LQ/a.tar') == b'whole'
    with pytest.raises(FileNotFoundError):
        place.read('b')
    (tmp_path / f'out/LQ/.new-{"0f" * 16}-b.tar').write_bytes(b'of a process that was killed')
    (tmp_path / 'out/LQ/.new-mine').touch()
    (tmp_path / 'out/LQ/below').mkdir()
    (tmp_path / f'out/LQ/below/.new-{"0f" * 16}-b').touch()
    assert set(place.sizes()) == {'LQ/a.tar'}
    place.clean()
    assert {path.name for path in (tmp_path / 'out/LQ').iterdir()} == {
        'a.tar',
        '.new-mine',
        'below',
    }
    assert list((tmp_path / 'out/LQ/below').iterdir())


def test_full_disk(tmp_path):
    place = destination.make(str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        for size in 900, 200_000:
            with (
                pytest.raises(RunError, match='a.tar cannot be written'),
                place.writing('a.tar') as file,
            ):
                file.write(bytes(size))
                file.write(bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path) == {}


# ---- locks ----


def test_one_builder_for_each_shard(tmp_path):
    place = destination.make(str(tmp_path))
    with lock.Lock(place, 0, 10):
        with pytest.raises(RunError, match=f'process {os.getpid()} of .* builds shards 0:10'):
            lock.Lock(place, 9, 12).__enter__()
        with lock.Lock(place, 10, 12):
            assert len(lock.notes(place)) == 2
    assert contents(tmp_path) == {}


def test_a_builder_learns_that_it_was_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'RENEW', 0.01)
    place = destination.make(str(tmp_path))
    with lock.Lock(place, 0, 5) as held:
        time.sleep(0.1)
        assert not held.lost
        held._ended.set()
        held._thread.join()
        place.remove(lock._name(held._note))
        held._ended.clear()
        held._renewed()
        assert held.lost


def test_notes_of_the_dead_count_no_longer(tmp_path):
    place = destination.make(str(tmp_path))
    born = psutil.Process().create_time()
    here, now = lock._here(), time.time()
    dead = [
        lock.Note(0, 5, here, os.getpid(), born - 100, 'another process of this number', now),
        lock.Note(0, 5, here, 2**22 + 5, born, 'no such process', now),
        lock.Note(0, 5, 'elsewhere', 1, born, 'silent', now - lock.STALE - 1),
    ]
    alive = lock.Note(5, 9, 'elsewhere', 1, born, 'renewed', now - 20)
    for note in (*dead, alive):
        destination.write(place, lock._name(note), accounts.encoded(note))
    destination.write(place, 'building/lock-x.json', b'{"first": 1')
    with lock.Lock(place, 0, 5) as held:
        assert {note.token for note in lock.notes(place)} == {'renewed', held._note.token}
    with pytest.raises(RunError, match='process 1 of elsewhere builds shards 5:9'):
        lock.Lock(place, 8, 9).__enter__()


# ---- engines ----


@dataclass(frozen=True)
class Trial:
    """Work that fails in some way so many times."""

    number: int
    folder: str
    times: int = 0
    how: str = ''

    title = 'trial'

    def __call__(self, attempt):
        (Path(self.folder) / f'{self.number}-{attempt}-{os.getpid()}').touch()
        if attempt < self.times:
            if self.how == 'lost':
                os._exit(3)
            if self.how == 'fatal':
                raise RunError('the disk is full')
            if self.how == 'hang':
                time.sleep(600)
            raise ConnectionError('a store that pauses')
        return Outcome(self.number, photos=1)


def attempts(folder):
    """How often each work was begun."""
    numbers = sorted(int(path.name.split('-')[0]) for path in Path(folder).iterdir())
    return {number: len(list(group)) for number, group in itertools.groupby(numbers)}


def test_lost_tasks_are_done_again(tmp_path):
    place = str(tmp_path)
    works = [
        Trial(0, place),
        Trial(1, place, 2, 'lost'),
        Trial(2, place, 1),
        *(Trial(i, place) for i in range(3, 9)),
    ]
    done = list(engines.Processes(2).run(iter(works)))
    assert sorted(outcome.shard for outcome in done) == list(range(9))
    assert attempts(tmp_path) == {**dict.fromkeys(range(9), 1), 1: 3, 2: 2}
    assert multiprocessing.active_children() == []


def test_what_stops_everything(tmp_path):
    works = [Trial(0, str(tmp_path), 9, 'hang'), Trial(1, str(tmp_path), 9, 'fatal')]
    with pytest.raises(RunError, match='the disk is full'):
        list(engines.Processes(2).run(works))
    assert multiprocessing.active_children() == []


def test_not_for_ever():
    backlog = engines.Backlog([Trial(0, '')])
    for _ in range(engines.MOST_LOST - 1):
        backlog.lost(backlog.next(), 'gone')
    with pytest.raises(RunError, match='trial failed 25 times, the last time: gone'):
        backlog.lost(backlog.next(), 'gone')
    assert backlog.next() is None
    backlog = engines.Backlog([Trial(0, '')])
    backlog.lost(backlog.next(), 'gone')
    for _ in range(engines.MOST_FAILED - 1):
        backlog.failed(backlog.next(), 'no answer')
    with pytest.raises(RunError, match='trial failed 4 times, the last time: no answer'):
        backlog.failed(backlog.next(), 'no answer')


# ---- a shard ----


@dataclass(frozen=True)
class Twice:
    """Job: two faces of every picture, and some that end badly."""

    poison: str = ''
    wrong: str = ''

    kind = 'copies'
    folders = '', 'twice'

    def made(self, name, data, shard, number):
        if name == self.poison:
            os._exit(1)
        if name == self.wrong:
            raise KeyError('nobody has thought of this')
        if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
            raise BadFile('no picture')
        made = []
        for i in range(2):
            key = f'{shard:06}-{number + i:06}'
            face = Face(key, name, hash=f'{len(data):016x}', dropped='side' * i)
            small = np.full((sheets.SIDE, sheets.SIDE, 3), number, np.uint8)
            files = {} if i else {folder: {f'{key}.png': data} for folder in self.folders}
            made.append(Made(face, files, small))
        return made

    def copies(self):
        return Copies({})


def test_shard(heap, tmp_path):
    (heap / '9.png').write_text('no picture')
    place = begun(tmp_path / 'out')
    shard = sources.find(str(heap), 9)[2]
    done = Build(Twice(wrong='10.png'), place, shard)(0)
    account = accounts.read(place, 'copies', 2)
    assert set(place.sizes()) == {
        'build.json',
        'copies-000002.tar',
        'twice/copies-000002.tar',
        'copies-000002.json',
        'copies-000002.sheet.json',
    }
    assert account.bad == [
        ('9.png', 'no picture'),
        ('10.png', "KeyError: 'nobody has thought of this'"),
    ]
    assert [face.key for face in account.faces] == [f'000002-{i:06}' for i in range(10)]
    assert done[:5] == (2, 7, 10, 5, 2) and account.kept == 5
    for name, written in account.archives.items():
        data = place.read(name)
        assert written == Written(len(data), hashlib.sha256(data).hexdigest())
        assert dict(members(io.BytesIO(data))) == {
            f'{face.key}.png': (heap / face.source).read_bytes()
            for face in account.faces
            if not face.dropped
        }
    assert done.bytes == 2 * len(data)
    assert accounts.read_sheet(place, 'copies', 2).copies == {}


def test_a_poisonous_file_costs_itself(heap, tmp_path):
    found = sources.find(str(heap), 9)
    poisoned = begun(tmp_path / 'poisoned')
    works = [Build(Twice(poison='b.tar/1.png'), poisoned, shard) for shard in found]
    assert len(list(engines.Processes(2).run(works))) == 3
    assert accounts.read(poisoned, 'copies', 1).bad == [
        ('b.tar/1.png', 'the process that read it was lost 3 times')
    ]
    assert not any(name.startswith(lock.FOLDER) for name in poisoned.sizes())
    # All the others are what they would be without it.
    poisoned.clean()
    plain = begun(tmp_path / 'plain')
    for shard in found:
        Build(Twice(wrong='b.tar/1.png'), plain, shard)(0)
    left, right = contents(tmp_path / 'poisoned'), contents(tmp_path / 'plain')
    assert left.pop('copies-000001.json') != right.pop('copies-000001.json')
    assert left == right


def test_not_every_photo_is_at_fault(heap, tmp_path):
    for i in range(30, 37):
        (heap / f'{i}.png').write_bytes(png(i))

    class Wrong(Twice):
        def made(self, *args):
            raise KeyError('a fault of ours')

    shard = sources.find(str(heap), 90)[2]
    with pytest.raises(RuntimeError, match="14 of 14 photos end in .* such as KeyError: 'a fault"):
        Build(Wrong(), begun(tmp_path / 'out'), shard)(0)
    assert set(contents(tmp_path / 'out')) == {'build.json'}


def test_a_source_that_is_gone_is_no_empty_set(heap, tmp_path):
    for i in range(30, 37):
        (heap / f'{i}.png').write_bytes(png(i))
    shard, place = sources.find(str(heap), 90)[2], begun(tmp_path / 'out')
    heap.rename(tmp_path / 'elsewhere')
    with pytest.raises(RunError, match='14 of 14 pictures cannot be read .*is SOURCE still'):
        Build(Twice(), place, shard)(0)
    assert set(contents(tmp_path / 'out')) == {'build.json'}


def test_another_machine_without_the_destination(heap, tmp_path):
    shard = sources.find(str(heap), 90)[2]
    with pytest.raises(RunError, match='--out .*nowhere is not there on .*same name'):
        Build(Twice(), destination.make(str(tmp_path / 'nowhere')), shard)(0)
    assert not (tmp_path / 'nowhere').exists()


def test_who_comes_too_late_changes_nothing(heap, tmp_path):
    place, shard = begun(tmp_path / 'out'), sources.find(str(heap), 90)[2]
    done = Build(Twice(), place, shard)(0)
    before = contents(tmp_path / 'out')
    late = Build(Twice(wrong='8.png'), place, shard)(3)
    assert late[:6] == done[:6] and contents(tmp_path / 'out') == before


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError('CUDA out of memory')])
def test_memory_that_runs_out_is_not_at_once_the_fault_of_a_photo(heap, tmp_path, error):
    class Large(Twice):
        def made(self, name, *args):
            if name == '9.png':
                raise error
            return super().made(name, *args)

    shard, place = sources.find(str(heap), 90)[2], begun(tmp_path / 'out')
    backlog = engines.Backlog([Build(Large(), place, shard)])
    for attempt in range(shard_task.LOST + 1):
        task = backlog.next()
        assert task.attempt == attempt
        assert backlog.answered(task, engines.attempted(task)) is None
    task = backlog.next()
    assert backlog.answered(task, engines.attempted(task)).bad == 1
    assert accounts.read(place, 'copies', 2).bad[0][0] == '9.png'


def test_names_that_are_no_text_are_taken_in_the_second_attempt(tmp_path):
    root = tmp_path / 'heap'
    root.mkdir()
    for name in b'caf\xe9.png', b'b.png':
        Path(os.fsdecode(os.fsencode(root) + b'/' + name)).write_bytes(png(1))
    shard, place = sources.find(str(root), 9)[0], begun(tmp_path / 'out')
    assert Build(Twice(), place, shard)(1).kept == 2


def test_journal_blames_nobody_too_early(tmp_path):
    place = destination.make(str(tmp_path))
    for _ in range(shard_task.LOST):
        # Each time it is lost at the second photo.
        journal = shard_task.Journal(place, 7)
        journal.begin('a')
        journal.end()
        journal.begin('b')
    journal = shard_task.Journal(place, 7)
    journal.begin('a')
    with pytest.raises(BadFile, match='was lost 3 times'):
        journal.begin('b')
    # What is over is blamed for nothing that happens afterwards.
    for _ in range(shard_task.LOST + 1):
        journal = shard_task.Journal(place, 7)
        journal.begin('c')
        journal.end()
    journal.remove()
    assert contents(tmp_path) == {}


# ---- the second pass ----


def test_drop(heap, tmp_path):
    place = begun(tmp_path / 'out')
    for shard in sources.find(str(heap), 9):
        Build(Twice(), place, shard)(0)
    before = contents(tmp_path / 'out')
    keys = frozenset({'000002-000002', '000002-000004'})
    drop = {2: keys}
    each = [accounts.read(place, 'copies', i) for i in range(3)]
    (work,) = doubles.works(place, 'copies', each, drop)
    assert work(0).kept == 5
    after = contents(tmp_path / 'out')
    assert {n for n in after if after[n] != before[n]} == {
        'copies-000002.json',
        'copies-000002.tar',
        'twice/copies-000002.tar',
    }
    account = accounts.read(place, 'copies', 2)
    left = [name for name, _ in members(io.BytesIO(after['copies-000002.tar']))]
    assert left == [f'{face.key}.png' for face in account.faces if not face.dropped]
    assert {face.key for face in account.faces if face.dropped == 'duplicate'} == keys
    assert doubles.works(place, 'copies', [account], drop) == []
    plan = SimpleNamespace(job=Twice(), place=place, found=range(3))
    assert run._index(plan)[1] == {'side': 13, 'duplicate': 2}  # others were too small

    # Broken off between the tars and the account: the same in the end.
    (tmp_path / 'out/copies-000002.json').write_bytes(before['copies-000002.json'])
    doubles.works(place, 'copies', each[:2] + [accounts.read(place, 'copies', 2)], drop)[0](0)
    assert contents(tmp_path / 'out') == after

    # A tar that has lost faces in another way is not written again without them.
    (tmp_path / 'out/copies-000002.json').write_bytes(before['copies-000002.json'])
    for cut in 1536, 1700:
        (tmp_path / 'out/copies-000002.tar').write_bytes(before['copies-000002.tar'][:cut])
        with pytest.raises(RunError, match='copies-000002.tar .*remove it'):
            work(0)


def test_accounts_are_read_back():
    account = Account(1, 2, [('a', 'b')], [Face('k', 's', measures={'yaw': None})], {})
    assert json.loads(accounts.encoded(account)) == {
        'shard': 1,
        'photos': 2,
        'bad': [['a', 'b']],
        'faces': [{'key': 'k', 'source': 's', 'measures': {'yaw': None}}],
        'archives': {},
    }


# ---- thresholds ----


def test_thresholds():
    usual = thresholds.named(measures.Limits())
    assert thresholds.limits(usual) == measures.Limits()
    for each in thresholds.THRESHOLDS:
        assert usual[each.flag] in each.range
        # An end that is turned is the one of its own measure.
        value = usual[each.flag] / 2
        turned = thresholds.limits({**usual, each.flag: value})
        changed = [
            name
            for name, old, new in zip(turned._fields, measures.Limits(), turned, strict=True)
            if old != new
        ]
        assert changed == [each.measure] or not value
        assert thresholds.named(turned)[each.flag] == value


def test_thresholds_are_documented():
    page = (Path(__file__).parents[1] / 'docs/building.md').read_text()
    for flag, value in thresholds.named(measures.Limits()).items():
        assert f'`--{flag.replace("_", "-")} {value:g}`' in page, flag


# ---- the command line ----


def flags(*argv):
    return build.parser().parse_args([str(a) for a in argv])


@pytest.mark.parametrize(
    'command, told',
    [
        ('faces x --out y', '--data y'),
        ('faces x --out y --size 128', '--data y --size 128'),
        ('pairs x --out y --recipe photos', '--data y --recipe photos'),
        ('faces x --out s3://b/y/ --size 128', "--data 's3://b/y/*.tar' --size 128 --val FOLDER"),
    ],
)
def test_a_finished_set_is_told_as_train_takes_it(command, told):
    assert told in build.told(flags(*command.split()))


def test_neither_lies_in_the_other(heap, tmp_path):
    for source, out in (
        (heap, heap / 'out'),
        (heap, tmp_path),
        ('s3://b/photos', 's3://b/photos/faces'),
        ('s3://b/photos/', 's3://b/photos'),
    ):
        with pytest.raises(RunError, match='a place of its own'):
            build.everywhere(flags('htj2k', source, '--out', out))
    build.everywhere(flags('htj2k', 's3://b/photos', '--out', 's3://b/photos2'))


def test_paths_are_the_same_everywhere(heap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('mine.toml').touch()
    args = flags('pairs', 'heap', '--out', 'out', '--recipe', 'mine.toml')
    build.everywhere(args)
    assert (args.source, args.recipe) == (str(heap), str(tmp_path / 'mine.toml'))
    args = flags('pairs', 'heap', '--out', 'out', '--recipe', 'simple')
    build.everywhere(args)
    assert args.recipe == 'simple'


def test_the_last_part_of_an_array_may_reach_beyond(capsys):
    assert build.part(flags('htj2k', 'x', '--out', 'y'), 8) == (0, 8)
    assert build.part(flags('htj2k', 'x', '--out', 'y', '--shards', '6:9'), 8) == (6, 8)
    assert build.part(flags('htj2k', 'x', '--out', 'y', '--shards', '9:12'), 8) == (8, 8)
    assert capsys.readouterr().out.count('there are 8') == 2
    for wrong in '3:3', '5:4', 'a:b', '-1:4', '3':
        with pytest.raises(SystemExit):
            flags('htj2k', 'x', '--out', 'y', f'--shards={wrong}')


def test_contents_of_files_are_settings(heap, tmp_path):
    """Not where they lie."""
    said = []
    for folder, sigma in (('a', 3), ('b', 3), ('b', 4)):
        (tmp_path / folder).mkdir(exist_ok=True)
        recipe = tmp_path / folder / 'mine.toml'
        text = 'extends = "ai6126_2022"\nname = "mine"\n\n[stages.noise]\nsigma = [0, {}]\n'
        recipe.write_text(text.format(sigma))
        said.append(fingerprint.settings(flags('pairs', heap, '--out', 'o', '--recipe', recipe)))
    assert said[0] == said[1] != said[2]
    assert said[0]['versions'].keys() == {'numpy', 'opencv-python-headless', 'torch'}
    with pytest.raises(RunError, match='--detector .* cannot be read'):
        fingerprint.settings(flags('faces', heap, '--out', 'o', '--detector', 'nothing.onnx'))


def test_least_above_most():
    with pytest.raises(RunError, match='--least-exposure 230 is above --most-exposure 220'):
        thresholds.limits(vars(flags('faces', 'x', '--out', 'y', '--least-exposure', '230')))
