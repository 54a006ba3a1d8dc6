"""The three pipes of pictures and masks yield the same batches."""

import os

import cv2
import numpy as np
import pytest
import torch

import dali_pipes
import synthetic
from dali_pipes import cache
from degrade.draw import Draw
from faces import augment, masks
from faces.masks import pairs, png, sides
from faces.masks.reader import MaskReader
from sources import files, manifest, order

SIZE, BATCH, STEPS = 64, 4, 4
FAST = 'torch', 'dali'
OPTIONS = dict(
    batch=BATCH, size=SIZE, seed=3, start=5, rank=1, world=2, threads=2, say=lambda _: None
)


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """Ten pairs, some larger than the training size, one whose sides are exchanged and to be put right."""
    folder = tmp_path_factory.mktemp('set')
    for name in ('images', 'masks'):
        os.makedirs(folder / name)
    for i in range(10):
        face = synthetic.face(i, 96 if i % 4 == 3 else SIZE)
        cv2.imwrite(str(folder / f'images/{i}.{"jpg" if i % 2 else "png"}'), face.image[..., ::-1])
        (folder / f'masks/{i}.png').write_bytes(png(masks.SWAP[face.mask] if i == 2 else face.mask))
    return pairs.scan_pairs(
        folder, size=SIZE, repair=True, cache_dir=folder, say=lambda _: None
    ).images


def batches(name, found, steps=STEPS, **options):
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    with dali_pipes.make_parse(name, found, **{**OPTIONS, **options}) as pipe:
        return [next(pipe) for _ in range(steps)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(x[:3], y[:3]))


@pytest.fixture(scope='module')
def reference(found):
    return batches('reference', found)


@pytest.mark.parametrize('name', FAST)
def test_pipe_is_the_reference(name, found, reference):
    """Masks to the bit, pictures within 1.3e-5 (test_augment)."""
    for a, b in zip(batches(name, found), reference, strict=True):
        assert (
            torch.equal(a.sample, b.sample)
            and torch.equal(a.target, b.target)
            and (a.input - b.input).abs().max() < 1.3e-5
        )
        assert (
            a.input.shape == (BATCH, 3, SIZE, SIZE)
            and a.target.shape == (BATCH, SIZE, SIZE)
            and a.target.dtype == torch.uint8
        )
        assert (
            a.input.is_contiguous(memory_format=torch.channels_last)
            and a.input.dtype == torch.float32
        )


def test_the_reference_is_what_its_parts_say(found, reference):
    """A sample by hand: the pair of its number, fitted, put right, augmented as drawn."""
    for batch in reference[:2]:
        index = order.index(batch.sample.numpy(), len(found), 3)
        params = augment.sample(Draw(3, batch.sample.numpy()).at('augment'), (SIZE, SIZE))
        for i, number in enumerate(index):
            pair = found[number]
            image = files.fit(files.decode(files.read_bytes(pair.path)), SIZE)
            mask = sides.repaired(masks.fit(masks.decode(files.read_bytes(pair.mask.path)), SIZE))
            out, ids = augment.run_ref(image, mask, params, i)
            assert (
                np.abs(batch.input[i].permute(1, 2, 0).numpy() - out).max() < 1e-7
                and (batch.target[i].numpy() == ids).all()
            )


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_left_stays_left(name, found):
    seen = torch.cat([b.target for b in batches(name, found, 3, rank=0, world=1)]).numpy()
    assert not any(sides.exchanged(mask) for mask in seen)


def test_dali_is_torch_to_the_bit(found):
    assert_same(batches('dali', found), batches('torch', found))


