"""Options of restorers, searches and tasks with masks: what follows from others, and what does not
go together.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

import degrade
import models
import storage
from config import rules
from config.documentation import flag
from config.rules import Rule
from config.schema import EXTRACTORS, Config, replace_options
from errors import BadFile, RunError
from losses import efficientnet
from storage import records, shown

from . import guides

Number = Annotated[int, Meta(ge=0, le=64)]
Pair = Annotated[list[Number], Meta(min_length=2, max_length=2)]


class Architecture(TypedDict):
    """What a search found for one part; `models.decode` says what the numbers mean."""

    path: Annotated[list[Number], Meta(max_length=64)]
    cell: Annotated[list[Pair], Meta(max_length=64)]


Architectures = dict[str, Architecture]

# Networks that want facial priors, or are searched together with them.
WITH_PRIORS = (*models.GUIDED, 'search_prior', 'search_fusion')
WITH_ARCHITECTURE = ('frsnet', 'mfpsnet', 'search_fusion')


# ------------------------------------------------------------------------------------------------
# What follows from other options.


def complete_network(config: Config) -> Config:
    """The options of a restorer with its scale, architectures and priors filled in. Raises RunError
    for what cannot be.
    """
    rules.check(config, NO_LANDMARKS + NO_RARE + PRIORS)
    name = config.network.network
    # A copy: the options of a preset are shared by all runs of a process.
    net = dict(config.network.net)
    described = None
    if name == 'frsnet' or name in models.GUIDED or name in models.SEARCHES:
        net['scale'] = config.scale
    if name in WITH_PRIORS:
        described = _described(config)
        net['priors'] = {prior: of['channels'] for prior, of in described.items()}
    if config.search.arch:
        known = architectures(config.search.arch)
        net |= {'architecture': known['sr']} if name == 'frsnet' else {'architectures': known}
    # What --arch says is now part of the network; where it stood does not matter any more.
    return replace_options(config, net=net, guides=described, arch=None)


def _described(config: Config) -> dict[str, Any]:
    """What makes the priors of a run, ready for config.json."""
    described = guides.describe(config.priors.prior, config.data.size / config.scale)
    if not described:
        raise RunError(
            f'--preset {config.preset} needs facial priors: --prior RUN of a parser that was '
            'trained on degraded '
            f'faces (python train.py --preset parse_prior --recipe {config.degradation.recipe} '
            f'--size {config.data.size})'
        )
    for name in config.priors.drop_priors or ():
        if name not in described:
            raise RunError(f'--drop-priors {name}: --prior names {", ".join(described)} only')
    return described


def architectures(paths: Iterable[str]) -> dict[str, Any]:
    """{part: architecture} of arch.json files, of the runs that hold them, or of the word paper;
    parts that are missing are as published. Raises RunError for a path that holds none.
    """
    known = dict(models.PAPER)
    for path in paths:
        if path != 'paper':
            known |= _architecture(Path(path, 'arch.json') if Path(path).is_dir() else Path(path))
    return known


def _architecture(file: Path) -> dict[str, Any]:
    """Content of one arch.json."""
    try:
        stored = records.parse(storage.read(file, records.LARGEST), dict[str, Any])
        for part in stored:
            if part not in models.PAPER:
                known = ', '.join(models.PAPER)
                raise ValueError(f'there is no part {storage.printable(part, 40)}, but {known}')
        content: Architectures = records.convert(stored, Architectures)
        for part, architecture in content.items():
            models.decode.check(architecture, 3 if part == 'sr' else 0)
    except OSError as error:
        raise RunError(
            f'--arch {shown(file)} cannot be read ({error.strerror}): give arch.json of a finished '
            'search, or its run'
        ) from error
    except (ValueError, BadFile) as error:
        raise RunError(f'--arch {shown(file)} is no architecture: {error}') from error
    return dict(content)


# ------------------------------------------------------------------------------------------------
# Priors and architectures.


def _drops_everything(config: Config) -> bool:
    named = guides.named(config.priors.prior)
    return set(config.priors.drop_priors or ()) >= set(named)


def _priors_flag(config: Config) -> str:
    return flag('prior' if config.priors.prior else 'drop_priors')


def _landmarks_message(config: Config) -> str:
    return (
        f'--landmarks {config.data.landmarks} is for --preset landmarks with --data, a folder or '
        'list of the faces that '
        'it names'
    )


NO_LANDMARKS = (Rule(lambda c: c.data.landmarks, _landmarks_message),)
NO_RARE = (
    Rule(
        lambda c: c.data.balance or c.data.paste,
        lambda c: (
            f'{flag("balance" if c.data.balance else "paste")} is for parsers, whose masks say '
            f'what is rare, not for --preset {c.preset}'
        ),
    ),
)

LANDMARKS = (Rule(lambda c: c.data.landmarks and not c.data.data, _landmarks_message),)
PRIORS = (
    Rule(
        lambda c: c.priors.multi_prior_weight and c.network.network not in models.GUIDED,
        lambda c: (
            f'--multi-prior-weight {c.priors.multi_prior_weight} is for '
            f'{", ".join(models.GUIDED)} only, not for {c.network.network}'
        ),
    ),
    Rule(
        lambda c: c.priors.multi_prior_weight and _drops_everything(c),
        lambda c: (
            f'--multi-prior-weight {c.priors.multi_prior_weight} needs a prior that --drop-priors '
            'leaves'
        ),
    ),
    Rule(
        lambda c: (c.priors.prior or c.priors.drop_priors) and c.network.network not in WITH_PRIORS,
        lambda c: (
            f'{_priors_flag(c)} is for {", ".join(models.GUIDED)} and the searches of their parts, '
            f'not for {c.network.network}'
        ),
    ),
    Rule(
        lambda c: c.search.arch and c.network.network not in WITH_ARCHITECTURE,
        lambda c: (
            f'--arch {" ".join(c.search.arch or ())} is for frsnet, mfpsnet and search_fusion, '
            f'not for {c.network.network}'
        ),
    ),
)


# ------------------------------------------------------------------------------------------------
# Losses and discriminators of restorers.


def _nothing_to_learn(config: Config) -> bool:
    adversarial_at_once = config.gan.gan and not config.gan.gan_from
    loss = config.loss
    return not (loss.pixel_weight or loss.perceptual or adversarial_at_once)


def _nothing_message(config: Config) -> str:
    if config.gan.gan:
        return (
            f'--pixel-weight 0 leaves nothing to learn from in the first {config.gan.gan_from} '
            'images: '
            '--gan-from 0 lets the generator listen at once; or give it a weight, or a perceptual '
            f'loss ({_extractors()})'
        )
    return (
        '--pixel-weight 0 leaves nothing to learn from: give it a weight, or a perceptual loss '
        f'({_extractors()}), or --gan'
    )


def _extractors() -> str:
    return ', '.join(map(flag, EXTRACTORS))


def _matching_without_maps(config: Config) -> bool:
    gives_maps = config.gan.gan and config.gan.discriminator == 'patchgan'
    return bool(config.gan.matching_weight and not gives_maps)


def _has(config: Config, discriminator: str) -> bool:
    """Whether a run is a GAN with this discriminator."""
    return bool(config.gan.gan) and config.gan.discriminator == discriminator


LOSSES = (
    Rule(
        _nothing_to_learn,
        _nothing_message,
    ),
    Rule(
        lambda c: c.loss.last_loss and not c.loss.pixel_weight,
        lambda c: (
            f'--last-loss {c.loss.last_loss} replaces the pixel loss, and --pixel-weight is 0: '
            'give it a weight'
        ),
    ),
    Rule(
        lambda c: len(c.loss.perceptual) > 1,
        lambda c: (
            f'{" and ".join(map(flag, c.loss.perceptual))} are two perceptual losses of one run: '
            'give one'
        ),
    ),
)
ADVERSARIAL = (
    Rule(
        _matching_without_maps,
        lambda c: (
            f'--matching-weight {c.gan.matching_weight} compares feature maps of a discriminator '
            'that gives some: '
            '--gan lsgan --discriminator patchgan'
        ),
    ),
    Rule(
        lambda c: c.gan.gan and not c.gan.discriminator,
        lambda c: (
            f'--gan {c.gan.gan} needs a discriminator: --discriminator '
            f'{" or ".join(models.DISCRIMINATORS)}'
        ),
    ),
    Rule(
        lambda c: c.gan.gan and c.gan.gan_level is not None and not 0.5 < c.gan.gan_level < 1,
        lambda c: (
            f'--gan-level {c.gan.gan_level}: a share of right judgements above 0.5, which is '
            'chance, and below 1; '
            '0 is off'
        ),
    ),
    Rule(
        lambda c: _has(c, 'modified_vgg') and (c.data.crop or c.data.size) != 128,
        lambda c: (
            '--discriminator modified_vgg takes 128x128 pixels: give --crop 128, or another '
            '--discriminator'
        ),
    ),
    Rule(
        lambda c: _has(c, 'modified_vgg') and c.gan.r1,
        lambda c: (
            f'--r1 {c.gan.r1} needs a discriminator that judges each picture alone, without batch '
            'normalisation: '
            '--discriminator unet_sn'
        ),
    ),
    Rule(
        lambda c: _has(c, 'patchgan') and c.gan.discriminator_net.get('channels', 6) not in (3, 6),
        lambda c: (
            f'--discriminator-net {json.dumps(c.gan.discriminator_net)}: patchgan judges pictures '
            'together with '
            'their inputs (6 channels) or alone (3)'
        ),
    ),
)
MIXED = (
    Rule(
        lambda c: c.degradation.target_gray and not _loses_colour(c),
        lambda c: (
            f'--target-gray: --recipe {c.degradation.recipe} never takes the colour away (op gray)'
        ),
    ),
    Rule(
        lambda c: c.degradation.mix and not 0 < c.degradation.mix_share < 1,
        lambda c: (
            f'--mix {c.degradation.mix}:{c.degradation.mix_share}: a share between 0 and 1 is '
            'needed, PAIRS:0.1 for instance'
        ),
    ),
    Rule(
        lambda c: c.degradation.mix and c.degradation.target_usm,
        lambda c: (
            f'--mix {c.degradation.mix}: the truths of pairs are not sharpened: give '
            '--no-target-usm'
        ),
    ),
)
SEARCHING = (
    Rule(
        lambda c: c.gan.gan,
        lambda c: f'--gan {c.gan.gan} is for restorers, not for a search',
    ),
    Rule(
        lambda c: not 0 <= c.search.search_from < 1,
        lambda c: (
            f'--search-from {c.search.search_from}: a share of the run is needed, from 0 to below 1'
        ),
    ),
    Rule(
        lambda c: c.optimization.optimizer == 'muon',
        lambda c: (
            '--optimizer muon knows matrices by their layers, and a search trains parameters '
            'without layers: '
            'give sgd, adam or adamw'
        ),
    ),
)


def _loses_colour(config: Config) -> bool:
    stages = degrade.recipe(str(config.degradation.recipe)).stages
    return any(stage.op is degrade.gray for stage in stages)


def check_restoring(config: Config) -> None:
    """Raise RunError for losses or a discriminator that a restorer cannot be trained with."""
    rules.check(config, MIXED + LOSSES + ADVERSARIAL)
    # A missing package is named now, not when all data has been read.
    if config.loss.efficientnet:
        efficientnet.weights_file()


# ------------------------------------------------------------------------------------------------
# Tasks that learn from masks.


def _for_restorers(config: Config) -> bool:
    loss = config.loss
    losses = loss.perceptual or loss.last_loss
    return bool(config.gan.gan or losses or config.run.lpips or config.data.crop)


MASKED = (
    Rule(
        _for_restorers,
        lambda c: (
            f'--preset {c.preset} trains on masks: --gan, {_extractors()}, --lpips, --crop and '
            '--last-loss are for restorers'
        ),
    ),
    Rule(
        lambda c: c.degradation.target_usm or not c.degradation.lq_from_usm,
        lambda c: f'--preset {c.preset}: --target-usm and --no-lq-from-usm are for restorers',
    ),
    Rule(
        lambda c: c.data.paste and c.optimization.batch % 2,
        lambda c: (
            f'--paste {c.data.paste} pairs the faces of a batch: an even --batch is needed, not '
            f'{c.optimization.batch}'
        ),
    ),
    Rule(
        lambda c: bool(c.degradation.target_gray or c.degradation.mix),
        lambda c: f'--preset {c.preset}: --target-gray and --mix are for restorers',
    ),
)
