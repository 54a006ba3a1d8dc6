"""Cached images change nothing but the time.

The batches are the same, nothing is decoded twice, and nothing is trusted that does not fit its
file.
"""

import errno
import os
import threading
import types
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from zoo import picture, png, rows

import dali_pipes
import synthetic
from dali_pipes import cache, host_memory
from errors import DataError
from sources import manifest, reader

SIZE, COUNT, BATCH = 64, 7, 3
CPU = torch.device('cpu')
JUST_ENOUGH = COUNT * SIZE * SIZE * 3 / cache.SHARE + 9  # bytes of memory, for `auto`


def write(path, seed):
    cv2.imwrite(str(path), synthetic.face(seed, SIZE).image[..., ::-1])


def scan(folder):
    return manifest.scan(
        str(folder), size=SIZE, cache_dir=folder / 'scan', say=lambda _: None
    ).images


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def images(tmp_path):
    (tmp_path / 'hq').mkdir()
    for i in range(COUNT):
        write(tmp_path / 'hq' / f'{i}.png', i)
    return scan(tmp_path / 'hq')


def batches(name, images, steps=8, say=lambda _: None, **options):
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    with dali_pipes.make(
        name, images, 'bicubic', batch=BATCH, size=SIZE, say=say, **options
    ) as pipe:
        return [next(pipe) for _ in range(steps)]


