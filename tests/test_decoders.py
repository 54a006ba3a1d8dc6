"""WebP, TIFF, BMP, AVIF and HEIC: the pixels, colours and faults of the same picture as PNG."""

import io
import struct
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
from PIL import BmpImagePlugin, Image, ImageCms, ImageOps
from test_manifest import face, write
from zoo import picture, tiff

import dali_pipes
from errors import BadFile
from sources import decoders, files, icc, listing, photo
from sources.manifest import scan

SIZE = 64
P3 = icc.display_p3()
TURNS = {  # EXIF 2.32, tag 0x112: where the 0th row and column of the stored picture lie
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def saved(pixels, kind, **how):
    held = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(held, kind, **how)
    return held.getvalue()


def avif(rgb, profile=None):
    """Without a loss, by OpenCV."""
    told = [cv2.IMAGE_METADATA_ICCP] if profile else []
    values = [np.frombuffer(profile, np.uint8)] if profile else []
    how = [cv2.IMWRITE_AVIF_QUALITY, 100]
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    return cv2.imencodeWithMetadata('.avif', bgr, told, values, how)[1].tobytes()


def heic(rgb, **how):
    """Without a loss, where the plugin is installed."""
    pytest.importorskip('pillow_heif')
    decoders.heif()
    image = Image.fromarray(rgb)
    # The plugin turns what has an orientation, not what is given one.
    image.info['exif'] = how.pop('exif', Image.Exif()).tobytes()
    return saved(image, 'HEIF', quality=-1, chroma=444, matrix_coefficients=0, **how)


EXACT = {
    'png': lambda x: saved(x, 'PNG'),
    'webp': lambda x: saved(x, 'WEBP', lossless=True),
    'tiff': lambda x: saved(x, 'TIFF'),
    'tiff lzw': lambda x: saved(x, 'TIFF', compression='tiff_lzw'),
    'tiff deflate': lambda x: saved(x, 'TIFF', compression='tiff_deflate'),
    'tiff opencv': lambda x: cv2.imencode('.tif', x[..., ::-1])[1].tobytes(),
    'tiff big': lambda x: saved(x, 'TIFF', big_tiff=True),
    'tiff planes': lambda x: tiff(x, planes=True),
    'tiff motorola': lambda x: tiff(x, order='>'),
    'bmp': lambda x: saved(x, 'BMP'),
    'bmp opencv': lambda x: cv2.imencode('.bmp', x[..., ::-1])[1].tobytes(),
    'avif': avif,
    'heif': heic,
}
LOSSY = {
    'webp': lambda x, **how: saved(x, 'WEBP', quality=80, **how),
    'tiff': lambda x, **how: saved(x, 'TIFF', compression='jpeg', **how),
    'avif': lambda x, **how: saved(x, 'AVIF', quality=80, **how),
}


@pytest.mark.parametrize('name', EXACT)
def test_what_is_stored_without_a_loss_is_read_to_the_bit(name):
    rgb = picture(SIZE)[:40]
    data = EXACT[name](rgb)
    assert files.check(data) == (name.split()[0], SIZE, 40, 'rgb')
    files.sound(data)
    assert np.array_equal(files.decode(data), rgb)
    assert np.array_equal(photo.read(data).pixels, rgb)
    assert files.for_any_decoder(data) == (name == 'png')


@pytest.mark.parametrize('kind', LOSSY)
def test_the_decoder_is_that_of_opencv(kind):
    data = LOSSY[kind](picture(SIZE))
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(files.decode(data), bgr[..., ::-1])


@pytest.mark.parametrize(
    'mode, kinds, colour',
    [
        ('1', ('TIFF', 'BMP'), 'gray'),
        ('L', ('TIFF', 'BMP'), 'gray'),
        ('LA', ('TIFF',), 'gray+alpha'),
        ('P', ('TIFF', 'BMP'), 'palette'),
        ('RGBA', ('TIFF', 'WEBP', 'AVIF'), 'rgba'),
    ],
)
def test_colours_are_expanded_and_transparency_dropped(mode, kinds, colour):
    alpha = Image.fromarray(picture(SIZE, 1, seed=1)[..., 0])
    image = Image.fromarray(picture(SIZE)).convert(mode.removesuffix('A') or 'L')
    if 'A' in mode:
        image.putalpha(alpha)
    how = {'WEBP': {'lossless': True, 'exact': True}, 'AVIF': {'quality': 100}}
    for kind in kinds:
        data = saved(image, kind, **how.get(kind, {}))
        assert files.check(data)[3] == colour
        off = files.decode(data).astype(int) - np.array(image.convert('RGB'))
        assert abs(off).max() <= (0 if kind != 'AVIF' else 20)
        assert (photo.read(data).alpha is not None) == ('A' in mode)


def test_cmyk_is_converted_where_that_is_asked_for():
    cmyk = Image.fromarray(picture(SIZE)).convert('CMYK')
    data = saved(cmyk, 'TIFF')
    with pytest.raises(BadFile, match='CMYK TIFF: convert it to RGB'):
        files.check(data)
    assert files.check(data, convert=True)[3] == 'cmyk'
    rgb = files.decode_sound(data, convert=True)
    assert np.array_equal(rgb, np.array(cmyk.convert('RGB')))


# Depths.


def test_16_bits_become_the_nearest_8():
    """Of PNG and TIFF alike, for faces and for photographs."""
    wide = np.random.default_rng(0).integers(0, 1 << 16, (SIZE, SIZE, 3), np.uint16)
    expected = np.floor(wide / 65535 * 255 + 0.5).astype(np.uint8)
    for suffix in '.png', '.tif':
        for pixels, shown in (wide, expected), (wide[..., 0], expected[..., :1].repeat(3, 2)):
            data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]
            data = data.tobytes()
            with pytest.raises(BadFile, match='16-bit (PNG|TIFF): convert it to 8 bits'):
                files.check(data)
            assert files.check(data, convert=True)[3].endswith(', 16 bits')
            assert np.array_equal(files.decode_sound(data, convert=True), shown)
            assert np.array_equal(photo.to_8bit(photo.read(data)).pixels, shown)


