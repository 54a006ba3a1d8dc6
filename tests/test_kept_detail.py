"""What the share that stays is worth, on a drawn face: no way of restoring is beaten by chance."""

import cv2
import numpy as np
import pytest
from test_face_measures import texture

from benchmarks import kept_detail
from metrics.psnr import psnr


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    home = tmp_path_factory.mktemp('faces')
    cv2.imwrite(str(home / 'a.png'), texture(1))
    return home


def test_the_table(faces, monkeypatch, capsys):
    """A photograph that is the truth stays it, and an enlarged one is restored as a whole."""
    kinds = ('clean', 'enlarged from 64')
    monkeypatch.setattr(kept_detail, 'KINDS', {k: kept_detail.KINDS[k] for k in kinds})
    monkeypatch.setattr(kept_detail, 'SIZES', (128, 512))
    assert kept_detail.main([str(faces), '--count', '1', '--device', 'cpu']) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    restored, photo, auto = (np.array([float(line[i]) for line in lines]) for i in (-4, -3, -2))
    shares = [line[-1] for line in lines]
    assert shares == ['0%', '100%', '0%', '0%']
    assert photo[1] == 60 and (auto == np.where([0, 1, 0, 0], photo, restored)).all()


def test_other_sizes_are_refused(faces, capsys):
    cv2.imwrite(str(faces / 'b.png'), texture(1)[:256, :256])
    assert kept_detail.main([str(faces), '--device', 'cpu']) == 2
    assert 'b.png is no face of 512x512 pixels' in capsys.readouterr().err


@pytest.mark.parametrize('kind', sorted(kept_detail.KINDS))
def test_every_kind_but_the_clean_one_costs(kind):
    face = np.ascontiguousarray(cv2.resize(texture(2), (256, 256), interpolation=cv2.INTER_AREA))
    spoilt = kept_detail.KINDS[kind](face)
    assert spoilt.shape == face.shape and spoilt.dtype == np.uint8
    a, b = (kept_detail.tensor(x) for x in (spoilt, face))
    assert (float(psnr(a, b)) == np.inf) == (kind == 'clean')
