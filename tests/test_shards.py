"""Images in tar shards equal the same files in a folder, for every pipe, cache and tool.

Broken shards are refused by name.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_manifest import face, late, write
from test_train import flags
from zoo import png, rows

import dali_pipes
import degrade
import train
from dali_pipes import batch, cache, pipe_torch, validation
from errors import BadFile, DataError
from sources import manifest, reader, shards
from sources.lq_gt import scan_pairs
from sources.manifest import scan
from sources.reader import Reader
from tasks import data as sources
from tools import prepare

SIZE, COUNT = 64, 7


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path_factory.mktemp('cache')))


def smooth(seed, size=SIZE):
    """A PNG whose degradation differs from image to image."""
    y, x = np.mgrid[:size, :size]
    return png(
        size,
        size,
        2,
        rows(
            np.stack(
                [x * (seed + 1) * 3 % 256, y * 3 % 256, np.full_like(x, 20 * seed % 256)], -1
            ).astype(np.uint8)
        ),
    )


def pack(path, files, **options):
    """A tar as tarfile writes it, with what WebDataset has beside an image."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tarfile.open(path, 'w', **options) as tar:
        for name, data in files.items():
            for member, content in (name, data), (os.path.splitext(name)[0] + '.json', b'{}'):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


@pytest.fixture
def both(tmp_path):
    """(folder of files, folder of shards) of the same names: two shards are two sub-folders."""
    parts = {
        f'faces-{s}.tar': {
            f'{i:05}.png': smooth(i, SIZE + 8 * (i == 5)) for i in range(s, COUNT, 2)
        }
        for s in range(2)
    }
    for shard, files in parts.items():
        write(tmp_path / 'files' / shard, files)
        pack(tmp_path / 'tars' / shard, files)
    return str(tmp_path / 'files'), str(tmp_path / 'tars')


def images(source):
    return scan(source, size=SIZE, say=str).images


def batches(name, found, steps=5, **options):
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    with dali_pipes.make(
        name,
        found,
        'bicubic',
        **{**dict(batch=3, size=SIZE, seed=2, say=str, threads=2), **options},
    ) as pipe:
        return [next(pipe) for _ in range(steps)]


