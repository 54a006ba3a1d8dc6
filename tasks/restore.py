"""Face restoration: a network, for GANs a discriminator, and what both are trained on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dali_pipes
import degrade
import losses
import models
import storage
from config import rules
from config.schema import Config
from config.stored import made_with
from dali_pipes.batch import Batch
from errors import BadFile, RunError
from losses import adversarial, efficientnet, features, priors
from metrics import perceptual
from metrics.psnr import psnr
from metrics.ssim import ssim
from storage import shown
from training import checkpoint
from training.world import World

from . import data as sources
from . import guides, images
from .batches import SHOWN
from .options import check_restoring, complete_network
from .players import (
    DiscriminatorController,
    Losses,
    Player,
    Players,
    Step,
    StepResult,
    autocast,
    frozen,
    learn,
    player,
)
from .prose import RestorerProse
from .restoration import restore, validate
from .task import Applied, Group, Metric, Scores

ENTROPY = 1e-3  # weight of the bonus for priors that count alike, in addition to a multi-prior loss


class Restore:
    """LQ in, HQ out: x4, or the size stays."""

    name = 'restore'
    metric = Metric('psnr', 'PSNR', 'dB', 0.2)
    networks = models.NETWORKS | models.GUIDED | models.RENOVATORS
    losses = losses.RESTORE
    max_processes: int | None = None
    prose = RestorerProse()
    has_report = True

    def complete(self, config: Config) -> Config:
        """Scale, architectures and priors of the network follow from other options."""
        return complete_network(config)

    def check(self, config: Config) -> None:
        """Losses, discriminator, arguments, and whether the scale of the network is that of the
        recipe.
        """
        check_restoring(config)
        net = rules.untrained(self.networks[config.network.network], config.network.net, 'net')
        if config.gan.discriminator:
            discriminator = models.DISCRIMINATORS[config.gan.discriminator]
            rules.untrained(discriminator, config.gan.discriminator_net, 'discriminator_net')
        _check_scale(config, models.scale(net))

    def load(
        self, config: Config, say: Callable[[str], None], bar: Callable[[str], Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Faces, paired data or a stream of shards, and validation sets of pairs."""
        return sources.load_faces(config, say, bar)

    def feed(self, config: Config, images: Any, *, start: int, **where: Any) -> Any:
        """A pipe of degraded faces."""
        return make_pipe(config, where)(images, degradation(config), start=start)

    def plan(self, config: Config, batch: int) -> dali_pipes.Plan:
        """Of faces that are degraded."""
        assert config.degradation.recipe
        return dali_pipes.Plan(
            1,
            degrade.recipe(config.degradation.recipe),
            batch=batch,
            size=config.data.size,
            crop=config.data.crop,
            lq_from_usm=config.degradation.lq_from_usm,
            target_usm=config.degradation.target_usm,
            target_gray=config.degradation.target_gray,
        )

    def network(self, config: Config) -> nn.Module:
        """The network, together with what makes its priors if it is guided."""
        return guided(self.networks[config.network.network](**config.network.net), config)

    def build(self, config: Config, device: torch.device) -> Players:
        """The network, and its discriminator if it has one."""
        # The generator first, so that its random weights are those of a run without a GAN.
        by_name = {'net': player(self.network(config), config, device, config.optimization.lr)}
        if config.gan.gan:
            by_name['discriminator'] = _discriminator(config, device)
        # What the first validation will need is known to be there, too.
        with torch.random.fork_rng([]):
            _lpips(config.run.lpips, device)
        return Players(by_name, criterion(config, device))

    def step(self, players: Players, pipe: Iterator[Any], step: Step) -> StepResult:
        """Network and discriminator learn from the same batches; the controller follows the
        discriminator.
        """
        result = learn(players.by_name, players.criterion, lambda: next(pipe), step)
        discriminator = players.by_name.get('discriminator')
        if discriminator and discriminator.controller:
            # All processes must take the same turn, so the controller follows their mean.
            accuracy = step.world.mean(result.losses['d_accuracy'])
            discriminator.controller.update(accuracy, step.images)
        return result

    def validate(
        self,
        net: nn.Module,
        data: Sequence[Any],
        config: Config,
        device: torch.device,
        world: World | None = None,
        show: int = SHOWN,
    ) -> Scores:
        """PSNR, SSIM, and LPIPS if its weights are given."""
        return validate(
            net,
            data,
            device,
            world,
            batch=config.optimization.batch,
            autocast=autocast(config.run.precision, device),
            threads=config.run.threads or 1,
            show=show,
            lpips=_lpips(config.run.lpips, device),
        )

    def averages(self, config: Config) -> bool:
        """Not of a GAN, whose best PSNR is where it began."""
        return not config.gan.gan

    def finish(self, config: Config, net: nn.Module) -> list[str]:
        """Nothing but the weights."""
        return []

    def read_truth(self, path: Path) -> Tensor:
        """[3, H, W] uint8 RGB."""
        return images.read(path)

    def check_infer(self, lpips: str | None) -> None:
        """Restored images can be written and scored."""

    def infer(
        self, net: nn.Module, groups: Iterable[Group], folder: Path, how: Applied
    ) -> list[str]:
        """Restore, save as PNG, and score the saved files where there is a ground truth."""
        # LPIPS is loaded before the first image is restored: a missing file should cost nothing.
        metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {'PSNR': psnr, 'SSIM': ssim}
        if how.lpips:
            metrics['LPIPS'] = perceptual.lpips(how.lpips, how.device)
        count, scores = 0, []
        for group in groups:
            lq = torch.stack([image for _, image, _ in group]).to(how.device)
            with torch.no_grad(), how.autocast():
                out = restore(net, lq, how.tta).cpu()
            for (name, _, truth), image in zip(group, out, strict=True):
                # What counts is the saved file: it is read back and scored, rounding included.
                path = folder if images.is_picture(folder) else folder / f'{name}.png'
                storage.write(path, images.png(image))
                count += 1
                if truth is not None:
                    scores.append(_score(path, truth.to(how.device), name, metrics))
        return [
            f'{storage.counted(count, "image")} restored to {storage.shown(folder)}',
            *_mean_scores(scores),
        ]


