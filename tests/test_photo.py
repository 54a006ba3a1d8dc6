"""Photographs of every format in and out: pixels, transparency, profile, EXIF, orientation."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from errors import BadFile
from sources import photo

H, W = 37, 52
EXACT = 'PNG', 'TIFF', 'BMP'
LOSSY = 'JPEG', 'WEBP', 'AVIF'


def smooth(channels, dtype):
    rng = np.random.default_rng(channels)
    x = cv2.GaussianBlur(rng.uniform(0, 1, (H, W, channels)), (0, 0), 3).reshape(H, W, channels)
    x = (x - x.min()) / np.ptp(x)
    return np.rint(x * np.iinfo(dtype).max).astype(dtype)


def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def exif(**tags):
    made = Image.Exif()
    made[0x010F] = 'A maker'
    made[0x0132] = '2001:02:03 04:05:06'
    for tag, value in tags.items():
        made[int(tag[1:])] = value
    return made.tobytes()


@pytest.mark.parametrize('alpha', [False, True])
@pytest.mark.parametrize('gray', [False, True])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('kind', [*EXACT, *LOSSY])
def test_what_is_written_is_read_again(kind, dtype, gray, alpha):
    pixels = smooth(1, dtype).repeat(3, 2) if gray else smooth(3, dtype)
    clear = smooth(2, dtype)[..., 1] if alpha else None
    given = photo.Photo(pixels, clear, gray, kind, profile(), exif())
    if alpha and kind in ('JPEG', 'BMP'):
        with pytest.raises(BadFile, match=f'{kind} has no transparency: give --format png'):
            photo.encoded(given)
        return
    found = photo.read(photo.encoded(given))

    # 16 bits where the format has them.
    expected = given if kind in ('PNG', 'TIFF') else photo.to_8bit(given)
    assert found.kind == kind and found.pixels.dtype == expected.pixels.dtype
    if kind in EXACT:
        assert np.array_equal(found.pixels, expected.pixels)
        assert alpha == (found.alpha is not None)
        assert not alpha or np.array_equal(found.alpha, expected.alpha)
    else:
        error = found.pixels.astype(int) - expected.pixels
        assert np.abs(error).mean() < 4
        assert not alpha or np.abs(found.alpha.astype(int) - expected.alpha).mean() < 2
    if kind == 'PNG' or kind in LOSSY or (kind == 'TIFF' and dtype == np.uint8):
        assert found.icc == given.icc
        assert Image.open(io.BytesIO(photo.encoded(found))).getexif()[0x010F] == 'A maker'


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_an_orientation_is_applied_once(kind, orientation):
    """As Pillow applies it, and after that nothing is left to be applied."""
    from PIL import ImageOps

    stored = Image.fromarray(smooth(3, np.uint8))
    buffer, how = io.BytesIO(), dict(quality=97)
    stored.save(buffer, kind, exif=exif(t274=orientation), **(how if kind in LOSSY else {}))
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
    found = photo.read(buffer.getvalue())
    assert found.pixels.shape == expected.shape
    assert np.abs(found.pixels.astype(int) - expected).mean() < 1.5
    again = Image.open(io.BytesIO(photo.encoded(found)))
    assert again.getexif().get(274, 1) == 1 and again.size == expected.shape[1::-1]
    assert again.getexif()[0x0132] == '2001:02:03 04:05:06'


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF'])
def test_what_a_camera_tells_is_kept(kind):
    told = Image.Exif()
    told.load(exif())
    told.get_ifd(0x8769)[0x829A] = 0.125
    told.get_ifd(0x8825)[1] = 'N'
    given = photo.Photo(smooth(3, np.uint8), kind=kind, exif=told.tobytes())
    again = photo.read(photo.encoded(photo.read(photo.encoded(given))))
    found = Image.Exif()
    found.load(again.exif)
    assert found[0x010F] == 'A maker' and found.get_ifd(0x8825)[1] == 'N'
    assert found.get_ifd(0x8769)[0x829A] == 0.125


def test_kinds_of_pixels_that_are_brought_to_rgb():
    palette = Image.fromarray(smooth(3, np.uint8)).quantize(200)
    bits = Image.fromarray(smooth(1, np.uint8)[..., 0]).convert('1')
    cmyk = Image.fromarray(smooth(3, np.uint8)).convert('CMYK')
    for image, kind, mode in (palette, 'PNG', 'RGB'), (bits, 'PNG', 'RGB'), (cmyk, 'JPEG', 'RGB'):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found = photo.read(buffer.getvalue())
        difference = np.abs(found.pixels.astype(int) - np.array(image.convert(mode)))
        assert found.pixels.dtype == np.uint8 and difference.mean() < (8 if kind == 'JPEG' else 0.1)


@pytest.mark.parametrize('kind', [*EXACT, *LOSSY])
def test_what_is_cut_off_is_refused(kind):
    data = photo.encoded(photo.Photo(smooth(3, np.uint8), kind=kind))
    for end in (0, 1, 10, len(data) // 3, len(data) - 40):
        with pytest.raises(BadFile):
            photo.read(data[:end])


def test_what_is_no_photo_is_named():
    for data, what in (
        (b'', 'empty file'),
        (b'<!doctype html><p>', 'HTML'),
        (b'GIF89a' + bytes(50), 'GIF'),
        (b'%PDF-1.4 ', 'PDF'),
        (bytes(64), 'all zero bytes'),
        (b'\0\0\0\x18ftypheic' + bytes(40), 'HEIC'),
    ):
        with pytest.raises(BadFile, match=what):
            photo.read(data)


@pytest.mark.parametrize('kind, side', [('WEBP', 16384), ('JPEG', 65536), ('AVIF', 65537)])
def test_a_kind_that_does_not_hold_so_many_pixels(kind, side):
    long = photo.Photo(np.zeros((1, side, 3), np.uint8), kind=kind)
    with pytest.raises(BadFile, match=f'{kind} does not hold {side:,}x1 pixels: give --format png'):
        photo.encoded(long)


def test_a_bound_is_kept_before_anything_is_decoded():
    data = photo.encoded(photo.Photo(smooth(3, np.uint8)))
    with pytest.raises(BadFile, match='too large'):
        photo.read(data, most=H * W - 1)
    photo.read(data, most=H * W)