@pytest.mark.parametrize('name', FAST)
@pytest.mark.parametrize('mode', ['host', 'file'])
def test_cached_is_decoded(name, mode, found, tmp_path, monkeypatch):
    """Three epochs and a second run from the cache; nothing is decoded twice."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path))
    read, decode = [], MaskReader.ids
    monkeypatch.setattr(MaskReader, 'ids', lambda self, i: (read.append(i), decode(self, i))[1])
    plain = batches(name, found, 7, rank=0, world=1)
    read.clear()
    assert_same(batches(name, found, 7, rank=0, world=1, cache=mode), plain)
    first = len(read)
    assert (
        sorted(set(read)) == list(range(10)) and first <= 2 * 10 + 2 * BATCH
    )  # judged, read, and what was asked for before it was there
    assert_same(batches(name, found, 7, rank=0, world=1, cache=mode), plain)
    assert mode == 'host' or len(read) <= first + 2  # DALI must be given something


def test_a_cache_knows_the_masks(found, tmp_path):
    """Another repair, or another mask, is another picture."""
    made = [
        cache.make('file', list(found), SIZE, torch.device('cpu'), str, tmp_path, channels=4)
        for _ in range(2)
    ]
    made[0].put([0], torch.zeros(1, SIZE, SIZE, 4, dtype=torch.uint8))
    assert 0 not in made[1].missing(range(10))
    turned = [found[0]._replace(swap=True), *found[1:]]
    assert 0 in cache.make(
        'file', turned, SIZE, torch.device('cpu'), str, tmp_path, channels=4
    ).missing(range(10))
    assert 0 in cache.make('file', list(found), SIZE, torch.device('cpu'), str, tmp_path).missing(
        range(10)
    )  # pictures only


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_resume_is_start(name, found):
    whole = batches(name, found, 4, start=0, rank=0, world=1)
    assert_same(batches(name, found, 2, start=2 * BATCH, rank=0, world=1), whole[2:])
    ranks = [batches(name, found, 2, start=0, rank=r, world=2) for r in (0, 1)]
    assert_same([b for pair in zip(*ranks) for b in pair], whole)


@pytest.mark.parametrize('name', FAST)
def test_degraded_faces(name, found):
    """Seen through a recipe: the same masks, pictures less sharp, as the reference has them; but a rounding that tips one grey level can change how many levels a
    picture has, and with them its Poisson noise, so one of the four may differ."""
    plain, ours, ref = (
        batches(pipe, found, 2, recipe=recipe)
        for pipe, recipe in ((name, None), (name, 'ai6126_2024'), ('reference', 'ai6126_2024'))
    )
    for a, b, c in zip(plain, ours, ref):
        assert (
            torch.equal(a.target, b.target)
            and torch.equal(b.target, c.target)
            and b.input.shape == a.input.shape
        )
        assert 0.005 < (a.input - b.input).abs().mean() < 0.3
        alike = ((b.input - c.input).abs() * 255 < 1.01).float().mean((1, 2, 3))
        assert (alike > 0.99).sum() >= BATCH - 1


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_a_mask_that_turns_out_bad_replaces_its_pair(name, found, tmp_path):
    """Masks that change after the scan: the next good pair takes the place of both files."""
    bad = manifest.Image(str(tmp_path / 'bad.png'), SIZE, SIZE, 'png', 'palette')
    (tmp_path / 'bad.png').write_bytes(png(np.zeros((SIZE, SIZE), np.uint8))[:60])
    said = []
    changed = [found[0], found[1]._replace(mask=bad), found[2]._replace(mask=bad), found[4]]
    out = batches(name, changed, 1, start=0, rank=0, world=1, say=said.append)
    expected = batches(
        'torch', [found[0], found[4], found[4], found[4]], 1, start=0, rank=0, world=1
    )
    assert torch.equal(out[0].target, expected[0].target)
    said = [s for s in said if 'replaced' in s]
    assert len(said) == 2 and all('its mask' in s and 'bad.png' in s for s in said)


def test_names(found):
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        dali_pipes.make_parse('toch', found)
    with pytest.raises(ValueError, match='unknown cache'):
        dali_pipes.make_parse('torch', found, cache='x')
    with pytest.raises(ValueError, match="did you mean 'ai6126_2024'"):
        dali_pipes.make_parse('torch', found, recipe='ai6126_204')
