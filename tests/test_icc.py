"""Colours of phones and cameras are brought to sRGB by every pipe; sRGB keeps its bits."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_manifest import write
from zoo import chunk, picture, png, rows

import dali_pipes
from dali_pipes import png as gpu_png
from errors import BadFile
from sources import files, icc
from sources.manifest import scan

SIZE = 64
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
P3 = icc.display_p3()


def gamma(exponent, profile=SRGB):
    """A profile with another curve: what Adobe RGB has instead of sRGB's."""
    made = bytearray(profile)
    (count,) = struct.unpack_from('>I', made, 128)
    curve = b'curv' + bytes(4) + struct.pack('>IH', 1, round(exponent * 256))
    for i in range(count):
        tag, _, _ = struct.unpack_from('>4sII', made, 132 + 12 * i)
        if tag in (b'rTRC', b'gTRC', b'bTRC'):
            struct.pack_into('>II', made, 136 + 12 * i, len(made), len(curve))
    made += curve + bytes(-len(curve) % 4)
    struct.pack_into('>I', made, 0, len(made))
    return bytes(made)


def photo():
    y, x = np.mgrid[:SIZE, :SIZE] * 4
    return np.stack([x, y, 255 - x], 2).astype(np.uint8)


def as_png(rgb, profile=None, *before):
    held = io.BytesIO()
    Image.fromarray(rgb).save(held, 'PNG', **({'icc_profile': profile} if profile else {}))
    data = held.getvalue()
    return data[:33] + b''.join(before) + data[33:]


def as_jpeg(rgb, profile=None):
    held = io.BytesIO()
    extra = {'icc_profile': profile} if profile else {}
    Image.fromarray(rgb).save(held, 'JPEG', quality=95, **extra)
    return held.getvalue()