def test_what_a_tiff_may_not_hold():
    wide = np.random.default_rng(0).integers(0, 1 << 16, (16, 16, 4), np.uint16)
    for data, reason in (
        (tiff(wide[..., :3], planes=True), '16-bit TIFF of separate planes, inverted'),
        (tiff(wide[..., 0], photometric=0), '16-bit TIFF of separate planes, inverted'),
        (tiff(wide, extra=1), '16-bit TIFF of separate planes, inverted'),
        (tiff(wide[..., 0].astype(np.uint32)), 'pixels of mode I: convert it to PNG'),
        (tiff(wide[..., 0].astype(np.float32), sample=3), 'pixels of mode F: convert it to PNG'),
        (tiff(picture(16), photometric=8), 'pixels of mode LAB: convert it to PNG'),
        (tiff(picture(16), tile=1 << 14), 'corrupt TIFF .16x16 pixels in tiles of 268,435,456'),
    ):
        for convert in False, True:
            with pytest.raises(BadFile, match=reason):
                files.check(data, convert=convert)


def test_colours_of_a_tiff_that_are_stored_otherwise():
    rgb, alpha = picture(16), np.full((16, 16, 1), 128, np.uint8)
    inverted = tiff(255 - rgb[..., 0], photometric=0)
    assert np.array_equal(files.decode(inverted), rgb[..., :1].repeat(3, 2))
    premultiplied = np.dstack([np.rint(rgb * (128 / 255)).astype(np.uint8), alpha])
    assert abs(files.decode(tiff(premultiplied, extra=1)).astype(int) - rgb).max() <= 2
    assert files.check(tiff(premultiplied, extra=0))[3] == 'rgb'  # a channel that means nothing
    wide = np.dstack([rgb, alpha]).astype(np.uint16) * 257
    for extra, colour in (0, 'rgb'), (2, 'rgba'):
        data = tiff(wide, extra=extra)
        assert files.check(data, convert=True)[3] == f'{colour}, 16 bits'
        assert np.array_equal(files.decode(data), rgb)
        assert (photo.read(data).alpha is None) == (extra == 0)


