"""What restorers are trained on: a pixel loss, features that should agree, a discriminator, and
where priors look.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losses
import models
from config.schema import Config
from dali_pipes.batch import Batch
from losses import adversarial, features, priors

from .players import Losses, frozen

ENTROPY = 1e-3  # weight of the bonus for priors that count alike, in addition to a multi-prior loss


class RestorationCriterion:
    """Pixel loss, perceptual loss (Johnson et al., ECCV 2016) and adversarial loss (Goodfellow et
    al., 2014) of a run.

    extract: module that gives feature maps of [B, 3, H, W] in [0, 1], or None; weights: of each of
    its maps
    """

    def __init__(
        self, config: Config, extract: nn.Module | None = None, weights: Sequence[float] = ()
    ) -> None:
        self.loss = config.loss
        self.gan = config.gan
        self.multi_prior_weight = config.priors.multi_prior_weight
        self.extract = extract
        self.weights = weights

        # One batch of real and fake pictures is one estimate of the spectral norms for both; the
        # other discriminators are trained as published, in two.
        self._together = self.gan.discriminator == 'patchgan'
        channels = self.gan.discriminator_net.get('channels', 6)
        self._paired = self._together and channels == 6

    def net(
        self,
        output: Any,
        batch: Batch,
        discriminator: nn.Module | None,
        nimg: int,
        progress: float,
    ) -> Losses:
        """{name: weighted scalar}, which the network makes small.

        output: [B, 3, H, W], or a list of them, one per pass, or models.Attended with such a list:
        all should equal the
            target; a discriminator sees the last, and so does the multi-prior loss, since only it
            was guided
        nimg, progress: images seen, share of the run that is done
        """
        passes = _passes(output)
        suffixes = [f'_pass{i}' for i in range(len(passes))] if len(passes) > 1 else ['']
        terms = {}

        # Every pass by itself.
        if self.loss.pixel_weight:
            pixel = losses.RESTORE[self._pixel_loss(progress)]
            for suffix, y in zip(suffixes, passes, strict=True):
                terms['pixel' + suffix] = self.loss.pixel_weight * pixel(y, batch.target)
        if self.extract is not None:
            for suffix, y in zip(suffixes, passes, strict=True):
                distance = features.perceptual(self.extract, y, batch.target, self.weights)
                terms['perceptual' + suffix] = self.loss.perceptual_weight * distance

        # The last pass by its priors and its discriminator.
        if isinstance(output, models.Attended):
            terms |= self._attended(output, batch)
        if discriminator is not None and nimg >= self.gan.gan_from:
            with frozen(discriminator):
                terms |= self._adversarial(discriminator, passes[-1], batch)
        return terms

    def _pixel_loss(self, progress: float) -> str:
        """Name of the pixel loss at this share of the run."""
        last = self.loss.last_loss
        return last if last and progress >= 1 - self.loss.last_share else self.loss.loss

    def _attended(self, output: models.Attended, batch: Batch) -> Losses:
        """Errors where the priors look, and the bonus for priors that count alike."""
        last = output.passes[-1]
        error = priors.multi_prior(last, batch.target, output.regions, output.weights)
        terms = {'multi_prior': self.multi_prior_weight * error}
        if output.weights is not None:
            terms['entropy'] = -ENTROPY * priors.entropy(output.weights)
        return terms

    def _adversarial(self, discriminator: nn.Module, output: Tensor, batch: Batch) -> Losses:
        """What the generator learns from its discriminator."""
        # Relativistic losses and feature matching need the real images too; these need no gradient,
        # and have none.
        real = None
        if self.gan.gan == 'ragan' or self.gan.matching_weight:
            real, fake = self._judged(discriminator, batch.plain, output, batch.input)
        else:
            fake = discriminator(self._with_input(batch.input, output))

        terms = {'gan': self.gan.gan_weight * adversarial.g_loss(self.gan.gan, fake, real)}
        if self.gan.matching_weight:
            terms['matching'] = self.gan.matching_weight * features.matching(real, fake)
        return terms

    def discriminator(self, forward: Any, output: Any, batch: Batch) -> tuple[Losses, Tensor]:
        """({name: scalar} that the discriminator makes small, share of its logits that are right)"""
        images = batch.plain.requires_grad_(bool(self.gan.r1))
        real, fake = self._judged(forward, images, _passes(output)[-1].detach(), batch.input)
        terms = {'d': adversarial.d_loss(self.gan.gan, real, fake)}
        if self.gan.r1:
            terms['r1'] = self.gan.r1 * adversarial.r1(images, real)
        return terms, adversarial.accuracy(real, fake, self.gan.gan)

    def _judged(self, forward: Any, real: Tensor, fake: Tensor, lq: Tensor) -> tuple[Any, Any]:
        """What a discriminator says of real pictures and of fake ones made of lq."""
        if not self._together:
            return forward(real), forward(fake)
        both = forward(torch.cat([self._with_input(lq, real), self._with_input(lq, fake)]))
        count = len(real)
        of_real = [[x[:count] for x in scale] for scale in both]
        of_fake = [[x[count:] for x in scale] for scale in both]
        return of_real, of_fake

    def _with_input(self, lq: Tensor, image: Tensor) -> Tensor:
        """What is judged: a picture, or the degraded one and it, [B, 6, H, W] (pix2pixHD, Wang et
        al., CVPR 2018).
        """
        if not self._paired:
            return image
        if lq.shape != image.shape:
            lq = F.interpolate(lq, image.shape[-2:], mode='bicubic').clamp(0, 1)
        return torch.cat([lq, image.to(lq.dtype)], 1)


def _passes(output: Any) -> list[Tensor]:
    """Outputs of all passes of a network."""
    output = output.passes if isinstance(output, models.Attended) else output
    return output if isinstance(output, list) else [output]