def same(a, b):
    return all(
        x is y is None or torch.equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


# The index.


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_are_those_of_tarfile(form, tmp_path):
    deep = (
        '/'.join(['folder'] * 12) + '/x.PNG'
        if form == tarfile.USTAR_FORMAT
        else 'n' * 300 + '/' + 'ü' * 60 + '.png'
    )
    path = pack(
        tmp_path / 'a.tar',
        {
            'b.png': b'12345',
            deep: b'7' * 513,
            './c.jpg': b'',
            'd/._e.png': b'x',
            '.f/g.png': b'x',
            '/h.jpeg': b'y' * 512,
        },
        format=form,
    )
    with tarfile.open(path, 'a') as tar:
        for kind in tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE:
            link = tarfile.TarInfo(f'link{kind.decode()}.png')
            link.type, link.linkname = kind, 'b.png'
            tar.addfile(link)
    with tarfile.open(path) as tar:
        expected = {
            n: (tar.getmember(m).offset_data, tar.getmember(m).size)
            for n, m in (
                ('b.png', 'b.png'),
                (deep, deep),
                ('c.jpg', './c.jpg'),
                ('h.jpeg', '/h.jpeg'),
            )
        }
    assert shards.index(path) == expected == shards.index(path)
    with open(path, 'rb') as file:
        read = list(shards.walk(file, sequential=True))
    assert [(n, o, len(d)) for n, o, d in read] == [
        (n, *at) for n, at in expected.items()
    ] and read[1][2] == b'7' * 513


def test_what_gnu_tar_writes(tmp_path):
    """Entries of folders, names with ./, and a sparse file, which is not stored in one piece."""
    if not shutil.which('tar'):
        pytest.skip('no tar command here')
    write(tmp_path / 'd', {'1.png': face(), 'sub/2.png': face(seed=1)})
    with open(tmp_path / 'd' / 'hole.png', 'wb') as f:
        f.truncate(1 << 20)
    subprocess.run(
        ['tar', '-C', tmp_path / 'd', '--sparse', '-cf', tmp_path / 'x.tar', '.'], check=True
    )
    found = {
        os.path.relpath(i.path, tmp_path): reader.read_bytes(*i.where)
        for i in images(tmp_path / 'x.tar')
    }
    assert found == {'x.tar/1.png': face(), 'x.tar/sub/2.png': face(seed=1)}


def test_the_index_is_cached_until_the_tar_changes(tmp_path, monkeypatch):
    path, walked, walk = (
        pack(tmp_path / 'a.tar', {'0.png': face(), '1.png': face(seed=1)}),
        [],
        shards.walk,
    )
    monkeypatch.setattr(shards, 'walk', lambda f: walked.append(1) or walk(f))
    first = shards.index(path)
    assert shards.index(path) == first and len(walked) == 1
    os.symlink(path, tmp_path / 'link.tar')
    assert shards.index(str(tmp_path / 'link.tar')) == first and len(walked) == 1
    pack(path, {'1.png': face(seed=1), '2.png': face()})  # as long as before
    changed = shards.index(path)
    assert list(changed) == ['1.png', '2.png'] and len(walked) == 2
    (cached,) = Path(os.environ['FACES_CACHE']).glob('shard-*')
    good = json.loads(cached.read_text())
    wrong = [
        json.dumps({**good, 'images': [['1.png', *at]]}).encode()
        for at in (('512', 9), (512, 10**9), (0, 9))
    ]
    for damage in b'', b'{"version": 1, "im', b'[]', *wrong:
        cached.write_bytes(damage)
        assert shards.index(path) == changed and json.loads(cached.read_text()) == good
    assert len(list(Path(os.environ['FACES_CACHE']).iterdir())) == 1  # no temporary file is left


@pytest.mark.parametrize(
    'pattern',
    [
        'a-{000..012}.tar',
        '{8..11}',
        'x{a,b,}y',
        '{0..1}-{a,b}',
        '{08..11}',
        'plain',
        '{one}',
        '{}',
        'a{1..2',
    ],
)
def test_braces_are_those_of_bash(pattern):
    if not shutil.which('bash'):
        pytest.skip('no bash here')
    said = subprocess.run(
        ['bash', '-c', f'printf "%s\n" {pattern}'], capture_output=True, text=True, check=True
    ).stdout
    assert shards.braces(pattern) == said.splitlines()


# Broken shards.


def cut(data, at):
    return data[:at] + data[at + 1 :]


BROKEN = {
    'empty file': lambda data: b'',
    'gzip-compressed: recompress': lambda data: __import__('gzip').compress(data),
    'xz-compressed: recompress': lambda data: __import__('lzma').compress(data),
    'bzip2-compressed: recompress': lambda data: __import__('bz2').compress(data),
    'not a tar archive: it looks like text': lambda data: b'hello, this is no tar\n' * 99,
    'not a tar archive: cut within its first header': lambda data: data[:300],
    r'truncated at byte 7,000 within 1.png, its member 3': lambda data: data[:7000],
    r'truncated at byte 10,240, before the zero block .*4 members read, the last is 1.json': (
        lambda data: data[:10240]
    ),
    r'truncated at byte 10,500, before the zero block': lambda data: data[:10500],
    r'damaged at byte 5,120, where no tar header is \(2 members read': lambda data: (
        data[:5120] + b'?' * 512 + data[5632:]
    ),
    'archives glued together': lambda data: data + data,
    'two images named 0.png, at bytes 512 and 10,752': lambda data: data[:10240] + data,
}


def layout(tmp_path):
    """Members at known places: twice 512 bytes of header, 3,584 of PNG, 512 and 512 of JSON."""
    data = face(32)
    data = data[:3584].ljust(3584, b'\0')
    path = pack(tmp_path / 'bad.tar', {'0.png': data, '1.png': data})
    with tarfile.open(path) as tar:
        assert [m.offset for m in tar] == [0, 4096, 5120, 9216]
    return Path(path)


@pytest.mark.parametrize('message', BROKEN)
def test_broken_shards_are_refused_by_name(message, tmp_path):
    path = layout(tmp_path)
    path.write_bytes(BROKEN[message](path.read_bytes()))
    pack(tmp_path / 'good.tar', {'0.png': face()})
    with pytest.raises(DataError, match=rf'bad\.tar: .*{message}'):
        scan(str(tmp_path), size=SIZE, say=str)


def test_every_cut_of_a_shard_is_refused(tmp_path):
    path = layout(tmp_path)
    data = path.read_bytes()
    end = 10240  # of the last member
    for at in [*range(0, end, 512), *range(1, end, 997), end + 511]:
        for sequential in False, True:
            with pytest.raises(reader.BadFile):
                list(shards.walk(io.BytesIO(data[:at]), sequential))
    assert len(list(shards.walk(io.BytesIO(data[: end + 512])))) == 2  # one zero block is an end


def test_compressed_and_missing_ones_are_named(tmp_path):
    with tarfile.open(tmp_path / 'a.tar.gz', 'w:gz') as tar:
        tar.add(write(tmp_path / 'd', {'0.png': face()}))
    with pytest.raises(DataError, match='a.tar.gz: gzip-compressed'):
        scan(str(tmp_path / 'a.tar.gz'), size=SIZE)
    pack(tmp_path / 'f-0.tar', {'0.png': face()})
    with pytest.raises(DataError, match='f-1.tar: cannot be read .No such file'):
        scan(str(tmp_path / 'f-{0..1}.tar'), size=SIZE)
    pack(tmp_path / 'e.tar', {})
    with pytest.raises(DataError, match='e.tar: no .png or .jpg in there'):
        scan(str(tmp_path / 'e.tar'), size=SIZE)
    with pytest.raises(DataError, match='s3://b/x.tar: an address can only be streamed'):
        scan('s3://b/x.tar', size=SIZE)


# The same as files.


def test_every_kind_of_source(tmp_path):
    for s in range(12):
        pack(tmp_path / f'f-{s:02}.tar', {f'{i}.png': face() for i in (10, 9)})
    write(
        tmp_path,
        {'0.png': face(), 'list.txt': b'f-01.tar\n0.png\nf-03.tar/9.png\nf-03.tar/no.png\n'},
    )

    def names(source):
        return [os.path.relpath(i.path, tmp_path) for i in images(tmp_path / source)]

    assert names('f-01.tar') == ['f-01.tar/9.png', 'f-01.tar/10.png']
    assert (
        names('f-*.tar')
        == [f'f-{s:02}.tar/{i}.png' for s in range(12) for i in (9, 10)]
        == names('f-{00..11}.tar')
    )
    assert names('.') == ['0.png', *names('f-*.tar')]
    assert names('{0.png,f-0[12].tar}') == ['0.png', *names('f-{01,02}.tar')]
    assert names('list.txt') == [
        '0.png',
        'f-01.tar/9.png',
        'f-01.tar/10.png',
        'f-03.tar/9.png',
    ] and names('f-05.tar/9.png') == ['f-05.tar/9.png']
    assert dict(scan(str(tmp_path / 'list.txt'), size=SIZE, say=str).bad)[
        str(tmp_path / 'f-03.tar/no.png')
    ].startswith('cannot be read')
    os.symlink(tmp_path / 'f-00.tar', tmp_path / 'f-99.tar')  # a second name of the same images
    assert len(images(tmp_path)) == 25


def test_scan_split_without_and_fingerprint_are_the_same(both):
    files, tars = (scan(source, size=SIZE) for source in both)
    assert [i[1:6] for i in files.images] == [i[1:6] for i in tars.images]
    assert [os.path.relpath(p, both[0]) for p in files.paths] == [
        os.path.relpath(p, both[1]) for p in tars.paths
    ]
    for a, b in zip(files.split(3, seed=1), tars.split(3, seed=1), strict=True):
        assert [os.path.basename(p) for p in a.paths] == [os.path.basename(p) for p in b.paths]
    assert sources.fingerprint(files.images) == sources.fingerprint(tars.images)
    os.symlink(both[1], both[1] + '-link')
    first = scan(both[1] + '-link/faces-0.tar', size=SIZE)
    assert tars.without(first.paths).paths == [p for p in tars.paths if 'faces-1' in p]


def test_second_scan_reads_nothing_until_the_tar_changes(both, monkeypatch):
    read, asked = manifest.read_bytes, []
    monkeypatch.setattr(manifest, 'read_bytes', lambda *where: asked.append(where) or read(*where))
    first = images(both[1])
    assert len(asked) == COUNT and images(both[1]) == first and len(asked) == COUNT
    os.utime(os.path.join(both[1], 'faces-1.tar'), ns=(1, 1))
    assert images(both[1]) == first and len(asked) == COUNT + 3


@pytest.mark.parametrize('name', dali_pipes.PIPES)
def test_same_batches(name, both):
    files, tars = map(images, both)
    whole = batches(name, files)
    assert same(whole, batches(name, tars)) and len({b.target.sum().item() for b in whole}) > 3
    assert same(whole[2:], batches(name, tars, 3, start=6))
    ranks = [batches(name, tars, 2, batch=1, rank=r, world=3) for r in range(3)]
    assert same(
        [
            batch.Batch(*(v[0] if v[0] is None else torch.cat(v) for v in zip(*step, strict=True)))
            for step in zip(*ranks, strict=True)
        ],
        whole[:2],
    )


@pytest.mark.parametrize('name', ['torch', 'dali'])
@pytest.mark.parametrize('mode', ['host', 'file'])
def test_same_batches_from_a_cache(name, mode, both):
    files, tars = map(images, both)
    for _ in range(2):
        assert same(batches(name, files, 8), batches(name, tars, 8, cache=mode))


def test_the_decoded_file_forgets_a_shard_that_changes(both, tmp_path):
    tars = images(both[1])
    batches('torch', tars, 4, cache='file')
    pix = cache.Mapped(tars, SIZE, manifest.cache_folder(), torch.device('cpu'), str)
    assert not len(pix.missing(np.arange(COUNT)))
    os.utime(os.path.join(both[1], 'faces-1.tar'), ns=(1, 1))
    again = cache.Mapped(tars, SIZE, manifest.cache_folder(), torch.device('cpu'), str)
    assert [tars[i].path.count('faces-1.tar') for i in again.missing(np.arange(COUNT))] == [1] * 3


def test_worker_processes(both):
    """As on a GPU: a DataLoader's spawned process opens the shards itself."""
    files, tars = (pipe_torch.Decoded(Reader(images(source), SIZE, str)) for source in both)
    wanted = list(range(COUNT))
    loader = torch.utils.data.DataLoader(
        tars,
        batch_sampler=[wanted],
        num_workers=1,
        collate_fn=pipe_torch._as_tensor,
        multiprocessing_context='spawn',
    )
    ((used, pix),) = loader
    expected_used, expected = files.__getitems__(wanted)
    assert (used == expected_used).all() and (pix.numpy() == expected).all()
    assert pickle.loads(pickle.dumps(tars)).reader.images == tars.reader.images


@pytest.mark.parametrize('name', ['reference', 'torch', 'dali'])
def test_bad_images_in_a_good_shard(name, tmp_path):
    said = []
    path = pack(
        tmp_path / 'x.tar',
        {
            '0.png': face(),
            '1.png': late(),
            '2.png': face(seed=2),
            '3.png': face()[:99],
            '4.png': face(32),
        },
    )
    found = scan(path, size=SIZE, say=said.append)
    assert (
        len(found) == 3
        and '2 of 5 files skipped' in said[0]
        and 'x.tar/3.png (truncated' in said[0]
        and 'x.tar/4.png (32x32, smaller' in said[0]
    )
    batches(name, found.images, 2, say=said.append)
    assert (
        len(said) == 2
        and 'x.tar/1.png cannot be decoded' in said[1]
        and said[1].endswith('x.tar/2.png')
    )
    assert len(scan(path, size=SIZE, verify=True, say=str)) == 2


def test_a_shard_that_shrinks_is_a_bad_file(both):
    tars, said = images(both[1]), []
    with open(os.path.join(both[1], 'faces-1.tar'), 'r+b') as f:
        f.truncate(tars[-1].part[1] + 10)
    r = Reader(tars, SIZE, said.append)
    assert (
        r.image(COUNT - 1)[1] == 0
        and 'truncated: its shard ends' in said[-1]
        and '00005.png' in said[-1]
    )


def test_validation(both, tmp_path):
    recipe = degrade.recipe('bicubic')
    files, tars = (validation.Degraded(images(source), recipe, size=SIZE) for source in both)
    assert all(
        files[i][0] == tars[i][0] and torch.equal(files[i][1], tars[i][1]) for i in range(COUNT)
    )
    for side, size in ('LQ', 16), ('GT', 64):
        pack(
            tmp_path / 'pairs' / side / 'a.tar', {f'{i}.png': face(size, seed=i) for i in range(3)}
        )
    pairs = validation.Pairs(scan_pairs(tmp_path / 'pairs', 4))
    assert (
        len(pairs) == 3
        and pairs[2][0] == '2'
        and pairs[2][1].shape == (3, 16, 16)
        and pairs[2][2].shape == (3, 64, 64)
    )


def test_lists_that_prepare_splits(both, tmp_path):
    assert (
        prepare.main(
            [
                'split',
                both[1],
                '--val-size',
                '2',
                '--size',
                str(SIZE),
                '--out',
                str(tmp_path / 'lists'),
            ]
        )
        == 0
    )
    assert (
        len(images(tmp_path / 'lists' / 'train.txt')) == COUNT - 2
        and len(images(tmp_path / 'lists' / 'val.txt')) == 2
    )


def test_training_on_a_shard_is_training_on_its_files(both, tmp_path):
    scores = []
    for i, source in enumerate(both):
        assert (
            train.main(flags(tmp_path, tmp_path / f'run{i}', data=source, val=2, nimg=16, ticks=1))
            == 0
        )
        scores.append(json.loads((tmp_path / f'run{i}/result.json').read_text()))
    assert scores[0] == scores[1]


# Hostile headers: reading moves forward, and takes no more memory than there are bytes.


def header(name, size, kind=tarfile.REGTYPE, data=b''):
    """A member whose header claims this size, and its data."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    # Base 256, as GNU tar writes what eight octal digits do not hold; negative ones, too.
    block[124:136] = (size & ((1 << 96) - 1) | (0x80 << 88)).to_bytes(12, 'big')
    if size < 0:
        block[124] = 0xFF
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


def pax(**records):
    """An extended header, which overrides what the next one says."""
    body = b''
    for key, value in records.items():
        text = f' {key}={value}\n'.encode()
        length = len(text) + 1
        length += len(str(length + len(str(length)) - 1)) - 1
        body += str(length).encode() + text
    return header('pax', len(body), tarfile.XHDTYPE, body)


END = bytes(1024)
GOOD = header('0.png', 700, data=bytes(700))
HOSTILE = {
    'negative': (GOOD + header('1.png', -1024) + END, 'claims a length of -1,024 bytes'),
    'negative, of no image': (GOOD + header('x', -512 * 3) + END, 'claims a length of -1,536'),
    'negative, overridden': (
        GOOD + pax(size=-1024) + header('1.png', 0) + END,
        'claims a length of -1,024 bytes',
    ),
    'a name of 60 GB': (
        GOOD + header('long', 60 << 30, tarfile.GNUTYPE_LONGNAME) + END,
        'claims a length of 64,424,509,440',
    ),
    'a negative name': (
        GOOD + header('long', -512, tarfile.GNUTYPE_LONGNAME) + END,
        'claims a length of -512',
    ),
    'beyond all disks': (GOOD + header('1.png', 1 << 80) + END, 'claims a length of'),
    'headers of headers': (
        GOOD + header('long', 5, tarfile.GNUTYPE_LONGNAME, b'a.png') * 5000 + END,
        'damaged|truncated',
    ),
}


@pytest.mark.parametrize('sequential', [False, True])
@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_headers_are_refused(name, sequential):
    data, reason = HOSTILE[name]
    found = []
    with pytest.raises(BadFile, match=reason):
        for member in shards.walk(io.BytesIO(data), sequential):
            found.append(member[0])
            assert len(found) < 10
    assert found[:1] == ['0.png']


def test_a_member_that_claims_more_than_an_image_has(tmp_path):
    """60 GB that a sparse file really has: left out by name, and never read."""
    path = tmp_path / 'x.tar'
    with open(path, 'wb') as f:
        f.write(header('good.png', len(face(SIZE)), data=face(SIZE)))
        f.write(header('big.png', 60 << 30))
        f.seek(60 << 30, os.SEEK_CUR)
        f.write(END)
    found = scan(path, size=SIZE, say=str)
    assert [os.path.basename(p) for p in found.paths] == ['good.png']
    assert [b.reason for b in found.bad] == [
        'too large: 64,424,509,440 bytes, at most 536,870,912 are read'
    ]
    with open(path, 'rb') as f, pytest.raises(BadFile, match='big.png claims a length'):
        list(shards.walk(f, sequential=True))


def test_damaged_headers_end_in_a_word(tmp_path):
    """Random damage to headers is an image less or a shard refused, and never a traceback."""
    rng = np.random.default_rng(0)
    whole = bytearray(pax(path='p.png', comment='x') + GOOD * 3 + pax(size=700) + GOOD + END)
    for _ in range(500):
        hurt = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            hurt[at] = rng.integers(256)
        # A checksum that fits lets the damage through.
        for start in range(0, len(hurt) - 512, 512):
            block = hurt[start : start + 512]
            block[148:156] = b' ' * 8
            hurt[start + 148 : start + 156] = b'%06o\0 ' % sum(block)
        for sequential in False, True:
            try:
                assert len(list(shards.walk(io.BytesIO(hurt), sequential))) < 20
            except BadFile as e:
                assert str(e)
