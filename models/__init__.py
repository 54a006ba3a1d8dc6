"""Networks: one file each, one paper each. `python -m models` prints the catalogue.

Each file declares its network in an `ENTRY`; the tables below are built from the entries imported
here. Adding a network takes its file and one import line.
"""

# ruff: noqa: F401 - what is imported is the package's namespace.

import functools
from collections.abc import Iterable

from torch import nn

# The order of these imports is the order of the tables, which flags' help and messages list.
# isort: off
from .srresnet import ENTRY as _SRRESNET, SRResNet
from .unet import ENTRY as _UNET, UNet
from .face_unaf import ENTRY as _FACE_UNAF, FaceUNAF
from .swinir import ENTRY as _SWINIR, SwinIR
from .rcan import ENTRY as _RCAN, RCAN
from .rrdbnet import ENTRY as _RRDBNET, RRDBNet
from .frsnet import ENTRY as _FRSNET, FRSNet
from .mfpsnet import ENTRY as _MFPSNET, MFPSNet
from .search_sr import ENTRY as _SEARCH_SR, SearchSR
from .search_prior import ENTRY as _SEARCH_PRIOR, SearchPrior
from .search_fusion import ENTRY as _SEARCH_FUSION, SearchFusion
from .hifacegan import ENTRY as _HIFACEGAN, HiFaceGAN
from .modified_vgg import ENTRY as _MODIFIED_VGG, ModifiedVGG
from .unet_sn import ENTRY as _UNET_SN, UNetDiscriminatorSN
from .patchgan import ENTRY as _PATCHGAN, MultiscalePatchGAN
from .parse_unet import ENTRY as _PARSE_UNET, ParseUNet
from .bisenet import ENTRY as _BISENET, BiSeNet
from .heatmap_net import ENTRY as _HEATMAP_NET, HeatmapNet
# isort: on

from . import decode, names
from .entry import Entry, Kind, Weights
from .guided import Attended, Guided, HeatPrior, ParsePrior
from .searched import PAPER
from .shapes import numbers, shapes
from .spectral import SpectralConv2d
from .supernet import AutoPrior, AutoSR

ENTRIES = tuple(value for value in list(globals().values()) if isinstance(value, Entry))


def _table(kind: Kind) -> dict[str, type[nn.Module]]:
    """Networks of one kind by the names that presets and flags use."""
    return {entry.name: entry.network for entry in ENTRIES if entry.kind == kind}


NETWORKS = _table('restorer')
# These take facial priors together with the picture.
GUIDED = _table('guided')
# A part of these is searched.
SEARCHES = _table('search')
DISCRIMINATORS = _table('discriminator')
PARSERS = _table('parser')
LANDMARKERS = _table('landmarks')
# These keep the picture's size and have no budget.
RENOVATORS = _table('renovator')
CATALOGUE = NETWORKS | GUIDED | RENOVATORS | PARSERS | LANDMARKERS | DISCRIMINATORS

# Numbers that a network may have beside those of its weights: tables, indices.
SLACK = 1 << 24

# AI6126: strictly fewer parameters than this, 150 % of SRResNet's 1,517,571.
BUDGET = 2_276_356


def count(net: nn.Module) -> int:
    """Return the number of parameters of a module, trained or not."""
    return sum(p.numel() for p in net.parameters())


def enforce_param_budget(net: nn.Module, limit: int = BUDGET) -> int:
    """Return the number of parameters; ValueError with the figures if it is `limit` or more."""
    n = count(net)
    if n >= limit:
        raise ValueError(
            f'{type(net).__name__} has {n:,} parameters, {n - limit + 1:,} too many: '
            f'fewer than {limit:,} are allowed; take fewer blocks or a smaller width'
        )
    return n


def scale(net: nn.Module) -> float:
    """Return output / input of a restorer, in pixels."""
    return getattr(net, 'scale', 4)


def refresh_spectral_norm(net: nn.Module) -> None:
    """Recompute the singular vectors of spectrally normalised layers for their present weights.

    Needed after weights of several networks were averaged: the average of their singular vectors is
    not the singular vector of the average.
    """
    for module in net.modules():
        if isinstance(module, SpectralConv2d):
            module.refresh(50)


def recognise(parameters: Iterable[str]) -> str | None:
    """Return the class name of the network that has these parameters, None if it is unknown."""
    present = set(parameters)
    recognised = (entry.network.__name__ for entry in ENTRIES if entry.mark in present)
    return next(recognised, None)


def renamed(weights: Weights, own: Weights) -> Weights:
    """Return weights under the names of a network of ours: `names.best`; own: its state_dict."""
    return names.best(weights, ENTRIES, own)


def like(weights: Weights) -> nn.Module:
    """Return the untrained restorer that a state_dict belongs to; ValueError if there is none."""
    for variant in names.variants(weights, ENTRIES):
        for entry in ENTRIES:
            net = _rebuilt(entry, variant)
            if net is not None:
                return net
    known = recognise(weights)
    kind = f', of a {known}' if known else ''
    raise ValueError(
        f'no network of ours restores with weights like these ({_some(weights)}{kind}): there are '
        f'{", ".join(NETWORKS | RENOVATORS)}'
    )


def refusal(net: nn.Module, weights: Weights) -> str | None:
    """Return what weights are that its file knows to be of no use for this kind of network."""
    for entry in ENTRIES:
        if entry.rebuild is not None and entry.network is type(net):
            try:
                _rebuilt(entry, weights)
            except ValueError as error:
                return str(error)
    return None


def _rebuilt(entry: Entry, weights: Weights) -> nn.Module | None:
    """Return the network of an entry if the weights are of it; ValueError where they cannot be."""
    if entry.rebuild is None:
        return None
    rebuild = functools.partial(entry.rebuild, weights)
    try:
        # Shapes first: what a file claims must not make memory be taken for it.
        net = shapes(rebuild)
        if net is None:
            return None
        given = sum(value.numel() for value in weights.values())
        if numbers(net) > given + SLACK:
            raise ValueError(f'it would have {numbers(net):,} numbers, the file has {given:,}')
        return rebuild()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f'they begin as those of {entry.network.__name__} do ({_some(weights)}), which has no '
            f'such shapes: {type(error).__name__}, {reason}'
        ) from None


def _some(weights: Weights) -> str:
    return f'{", ".join(list(weights)[:3])}, ...'
