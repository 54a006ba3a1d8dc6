"""Losses on feature maps: perceptual, of a frozen network (Johnson et al., ECCV 2016; ESRGAN, 2018), and of a discriminator (pix2pixHD, CVPR 2018).

    extract = vgg19('vgg19.pth', REAL_ESRGAN).to(device)
    perceptual(extract, ours, truth, REAL_ESRGAN.values())

Any module that maps pictures [B, 3, H, W] in [0, 1] to a list of feature maps can take the place of VGG19.
"""

import pickle

import torch
import torch.nn.functional as F
from torch import nn

from .pixel import l1

# Weights by layer, as of the papers whose names they have. 'conv' is a layer before its ReLU, where it is dense and tells more, 'relu' behind it.
ESRGAN = {'conv5_4': 1.0}
REAL_ESRGAN = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1.0, 'conv4_4': 1.0, 'conv5_4': 1.0}
PIX2PIXHD = {
    'relu1_1': 1 / 32,
    'relu2_1': 1 / 16,
    'relu3_1': 1 / 8,
    'relu4_1': 1 / 4,
    'relu5_1': 1.0,
}

_BLOCKS = (
    (64, 64),
    (128, 128),
    (256,) * 4,
    (512,) * 4,
    (512,) * 4,
)  # channels; a pooling by 2 after each block
_NAMES = [f'conv{b}_{i}' for b, widths in enumerate(_BLOCKS, 1) for i in range(1, len(widths) + 1)]
# torchvision numbers convolutions, ReLUs and poolings in one list.
_NUMBERS = {name: 2 * n + int(name[4]) - 1 for n, name in enumerate(_NAMES)}
_EXPECTED = "torchvision's vgg19 was expected, a dict of tensors with 16 convolutions features.0.weight ... features.34.bias (not vgg16, not vgg19_bn)"


class VGG19(nn.Module):
    """The convolutions of VGG19 (Simonyan and Zisserman, ICLR 2015; configuration E), up to the last layer that is asked for. All have 20,024,384 parameters.

    layers: names of layers, e.g. 'conv5_4', the fourth convolution of the fifth block, and 'relu5_4', what a ReLU makes of it; ValueError for unknown ones
    """

    def __init__(self, layers):
        super().__init__()
        unknown = [name for name in layers if _conv(name) not in _NUMBERS]
        if unknown or not layers:
            raise ValueError(
                f'VGG19 has no layer {unknown[0]!r}; there are: {", ".join(_NUMBERS)}, and the same with relu'
                if unknown
                else 'VGG19: no layer is asked for'
            )
        self.layers, last = tuple(layers), max(_NUMBERS[_conv(name)] for name in layers)
        self.features = nn.ModuleDict()
        before = 3
        for name, width in zip(_NUMBERS, (w for widths in _BLOCKS for w in widths)):
            if _NUMBERS[name] <= last:
                self.features[str(_NUMBERS[name])] = nn.Conv2d(before, width, 3, padding=1)
                before = width
        self.register_buffer(
            'mean', torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False
        )  # of ImageNet's pictures
        self.register_buffer(
            'std', torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False
        )

    def forward(self, x):
        """x: [B, 3, H, W] in [0, 1], sides at least 2 for each pooling that is passed: 16 for conv5_4 -> [map] in the order of `layers`"""
        y, found = (x.float() - self.mean) / self.std, {}
        for name, number in _NUMBERS.items():
            if str(number) not in self.features:
                break
            if name.endswith('_1') and found:
                y = F.max_pool2d(y, 2)
            found[name] = self.features[str(number)](y)
            y = found[f'relu{name[4:]}'] = F.relu(
                found[name]
            )  # not in place: the layer is given away as it is
        return [found[name] for name in self.layers]


def _conv(name):
    return name.replace('relu', 'conv')


def vgg19(path, layers):
    """VGG19 with the weights of a file, frozen and in eval mode -> VGG19

    path:   torchvision's vgg19 as its site offers it; the fully connected layers are left alone
    layers: as of VGG19; the dicts of this file will do
    Raises ValueError naming the file and what was expected. Nothing is downloaded.
    """
    with torch.device('meta'):  # shapes only
        wanted = {k: v.shape for k, v in VGG19(['conv5_4']).state_dict().items()}
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
        found = {k: v.shape for k, v in weights.items() if k.startswith('features.')}
    except (OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError) as e:
        raise ValueError(
            f'{path} cannot be read as weights ({str(e).splitlines()[0] if str(e) else type(e).__name__}): {_EXPECTED}'
        ) from e
    if found != wanted:
        wrong = next((k for k in [*wanted, *found] if found.get(k) != wanted.get(k)))
        has = f'{wrong} is {list(found[wrong])}' if wrong in found else f'{wrong} is missing'
        raise ValueError(
            f'{path}: {has}{"" if wrong in wanted else ", which VGG19 has not"}: {_EXPECTED}'
        )
    net = VGG19(layers)
    net.load_state_dict({k: v for k, v in weights.items() if k in net.state_dict()})
    return net.requires_grad_(False).eval()


def perceptual(extract, ours, truth, weights):
    """Weighted sum of the mean absolute differences of feature maps -> scalar float32; the gradient goes to ours alone.

    extract: module that maps [B, 3, H, W] in [0, 1] to a list of feature maps
    weights: one number per map; ValueError for another number of them
    """
    weights = list(weights)
    with torch.no_grad():
        wanted = extract(truth)
    found = extract(ours)
    if len(weights) != len(found):
        raise ValueError(f'perceptual: {len(weights)} weights for {len(found)} feature maps')
    return sum(w * l1(a, b) for w, a, b in zip(weights, found, wanted, strict=True))


def matching(real, fake):
    """Mean absolute difference of a discriminator's feature maps, sum over its layers, mean over its scales -> scalar float32; the gradient goes to fake alone.

    Wang et al., pix2pixHD, CVPR 2018, eq. 4.

    real, fake: per scale a list of feature maps that ends with the logits, which are not compared
    """
    terms = []
    for ours, theirs in zip(fake, real, strict=True):
        values = [l1(a, b.detach()) for a, b in zip(ours[:-1], theirs[:-1], strict=True)]
        terms.append(torch.stack(values).sum())
    return torch.stack(terms).mean()