def _check_scale(config: Config, scale: float) -> None:
    """Raise RunError where a network enlarges by another factor than the recipe shrinks."""
    if scale == config.scale:
        return
    # Name the recipes that would fit: that is what users have to choose from.
    fitting = ', '.join(r.name for r in degrade.RECIPES.values() if r.scale == scale)
    remedy = (
        f'give --recipe {fitting}, or another --network'
        if fitting
        else 'give other arguments (--net), or another --network'
    )
    raise RunError(
        f'--network {config.network.network} enlarges its input {scale} times, while the ground '
        'truth of '
        f'--recipe {config.degradation.recipe} is {config.scale} times as large as the input: '
        f'{remedy}'
    )


# ------------------------------------------------------------------------------------------------
# What the networks are trained on.


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
        self._kind = config.gan.gan or 'vanilla'  # asked for with a discriminator only
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
        real: Any = None
        if self._kind == 'ragan' or self.gan.matching_weight:
            assert batch.plain is not None
            real, fake = self._judged(discriminator, batch.plain, output, batch.input)
        else:
            fake = discriminator(self._with_input(batch.input, output))

        terms = {'gan': self.gan.gan_weight * adversarial.g_loss(self._kind, fake, real)}
        if self.gan.matching_weight:
            terms['matching'] = self.gan.matching_weight * features.matching(real, fake)
        return terms

    def discriminator(self, forward: Any, output: Any, batch: Batch) -> tuple[Losses, Tensor]:
        """({name: scalar} that the discriminator makes small, share of logits that are right)"""
        assert batch.plain is not None  # only batches of masks have none
        images = batch.plain.requires_grad_(bool(self.gan.r1))
        real, fake = self._judged(forward, images, _passes(output)[-1].detach(), batch.input)
        terms = {'d': adversarial.d_loss(self._kind, real, fake)}
        if self.gan.r1:
            terms['r1'] = self.gan.r1 * adversarial.r1(images, real)
        return terms, adversarial.accuracy(real, fake, self._kind)

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


# ------------------------------------------------------------------------------------------------
# Data and players.


def degradation(config: Config) -> degrade.Recipe | None:
    """The recipe of a run."""
    if not config.degradation.recipe:
        return None
    return degrade.recipe(config.degradation.recipe)._replace(pool=config.degradation.pair_pool)


def make_pipe(config: Config, where: dict[str, Any]) -> Callable[..., Any]:
    """dali_pipes.make with everything but images, recipe and start. where: rank, world, device,
    threads, say
    """

    pairs = sources.mixed_in(config, say=lambda _: None)
    common: dict[str, Any] = dict(
        batch=config.optimization.batch,
        size=config.data.size,
        seed=config.run.seed,
        crop=config.data.crop,
    )

    def make(images: Any, recipe: Any, *, start: int) -> Any:
        pipe = dali_pipes.make(
            str(config.data.pipe),
            images,
            recipe,
            start=start,
            lq_from_usm=config.degradation.lq_from_usm,
            target_usm=config.degradation.target_usm,
            target_gray=config.degradation.target_gray,
            cache=config.data.cache,
            decode=config.data.decode,
            **common,
            **where,
        )
        if not pairs:
            return pipe
        # Pairs are decoded by one thread, as they are few.
        more = {key: value for key, value in where.items() if key != 'threads'}
        return dali_pipes.MixedPipe(pipe, pairs, config.scale, start=start, **common, **more)

    return make


