"""What a report says of a run, task by task, in words and tables."""

from typing import Any, Protocol

from torch import nn

import models
from config.schema import Config
from faces import masks

from . import restoration

Table = list[tuple[str, ...]]  # rows, the first of which is the head

PIXEL_LOSSES = {
    'l1': 'the mean absolute difference',
    'charbonnier': "Charbonnier's loss",
    'smooth_l1': 'the smooth L1 loss',
    'mse': 'the mean squared difference',
    'psnr': 'the logarithm of the squared error, picture by picture',
}
PARSING_LOSSES = {
    'ce': 'cross entropy',
    'lovasz': 'cross entropy and twice the Lovász-softmax loss',
    'mixed': 'half the cross entropy, 0.3 of the Lovász-softmax loss and the Dice loss',
    'ohem': 'cross entropy of the hardest pixels',
}
ADVERSARIAL_LOSSES = {
    'vanilla': 'non-saturating',
    'lsgan': 'least-squares',
    'hinge': 'hinge',
    'ragan': 'relativistic average',
}


class Prose(Protocol):
    """What a report needs to know of a task."""

    @property
    def shows_real(self) -> bool:
        """Whether pictures without ground truth say something."""
        ...

    def title(self, net: nn.Module) -> str:
        """Of a report."""
        ...

    def purpose(self, net: nn.Module) -> str:
        """What the network does, and how large it is, as the end of a sentence."""
        ...

    def training(self, config: Config, data: str) -> str:
        """Loss and data of a run. data: what config.json says of its images"""
        ...

    def results(self, scores: Any) -> tuple[Table, tuple[int, ...], str]:
        """(table of the scores, widths of its columns, a paragraph below it)"""
        ...

    def caption(self, scores: Any, i: int) -> str:
        """What stands behind the score of image i, above its pictures."""
        ...

    def columns(self, net: nn.Module) -> dict[str, str]:
        """{head of a column of a comparison of runs: its key in the log}, beside the metric."""
        ...

    def panels(self, net: nn.Module) -> str:
        """Names of the pictures in a strip."""
        ...


class RestorerProse:
    """Of restorers that enlarge, and of those that keep the size."""

    shows_real = True

    def title(self, net: nn.Module) -> str:
        """By what it is compared with."""
        return 'Face Renovation' if _keeps_size(net) else 'Blind Face Super-Resolution'

    def purpose(self, net: nn.Module) -> str:
        """The size, and the budget of the challenge where it applies."""
        count = models.count(net)
        if _keeps_size(net):
            return f'restores pictures at their size and has {count:,} parameters.'
        return (
            f'enlarges 128 x 128 to 512 x 512 pixels and has {count:,} parameters; '
            f'fewer than {models.BUDGET:,} are allowed.'
        )

    def training(self, config: Config, data: str) -> str:
        """Pixel loss, where inputs come from, and the adversarial loss."""
        return _pixel(config) + _inputs(config, data) + _adversarial(config)

    def results(self, scores: Any) -> tuple[Table, tuple[int, ...], str]:
        """PSNR of the baseline and ours."""
        rows: Table = [('', 'PSNR, dB', 'worst', 'best')]
        named = {scores.baseline_name: scores.baseline, 'ours': scores.psnr}
        for name, v in named.items():
            rows.append((name, f'{v.mean():.3f}', f'{v.min():.2f}', f'{v.max():.2f}'))
        return rows, (40, 20, 20, 20), ''

    def caption(self, scores: Any, i: int) -> str:
        """The baseline's PSNR."""
        return f', {scores.baseline_name} {scores.baseline[i]:.2f}'

    def columns(self, net: nn.Module) -> dict[str, str]:
        """SSIM and the baseline."""
        name = restoration.baseline(net)
        return {'SSIM': 'ssim', name: name}

    def panels(self, net: nn.Module) -> str:
        """A picture that keeps its size has no enlargement to be compared with."""
        return 'input, ours, truth' if _keeps_size(net) else 'input, bicubic, ours, truth'