# Orientation.


@pytest.mark.parametrize('orientation', TURNS)
@pytest.mark.parametrize('kind', ['webp', 'tiff', 'avif', 'heif'])
def test_orientation_is_applied(kind, orientation):
    stored = picture(SIZE)[:40]
    how = dict(exif=Image.Exif())
    how['exif'][0x112] = orientation
    make = {'webp': LOSSY['webp'], 'avif': LOSSY['avif'], 'heif': heic, 'tiff': tiff_of_pillow}
    plain, data = make[kind](stored), make[kind](stored, **how)
    turned = TURNS[orientation](files.decode(plain))
    assert np.array_equal(files.decode(data), turned)
    assert np.array_equal(photo.read(data).pixels, turned)
    assert files.check(data)[1:3] == turned.shape[1::-1]
    files.sound(data)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.array(ImageOps.exif_transpose(image)), turned)


def tiff_of_pillow(rgb, **how):
    return saved(rgb, 'TIFF', **how)


@pytest.mark.parametrize('orientation', TURNS)
def test_a_tiff_of_16_bits_is_turned_once(orientation):
    stored = picture(16)[:10].astype(np.uint16) * 257
    data = tiff(stored, orientation=orientation)
    turned = TURNS[orientation](stored)
    assert np.array_equal(photo.read(data).pixels, turned)
    assert np.array_equal(files.decode(data), turned // 257)
    assert files.check(data, convert=True)[1:3] == turned.shape[1::-1]


# Profiles.


@pytest.mark.parametrize('profile', [P3, b'no profile'], ids=['p3', 'text'])
@pytest.mark.parametrize('kind', ['webp', 'tiff', 'avif', 'heif'])
def test_a_profile_is_that_of_a_png(kind, profile):
    rgb = picture(SIZE)
    data = {
        'webp': lambda: saved(rgb, 'WEBP', lossless=True, icc_profile=profile),
        'tiff': lambda: saved(rgb, 'TIFF', icc_profile=profile),
        'avif': lambda: avif(rgb, profile),
        'heif': lambda: heic(rgb, icc_profile=profile),
    }[kind]()
    if kind == 'heif' and profile != P3:
        pytest.skip('its encoder takes no other')
    png = saved(rgb, 'PNG', icc_profile=profile)
    assert icc.profile(data) == profile and icc.name(data) == icc.name(png) != ''
    assert files.check(data)[3] == files.check(png)[3]
    assert np.array_equal(files.decode(data), files.decode(png))
    assert np.array_equal(files.decode(data), rgb) == (profile != P3)


def test_srgb_keeps_its_bits():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    data = saved(picture(SIZE), 'WEBP', lossless=True, icc_profile=srgb)
    assert np.array_equal(files.decode(data), picture(SIZE)) and not files.own_colours(data)


# Faults.


def test_the_first_picture_is_taken():
    frames = [Image.fromarray(picture(SIZE, seed=i)) for i in range(3)]
    for kind, how in ('WEBP', {'lossless': True}), ('TIFF', {}), ('AVIF', {'quality': 100}):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **how)
        files.sound(data)
        off = abs(files.decode(data).astype(int) - picture(SIZE)).max()
        assert off <= (0 if kind != 'AVIF' else 20)


