"""LPIPS (Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018) by its authors' package, on a backbone that the user names."""

import pickle
import warnings

import torch

from errors import MetricError


def lpips(path, device):
    """Callable (ours, truth: [B, 3, H, W] uint8 on the device) -> [B] float64, lower is better.

    path: weights of torchvision's AlexNet or VGG16, as its site offers them; which one is told by their shapes. The small linear layers on top come with the package.
    Raises MetricError without the package, the file, or the right kind of weights. Nothing is downloaded.
    """
    try:
        import lpips as package
    except (
        ImportError,
        RuntimeError,
    ) as e:  # a torchvision built for another torch raises the latter
        raise MetricError(
            f'--lpips needs the package lpips and a torchvision that fits torch {torch.__version__} ({e}): pip install -e .[lpips]'
        ) from e
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
        last = max(int(k.split('.')[1]) for k in weights if k.startswith('features.'))
        kind = {10: 'alex', 28: 'vgg'}[last]
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        AttributeError,
        pickle.UnpicklingError,
    ) as e:
        raise MetricError(
            f"--lpips {path}: not the weights of torchvision's AlexNet or VGG16 ({type(e).__name__}: {e})"
        ) from e
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the package speaks to torchvision as one did in 2021
        net = package.LPIPS(
            net=kind, pnet_rand=True, verbose=False
        )  # "random": not from the internet
    for (
        name,
        parameter,
    ) in net.net.named_parameters():  # slice2.3.weight, numbered like features.3.weight
        parameter.data.copy_(weights['features.' + name.split('.', 1)[1]])
    net = net.to(device).eval()

    def measure(ours, truth):
        ours, truth = (x.float() / 127.5 - 1 for x in (ours, truth))
        return net(ours, truth).flatten().double()

    return measure
