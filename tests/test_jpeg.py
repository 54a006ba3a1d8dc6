"""JPEG: the round trip equals OpenCV's to the bit; DiffJPEG's two implementations agree."""

import cv2
import numpy as np
import pytest
import scipy.fft
import torch

from degrade import canvas, diffjpeg, jpeg
from degrade.draw import Draw


def opencv(x, quality, *more):
    """x [h, w, 3] uint8 RGB -> the same through a file in memory."""
    how = [cv2.IMWRITE_JPEG_QUALITY, quality, *more]
    ok, data = cv2.imencode('.jpg', x[..., ::-1].copy(), how)
    assert ok
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def pictures(photo, h, w, n, seed):
    """n images [h, w, 3] uint8: faces, noise of two or all values, gradients with hard edges."""
    rng = np.random.default_rng([seed, h, w])
    for i in range(n):
        kind = i % 4
        if kind < 2:
            yield photo(h, w, int(rng.integers(1 << 30)))
        elif kind == 2:
            step = rng.choice([1, 255])
            yield (rng.integers(0, 255 // step + 1, (h, w, 3)) * step).astype(np.uint8)
        else:
            y, x = np.mgrid[:h, :w]
            yield (
                (y * rng.integers(1, 40) + x * rng.integers(1, 40))[..., None]
                + rng.integers(0, 256, 3)
            ).astype(np.uint8)


@pytest.mark.parametrize('part', range(4))
def test_reference_is_libjpeg(part, photo):
    rng = np.random.default_rng(part)
    for i in range(520):
        h, w, quality = *rng.integers(1, 41, 2), int(rng.integers(1, 101))
        (x,) = (
            pictures(photo, h, w, 1, i)
            if i % 2
            else list(pictures(photo, h, w, 4, i))[2 + i // 2 % 2 :][:1]
        )
        assert (jpeg.apply_ref(x.astype(np.int64), quality) == opencv(x, quality)).all(), (
            h,
            w,
            quality,
            i,
        )


@pytest.mark.parametrize('part', range(4))
def test_torch_is_libjpeg(part, photo):
    rng = np.random.default_rng([1, part])
    for i in range(130):
        h, w = rng.integers(1, 41, 2)
        quality = rng.integers(1, 101, 8)
        images = list(pictures(photo, h, w, 8, i))
        y = (
            jpeg.apply_torch(torch.cat([canvas.nchw(x) for x in images]), quality)
            .permute(0, 2, 3, 1)
            .numpy()
        )
        for x, q, decoded in zip(images, quality, y, strict=True):
            assert (decoded == opencv(x, int(q))).all(), (h, w, q, i)


@pytest.mark.parametrize('part', range(4))
@pytest.mark.parametrize('sampling', range(3), ids=jpeg.SAMPLINGS)
def test_every_subsampling_is_libjpegs(sampling, part, photo):
    """Reference, torch and OpenCV's own way; what is not told to libjpeg is 4:2:0."""
    rng = np.random.default_rng([2, part, sampling])
    how = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, jpeg.OPENCV[sampling]] if sampling else []
    for i in range(90):
        h, w = rng.integers(1, 41, 2)
        quality = rng.integers(1, 101, 8)
        images = list(pictures(photo, h, w, 8, i))
        expected = [opencv(x, int(q), *how) for x, q in zip(images, quality, strict=True)]
        x = torch.cat([canvas.nchw(x) for x in images])
        y = jpeg.apply_torch(x, quality, sampling).permute(0, 2, 3, 1).numpy()
        for j, decoded in enumerate(expected):
            assert (y[j] == decoded).all(), (h, w, quality[j], i)
            assert (jpeg.apply_opencv(images[j], int(quality[j]), sampling) == decoded).all()
        ref = jpeg.apply_ref(images[0].astype(np.int64), int(quality[0]), sampling)
        assert (ref == expected[0]).all(), (h, w, quality[0], i)


@pytest.mark.parametrize('sampling', [1, 2])
def test_every_edge_case_of_the_size_of_subsamplings(sampling, photo):
    how = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, jpeg.OPENCV[sampling]
    for h in range(1, 19):
        for w in range(1, 19):
            x = photo(h, w, h * 20 + w)
            y = canvas.hwc(jpeg.apply_torch(canvas.nchw(x), [80], sampling))
            assert (y == opencv(x, 80, *how)).all(), (h, w)
            assert (jpeg.apply_ref(x.astype(np.int64), 80, sampling) == y).all(), (h, w)


@pytest.mark.parametrize('quality', [1, 49, 50, 90, 100])
def test_every_edge_case_of_the_size(quality, photo):
    """All remainders modulo 16 and the widths around the rule for narrow planes."""
    for h in range(1, 19):
        for w in range(1, 19):
            x = photo(h, w, h * 20 + w)
            assert (
                canvas.hwc(jpeg.apply_torch(canvas.nchw(x), [quality])) == opencv(x, quality)
            ).all(), (h, w)


def test_large_images(photo):
    rng = np.random.default_rng(0)
    for x in photo(512, 512), rng.integers(0, 256, (512, 512, 3)).astype(np.uint8), photo(501, 317):
        expected = opencv(x, 75)
        assert (canvas.hwc(jpeg.apply_torch(canvas.nchw(x), [75])) == expected).all()
    assert (jpeg.apply_ref(x.astype(np.int64), 75) == expected).all()


def segment_tables(data):
    """Quantisation tables that a JPEG file holds: {identifier: [8, 8]}."""
    zigzag = sorted(
        ((u, v) for u in range(8) for v in range(8)),
        key=lambda p: (sum(p), p[0] if sum(p) % 2 else p[1]),
    )
    tables, at = {}, 2
    while data[at + 1] != 0xDA:
        kind, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], 'big')
        body = data[at + 4 : at + 2 + size]
        while kind == 0xDB and body:
            table = np.zeros((8, 8), int)
            for place, value in zip(zigzag, body[1:65], strict=True):
                table[place] = value
            tables[body[0]] = table
            body = body[65:]
        at += 2 + size
    return tables


