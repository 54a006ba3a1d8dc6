"""Photographs through infer.py: which path, what is written, what is said, what is refused."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import save_file

import infer
import models
import storage
import synthetic
from errors import RunError
from faces import align, detect
from sources import photo as photo_file

SIDE = 128  # of what a network of 4 times is given, where no run says another one


def picture(number, h=160, w=200):
    """A photo whose first pixel tells how many faces it has."""
    rng = np.random.default_rng(number)
    x = cv2.GaussianBlur(rng.uniform(0, 1, (h, w, 3)), (0, 0), 4)
    x = np.rint((x - x.min()) / np.ptp(x) * 200 + 20).astype(np.uint8)
    x[:2, :2] = 40 * number
    return x


def find(photo, min_face=detect.MIN_FACE):
    count = round(int(photo[0, 0, 0]) / 40)
    centres = [(50.0 + 60 * i, 80.0) for i in range(count)]
    points = [((align.TEMPLATE + 0.5) / align.SIDE - 0.5) * 56 + centre for centre in centres]
    boxes = [(x - 20, y - 20, x + 20, y + 20) for x, y in centres]
    return detect.Found(
        np.array(boxes).reshape(-1, 4), np.array(points).reshape(-1, 5, 2), np.ones(count)
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    torch.manual_seed(0)
    # Large weights, or what comes out is hardly another face.
    weights = {k: 10 * v for k, v in models.SRResNet(2, 8).state_dict().items()}
    save_file(weights, tmp_path / 'w.safetensors')
    monkeypatch.setattr(detect, 'make', lambda path: find)
    (tmp_path / 'in').mkdir()
    return tmp_path


def write(home, **numbers):
    for name, number in numbers.items():
        Image.fromarray(picture(number)).save(home / 'in' / f'{name}.png')


def run(home, *argv):
    end = ['--weights', home / 'w.safetensors', '--device', 'cpu']
    if '--output' not in argv:
        end += ['--output', home / 'out']
    return infer.main([str(a) for a in [*argv, *end]])


def written(home):
    return sorted(str(p.relative_to(home / 'out')) for p in (home / 'out').rglob('*.*'))


# ---- which path ----


def test_photos_are_searched_and_crops_are_not(home, capsys):
    write(home, a=1)
    assert run(home, home / 'in') == 0
    assert '1 photo with 1 restored face written' in capsys.readouterr().out
    small = home / 'crop.png'
    Image.fromarray(picture(0, SIDE, SIDE)).save(small)
    assert run(home, small) == 0
    said = capsys.readouterr().out
    assert f'no larger than {SIDE}x{SIDE}' in said and '1 image restored' in said
    assert Image.open(home / 'out' / 'crop.png').size == (4 * SIDE, 4 * SIDE)
    # Flags decide where they are given.
    assert run(home, small, '--no-aligned') == 0
    assert 'no face found in crop' in capsys.readouterr().out
    assert run(home, home / 'in', '--aligned') == 0
    assert 'aligned' not in capsys.readouterr().out
    assert Image.open(home / 'out' / 'a.png').size == (800, 640)


@pytest.mark.parametrize(
    'flag', [['--scale', '4'], ['--faces-only'], ['--keep', '0'], ['--format', 'webp']]
)
def test_flags_of_photos_are_refused_where_there_are_none(flag, home, capsys):
    Image.fromarray(picture(0, SIDE, SIDE)).save(home / 'crop.png')
    assert run(home, home / 'crop.png', *flag) == 2
    said = capsys.readouterr().err
    assert f'{flag[0]} is for photographs' in said and '--no-aligned' in said
    assert not (home / 'out').exists()


def test_one_name_for_the_input(home, capsys):
    write(home, a=1)
    assert run(home, home / 'in', '--input', home / 'in') == 2
    assert 'give one' in capsys.readouterr().err


# ---- what is written ----


@pytest.mark.parametrize('scale', [1, 2, 4])
def test_faces_alone_are_changed(scale, home):
    write(home, a=2)
    assert run(home, home / 'in', '--scale', scale) == 0
    out = np.asarray(Image.open(home / 'out' / 'a.png'))
    plain = (
        picture(2)
        if scale == 1
        else cv2.resize(picture(2), None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4)
    )
    changed = np.abs(out.astype(int) - plain).max(2) > 0
    boxes = np.zeros(changed.shape, bool)
    for x in (50, 110):
        boxes[52 * scale : 108 * scale + 1, (x - 28) * scale : (x + 28) * scale + 1] = True
    assert not changed[~boxes].any() and changed[boxes].mean() > 0.3


def test_keep_goes_from_the_restored_to_the_photo(home):
    write(home, a=1)
    out = []
    for keep in (0, 0.5, 1):
        assert run(home, home / 'in', '--keep', keep, '--scale', '1') == 0
        out.append(np.asarray(Image.open(home / 'out' / 'a.png')).astype(float))
    assert (out[2] == picture(1)).all() and (out[0] != out[2]).any()
    assert np.abs(out[1] - (out[0] + out[2]) / 2).max() <= 1.01


def test_faces_are_named_after_their_photo(home):
    write(home, a=1, b=3)
    (home / 'in' / 'sub').mkdir()
    Image.fromarray(picture(2)).save(home / 'in' / 'sub' / 'c.png')
    assert run(home, home / 'in', '--faces-only') == 0
    assert written(home) == [
        *('a-00.png', 'b-00.png', 'b-01.png', 'b-02.png'),
        *('sub/c-00.png', 'sub/c-01.png'),
    ]
    assert Image.open(home / 'out' / 'b-02.png').size == (512, 512)
    assert run(home, home / 'in', '--faces-only', '--format', 'jpeg') == 0
    assert 'b-02.jpg' in written(home)


def everything(kind):
    """A photo with transparency, profile and EXIF, on its side, as a file of a kind."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = 'a camera', 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    rgba = np.dstack([picture(1), np.full((160, 200), 200, np.uint8)])
    image = Image.fromarray(rgba if kind in ('PNG', 'WEBP') else rgba[..., :3])
    data = io.BytesIO()
    more = {'lossless': True} if kind == 'WEBP' else {}
    image.save(data, kind, exif=exif.tobytes(), icc_profile=icc, **more)
    return data.getvalue(), icc