def guided(net: nn.Module, config: Config) -> nn.Module:
    """A network together with what makes its priors, if it wants some."""
    if not config.network.guides:
        return net
    return models.Guided(
        net,
        guides.build(config.network.guides),
        config.priors.drop_priors or (),
        bool(config.priors.multi_prior_weight),
    )


def _discriminator(config: Config, device: torch.device) -> Player:
    gan = config.gan
    assert gan.discriminator
    net = models.DISCRIMINATORS[gan.discriminator](**gan.discriminator_net)
    # At its full rate from the first image: while nobody listens to it, nobody has to be spared.
    lr = gan.discriminator_lr or config.optimization.lr
    controller = DiscriminatorController(gan.gan_level, device) if gan.gan_level else None
    return player(
        net,
        config,
        device,
        lr,
        warmup_images=gan.gan_from,
        warmup_lr=lr,
        controller=controller,
    )


class Encoder(nn.Module):
    """The feature maps of a parser's encoder: a perceptual loss that owes nothing to ImageNet."""

    def __init__(self, parser: nn.Module) -> None:
        super().__init__()
        self.parser = parser

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] -> feature maps"""
        return self.parser.encode(x)  # type: ignore[operator]


def criterion(config: Config, device: torch.device) -> RestorationCriterion:
    """What a run's networks are trained on. Raises RunError for features that cannot be had."""
    extract: nn.Module | None = None
    weights: Sequence[float] = ()
    if config.loss.vgg:
        # VGG19 as published, on the layers of the recipe that is named.
        layers = losses.FEATURES[config.loss.features]
        try:
            extract = features.vgg19(config.loss.vgg, layers)
        except ValueError as error:
            raise RunError(f'--vgg {error}') from error
        weights = list(layers.values())
    elif config.loss.parser:
        parser = _parser(config.loss.parser)
        extract = Encoder(parser).requires_grad_(False).eval()
        # Every level of the encoder counts alike.
        weights = [1 / len(parser.encoder)] * len(parser.encoder)
    elif config.loss.efficientnet:
        extract = efficientnet.lite0(efficientnet.weights_file())
        weights = efficientnet.WEIGHTS
    return RestorationCriterion(config, extract and extract.to(device), weights)


def _parser(path: str) -> Any:
    """The network of a run of parse_unet, or of a published one, with its weights."""
    of = made_with(path)
    if of is None or of.network.network != 'parse_unet':
        raise RunError(
            f'--parser {shown(path)} is no run of parse_unet, and no file of its weights'
        )
    net = of.network.net
    return checkpoint.network_with_weights(lambda: models.ParseUNet(**net), path)[0]


# ------------------------------------------------------------------------------------------------
# Scores of saved files.


def _score(
    path: Path, gt: Tensor, name: str, metrics: dict[str, Callable[[Tensor, Tensor], Tensor]]
) -> dict[str, float]:
    """{metric: value} of a saved file."""
    try:
        saved = images.read(path).to(gt.device)
    except (OSError, BadFile) as error:
        raise RunError(f'{path}: {error}') from error
    if saved.shape != gt.shape:
        raise RunError(
            f'{name}: the restored image is {tuple(saved.shape[1:])}, the ground truth '
            f'{tuple(gt.shape[1:])} (height, width)'
        )
    return {k: float(metric(saved[None], gt[None])[0]) for k, metric in metrics.items()}


def _mean_scores(scores: list[dict[str, float]]) -> list[str]:
    """The means in words; nothing without a ground truth."""
    if not scores:
        return []
    mean = {k: np.mean([s[k] for s in scores]) for k in scores[0]}
    others = ''.join(f', {k}: {v:.4f}' for k, v in mean.items() if k != 'PSNR')
    return [f'PSNR: {mean["PSNR"]:.4f} dB{others}, over {storage.counted(len(scores), "image")}']


@lru_cache(maxsize=1)
def _lpips(path: str | None, device: torch.device) -> Any:
    """LPIPS with the weights of this file, loaded once."""
    return perceptual.lpips(path, device) if path else None