@pytest.mark.parametrize('quality', range(1, 101))
def test_tables_are_those_in_the_file(quality):
    data = cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()
    tables = segment_tables(data)
    assert (tables[0] == jpeg.table(quality, True)).all()
    assert (tables[1] == jpeg.table(quality, False)).all()


def test_subsamplings_follow_their_weights():
    draw, on = Draw(1, np.arange(20_000)).at('j'), np.arange(20_000) % 5 > 0
    p = jpeg.sample(draw, on, None, quality=(50, 60), sampling=(0.5, 0.2, 0.3))
    assert np.abs(np.bincount(p.sampling) / 20_000 - (0.5, 0.2, 0.3)).max() < 0.015
    plain = jpeg.sample(draw, on, None, quality=(50, 60))
    assert not plain.sampling.any() and (plain.quality == p.quality).all()
    words = [jpeg.told(jpeg.Params(*(f[i] for f in p)), None) for i in range(100)]
    assert words[0] == [] and ['quality', '4:4:4'] in [[w[0][:7], *w[1:]] for w in words if w]


def ops():
    return [(jpeg, np.int64), (diffjpeg, np.float64)]


def params(op, quality):
    """Parameters of these qualities; of JPEG with every subsampling in turn."""
    if op is diffjpeg:
        return op.Params(quality)
    return op.Params(quality, np.arange(np.size(quality)) % 3 if np.ndim(quality) else 0)


@pytest.mark.parametrize('op, number', ops())
@pytest.mark.parametrize('opencv', [False, True])
def test_quality_zero_is_the_identity(op, number, opencv, photo):
    x = canvas.unit(canvas.nchw(photo(20, 13)))
    assert torch.equal(op.run_torch(canvas.of(x), params(op, np.zeros(1, number)), opencv).pix, x)
    assert (op.run_ref(x.numpy(), params(op, number(0))) == x.numpy()).all()


@pytest.mark.parametrize('op, number', ops())
def test_ragged_canvas_sample_by_sample(op, number, photo):
    sizes, quality = (
        [(31, 17), (16, 40), (31, 17), (16, 40), (20, 20)],
        np.array([60, 0, 90, 33, 0], number),
    )
    pix = torch.full((5, 3, 35, 44), torch.nan)
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    p = params(op, quality)
    out = op.run_torch(canvas.Canvas(pix, np.array(sizes)), p).pix
    for i, (h, w) in enumerate(sizes):
        expected = op.run_ref(
            pix[i, :, :h, :w].permute(1, 2, 0).double().numpy(), op.Params(*(f[i] for f in p))
        )
        error = np.abs(out[i, :, :h, :w].permute(1, 2, 0).numpy() - expected)
        # A coefficient on a rounding tie moves a whole block of DiffJPEG.
        assert (error.max() if op is jpeg else np.median(error)) < 1e-6


