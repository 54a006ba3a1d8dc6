"""LPIPS (Zhang et al., CVPR 2018) by its authors' package, on a backbone that the user names.

The Unreasonable Effectiveness of Deep Features as a Perceptual Metric.
"""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from errors import MetricError

Weights = dict[str, Tensor]


def lpips(path: str | Path, device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function (output, target: [B, 3, H, W] uint8 on the device) -> [B] float64.

    Lower is better. Nothing is downloaded; the small linear layers on top come with the package.

    path: weights of torchvision's AlexNet or VGG16, as its site offers them; their layers show
        which of the two they are

    Raises MetricError without the package, the file, or the right kind of weights.
    """
    package = _package()
    kind, weights = _backbone(path)
    with warnings.catch_warnings():
        # The package calls torchvision in the way of 2021.
        warnings.simplefilter('ignore')
        # A "random" network is one whose weights are not downloaded.
        net = package.LPIPS(net=kind, pnet_rand=True, verbose=False)
    # slice2.3.weight is numbered like features.3.weight.
    for name, parameter in net.net.named_parameters():
        parameter.data.copy_(weights['features.' + name.split('.', 1)[1]])
    return _measure(net.to(device).eval())


def _package() -> ModuleType:
    try:
        import lpips as package
    except (ImportError, RuntimeError) as error:
        # A torchvision built for another torch raises RuntimeError.
        raise MetricError(
            '--lpips needs the package lpips and a torchvision that fits torch '
            f'{torch.__version__} ({error}): pip install -e .[lpips]'
        ) from error
    return package


def _backbone(path: str | Path) -> tuple[str, Weights]:
    """Read the weights and tell by their last convolution which network they are of."""
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
        last = max(int(k.split('.')[1]) for k in weights if k.startswith('features.'))
        return {10: 'alex', 28: 'vgg'}[last], weights
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise MetricError(
            f"--lpips {path}: not the weights of torchvision's AlexNet or VGG16 "
            f'({type(error).__name__}: {error})'
        ) from error


def _measure(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def measure(output: Tensor, target: Tensor) -> Tensor:
        # The package takes pictures in [-1, 1].
        return net(output.float() / 127.5 - 1, target.float() / 127.5 - 1).flatten().double()

    return measure