def same(a, b):
    return all(
        x is y is None or torch.equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


@pytest.fixture
def opened(monkeypatch):
    """Paths that are read from now on."""
    paths, read_bytes = [], reader.read_bytes

    def read(path, *part):
        paths.append(path)
        return read_bytes(path, *part)

    monkeypatch.setattr(reader, 'read_bytes', read)
    return paths


@pytest.mark.parametrize('mode', ['host', 'file'])
@pytest.mark.parametrize('name', ['torch', 'dali'])
def test_same_batches_and_each_file_is_read_once(name, mode, images, opened):
    plain = batches(name, images)
    opened.clear()
    assert same(plain, batches(name, images, cache=mode))

    # Eight batches of three are more than three epochs of seven. One image stands twice in the
    # batch between two epochs.
    once = COUNT + 1
    assert set(opened) == {i.path for i in images}
    assert len(opened) <= once
    opened.clear()
    assert same(plain, batches(name, images, cache=mode))
    assert not opened if mode == 'file' else COUNT <= len(opened) <= once


@pytest.mark.parametrize('name', ['torch', 'dali'])
def test_a_resumed_run_fills_the_rest(name, images, opened):
    plain = batches(name, images)
    batches(name, images, steps=1, cache='file')
    opened.clear()
    assert same(plain[1:], batches(name, images, steps=7, start=BATCH, cache='file'))
    assert len(set(opened)) == COUNT - BATCH


def mapped(images, folder, say=lambda _: None):
    return cache.Mapped(images, SIZE, folder, CPU, say)


def filled(images, folder):
    c = mapped(images, folder)
    pixels = np.stack([synthetic.face(i, SIZE).image for i in range(COUNT)])
    c.put(np.arange(COUNT), torch.from_numpy(pixels))
    return c


def test_what_does_not_fit_its_file_is_decoded_again(images, tmp_path):
    c = filled(images, tmp_path)
    assert not len(mapped(images, tmp_path).missing(np.arange(COUNT)))
    assert torch.equal(c.take(np.array([4]))[0], torch.from_numpy(synthetic.face(4, SIZE).image))

    # Slot 2: a damaged disk, or a kill within a write. 3: another picture under the same name. 5: a
    # file of another time. 6: a record that names an image that does not exist.
    with open(os.path.join(c.folder, 'pixels'), 'r+b') as f:
        f.seek(2 * SIZE * SIZE * 3 + 99)
        f.write(b'\x01\x02\x03')
    write(images[3].path, 100)
    os.utime(images[5].path, ns=(1, 1))
    records = np.memmap(os.path.join(c.folder, 'records'), c.RECORD, 'r+')
    records[6]['used'] = 10**6
    again = mapped(images, tmp_path)
    assert again.missing(np.arange(COUNT)).tolist() == [2, 3, 5, 6]


def test_kill_while_a_slot_is_written(images, tmp_path, monkeypatch):
    """Dead before the record is complete: the slot is empty, whatever its pixels are."""
    c = mapped(images, tmp_path)
    monkeypatch.setattr(cache.zlib, 'crc32', lambda data: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        c.put([1], torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8))
    monkeypatch.undo()
    assert mapped(images, tmp_path).missing(np.arange(COUNT)).tolist() == list(range(COUNT))


def test_files_of_another_length_are_rebuilt(images, tmp_path):
    c = filled(images, tmp_path)
    for name in 'pixels', 'records':
        os.truncate(os.path.join(c.folder, name), 10)
    assert len(mapped(images, tmp_path).missing(np.arange(COUNT))) == COUNT


def test_processes_share_a_file(images, tmp_path):
    a, b = mapped(images, tmp_path), mapped(images, tmp_path)
    assert b.missing(np.array([3, 3, 0])).tolist() == [0, 1, 2]
    a.put([3], torch.full((1, SIZE, SIZE, 3), 7, dtype=torch.uint8))
    assert b.missing(np.array([3, 3, 0])).tolist() == [2]
    assert b.take(np.array([3])).unique().tolist() == [7]


def test_other_images_have_another_folder(images, tmp_path):
    assert mapped(images, tmp_path).folder != mapped(images[::-1], tmp_path).folder
    assert mapped(images, tmp_path).folder == mapped(list(images), tmp_path).folder


def test_full_disk_ends_the_filling_and_not_the_run(images, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    plain, said = batches('torch', images), []
    monkeypatch.setattr(cache.os, 'pwrite', full)
    assert same(plain, batches('torch', images, say=said.append, cache='file'))
    (notice,) = [s for s in said if 'takes no more images (No space left on device)' in s]
    assert 'FACES_CACHE' in notice


def test_a_replaced_file_shares_pixels_until_it_is_repaired(images, opened):
    path = Path(images[2].path)
    data = path.read_bytes()
    stream = bytearray(zlib.compress(rows(picture(SIZE))))
    stream[-1] ^= 1  # a fault that only decoding finds
    path.write_bytes(png(SIZE, SIZE, 2, b'', stream=bytes(stream)))

    said = []
    plain = batches('torch', images)
    assert same(plain, batches('torch', images, say=said.append, cache='file'))
    assert sum('2.png cannot be decoded' in s for s in said) == 1
    opened.clear()
    assert same(plain, batches('torch', images, cache='file'))
    assert not opened

    path.write_bytes(data)
    assert not same(plain, batches('torch', images, cache='file'))
    assert opened == [str(path)]


def test_auto_takes_the_host_if_it_fits_and_says_why(images, monkeypatch):
    said = []
    assert isinstance(cache.make('auto', images, SIZE, CPU, said.append), cache.Memory)
    monkeypatch.setattr(cache, 'available_memory', lambda: JUST_ENOUGH - 18)
    assert cache.make('auto', images, SIZE, CPU, said.append) is None
    assert said[0].startswith('cache: host; 7 decoded images take 0.0 GB, auto allows 40% of')
    assert said[1].startswith('cache: off;')
    assert cache.make('off', images, SIZE, CPU) is None


def test_limits_of_containers_and_jobs_count(tmp_path):
    def group(folder, limit, used, stat, names=('memory.max', 'memory.current')):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip((*names, 'memory.stat'), (limit, used, stat), strict=True):
            (folder / name).write_text(f'{text}\n')

    member, groups = tmp_path / 'member', tmp_path / 'groups'

    def room(line):
        member.write_text(line + '\n')
        return host_memory.available_memory(str(groups), str(member))

    free = host_memory.available_memory(str(tmp_path / 'none'), str(tmp_path / 'none'))
    assert free > 1 << 20

    # The limit is that of the group above; files that the kernel would give back do not count.
    group(groups / 'job/step', 'max', 900, 'inactive_file 0')
    group(groups / 'job', 5000, 4000, 'anon 3000\ninactive_file 700')
    assert room('0::/job/step') == 1700
    assert room('0::/elsewhere') > 1 << 20
    group(groups / 'job/step', 4500, 4400, 'inactive_file 0')
    assert room('0::/job/step') == 100  # the narrowest counts
    group(groups, 3000, 3100, 'inactive_file 0')  # a container sees its own group as the root
    assert room('0::/elsewhere') == 0

    # Version 1 of control groups.
    names = ('memory.limit_in_bytes', 'memory.usage_in_bytes')
    group(groups / 'memory/job', 6000, 4000, 'total_inactive_file 10', names)
    assert room('4:memory:/job/step\n3:cpu:/job') == 2010


def test_processes_of_one_machine_share_its_memory(images, monkeypatch):
    monkeypatch.setattr(cache, 'available_memory', lambda: JUST_ENOUGH)
    assert isinstance(cache.make('auto', images, SIZE, CPU, str), cache.Memory)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert cache.make('auto', images, SIZE, CPU, str) is None


def test_what_cannot_be(images, tmp_path, monkeypatch):
    with pytest.raises(DataError, match='--cache gpu: there is no GPU'):
        cache.make('gpu', images, SIZE, CPU)
    (tmp_path / 'file').write_text('in the way')
    unwritable = '--cache file: .*decoded-.* cannot be written .*FACES_CACHE'
    with pytest.raises(DataError, match=unwritable):
        cache.make('file', images, SIZE, CPU, folder=tmp_path / 'file')
    monkeypatch.setattr(cache, 'available_memory', lambda: 3 * SIZE * SIZE * 3)
    with pytest.raises(DataError, match='--cache host: .* 3 would fit'):
        cache.make('host', images, SIZE, CPU)
    with pytest.raises(ValueError, match="unknown cache 'disk'"):
        dali_pipes.make('torch', images, 'bicubic', cache='disk')


def test_pixels_on_another_device_come_image_by_image():
    """As from pinned memory to a GPU, for which a device of another name stands here."""
    c = cache.Memory(5, 4, torch.device('cpu', 0), on_gpu=False)
    pixels = torch.randint(256, (3, 4, 4, 3), dtype=torch.uint8)
    c.put(np.array([4, 0, 2]), pixels)
    assert c.missing(np.arange(5)).tolist() == [1, 3]
    assert torch.equal(c.take(np.array([2, 4, 2])), pixels[[2, 0, 2]])


def test_pixels_of_a_gpu_are_written_once_they_have_come(images, tmp_path, monkeypatch):
    """On a thread, few batches at a time, and all of them before the file is closed."""
    monkeypatch.setattr(cache, 'MOST_WRITING', 2)
    come = threading.Event()
    done = types.SimpleNamespace(synchronize=come.wait)
    stream = types.SimpleNamespace(record_event=lambda: done)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: stream)
    empty = torch.empty
    monkeypatch.setattr(torch, 'empty', lambda *a, pin_memory=False, **k: empty(*a, **k))

    c = mapped(images, tmp_path)
    pixels = torch.randint(256, (len(images), SIZE, SIZE, 3), dtype=torch.uint8)
    elsewhere = [Elsewhere(pixels[i : i + 1]) for i in range(3)]
    for i in range(2):
        c.put(np.array([i]), elsewhere[i])
    assert len(c.missing(np.arange(3))) == 3
    threading.Timer(0.2, come.set).start()
    c.put(np.array([2]), elsewhere[2])
    c.close()
    assert not len(c.missing(np.arange(3)))
    assert torch.equal(c.take(np.array([2, 0])), pixels[[2, 0]])


@pytest.mark.parametrize('count', [0, 1, 3, 9])
def test_pixels_for_a_gpu_are_gathered_by_threads(count, images, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'to', lambda self, *_, **__: self)
    empty = torch.empty
    monkeypatch.setattr(torch, 'empty', lambda *a, pin_memory=False, **k: empty(*a, **k))
    c = filled(images, tmp_path)
    index = np.arange(count) % COUNT
    expected = c.take(index)
    c.device = torch.device('cuda', 0)
    assert torch.equal(c.take(index), expected) and len(expected) == count
    c.close()


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    @staticmethod
    def __new__(cls, x):
        return x.as_subclass(cls)

    @property
    def device(self):
        return torch.device('cuda', 0)