class ParserProse:
    """Of parsers."""

    shows_real = False

    def title(self, net: nn.Module) -> str:
        """Always the same."""
        return 'Face Parsing'

    def purpose(self, net: nn.Module) -> str:
        """The number of classes."""
        count = models.count(net)
        return (
            f'names one of {len(masks.CLASSES)} parts for each pixel and has {count:,} parameters.'
        )

    def training(self, config: Config, data: str) -> str:
        """Loss, augmentation and degradation."""
        text = (
            f'The loss is {PARSING_LOSSES[config.loss.loss]}. Faces and masks are mirrored (left '
            'and '
            'right swapped), turned, enlarged and tinted by parameters drawn for each sample.'
        )
        recipe = config.degradation.recipe
        if recipe:
            text += f' Pictures are degraded by the recipe {recipe} and enlarged again.'
        return text

    def results(self, scores: Any) -> tuple[Table, tuple[int, ...], str]:
        """The three means, and the classes below."""
        s = scores.over()
        head = ('mIoU, %', 'mean F1, %', 'pixel accuracy, %')
        values = (f'{s.miou:.2f}', f'{s.f1:.2f}', f'{s.accuracy:.2f}')
        classes = zip(masks.CLASSES, s.iou, strict=True)
        below = 'IoU, %: ' + ', '.join(f'{name} {v:.1f}' for name, v in classes) + '.'
        return [head, values], (33, 33, 34), below

    def caption(self, scores: Any, i: int) -> str:
        """Nothing more than the score."""
        return ''

    def columns(self, net: nn.Module) -> dict[str, str]:
        """F1 and accuracy."""
        return {'mean F1': 'f1', 'pixel accuracy': 'accuracy'}

    def panels(self, net: nn.Module) -> str:
        """Masks over the picture."""
        return 'input, ours, truth'


class LandmarkProse(ParserProse):
    """Of finders of landmarks, which only comparisons show."""

    def columns(self, net: nn.Module) -> dict[str, str]:
        """The mean error."""
        return {'error, px of 128': 'error'}


def _keeps_size(net: nn.Module) -> bool:
    return restoration.baseline(net) == 'input'


# ------------------------------------------------------------------------------------------------
# Sentences on the training of restorers.


def _pixel(config: Config) -> str:
    loss = config.loss
    if not loss.pixel_weight:
        return ''
    last = ''
    if loss.last_loss:
        last = f', in the last {loss.last_share:.0%} of the run {PIXEL_LOSSES[loss.last_loss]},'
    target = 'sharpened' if config.degradation.target_usm else 'plain'
    return f'The loss is {PIXEL_LOSSES[loss.loss]}{last} between output and {target} ground truth. '


def _inputs(config: Config, data: str) -> str:
    if 'stored pairs' in data:
        return 'Inputs were degraded before, and are stored with their ground truth.'
    return (
        f'Inputs are made on the fly by the recipe {config.degradation.recipe}, every degradation '
        'drawn for each sample on its own [1].'
    )


def _adversarial(config: Config) -> str:
    gan, loss = config.gan, config.loss
    if not gan.gan:
        return ''
    # Every term with its weight; what has none is left out.
    perceptual = loss.perceptual_weight if loss.perceptual else 0
    extractor = 'VGG19' if loss.vgg else 'a parser' if loss.parser else 'EfficientNet-Lite0'
    weights = {
        'the pixel loss': loss.pixel_weight,
        f'a {ADVERSARIAL_LOSSES[gan.gan]} adversarial loss': gan.gan_weight,
        "the difference of the discriminator's feature maps": gan.matching_weight,
        f'a perceptual loss on {extractor}': perceptual,
    }
    listed = ', '.join(f'{name} {w:g}' for name, w in weights.items() if w)
    text = f' Weights: {listed}. The discriminator is {gan.discriminator}'

    # How the two players were kept level.
    if gan.gan_from:
        text += f', which learned from {gan.gan_from:,} images before the generator listened to it'
    text += '; training started from given weights.' if config.network.start else '.'
    if gan.gan_level:
        text += (
            ' The adversarial weight rises and falls with what it is right on, to hold that near '
            f'{gan.gan_level:.0%} of its pictures.'
        )
    return text


def frozen_networks(config: Config) -> str:
    """What a run needed beside the networks it trained."""
    if config.loss.vgg:
        return 'VGG19, 20,024,384'
    if config.loss.efficientnet:
        return 'EfficientNet-Lite0, 2,939,120'
    return 'a parser' if config.loss.parser else 'none'
