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
from faces.masks import png, sides
from faces.masks.pairs import repeated, scan_pairs
from faces.masks.reader import MaskReader
from sources import files, manifest, order

SIZE, BATCH, STEPS = 64, 4, 4
FAST = 'torch', 'dali'
OPTIONS = dict(
    batch=BATCH, size=SIZE, seed=3, start=5, rank=1, world=2, threads=2, say=lambda _: None
)


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    """Ten pairs, some larger than the training size, one with left and right to be put right."""
    folder = tmp_path_factory.mktemp('set')
    for name in ('images', 'masks'):
        os.makedirs(folder / name)
    for i in range(10):
        face = synthetic.face(i, 96 if i % 4 == 3 else SIZE)
        cv2.imwrite(str(folder / f'images/{i}.{"jpg" if i % 2 else "png"}'), face.image[..., ::-1])
        (folder / f'masks/{i}.png').write_bytes(png(masks.SWAP[face.mask] if i == 2 else face.mask))
    return scan_pairs(folder, size=SIZE, repair=True, cache_dir=folder, say=lambda _: None).images


def batches(name, pairs, steps=STEPS, **options):
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    with dali_pipes.make_parse(name, pairs, **{**OPTIONS, **options}) as pipe:
        return [next(pipe) for _ in range(steps)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(x[:3], y[:3], strict=True))


@pytest.fixture(scope='module')
def reference(pairs):
    return batches('reference', pairs)


@pytest.mark.parametrize('name', FAST)
def test_pipe_is_the_reference(name, pairs, reference):
    """Masks to the bit, pictures within 1.3e-5 (test_augment)."""
    for a, b in zip(batches(name, pairs), reference, strict=True):
        assert torch.equal(a.sample, b.sample)
        assert torch.equal(a.target, b.target)
        assert (a.input - b.input).abs().max() < 1.3e-5
        assert a.input.shape == (BATCH, 3, SIZE, SIZE)
        assert a.input.dtype == torch.float32
        assert a.input.is_contiguous(memory_format=torch.channels_last)
        assert a.target.shape == (BATCH, SIZE, SIZE)
        assert a.target.dtype == torch.uint8


def test_the_reference_is_what_its_parts_say(pairs, reference):
    """A sample by hand: the pair of its number, fitted, put right, augmented as drawn."""
    for batch in reference[:2]:
        index = order.index(batch.sample.numpy(), len(pairs), 3)
        params = augment.sample(Draw(3, batch.sample.numpy()).at('augment'), (SIZE, SIZE))
        for i, number in enumerate(index):
            pair = pairs[number]
            image = files.fit(files.decode(files.read_bytes(pair.path)), SIZE)
            mask = sides.repaired(masks.fit(masks.decode(files.read_bytes(pair.mask.path)), SIZE))
            out, ids = augment.run_ref(image, mask, params, i)
            assert np.abs(batch.input[i].permute(1, 2, 0).numpy() - out).max() < 1e-7
            assert (batch.target[i].numpy() == ids).all()


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_left_stays_left(name, pairs):
    masks = torch.cat([b.target for b in batches(name, pairs, 3, rank=0, world=1)]).numpy()
    assert not any(sides.exchanged(mask) for mask in masks)


def test_dali_is_torch_to_the_bit(pairs):
    assert_same(batches('dali', pairs), batches('torch', pairs))