@pytest.mark.parametrize('kept', ['all', 'colour', 'none'])
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_metadata_is_kept_as_one_says(kind, kept, home):
    data, icc = everything(kind)
    name = f'a{photo_file.SUFFIXES[kind]}'
    (home / 'in' / name).write_bytes(data)
    assert run(home, home / 'in', '--metadata', kept, '--scale', '1') == 0
    with Image.open(home / 'out' / name) as out:
        assert out.format == kind and out.size == (160, 200)
        assert (out.info.get('icc_profile') == icc) == (kept != 'none')
        exif = out.getexif()
        assert (exif.get(0x010F) == 'a camera') == (kept == 'all')
        assert exif.get(0x0112, 1) == 1
        assert ('A' in out.mode) == (kind != 'JPEG')


def test_sixteen_bits_come_back(home):
    deep = picture(1).astype(np.uint16) * 257
    cv2.imwrite(str(home / 'in' / 'a.png'), deep[..., ::-1])
    assert run(home, home / 'in', '--scale', '1', '--keep', '1') == 0
    out = cv2.imread(str(home / 'out' / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert out.dtype == np.uint16 and (out[..., ::-1] == deep).all()


@pytest.mark.parametrize(
    ('flag', 'output', 'name', 'kind'),
    [
        (['--format', 'jpeg'], 'out', 'a.jpg', 'JPEG'),
        (['--format', 'tiff'], 'out', 'a.tif', 'TIFF'),
        ([], 'out/other.webp', 'other.webp', 'WEBP'),
        ([], 'out/v1.0', 'v1.0/a.png', 'PNG'),
        (['--format', 'avif'], 'out', 'a.avif', 'AVIF'),
    ],
)
def test_the_kind_of_file_is_that_of_format_or_output(flag, output, name, kind, home):
    write(home, a=1)
    assert run(home, home / 'in' / 'a.png', '--output', home / output, *flag) == 0
    assert Image.open(home / 'out' / name).format == kind


# ---- what is said ----


def test_a_photo_without_a_face_is_enlarged(home, capsys):
    write(home, a=0, b=1)
    assert run(home, home / 'in') == 0
    said = capsys.readouterr().out
    assert said.count('no face found in a') == 1
    assert Image.open(home / 'out' / 'a.png').size == (400, 320)
    assert run(home, home / 'in', '--require-face') == 2
    assert 'no face found in a' in capsys.readouterr().err


def test_bad_files_among_good_ones_are_named(home, capsys):
    write(home, a=1, z=1)
    data = (home / 'in' / 'a.png').read_bytes()
    (home / 'in' / 'cut.png').write_bytes(data[: len(data) // 2])
    (home / 'in' / 'text.jpg').write_text('no picture')
    assert run(home, home / 'in') == 1
    said = capsys.readouterr().err
    assert 'cut.png: truncated' in said and 'text.jpg: not a' in said
    assert written(home) == ['a.png', 'z.png']
    for alone in ('cut.png', 'text.jpg'):
        assert run(home, home / 'in' / alone) == 2


def test_transparency_that_a_kind_cannot_hold_is_named(home, capsys):
    (home / 'in' / 'a.png').write_bytes(everything('PNG')[0])
    write(home, b=1)
    assert run(home, home / 'in', '--format', 'jpeg') == 1
    assert 'JPEG has no transparency: give --format png' in capsys.readouterr().err
    assert written(home) == ['b.jpg']


def test_sizes_are_bounded_with_the_flag_that_raises_the_bound(home, capsys):
    write(home, a=1)
    pixels = 160 * 200
    assert run(home, home / 'in', '--max-pixels', pixels - 1, '--scale', '1') == 2
    assert 'without --max-pixels' in capsys.readouterr().err
    assert run(home, home / 'in', '--max-pixels', pixels, '--scale', '1') == 0
    assert run(home, home / 'in', '--max-pixels', pixels) == 2
    assert 'give a smaller --scale' in capsys.readouterr().err
    # A header costs nothing: 20,000 x 20,000 pixels of one bit.
    Image.new('1', (20_000, 20_000)).save(home / 'in' / 'huge.png')
    assert run(home, home / 'in') == 1
    assert 'huge.png: too large: 20,000x20,000' in capsys.readouterr().err


def test_a_single_pixel_is_a_photo(home):
    Image.new('RGB', (1, 1), (9, 8, 7)).save(home / 'in' / 'one.png')
    assert run(home, home / 'in', '--no-aligned') == 0
    assert np.asarray(Image.open(home / 'out' / 'one.png')).tolist() == [[[9, 8, 7]] * 2] * 2


def test_a_thousand_faces_in_bounded_memory(home, monkeypatch):
    """Faces leave the network a batch at a time, and nobody keeps them."""
    points = np.repeat(find(picture(1)).points, 1000, 0)
    points += np.random.default_rng(0).uniform(-20, 60, (1000, 1, 2))
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    many = detect.Found(boxes, points, np.ones(1000))
    monkeypatch.setattr(detect, 'make', lambda path: lambda photo, min_face: many)
    seen = []
    monkeypatch.setattr(
        'tasks.restoration.restore', lambda net, x, tta: seen.append(len(x)) or x[:, :, ::4, ::4]
    )
    write(home, a=1)
    assert run(home, home / 'in') == 0
    assert sum(seen) == 1000 and max(seen) == 8


# ---- what is refused ----


def test_nothing_is_written_over_what_is_read(home, capsys):
    write(home, a=1)
    before = (home / 'in' / 'a.png').read_bytes()
    (home / 'list.txt').write_text('in/a.png\n')
    for source, output in (
        (home / 'in', home / 'in'),
        (home / 'in' / 'a.png', home / 'in'),
        (home / 'in' / 'a.png', home / 'in' / 'a.png'),
        (home / 'in', home / 'in' / 'sub'),
        (home / 'list.txt', home / 'in'),
    ):
        assert run(home, source, '--output', output) == 2, (source, output)
        assert '--output' in capsys.readouterr().err
    assert (home / 'in' / 'a.png').read_bytes() == before
    # Another name beside it is no harm.
    assert run(home, home / 'in' / 'a.png', '--output', home / 'in' / 'b.png') == 0


def test_a_list_of_one_photo_does_not_write_over_it(home, capsys):
    write(home, a=1)
    before = (home / 'in' / 'a.png').read_bytes()
    (home / 'list.txt').write_text('in/a.png\n')
    assert run(home, home / 'list.txt', '--output', home / 'in' / 'a.png') == 2
    assert '--output' in capsys.readouterr().err
    assert (home / 'in' / 'a.png').read_bytes() == before


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (['--output', 'a.gif'], 'photographs are written as'),
        (['--output', 'a.jpg', '--format', 'png'], 'leave --format out'),
        (['--output', 'a.png', '--faces-only'], 'give a folder'),
        (['--no-aligned', '--gt', 'in'], 'leave it out'),
        (['--faces-only', '--keep', '0.5'], 'no effect with --faces-only'),
        (['--tile', '64'], '--tile is of networks'),
        (['--background', 'Lanczos'], 'give lanczos, network, or weights'),
        (['--device', 'meta'], 'cannot be used'),
        (['--parser', 'in'], 'is no run directory'),
    ],
)
def test_flags_that_contradict_are_refused(more, said, home, monkeypatch, capsys):
    write(home, a=1)
    monkeypatch.chdir(home)
    more = more if '--output' in more else [*more, '--output', 'out']
    assert infer.main(['in', '--weights', 'w.safetensors', '--device', 'cpu', *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(home.glob('a.*'))


def test_one_photo_in_two_kinds_becomes_two(home, capsys):
    """As phones save them; faces for a network are refused, as both would be one PNG."""
    write(home, IMG_1=1)
    Image.fromarray(picture(1)).save(home / 'in' / 'IMG_1.JPG')
    assert run(home, home / 'in') == 0
    assert written(home) == ['IMG_1-jpg.jpg', 'IMG_1-png.png']
    assert run(home, home / 'in', '--aligned') == 2
    assert 'two images named IMG_1' in capsys.readouterr().err


@pytest.mark.parametrize('last', [False, True])
def test_what_a_kind_of_file_cannot_hold_is_named_and_the_next_one_written(last, home, capsys):
    """A WebP ends at 16,383 pixels a side, which shows when it is encoded, one photo later."""
    wide = cv2.resize(picture(0), (9000, 20))
    Image.fromarray(wide).save(home / 'in' / ('z.webp' if last else 'a.webp'), lossless=True)
    write(home, b=1, c=1)
    assert run(home, home / 'in') == 1
    said = capsys.readouterr()
    assert 'WEBP does not hold 18,000x40' in said.err and '2 photos with 3' in said.out
    assert written(home) == ['b.png', 'c.png']


def test_a_photo_may_be_longer_than_a_warp(home, monkeypatch):
    """OpenCV warps no more than 32,767 pixels a side."""
    long = np.zeros((40, 20_000, 3), np.uint8)
    long[:, -200:] = picture(0, 40, 200)
    where = np.array([[19_880.0, 0, 19_920, 40]])
    points = ((align.TEMPLATE + 0.5) / align.SIDE - 0.5) * 56 + (19_900.0, 20.0)
    one = detect.Found(where, points[None], np.ones(1))
    monkeypatch.setattr(detect, 'make', lambda path: lambda photo, min_face: one)
    Image.fromarray(long).save(home / 'in' / 'a.png')
    assert run(home, home / 'in', '--keep', '0.5') == 0
    assert Image.open(home / 'out' / 'a.png').size == (40_000, 80)


def test_damaged_exif_is_left_out(home):
    exif = Image.Exif()
    exif[0x010F] = 'a camera'
    Image.fromarray(picture(1)).save(home / 'in' / 'a.jpg', exif=exif.tobytes())
    data = (home / 'in' / 'a.jpg').read_bytes()
    at = data.index(b'a camera')
    for i in range(12, 30):
        (home / 'in' / 'a.jpg').write_bytes(data[: at - i] + b'\xff' + data[at - i + 1 :])
        assert run(home, home / 'in', '--scale', '1') in (0, 2)


def cmyk():
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    profile[16:20] = b'CMYK'
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).convert('CMYK').save(buffer, 'JPEG', icc_profile=bytes(profile))
    return buffer.getvalue()


def test_a_profile_of_other_colours_is_not_carried_along(home):
    (home / 'in' / 'a.jpg').write_bytes(cmyk())
    assert run(home, home / 'in', '--scale', '1') == 0
    with Image.open(home / 'out' / 'a.jpg') as out:
        assert out.mode == 'RGB' and 'icc_profile' not in out.info


def test_several_photos_do_not_go_into_one_file(home, capsys):
    write(home, a=1, b=1)
    assert run(home, home / 'in', '--output', home / 'one.png') == 2
    assert 'is one file, --input holds 2' in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half_written(home, monkeypatch, capsys):
    write(home, a=1, b=1)
    original = storage.write

    def full(path, data, sync=False):
        if path.name == 'b.png':
            raise RunError(f'{path} cannot be written: No space left on device')
        original(path, data, sync)

    monkeypatch.setattr(storage, 'write', full)
    assert run(home, home / 'in') == 2
    assert 'No space left' in capsys.readouterr().err
    assert written(home) == ['a.png']


# ---- how ----


def test_sharp_faces_are_left_alone(home, monkeypatch, capsys):
    """A sharp face of 512 pixels keeps its pixels, the same one blurred does not; nor does it where
    all are to be restored.
    """
    sharp = synthetic.face(3, 512).image
    noise = np.random.default_rng(0).normal(0, 1, sharp.shape)
    # Drawn faces have no skin: detail as photos have it.
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))[..., None]
    spectrum = np.fft.fft2(noise, axes=(0, 1)) / np.maximum(f, 1 / 512) ** 1.5
    grain = np.fft.ifft2(spectrum, axes=(0, 1)).real
    x = np.clip(sharp + 25 * grain / grain.std(), 0, 255).astype(np.uint8)
    one = detect.Found(np.array([[100.0, 100, 400, 400]]), align.TEMPLATE[None], np.ones(1))
    monkeypatch.setattr(detect, 'make', lambda path: lambda photo, min_face: one)
    Image.fromarray(x).save(home / 'in' / 'sharp.png')
    Image.fromarray(cv2.GaussianBlur(x, (0, 0), 4)).save(home / 'in' / 'soft.png')
    for flags, sharp_one in (([], False), (['--keep', '0'], True)):
        assert run(home, home / 'in', '--scale', '1', *flags) == 0
        told = capsys.readouterr().out
        assert ('1 of them sharper than' in told and '1 stayed as they were' in told) != sharp_one
        changed = {}
        for name in ('sharp.png', 'soft.png'):
            before, after = (np.asarray(Image.open(home / d / name)) for d in ('in', 'out'))
            changed[name] = bool((before != after).any())
        assert changed == {'sharp.png': sharp_one, 'soft.png': True}


def test_the_background_may_be_the_networks(home, capsys):
    write(home, a=1)
    other = models.SRResNet(1, 8)
    save_file(other.state_dict(), home / 'other.safetensors')
    assert run(home, home / 'in') == 0
    plain = np.asarray(Image.open(home / 'out' / 'a.png')).astype(int)
    for how in ('network', home / 'other.safetensors'):
        assert run(home, home / 'in', '--background', how, '--tile', '64') == 0
        made = np.asarray(Image.open(home / 'out' / 'a.png'))
        assert made.shape == plain.shape and (made[:40] != plain[:40]).any()
    save_file(models.UNet().state_dict(), home / 'unet.safetensors')
    assert run(home, home / 'in', '--background', home / 'unet.safetensors') == 2
    assert 'give --background lanczos' in capsys.readouterr().err
    assert run(home, home / 'in', '--background', home / 'none.safetensors') == 2