def converted(rgb, profile):
    """As Pillow converts a whole file."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile('sRGB')
    return np.array(ImageCms.profileToProfile(Image.fromarray(rgb), source, target))


@pytest.mark.parametrize('write_as', [as_png, as_jpeg])
@pytest.mark.parametrize('profile', [P3, gamma(2.2), gamma(1.8, P3)], ids=['p3', '2.2', 'p3-1.8'])
def test_other_colours_are_converted(write_as, profile):
    data = write_as(photo(), profile)
    plain = files.decode(write_as(photo()))
    off = abs(files.decode(data).astype(int) - converted(plain, profile))
    assert off.max() <= 2 and abs(files.decode(data).astype(int) - plain).max() > 5
    assert files.check(data)[3] == 'rgb, profile' and files.own_colours(data)
    files.sound(data)


@pytest.mark.parametrize('write_as', [as_png, as_jpeg])
@pytest.mark.parametrize(
    'profile',
    [SRGB, b'no profile at all', SRGB[:200], P3[:400]],
    ids=['sRGB', 'text', 'cut', 'p3 cut'],
)
def test_srgb_and_what_is_no_profile_keep_their_bits(write_as, profile):
    data, plain = write_as(photo(), profile), write_as(photo())
    assert np.array_equal(files.decode(data), files.decode(plain))
    expected = 'rgb' if profile is SRGB else 'rgb, unusable profile'
    assert files.check(data)[3] == expected


def test_a_profile_in_many_segments():
    """JPEG: up to 65,519 bytes a segment, numbered; one of them lost makes it unusable."""
    data = as_jpeg(photo())
    parts = [P3[i : i + 100] for i in range(0, len(P3), 100)]
    segments = []
    for i, part in enumerate(parts, 1):
        body = b'ICC_PROFILE\0' + bytes([i, len(parts)]) + part
        segments.append(b'\xff\xe2' + struct.pack('>H', len(body) + 2) + body)
    whole = data[:2] + b''.join(segments) + data[2:]
    turned = data[:2] + b''.join(reversed(segments)) + data[2:]
    lost = data[:2] + b''.join(segments[:2] + segments[3:]) + data[2:]
    assert icc.profile(whole) == icc.profile(turned) == P3
    assert files.check(lost)[3] == 'rgb, unusable profile'


def test_the_chunk_of_new_pngs():
    """cICP, which says Display P3 in four bytes, comes before a profile."""
    p3 = as_png(photo(), SRGB, chunk(b'cICP', b'\x0c\x0d\0\1'))
    srgb = as_png(photo(), P3, chunk(b'cICP', b'\1\x0d\0\1'))
    assert np.array_equal(files.decode(p3), files.decode(as_png(photo(), P3)))
    assert np.array_equal(files.decode(srgb), photo())


def test_gray_profiles():
    """They are for gray pictures; on others they mean nothing."""
    made = bytearray(gamma(1.0))
    made[16:20] = b'GRAY'
    gray = bytes(made).replace(b'rTRC', b'kTRC')
    held = io.BytesIO()
    Image.fromarray(photo()[..., 0]).save(held, 'PNG', icc_profile=gray)
    brighter = files.decode(held.getvalue())
    assert brighter[0, 8].tolist() == [round(255 * (1.055 * (32 / 255) ** (1 / 2.4) - 0.055))] * 3
    assert np.array_equal(files.decode(as_png(photo(), gray)), photo())


def test_a_profile_that_would_fill_the_memory():
    bomb = chunk(b'iCCP', b'x\0\0' + zlib.compress(bytes(64 << 20), 9))
    data = as_png(photo(), None, bomb)
    assert len(icc.profile(data)) == icc.LARGEST
    assert np.array_equal(files.decode(data), photo())


@pytest.fixture
def mixed(tmp_path):
    """Files of every kind of colour, some larger than the training size."""
    large = np.ascontiguousarray(photo().repeat(2, 0).repeat(2, 1))
    return {
        'uniform': {
            'a.png': as_png(photo(), P3),
            'b.jpg': as_jpeg(photo(), P3),
            'c.png': as_png(photo(), SRGB),
            'd.png': as_png(picture(SIZE)),
        },
        'larger': {'a.png': as_png(large, P3), 'b.png': as_png(photo())},
    }


@pytest.mark.parametrize('kind', ['uniform', 'larger'])
def test_pipes_agree(kind, mixed, tmp_path):
    pytest.importorskip('nvidia.dali')
    said = []
    images = scan(write(tmp_path, mixed[kind]), size=SIZE, say=said.append).images
    made = {}
    for name in dali_pipes.PIPES:
        options = dict(batch=4, size=SIZE, seed=1, say=str, threads=1)
        with dali_pipes.make(name, images, 'bicubic', **options) as pipe:
            made[name] = [next(pipe) for _ in range(2)]
    for name in 'dali', 'torch':
        for ours, theirs in zip(made[name], made['reference'], strict=True):
            assert (ours.target == theirs.target).all(), name
    told = [line for line in said if 'converted to sRGB' in line]
    assert len(told) == 1 and told[0].startswith('2 of 4' if kind == 'uniform' else '1 of 2')


def test_the_gpu_leaves_such_files_to_the_cpu(mixed):
    with pytest.raises(gpu_png.Unfit, match='other colours'):
        gpu_png.head(mixed['uniform']['a.png'])
    for name in 'c.png', 'd.png':
        data = mixed['uniform'][name]
        assert np.array_equal(gpu_png.run_ref(data), files.decode(data))


def test_damage_in_a_profile_is_no_traceback():
    rng = np.random.default_rng(0)
    for data in as_jpeg(photo(), P3), png(16, 16, 2, rows(picture(16)), before=_iccp(P3)):
        for _ in range(300):
            hurt = bytearray(data)
            for at in rng.integers(0, min(len(data), 1000), 3):
                hurt[at] = rng.integers(256)
            try:
                files.check(hurt)
                files.decode(bytes(hurt))
            except BadFile:
                continue


def _iccp(profile):
    return chunk(b'iCCP', b'x\0\0' + zlib.compress(profile))
