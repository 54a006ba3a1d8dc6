"""Tiles make the picture that the whole would make; who cannot work in tiles is refused."""

import numpy as np
import pytest
import torch

import models
from errors import RunError
from faces.quality import effective_side
from tasks import backgrounds, restoration


def network(net):
    @torch.no_grad()
    def run(x):
        return restoration.restore(net, x)

    return run


def srresnet():
    torch.manual_seed(0)
    net = models.SRResNet(2, 8).eval()
    # Untrained layers hardly see beyond a pixel.
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p) * p.abs().mean()
    return net


def picture(h, w, dtype=np.uint8, channels=3):
    levels = np.iinfo(dtype).max
    x = np.random.default_rng(0).integers(0, levels, (h, w, channels), dtype, endpoint=True)
    return np.repeat(x, 3, 2) if channels == 1 else x


@pytest.mark.parametrize('tile', [32, 47, 256])
def test_tiles_show_no_seam(tile):
    net = srresnet()
    pixels = picture(90, 70)
    whole = network(net)(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    made = backgrounds.Tiled(network(net), 4, backgrounds.reach(net, ''), tile)(pixels, 4)
    assert np.abs(made.astype(int) - whole.numpy()).max() <= 1


def test_the_reach_is_that_of_the_convolutions():
    # A first layer, two blocks of two, one behind them, and less than two pixels more behind that.
    net = srresnet()
    assert 1 < backgrounds.reach(net, '') <= 1 + 2 * 2 + 1 + 2 + 1
    one = torch.nn.Conv2d(3, 3, 7, padding=3, bias=False)
    assert backgrounds.reach(one, '') == 3 + 1


@pytest.mark.parametrize('scale', [1, 2, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_a_network_has_another_factor_than_the_photo(scale, dtype):
    """A network that repeats pixels gives the pixels, or their repetition."""

    def repeat(x):
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)

    pixels = picture(40, 33, dtype) // 257 * 257 if dtype == np.uint16 else picture(40, 33)
    made = backgrounds.Tiled(repeat, 4, 2, 32)(pixels, scale)
    assert made.dtype == dtype
    assert (made == pixels.repeat(scale, 0).repeat(scale, 1)).all()


def test_a_photo_of_greys_stays_one():
    made = backgrounds.Tiled(network(srresnet()), 4, 8, 32)(picture(40, 40, channels=1), 2)
    assert (made == made[..., :1]).all() and made.std() > 1


class Global(torch.nn.Conv2d):
    """What it makes of a pixel depends on the mean of the picture."""

    def __init__(self):
        super().__init__(3, 3, 1)

    def forward(self, x):
        return super().forward(x + x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize(
    ('net', 'why'),
    [
        (models.UNet, 'knows where in a face'),
        (Global, 'more than'),
    ],
)
def test_who_sees_the_whole_face_is_refused(net, why):
    with pytest.raises(RunError, match=f'--background x: .*{why}'):
        backgrounds.reach(net().eval(), '--background x')


# ---- how sharp a face is ----


def fractal(seed, side=512):
    """A picture whose power falls with the third power of the frequency."""
    rng = np.random.default_rng(seed)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    spectrum = np.fft.fft2(rng.normal(0, 1, (side, side))) / np.maximum(f, 1 / side) ** 1.5
    x = np.fft.ifft2(spectrum).real
    return x / x.std() * 45 + 128


def low_passed(x, side):
    """What `side` pixels can hold of it."""
    spectrum = np.fft.fft2(x)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(len(x)), np.fft.fftfreq(len(x))))
    return np.fft.ifft2(np.where(f <= side / len(x) / 2, spectrum, 0)).real


def levels(x):
    return np.repeat(np.clip(np.rint(x), 0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize('side', [48, 96, 192, 320])
@pytest.mark.parametrize('noise', [0, 4])
def test_a_face_is_worth_what_it_holds(side, noise):
    rng = np.random.default_rng(5)
    worth = []
    for seed in range(4):
        x = low_passed(fractal(seed), side)
        worth.append(effective_side(levels(x + rng.normal(0, noise, x.shape))))
    # An ideal cut lies sooner than that of area averaging, by which PIXELS is set.
    assert 0.7 * side < np.median(worth) < 1.1 * side