def test_floats_are_rounded_half_to_even_and_clamped():
    u8 = np.random.default_rng(0).integers(0, 256, (24, 24, 3))
    x = u8 / 255 + np.random.default_rng(1).uniform(-0.4, 0.4, u8.shape) / 255
    x[0, 0], x[1, 1] = -0.3, 1.4  # as a blur may leave it
    plane = np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)
    expected = opencv(plane, 80)
    p = jpeg.Params(np.array([80]), np.array([0]))
    assert (np.rint(jpeg.run_ref(x, jpeg.Params(80, 0)) * 255) == expected).all()
    for way in False, True:
        y = canvas.unit(jpeg.run_torch(canvas.of(canvas.nchw(x.astype(np.float32))), p, way).pix)
        assert (np.rint(canvas.hwc(y) * 255) == expected).all()


def test_draws():
    n = 10000
    on = np.arange(n) % 5 > 0
    for op in jpeg, diffjpeg:
        q = op.sample(Draw(1, np.arange(n)).at('j'), on, None, quality=(50, 95)).quality
        assert (q[~on] == 0).all()
        assert q[on].min() >= 50
        assert q[on].max() <= 95
        assert abs(q[on].mean() - 72.5) < 0.6
    assert (
        np.bincount(
            jpeg.sample(Draw(1, np.arange(n)).at('j'), on, None, quality=(94, 95)).quality[on]
        )[94:]
        > 3700
    ).all()


# ---- DiffJPEG ----


def test_imgaugs_compression_is_a_quality():
    """1 + 99 (1 - c / 101), rounded, of the whole part of a uniform number."""
    assert jpeg.quality_of(np.array([0, 50, 84, 85, 100])).tolist() == [100, 51, 18, 17, 2]
    quality = jpeg.sample(
        Draw(1, np.arange(8000)).at('j'), np.ones(8000, bool), None, compression=(50, 85)
    ).quality
    qualities, counts = np.unique(quality, return_counts=True)
    expected = {round(1 + 99 * (101 - c) / 101) for c in range(50, 85)}
    assert qualities.tolist() == sorted(expected)
    assert (qualities[0], qualities[-1]) == (18, 51)
    assert counts.min() > 150


def test_diffjpeg_basis_is_the_orthonormal_dct():
    assert np.abs(diffjpeg.DCT - scipy.fft.dct(np.eye(8), axis=0, norm='ortho')).max() < 1e-12


@pytest.mark.parametrize('h, w', [(63, 17), (16, 16), (61, 50), (5, 90)])
def test_diffjpeg_torch_is_reference(h, w, photo):
    """Coefficients on a rounding tie go either way, which moves one block; all others agree."""
    quality = np.array([30.5, 49.9, 50, 95])
    images = [photo(h, w, i) / 255.0 for i in range(4)]
    y = (
        diffjpeg.apply_torch(
            torch.cat([canvas.nchw(x.astype(np.float32)) for x in images]), quality
        )
        .permute(0, 2, 3, 1)
        .numpy()
    )
    wrong = (
        np.abs(
            y - np.stack([diffjpeg.apply_ref(x, q) for x, q in zip(images, quality, strict=True)])
        )
        > 1e-5
    )
    assert wrong.mean() < 0.03


def test_diffjpeg_is_what_it_says_on_a_flat_block():
    """A grey block has one coefficient, 8 (g - 128), quantised in steps of 16 f.

    The sizes need no padding.
    """
    for g in 0, 60, 132, 240:
        for quality in 35.0, 50.0, 80.0:
            T = 16 * float(diffjpeg.factor(quality))
            expected = np.clip(np.rint(8 * (g - 128) / T) * T / 8 + 128, 0, 255) / 255
            y = diffjpeg.apply_ref(np.full((32, 16, 3), g / 255), quality)
            assert np.abs(y - expected).max() < 2e-4  # its YCbCr matrices are rounded
