"""Discriminator of ESRGAN (Wang et al., 2018), with BasicSR's parameter names.

Discriminators return logits, float32 also under autocast; the loss decides what to make of them.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry


class ModifiedVGG(nn.Module):
    """One logit per picture (Simonyan and Zisserman, 2015; Wang et al., ESRGAN, 2018).

    14,499,401 parameters at width 64, 1,061,417 at 16. Batch normalisation mixes the pictures of a
    batch in training, so real and fake pictures must come in batches of their own.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        for n, (a, b) in enumerate(itertools.pairwise(channels)):
            # All but the first are followed by a normalisation, which would remove a bias.
            self.add_module(f'conv{n}_0', nn.Conv2d(a, b, 3, padding=1, bias=n == 0))
            if n:
                self.add_module(f'bn{n}_0', nn.BatchNorm2d(b))
            self.add_module(f'conv{n}_1', nn.Conv2d(b, b, 4, stride=2, padding=1, bias=False))
            self.add_module(f'bn{n}_1', nn.BatchNorm2d(b))
        self.linear1 = nn.Linear(8 * width * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 128, 128] in [0, 1] -> [B, 1] float32; ValueError for pictures of other sizes."""
        if x.shape[-2:] != (128, 128):
            raise ValueError(
                'ModifiedVGG takes pictures of 128 x 128 pixels only; these have '
                f'{x.shape[-2]} x {x.shape[-1]}'
            )
        y = _leaky(self.get_submodule('conv0_0')(x))
        for part in ('0_1', *(f'{n}_{i}' for n in range(1, 5) for i in range(2))):
            y = self.get_submodule(f'conv{part}')(y)
            y = _leaky(self.get_submodule(f'bn{part}')(y))
        return self.linear2(_leaky(self.linear1(y.flatten(1)))).float()


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


ENTRY = Entry(
    name='modified_vgg',
    network=ModifiedVGG,
    kind='discriminator',
    mark='bn0_1.weight',
    variants=({}, {'width': 16}),
)
