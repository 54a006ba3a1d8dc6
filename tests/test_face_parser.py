"""Masks by the outline of a face, and the parser that sees it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from errors import RunError
from faces import masks, paste
from synthetic import labels
from tasks import face_parser, loading
from tasks.players import autocast

SIDE = 64


@pytest.fixture
def seen(monkeypatch):
    """A parser that sees given ids, whatever it looks at."""

    def make(ids, size=SIDE):
        asked = []

        def parse(net, images, size):
            asked.append(images.shape)
            return torch.from_numpy(ids[None]).expand(len(images), -1, -1)

        config = SimpleNamespace(data=SimpleNamespace(size=size), preset='parse_unet')
        task = SimpleNamespace(name='parse')
        plain = autocast('fp32', 'cpu')
        loaded = SimpleNamespace(net=None, config=config, task=task, autocast=lambda device: plain)
        monkeypatch.setattr(loading, 'of_run', lambda *args: loaded)
        monkeypatch.setattr(face_parser.parse, 'parse', parse)
        return face_parser.FaceParser('runs/parser', 'cpu'), asked

    return make


def faces(count=1, side=SIDE):
    return np.zeros((count, side, side, 3), np.uint8)


@pytest.mark.parametrize('name', masks.CLASSES)
def test_the_face_is_what_belongs_to_it(name, seen):
    """From the chin to the hair, with glasses and earrings; no neck, no hat, no clothes."""
    around = {'background', 'hat', 'neck_l', 'neck', 'cloth'}
    parser, _ = seen(np.full((SIDE, SIDE), masks.CLASSES.index(name), np.uint8))
    (mask,) = parser.masks(faces())
    if name in around:
        assert not mask.any()
    else:
        # Nothing at the very edge of the picture all the same.
        assert np.allclose(mask, paste.square(SIDE), atol=1e-6)


def test_the_outline_is_soft_and_in_its_place(seen):
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[16:48, 20:40] = labels.SKIN
    parser, _ = seen(ids)
    (mask,) = parser.masks(faces())
    assert mask[32, 30] == pytest.approx(1, abs=1e-3) and mask[32, 50] == pytest.approx(0, abs=1e-3)
    steps = np.abs(np.diff(mask, axis=1))
    assert 0 < steps.max() < 0.5
    # The centre of mass stays where it is.
    y, x = np.mgrid[:SIDE, :SIDE]
    assert (mask * x).sum() / mask.sum() == pytest.approx(29.5, abs=0.05)
    assert (mask * y).sum() / mask.sum() == pytest.approx(31.5, abs=0.05)


def test_a_parser_of_another_size_is_given_its_own(seen):
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[16:48, 16:48] = labels.SKIN
    parser, asked = seen(ids)
    made = parser.masks(faces(3, 256))
    assert asked == [(3, 3, SIDE, SIDE)] and made.shape == (3, 256, 256)
    assert made[1, 128, 128] == pytest.approx(1, abs=1e-3) and made[1, 20, 128] < 1e-3


def test_a_restorer_is_no_parser(monkeypatch):
    config = SimpleNamespace(preset='unet')
    loaded = SimpleNamespace(net=None, config=config, task=SimpleNamespace(name='restore'))
    monkeypatch.setattr(loading, 'of_run', lambda *args: loaded)
    with pytest.raises(RunError, match='a run of unet, which restores: give one of a parser'):
        face_parser.FaceParser('runs/mine', 'cpu')
