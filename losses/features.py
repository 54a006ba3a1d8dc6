"""Losses on feature maps: perceptual, of a frozen network, and of a discriminator.

Johnson et al., ECCV 2016; ESRGAN, 2018; pix2pixHD, CVPR 2018.

    extract = vgg19('vgg19.pth', REAL_ESRGAN).to(device)
    perceptual(extract, output, target, REAL_ESRGAN.values())

Any module that maps pictures [B, 3, H, W] in [0, 1] to a list of feature maps can replace VGG19.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import BadFile
from models.names import best
from models.shapes import shapes
from storage import printable, shown, tensors

from .pixel import l1

# Weights by layer, from the papers that give the names. 'conv' is a layer before its ReLU, where
# the features are dense and tell more; 'relu' is the layer after it.
# fmt: off
ESRGAN      = {'conv5_4': 1.0}
REAL_ESRGAN = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1.0, 'conv4_4': 1.0, 'conv5_4': 1.0}
PIX2PIXHD   = {'relu1_1': 1/32, 'relu2_1': 1/16, 'relu3_1': 1/8, 'relu4_1': 1/4, 'relu5_1': 1.0}
# fmt: on

# Channels of the convolutions; each block is followed by a pooling by 2.
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
# Name -> channels, in order.
_WIDTHS = {
    f'conv{block}_{i}': width
    for block, widths in enumerate(_BLOCKS, 1)
    for i, width in enumerate(widths, 1)
}
# torchvision numbers convolutions, ReLUs and poolings in one list: two entries for each earlier
# convolution, and one for each earlier block.
_NUMBERS = {name: 2 * n + int(name[4]) - 1 for n, name in enumerate(_WIDTHS)}
_EXPECTED = (
    "torchvision's vgg19 was expected, a dict of tensors with 16 convolutions features.0.weight "
    '... features.34.bias (not vgg16, not vgg19_bn)'
)


# ---- the frozen network ----


class VGG19(nn.Module):
    """The convolutions of VGG19 (Simonyan and Zisserman, ICLR 2015, configuration E).

    They are built up to the last layer that is asked for; all have 20,024,384 parameters.

    layers: names of layers, e.g. 'conv5_4', the fourth convolution of the fifth block, and
        'relu5_4', its output after the ReLU; ValueError for unknown ones
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Iterable[str]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self._check()
        last = max(_NUMBERS[_conv(name)] for name in self.layers)
        self.features = nn.ModuleDict()
        before = 3
        for name, width in _WIDTHS.items():
            if _NUMBERS[name] <= last:
                self.features[str(_NUMBERS[name])] = nn.Conv2d(before, width, 3, padding=1)
                before = width
        # Mean and deviation of ImageNet's pictures.
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)

    def _check(self) -> None:
        if not self.layers:
            raise ValueError('VGG19: no layer is asked for')
        unknown = [name for name in self.layers if _conv(name) not in _NUMBERS]
        if unknown:
            raise ValueError(
                f'VGG19 has no layer {unknown[0]!r}; there are: {", ".join(_NUMBERS)}, '
                'and the same with relu'
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] -> one feature map per layer, in the order of `layers`.

        Sides must be at least 2 for each pooling that is passed: 16 for conv5_4.
        """
        y = (x.float() - self.mean) / self.std
        maps: dict[str, Tensor] = {}
        for name, number in _NUMBERS.items():
            if str(number) not in self.features:
                break
            if name.endswith('_1') and maps:
                y = F.max_pool2d(y, 2)
            maps[name] = self.features[str(number)](y)
            # Not in place, because the map before the ReLU is returned, too.
            y = F.relu(maps[name])
            maps[name.replace('conv', 'relu')] = y
        return [maps[name] for name in self.layers]


def _conv(name: str) -> str:
    return name.replace('relu', 'conv')


def vgg19(path: str | Path, layers: Iterable[str]) -> VGG19:
    """VGG19 with the weights of a file, frozen and in eval mode. Nothing is downloaded.

    path: torchvision's vgg19 as its site offers it; the fully connected layers are left out
    layers: as of VGG19; the dicts of this file will do

    Raises ValueError that names the file and what was expected.
    """
    try:
        weights = tensors.read(path)
    except (OSError, BadFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f'{shown(path)} cannot be read as weights ({reason}): {_EXPECTED}'
        ) from error
    wanted = shapes(lambda: VGG19(['conv5_4'])).state_dict()
    weights = dict(best(weights, (), wanted))
    _check_shapes(path, weights, wanted)
    net = VGG19(layers)
    net.load_state_dict({k: v for k, v in weights.items() if k in net.state_dict()})
    return net.requires_grad_(False).eval()


def _check_shapes(
    path: str | Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    """Raise ValueError unless these are VGG19's convolutions."""
    there = {k: list(v.shape) for k, v in weights.items() if k.startswith('features.')}
    here = {k: list(v.shape) for k, v in wanted.items()}
    wrong = next((k for k in [*here, *there] if there.get(k) != here.get(k)), None)
    if wrong is None:
        return
    found = f'{wrong} is {there[wrong]}' if wrong in there else f'{wrong} is missing'
    unknown = '' if wrong in here else ', which VGG19 has not'
    raise ValueError(f'{shown(path)}: {printable(found, 200)}{unknown}: {_EXPECTED}')


# ---- losses ----


def perceptual(
    extract: Callable[[Tensor], list[Tensor]],
    output: Tensor,
    target: Tensor,
    weights: Iterable[float],
) -> Tensor:
    """Weighted sum of the mean absolute differences of feature maps -> scalar float32.

    The gradient goes to the output alone.

    extract: module that maps [B, 3, H, W] in [0, 1] to a list of feature maps
    weights: one number per map; ValueError for another number of them
    """
    weights = list(weights)
    with torch.no_grad():
        wanted = extract(target)
    maps = extract(output)
    if len(weights) != len(maps):
        raise ValueError(f'perceptual: {len(weights)} weights for {len(maps)} feature maps')
    terms = (w * l1(a, b) for w, a, b in zip(weights, maps, wanted, strict=True))
    return sum(terms, start=output.new_zeros((), dtype=torch.float32))


def matching(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean absolute difference of a discriminator's feature maps -> scalar float32.

    Summed over layers, averaged over scales; the gradient goes to `fake` alone (Wang et al.,
    pix2pixHD, CVPR 2018, eq. 4).

    real, fake: per scale a list of feature maps that ends with the logits, which are not compared
    """
    per_scale = []
    for fake_maps, real_maps in zip(fake, real, strict=True):
        pairs = zip(fake_maps[:-1], real_maps[:-1], strict=True)
        per_scale.append(torch.stack([l1(a, b.detach()) for a, b in pairs]).sum())
    return torch.stack(per_scale).mean()