@pytest.mark.parametrize('name', FAST)
@pytest.mark.parametrize('mode', ['host', 'file'])
def test_cached_is_decoded(name, mode, pairs, tmp_path, monkeypatch):
    """Three epochs and a second run from the cache; nothing is decoded twice."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path))
    read, decode = [], MaskReader.ids
    monkeypatch.setattr(MaskReader, 'ids', lambda self, i: (read.append(i), decode(self, i))[1])
    plain = batches(name, pairs, 7, rank=0, world=1)
    read.clear()
    assert_same(batches(name, pairs, 7, rank=0, world=1, cache=mode), plain)
    first = len(read)
    # Each is judged and read, and some are asked for again before they are in the cache.
    assert sorted(set(read)) == list(range(10))
    assert first <= 2 * 10 + 2 * BATCH
    assert_same(batches(name, pairs, 7, rank=0, world=1, cache=mode), plain)
    assert mode == 'host' or len(read) <= first + 2  # DALI must be given something


def test_a_cache_knows_the_masks(pairs, tmp_path):
    """Another repair, or another mask, is another picture."""

    def missing(pairs, **options):
        device = torch.device('cpu')
        return cache.make('file', pairs, SIZE, device, str, tmp_path, **options).missing(range(10))

    filled = cache.make('file', pairs, SIZE, torch.device('cpu'), str, tmp_path, channels=4)
    filled.put([0], torch.zeros(1, SIZE, SIZE, 4, dtype=torch.uint8))
    assert 0 not in missing(list(pairs), channels=4)
    assert 0 in missing([pairs[0]._replace(swap=True), *pairs[1:]], channels=4)
    assert 0 in missing(pairs)  # pictures only


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_resume_is_start(name, pairs):
    whole = batches(name, pairs, 4, start=0, rank=0, world=1)
    assert_same(batches(name, pairs, 2, start=2 * BATCH, rank=0, world=1), whole[2:])
    ranks = [batches(name, pairs, 2, start=0, rank=r, world=2) for r in (0, 1)]
    assert_same([b for pair in zip(*ranks, strict=True) for b in pair], whole)


@pytest.mark.parametrize('name', FAST)
def test_degraded_faces(name, pairs):
    """Through a recipe: the same masks, and pictures less sharp, as the reference has them.

    A rounding that tips one grey level can change how many levels a picture has, and with them its
    Poisson noise: one of the four may differ.
    """
    plain = batches(name, pairs, 2)
    ours = batches(name, pairs, 2, recipe='ai6126_2024')
    reference = batches('reference', pairs, 2, recipe='ai6126_2024')
    for a, b, c in zip(plain, ours, reference, strict=True):
        assert torch.equal(a.target, b.target)
        assert torch.equal(b.target, c.target)
        assert b.input.shape == a.input.shape
        assert 0.005 < (a.input - b.input).abs().mean() < 0.3
        alike = ((b.input - c.input).abs() * 255 < 1.01).float().mean((1, 2, 3))
        assert (alike > 0.99).sum() >= BATCH - 1


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_what_another_face_wears_is_pasted(name, pairs):
    """Before anything moves: by hand, from the decoded pairs of a batch."""
    for batch, plain in zip(
        batches(name, pairs, 3, paste=0.6), batches(name, pairs, 3), strict=True
    ):
        numbers = batch.sample.numpy()
        chosen = Draw(3, numbers).uniform('paste') < 0.6
        params = augment.sample(Draw(3, numbers).at('augment'), (SIZE, SIZE))
        reader = MaskReader(pairs, SIZE, str)
        decoded = [
            image for image, _ in reader.decoded(order.index(numbers, len(pairs), 3).tolist())
        ]
        for i, own in enumerate(decoded):
            partner = np.flatnonzero(numbers == numbers[i] ^ 1)
            if not len(partner):
                chosen[i] = False
            other = decoded[partner[0] if len(partner) else i]
            worn = np.isin(other[..., 3:], masks.WORN) & chosen[i]
            both = np.where(worn, other, own)
            out, ids = augment.run_ref(both[..., :3], both[..., 3], params, i)
            assert np.abs(batch.input[i].permute(1, 2, 0).numpy() - out).max() < 1.3e-5
            assert (batch.target[i].numpy() == ids).all()
            if not worn.any():
                assert torch.equal(batch.target[i], plain.target[i])


def test_who_gives_does_not_depend_on_the_batches(pairs):
    """As long as they are even: one process, two, or other batches see the same samples."""
    whole = batches('torch', pairs, 2, start=0, rank=0, world=1, batch=8, paste=0.7)
    halves = batches('torch', pairs, 4, start=0, rank=0, world=1, paste=0.7)
    ranks = [batches('torch', pairs, 2, start=0, rank=r, world=2, paste=0.7) for r in (0, 1)]
    targets = torch.cat([b.target for b in whole])
    assert torch.equal(torch.cat([b.target for b in halves]), targets)
    shared = [b.target for pair in zip(*ranks, strict=True) for b in pair]
    assert torch.equal(torch.cat(shared), targets)


def test_what_is_worn_in_these_pairs(pairs):
    """The test above has something to paste."""
    assert sum(bool(set(pair.classes) & set(masks.WORN)) for pair in pairs) >= 3


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_rare_classes_come_more_often(name, pairs):
    """An epoch is as long as its list, and shows each pair as often as that says."""
    with_hat = [
        pair._replace(classes=(0, 1, 14) if i == 4 else (0, 1)) for i, pair in enumerate(pairs)
    ]
    epoch = repeated(with_hat, 0.9, 3)
    assert epoch.tolist() == [0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]
    options = dict(rank=0, world=1, start=0, balance=0.9)
    seen = np.concatenate([b.sample.numpy() for b in batches(name, with_hat, 3, **options)])
    assert sorted(epoch[order.index(seen, len(epoch), 3)]) == epoch.tolist()
    replaced = [with_hat[i] for i in epoch]
    assert_same(
        batches(name, with_hat, 3, **options),
        batches(name, replaced, 3, rank=0, world=1, start=0),
    )


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_a_mask_that_turns_out_bad_replaces_its_pair(name, pairs, tmp_path):
    """Masks that change after the scan: the next good pair takes the place of both files."""
    bad = manifest.Image(str(tmp_path / 'bad.png'), SIZE, SIZE, 'png', 'palette')
    (tmp_path / 'bad.png').write_bytes(png(np.zeros((SIZE, SIZE), np.uint8))[:60])
    changed = [pairs[0], pairs[1]._replace(mask=bad), pairs[2]._replace(mask=bad), pairs[4]]
    replaced = [pairs[0], pairs[4], pairs[4], pairs[4]]

    said = []
    out = batches(name, changed, 1, start=0, rank=0, world=1, say=said.append)
    expected = batches('torch', replaced, 1, start=0, rank=0, world=1)
    assert torch.equal(out[0].target, expected[0].target)
    said = [s for s in said if 'replaced' in s]
    assert len(said) == 2 and all('its mask' in s and 'bad.png' in s for s in said)


def test_names(pairs):
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        dali_pipes.make_parse('toch', pairs)
    with pytest.raises(ValueError, match='unknown cache'):
        dali_pipes.make_parse('torch', pairs, cache='x')
    with pytest.raises(ValueError, match="did you mean 'ai6126_2024'"):
        dali_pipes.make_parse('torch', pairs, recipe='ai6126_204')
