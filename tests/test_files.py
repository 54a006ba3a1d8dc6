"""One image file: broken ones are named, accepted ones decode alike in OpenCV and DALI."""

import cv2
import numpy as np
import pytest
from zoo import app1, exif, picture, png, rows, zoo

from errors import BadFile
from sources import files

ZOO = zoo(64)
SOUND = [name for name, (_, reason) in ZOO.items() if reason is None]
BROKEN = [name for name in ZOO if name not in SOUND]


@pytest.mark.parametrize('name', SOUND)
def test_sound_files_pass_and_decode(name):
    kind, width, height, _ = files.check(ZOO[name][0])
    files.sound(ZOO[name][0])
    rgb = files.decode(ZOO[name][0])
    assert rgb.shape == (height, width, 3) == (64, 64, 3) and rgb.dtype == np.uint8
    assert kind == ('png' if ZOO[name][0][:4] == b'\x89PNG' else 'jpeg')


@pytest.mark.parametrize('name', BROKEN)
def test_broken_files_are_named(name):
    data, reason = ZOO[name]
    with pytest.raises(BadFile, match=reason):
        files.sound(data)
    try:
        files.check(data)  # may miss what only decoding shows, never say something else
    except BadFile as e:
        assert reason in str(e)


def test_every_cut_of_a_file_is_refused():
    for data in (
        png(16, 16, 2, rows(picture(16))),
        ZOO['progressive.jpg'][0],
        ZOO['restart.jpg'][0],
    ):
        for length in range(len(data)):
            with pytest.raises(BadFile, match='truncated|empty|not an image'):
                files.check(data[:length])


def test_every_flipped_byte_of_a_png_is_noticed():
    data = png(16, 16, 2, rows(picture(16)))
    for at in range(len(data)):
        with pytest.raises(BadFile):
            files.check(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])


@pytest.mark.parametrize(
    'colour, name',
    [(0, 'gray.png'), (2, 'rgb.png'), (3, 'palette.png'), (4, 'gray_alpha.png'), (6, 'rgba.png')],
)
def test_pixels_are_what_was_written(colour, name):
    rgb, palette = (
        picture(64),
        np.random.default_rng(3).integers(0, 256, 768, np.uint8).reshape(256, 3),
    )
    expected = {2: rgb, 6: rgb, 3: palette[rgb[:, :, 0]]}.get(
        colour, np.repeat(rgb[:, :, :1], 3, 2)
    )
    assert (files.decode(ZOO[name][0]) == expected).all()
    assert (
        files.check(ZOO[name][0])[3]
        == {0: 'gray', 2: 'rgb', 3: 'palette', 4: 'gray+alpha', 6: 'rgba'}[colour]
    )


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_applied(orientation):
    # EXIF 2.32, tag 0x112: where the 0th row and column of the stored picture lie.
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation]
    stored = picture(64)[:40]
    data = cv2.imencode('.jpg', stored)[1].tobytes()
    turned = data[:2] + app1(b'Exif\0\0' + exif(orientation)) + data[2:]
    assert (files.decode(turned) == turn(files.decode(data))).all()
    assert files.check(turned)[1:3] == turn(stored).shape[1::-1]
    files.sound(turned)


def _dali(datas):
    """Each file decoded by DALI's CPU operator, without a GPU."""
    fn, pipeline_def = (
        pytest.importorskip('nvidia.dali.fn'),
        pytest.importorskip('nvidia.dali').pipeline_def,
    )

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        source = fn.external_source(
            source=lambda i: np.frombuffer(datas[i.idx_in_epoch % len(datas)], np.uint8),
            batch=False,
        )
        return fn.decoders.image(source, device='cpu')

    pipe = pipeline()
    pipe.build()
    return [np.array(pipe.run()[0].at(0)) for _ in datas]


def _assert_dali_agrees(names, datas):
    for name, data, theirs in zip(names, datas, _dali(datas), strict=True):
        ours = files.decode(data)
        assert ours.shape == theirs.shape and (ours == theirs).all(), name


def test_dali_decodes_the_same_pixels():
    _assert_dali_agrees(SOUND, [ZOO[n][0] for n in SOUND])


def test_dali_decodes_whatever_else_is_accepted():
    # Random damage: whatever `sound` lets through must neither stop DALI nor look different there.
    rng, accepted = np.random.default_rng(0), []
    names = (
        'rgb.jpg',
        'progressive.jpg',
        'restart.jpg',
        'turned6.jpg',
        'gray.jpg',
        'turned.png',
        'palette.png',
        'trailing.png',
    )
    for name in names:
        for _ in range(40):
            data = bytearray(ZOO[name][0])
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                data[at] = rng.integers(0, 256)
            try:
                files.sound(data)
            except BadFile:
                continue
            accepted.append((name, bytes(data)))
    assert len(accepted) > 50  # else it tests nothing
    _assert_dali_agrees(*zip(*accepted, strict=True))


def test_fit():
    same, large = picture(64), picture(200, seed=5)[:, :150]
    assert (files.fit(same, 64) == same).all()
    assert (
        files.fit(large[:, :64], 64) == large[68:132, :64]
    ).all()  # the shorter side fits: cropped, not resized
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    means = noise.reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert (
        abs(files.fit(noise, 64) - means).max() <= 0.51
    )  # area: each pixel the mean of its 3x3, rounded
    assert files.fit(large, 64).shape == (64, 64, 3) and files.fit(large, 64).flags.c_contiguous
    with pytest.raises(BadFile, match='64x64, smaller than the training size 65'):
        files.fit(same, 65)
