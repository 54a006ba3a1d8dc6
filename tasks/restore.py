"""Face restoration: a network, for GANs a discriminator, and the challenge's validation (PSNR and
SSIM of rounded 8-bit images).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dali_pipes
import degrade
import losses
import models
from config import rules
from config.schema import Config
from errors import BadFile, RunError
from losses import features
from metrics import perceptual
from metrics.psnr import psnr, to_uint8
from metrics.ssim import ssim
from training import checkpoint, run
from training.world import World

from . import data as sources
from . import guides, images
from .batches import SHOWN, batches, collected
from .criterion import RestorationCriterion
from .options import check_restoring, complete_network
from .players import (
    Autocast,
    DiscriminatorController,
    Player,
    Players,
    Step,
    StepResult,
    autocast,
    learn,
    player,
)
from .task import Applied, Group, Metric, Scores


class Restore:
    """LQ in, HQ out: x4, or the size stays."""

    name = 'restore'
    metric = Metric('psnr', 'PSNR', 'dB', 0.2)
    networks = models.NETWORKS | models.GUIDED | models.RENOVATORS
    losses = losses.RESTORE
    max_processes: int | None = None

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
        )

    def network(self, config: Config) -> nn.Module:
        """The network, together with what makes its priors if it is guided."""
        return guided(self.networks[config.network.network](**config.network.net), config)

    def build(self, config: Config, device: torch.device) -> Players:
        """The network, and its discriminator if it has one."""
        by_name = {'net': player(self.network(config), config, device, config.optimization.lr)}
        if config.gan.gan:
            by_name['discriminator'] = _discriminator(config, device)
        return Players(by_name, criterion(config, device))

    def step(self, players: Players, pipe: Iterator[Any], step: Step) -> StepResult:
        """Network and discriminator learn from the same batches; the controller follows the
        discriminator.
        """
        result = learn(players.by_name, players.criterion, lambda: next(pipe), step)
        discriminator = players.by_name.get('discriminator')
        if discriminator and discriminator.controller:
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

    def infer(
        self, net: nn.Module, groups: Iterable[Group], folder: Path, how: Applied
    ) -> list[str]:
        """Restore, save as PNG, and score the saved files where there is a ground truth."""
        metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {'PSNR': psnr, 'SSIM': ssim}
        if how.lpips:
            metrics['LPIPS'] = perceptual.lpips(how.lpips, how.device)
        count, scores = 0, []
        for group in groups:
            lq = torch.stack([image for _, image, _ in group]).to(how.device)
            with torch.no_grad(), how.autocast():
                out = restore(net, lq, how.tta).cpu()
            for (name, _, truth), image in zip(group, out, strict=True):
                path = folder if images.is_picture(folder) else folder / f'{name}.png'
                run.write(path, images.png(image))
                count += 1
                if truth is not None:
                    scores.append(_score(path, truth.to(how.device), name, metrics))
        return [f'{count} images restored to {folder}', *_mean_scores(scores)]


def _check_scale(config: Config, scale: int) -> None:
    """Raise RunError where a network enlarges by another factor than the recipe shrinks."""
    if scale == config.scale:
        return
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

    def make(images: Any, recipe: Any, *, start: int) -> Any:
        return dali_pipes.make(
            config.data.pipe,
            images,
            recipe,
            batch=config.optimization.batch,
            size=config.data.size,
            seed=config.run.seed,
            start=start,
            lq_from_usm=config.degradation.lq_from_usm,
            target_usm=config.degradation.target_usm,
            crop=config.data.crop,
            cache=config.data.cache,
            decode=config.data.decode,
            **where,
        )

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
        layers = losses.FEATURES[config.loss.features]
        try:
            extract = features.vgg19(config.loss.vgg, layers)
        except ValueError as error:
            raise RunError(f'--vgg: {error}') from error
        weights = list(layers.values())
    elif config.loss.parser:
        parser = _parser(config.loss.parser)
        extract = Encoder(parser).requires_grad_(False).eval()
        weights = [1 / len(parser.encoder)] * len(parser.encoder)
    return RestorationCriterion(config, extract and extract.to(device), weights)


def _parser(path: str) -> Any:
    """The network of a run of parse_unet, with its weights."""
    of = run.read_config(path)
    if of.get('network') != 'parse_unet':
        raise RunError(f'--parser: {path} is no run of parse_unet')
    parser = models.PARSERS[of['network']](**of['net'])
    checkpoint.load_weights(parser, path)
    return parser


# ------------------------------------------------------------------------------------------------
# Validation.


class RestoreScores(NamedTuple):
    """Figures of every image of a validation set."""

    psnr: np.ndarray  # [N] dB of the restored images
    ssim: np.ndarray  # [N]
    baseline: (
        np.ndarray
    )  # [N] dB of bicubic enlargement of the inputs; of the inputs themselves where the size stays
    lpips: np.ndarray  # [N], NaN where it was not asked for
    pass0: np.ndarray  # [N] dB of the first of two passes, NaN of a network with one
    shown: list[
        tuple[Tensor, ...]
    ]  # (input, bicubic, ours, truth) uint8 [3, h, w] of the first few
    baseline_name: str  # 'bicubic' or 'input'

    def value(self, part: slice = slice(None)) -> float:
        """Mean PSNR over a part of the images."""
        return float(self.psnr[part].mean())

    def row(self) -> dict[str, float]:
        """{name: mean} of everything that is known; gain: of the second pass over the first, dB."""
        columns = {
            'psnr': self.psnr,
            'ssim': self.ssim,
            self.baseline_name: self.baseline,
            'lpips': self.lpips,
            'pass0': self.pass0,
        }
        row = {k: float(v.mean()) for k, v in columns.items() if not np.isnan(v).any()}
        if 'pass0' in row:
            row['gain'] = row['psnr'] - row['pass0']
        return row

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """(rows, figures, names) of pictures.strip."""
        if self.baseline_name == 'input':
            rows = [(lq, *rest) for lq, _, *rest in self.shown]
            figures = [(b, o, None) for b, o in zip(self.baseline, self.psnr, strict=True)]
            return rows, figures, ('input', 'ours', 'truth')
        labels = [(None, b, o, None) for b, o in zip(self.baseline, self.psnr, strict=True)]
        return self.shown, labels, ('input', 'bicubic', 'ours', 'truth')

    def sentence(self) -> str:
        """The means in words."""
        gain = self.psnr - self.baseline
        text = (
            f'PSNR {self.psnr.mean():.3f} dB, SSIM {self.ssim.mean():.4f}, '
            f'{self.baseline_name} {self.baseline.mean():.3f} dB '
            f'(gain {gain.mean():+.3f}; worst image {gain.min():+.3f}), {len(self.psnr)} pairs'
        )
        if np.isnan(self.pass0).any():
            return text
        second = (self.psnr - self.pass0).mean()
        return f'{text}; first pass {self.pass0.mean():.3f} dB, the second gains {second:+.3f}'


@torch.no_grad()
def validate(
    net: nn.Module,
    data: Sequence[Any],
    device: torch.device | str,
    world: World | None = None,
    *,
    batch: int = 8,
    autocast: Autocast,
    show: int = SHOWN,
    threads: int = 1,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> RestoreScores:
    """Score `net` on a validation set: items (name, LQ uint8, GT uint8), [3, h, w] and [3, H, W].

    world: processes that share the set; all get the scores, each shows its own pictures
    show: pictures to keep; lpips: metrics.perceptual.lpips, or None
    """
    rows: list[Tensor] = []
    shown: list[tuple[Tensor, ...]] = []
    for lq, gt in batches(data, device, world, batch, threads):
        with autocast():
            outputs = passes(net, lq)
        ours, cubic = outputs[-1], bicubic(lq, gt.shape[-2:])

        # One column an image; what is not known is NaN.
        unknown = torch.full((len(lq),), torch.nan, dtype=torch.float64, device=lq.device)
        columns = (
            psnr(ours, gt),
            ssim(ours, gt),
            psnr(cubic, gt),
            lpips(ours, gt) if lpips else unknown,
            psnr(outputs[0], gt) if len(outputs) > 1 else unknown,
        )
        rows.append(torch.stack([column.to(unknown) for column in columns]).cpu())
        for i in range(min(len(lq), show - len(shown))):
            shown.append(tuple(t[i].cpu() for t in (lq, cubic, ours, gt)))
    mine = torch.cat(rows, 1).T.tolist() if rows else []
    quality, structure, enlarged, distance, pass0 = np.array(collected(mine, len(data), world)).T
    return RestoreScores(quality, structure, enlarged, distance, pass0, shown, baseline(net))


@lru_cache(maxsize=1)
def _lpips(path: str | None, device: torch.device) -> Any:
    """LPIPS with the weights of this file, loaded once."""
    return perceptual.lpips(path, device) if path else None


def restore(net: nn.Module, lq: Tensor, tta: bool = False) -> Tensor:
    """lq [B, 3, h, w] uint8 on the device -> [B, 3, H, W] uint8. tta: mean over the image and its
    mirror image.
    """
    x = _unit(lq)
    y = net(x).float()
    if tta:
        y = (y + net(x.flip(3)).float().flip(3)) / 2
    return to_uint8(y)


def baseline(net: nn.Module) -> str:
    """Name of what a restorer is compared with."""
    return 'input' if models.scale(net) == 1 else 'bicubic'


def passes(net: nn.Module, lq: Tensor) -> list[Tensor]:
    """As `restore`, but of every pass -> [[B, 3, H, W] uint8]; the last one counts."""
    x = _unit(lq)
    outputs = net.passes(x) if isinstance(net, models.Guided) else [net(x)]
    return [to_uint8(y.float()) for y in outputs]


def _unit(lq: Tensor) -> Tensor:
    return (lq.float() / 255).contiguous(memory_format=torch.channels_last)


def bicubic(lq: Tensor, size: Sequence[int]) -> Tensor:
    """lq [B, 3, h, w] uint8 -> [B, 3, *size] uint8, a = -0.75 as OpenCV's; of the same size that is
    lq.
    """
    return to_uint8(F.interpolate(lq.float() / 255, size=tuple(size), mode='bicubic'))


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
    return [f'PSNR: {mean["PSNR"]:.4f} dB{others}, over {len(scores)} images']