@pytest.mark.parametrize('name', [*EXACT, 'jpeg in tiff', 'lossy webp'])
def test_every_cut_is_refused(name):
    more = {'jpeg in tiff': LOSSY['tiff'], 'lossy webp': LOSSY['webp']}
    data = (EXACT | more)[name](picture(32))
    # Behind the pixels of a TIFF, tags may be lost that say nothing new.
    last = len(data) - (12 if name in ('tiff planes', 'tiff motorola') else 0)
    for length in {*range(0, last, 1 + len(data) // 300), last - 1}:
        with pytest.raises(BadFile):
            files.sound(data[:length])
        with pytest.raises(BadFile):
            photo.read(data[:length])
    for length in range(last, len(data)):
        assert np.array_equal(files.decode_sound(data[:length]), files.decode(data))


@pytest.mark.parametrize('name', [*EXACT, 'jpeg in tiff', 'lossy webp'])
def test_damage_is_named_or_decoded(name):
    more = {'jpeg in tiff': LOSSY['tiff'], 'lossy webp': LOSSY['webp']}
    whole = (EXACT | more)[name](picture(32))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            files.sound(data)
        except BadFile as e:
            refused += 1
            assert '\n' not in str(e) and len(str(e)) < 300
            continue
        height, width, _ = files.decode(data).shape
        assert files.check(data)[1:3] == (width, height)
    assert refused or name in ('tiff', 'tiff planes', 'tiff motorola', 'bmp', 'bmp opencv')


@pytest.mark.parametrize('name', EXACT)
def test_a_bound_is_kept_before_anything_is_decoded(name, monkeypatch):
    data = EXACT[name](picture(32))
    files.decode_sound(data, 32 * 32)
    monkeypatch.setattr(files, 'decode', None)
    monkeypatch.setattr(decoders, 'stored', None)
    for read in files.check, files.decode_sound, photo.read:
        with pytest.raises(BadFile, match='too large: 32x32'):
            read(data, 32 * 32 - 1)


def test_pictures_beyond_what_pillow_allows_by_itself():
    """A bound of its own, which --max-pixels would not raise: 89 million."""
    data = saved(Image.new('1', (9500, 9500)), 'TIFF', compression='group4')
    with pytest.raises(BadFile, match='too large: 9,500x9,500 = 90 million pixels'):
        files.check(data)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pixels = decoders.stored(data, 'tiff', decoders.header(data, 'tiff'))
    assert pixels.shape == (9500, 9500) and not pixels.any()


def test_nothing_is_written_to_the_terminal(tmp_path):
    """Pillow warns of damage, OpenCV logs it; the reason is said by whoever reads the file."""
    samples = struct.pack('<HHII', 277, 4, 1, 3), struct.pack('<HHII', 277, 4, 1, 3000)
    pixels = struct.pack('<HHII', 273, 4, 1, 8), struct.pack('<HHII', 273, 4, 1, 8000)
    folder = write(
        tmp_path,
        {
            'a': tiff(picture(16)).replace(*samples),
            'b': tiff(picture(16).astype(np.uint16)).replace(*pixels),
            'c': EXACT['tiff lzw'](picture(16))[:-5],
        },
    )
    code = (
        'import sys; from errors import BadFile; from sources import files\n'
        'for name in "abc":\n'
        '    try: files.decode(open(f"{sys.argv[1]}/{name}", "rb").read())\n'
        '    except BadFile: continue\n'
        '    raise SystemExit(f"{name} is decoded")'
    )
    done = subprocess.run([sys.executable, '-c', code, folder], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


# Kinds.


def test_texts_are_no_pictures(tmp_path):
    """A list may begin as a picture does."""
    folder = write(tmp_path, {'BM/1.png': face(SIZE), 'l.txt': b'BM/1.png\nBM/2.png\nBM/3.png\n'})
    found = listing.files(f'{folder}/l.txt', tmp_path, print)
    assert [file.name for file in found] == ['BM/1.png', 'BM/2.png', 'BM/3.png']
    for text in b'BM/000001.png (512,512,3)\n', b'II*.png', b'RIFF.png':
        with pytest.raises(BadFile, match='not an image that can be read'):
            files.check(text)


@pytest.mark.parametrize('kind', ['webp', 'tiff', 'bmp', 'avif'])
def test_a_picture_of_no_suffix_is_one(kind, tmp_path):
    write(tmp_path, {'face': EXACT[kind](picture(SIZE))})
    assert [image.kind for image in scan(tmp_path / 'face', size=SIZE).images] == [kind]


def test_brands_tell_pictures_from_films():
    for brands, kind in (
        (b'avif\0\0\0\0avifmif1miaf', 'avif'),
        (b'mif1\0\0\0\0avifmif1miaf', 'avif'),
        (b'mif1\0\0\0\0mif1heic', 'heif'),
        (b'heic\0\0\0\0mif1heic', 'heif'),
        (b'isom\0\0\2\0isomiso2avc1', ''),
        (b'isom\0\0\0\0', ''),
    ):
        head = (8 + len(brands)).to_bytes(4, 'big') + b'ftyp' + brands
        assert decoders.kind(head + b'\0\0\0\x08avif') == kind


class Heif(BmpImagePlugin.BmpImageFile):
    """In place of pillow_heif's class: a BMP in a box."""

    def __init__(self, file):
        super().__init__(io.BytesIO(file.read()[16:]))


def test_a_plugin_that_is_installed_later_counts(tmp_path, monkeypatch):
    """A verdict in the cache was given without it."""
    boxed = b'\0\0\0\x10ftypheic\0\0\0\0' + EXACT['bmp'](picture(SIZE))
    folder = write(tmp_path / 'in', {'a.heic': boxed, 'b.png': face(SIZE)})
    said = []
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    how = dict(size=SIZE, cache_dir=tmp_path, say=said.append)
    assert len(scan(folder, **how)) == 1
    assert 'a.heic (HEIC is read by a plugin: pip install pillow-heif, or convert' in said[0]

    plugin = type(sys)('pillow_heif')
    plugin.HeifImageFile, plugin.register_heif_opener = Heif, lambda: None
    monkeypatch.setitem(sys.modules, 'pillow_heif', plugin)
    found = scan(folder, **how).images
    assert [image.kind for image in found] == ['heif', 'png']
    assert np.array_equal(files.decode(boxed), picture(SIZE))


@pytest.mark.parametrize('kind', ['webp', 'avif'])
def test_a_pillow_without_a_kind(kind, monkeypatch):
    data = EXACT[kind](picture(16))
    monkeypatch.setattr(decoders.features, 'check', lambda name: name != kind)
    with pytest.raises(BadFile, match=f'this Pillow has no {decoders.NAMES[kind]}: pip install -U'):
        files.check(data)
    assert kind not in decoders.available() and 'tiff' in decoders.available()


# Training.

MIXED = {
    'a.png': EXACT['png'],
    'b.webp': EXACT['webp'],
    'c.tif': EXACT['tiff lzw'],
    'd.bmp': EXACT['bmp'],
    'e.avif': EXACT['avif'],
    'f.webp': LOSSY['webp'],
    'g.tiff': lambda x: saved(x, 'TIFF', icc_profile=P3),
    'h.webp': lambda x: saved(x, 'WEBP', lossless=True, icc_profile=P3),
}


def faces(folder, side):
    """(images of MIXED, the same all stored as PNG)."""
    made = {name: store(picture(side, seed=i)) for i, (name, store) in enumerate(MIXED.items())}
    again = {}
    for i, (name, data) in enumerate(made.items()):
        profile = {'icc_profile': P3} if i > 5 else {}
        pixels = files.decode(data) if i == 5 else picture(side, seed=i)
        again[f'{name[0]}.png'] = saved(pixels, 'PNG', **profile)
    written = write(folder / 'mixed', made), write(folder / 'png', again)
    return [scan(path, size=SIZE, cache_dir=folder, say=str).images for path in written]


@pytest.mark.parametrize('cache', ['off', 'host', 'file'])
@pytest.mark.parametrize('side', [SIZE, SIZE + 16])
def test_pipes_agree_whatever_a_face_is_stored_as(side, cache, tmp_path, monkeypatch):
    pytest.importorskip('nvidia.dali')
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    mixed, as_png = faces(tmp_path, side)
    assert {image.kind for image in mixed} == {'png', 'webp', 'tiff', 'bmp', 'avif'}
    targets = {}
    for name, images in (*((n, mixed) for n in dali_pipes.PIPES), ('png', as_png)):
        options = dict(batch=4, size=SIZE, seed=1, say=str, threads=1, cache=cache)
        pipe = 'reference' if name == 'png' else name
        with dali_pipes.make(pipe, images, 'bicubic', **options) as batches:
            targets[name] = np.concatenate([next(batches).target.numpy() for _ in range(4)])
    for name in dali_pipes.PIPES:
        assert np.array_equal(targets[name], targets['png']), name
