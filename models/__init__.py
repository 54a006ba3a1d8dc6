"""Networks, nothing else: one file each, one paper each; this namespace is the catalogue, and `python -m models` prints it."""

import re

from . import decode
from .bisenet import BiSeNet
from .discriminators import ModifiedVGG, MultiscalePatchGAN, SpectralConv2d, UNetDiscriminatorSN
from .face_unaf import FaceUNAF
from .frsnet import FRSNet
from .guided import Attended, Guided, HeatPrior, ParsePrior
from .heatmap_net import HeatmapNet
from .hifacegan import SUPPRESSION, HiFaceGAN
from .mfpsnet import MFPSNet
from .parse_unet import ParseUNet
from .rcan import RCAN
from .rrdbnet import RRDBNet
from .searched import PAPER
from .searching import SearchFusion, SearchPrior, SearchSR
from .srresnet import SRResNet
from .supernet import AutoPrior, AutoSR
from .swinir import SwinIR
from .unet import UNet

# The names presets and flags use.
NETWORKS = {
    'srresnet': SRResNet,
    'unet': UNet,
    'face_unaf': FaceUNAF,
    'swinir': SwinIR,
    'rcan': RCAN,
    'rrdbnet': RRDBNet,
    'frsnet': FRSNet,
}
# Those that want facial priors beside the picture.
GUIDED = {'mfpsnet': MFPSNet}
# Those in which a part is searched.
SEARCHES = {'search_sr': SearchSR, 'search_prior': SearchPrior, 'search_fusion': SearchFusion}
DISCRIMINATORS = {
    'modified_vgg': ModifiedVGG,
    'unet_sn': UNetDiscriminatorSN,
    'patchgan': MultiscalePatchGAN,
}
PARSERS = {'parse_unet': ParseUNet, 'bisenet': BiSeNet}
LANDMARKERS = {'heatmap_net': HeatmapNet}
RENOVATORS = {'hifacegan': HiFaceGAN}  # same size in and out, no budget
CATALOGUE = NETWORKS | GUIDED | RENOVATORS | PARSERS | LANDMARKERS | DISCRIMINATORS

BUDGET = 2_276_356  # AI6126: strictly fewer parameters than this, 150 % of SRResNet's 1,517,571


def count(net):
    """-> int, number of parameters of a module, trained or not."""
    return sum(p.numel() for p in net.parameters())


def enforce_param_budget(net, limit=BUDGET):
    """-> int, number of parameters; ValueError with the figures unless it is strictly below `limit`."""
    n = count(net)
    if n >= limit:
        raise ValueError(
            f'{type(net).__name__} has {n:,} parameters, {n - limit + 1:,} too many: '
            f'fewer than {limit:,} are allowed; take fewer blocks or a smaller width'
        )
    return n


def scale(net):
    """-> output / input of a restorer, in pixels"""
    return getattr(net, 'scale', 4)


def refresh_spectral_norm(net):
    """Let spectrally normalised layers find the singular vectors of the weights they have now: those of a mean of networks are not the mean of theirs."""
    for module in net.modules():
        if isinstance(module, SpectralConv2d):
            module.refresh(50)


def like(weights):
    """-> the restorer of the catalogue, untrained, that a {name: tensor} of weights belongs to; ValueError if none is like it."""

    def length(prefix):
        """Modules in a numbered list."""
        return len(
            {m[1] for name in weights if (m := re.match(re.escape(prefix) + r'\.(\d+)\.', name))}
        )

    def side(name, i=0):
        return weights[name].shape[i]

    if {'body.0.conv1.weight', 'conv_first.weight', 'upconv1.weight'} <= weights.keys():
        width = side('conv_first.weight')
        return SRResNet(
            length('body'),
            width,
            scale=4
            if 'upconv2.weight' in weights
            else round((side('upconv1.weight') / width) ** 0.5),
        )
    if 'body.0.rdb1.conv1.weight' in weights:
        return RRDBNet(length('body'), side('conv_first.weight'), side('body.0.rdb1.conv1.weight'))
    if 'stem.weight' in weights and 'down.0.weight' in weights:
        levels, position = (
            range(length('down')),
            weights['position'].shape[2:] if 'position' in weights else (0, 0),
        )
        attention = sum(
            name.startswith('middle.') and name.endswith('.qkv.weight') for name in weights
        )
        shape = dict(
            width=(side('stem.weight'), *(side(f'down.{n}.weight') for n in levels)),
            position=position[0],
            blocks=(
                [length(f'encoder.{n}') for n in levels],
                length('middle') - attention,
                [length(f'decoder.{n}') for n in levels],
            ),
        )
        if 'upconv2.weight' in weights:
            return FaceUNAF(**shape)
        return UNet(
            **shape,
            steps=2 if 'upconv.weight' in weights else 1,
            symmetric=position[1] < position[0],
            attention=attention,
        )
    if 'groups.0.blocks.0.attention.table' in weights:
        offsets, heads = weights['groups.0.blocks.0.attention.table'].shape
        hidden, width = weights['groups.0.blocks.0.fc1.weight'].shape
        return SwinIR(
            width,
            [length(f'groups.{n}.blocks') for n in range(length('groups'))],
            heads,
            window=(round(offsets**0.5) + 1) // 2,
            ratio=hidden / width,
        )
    if 'conv_trunk.weight' in weights:
        groups = length('trunk') if 'trunk.0.conv.weight' in weights else 0
        width, squeezed = (
            side('conv_trunk.weight'),
            side('trunk.0.blocks.0.squeeze.weight' if groups else 'trunk.0.squeeze.weight'),
        )
        return RCAN(
            groups, length('trunk.0.blocks' if groups else 'trunk'), width, width // squeezed
        )
    if 'sr.path' in weights:
        architecture = {
            part: weights[f'sr.{part}'].int().tolist() for part in ('path', 'cell')
        }  # an average of weights has them as float32
        return FRSNet(
            architecture,
            side('conv_first.weight'),
            side('rdb_first.0.conv1.weight'),
            scale=2 ** (length('up') - 3),
            spare=length('sr.head.spare') > 0,
        )
    if 'bottom.norm1.gamma.weight' in weights and 'encoder.head.weight' in weights:
        kind = weights.get('encoder.stages.0.kind')
        return HiFaceGAN(
            side('encoder.head.weight'),
            list(SUPPRESSION)[0 if kind is None else 1 + int(kind)],
            residual='adds' in weights,
        )
    if 'net.base.sr.path' in weights:
        return _guided_like(weights, length)
    raise ValueError(
        f'no network of ours has weights like these ({", ".join(list(weights)[:3])}, ...)'
    )


def _guided_like(weights, length):
    """-> MFPSNet with the parser that makes its prior. length: modules in a numbered list of the weights"""

    def architecture(module):
        return {part: weights[f'{module}.{part}'].int().tolist() for part in ('path', 'cell')}

    names = sorted({m[1] for name in weights if (m := re.match(r'guides\.(\w+)\.', name))})
    if names != ['parse'] or 'guides.parse.parser.head.weight' not in weights:
        raise ValueError(
            f'an MFPSNet with the priors {", ".join(names) or "(none)"}: without the directory of its run only one with parsing maps of a parse_unet can be made again; give --run'
        )
    parser = 'guides.parse.parser.'
    blocks = [length(f'{parser}encoder.{n}') for n in range(length(parser + 'encoder'))]
    width = [weights[f'{parser}encoder.{n}.0.conv1.weight'].shape[0] for n in range(len(blocks))]
    position = weights[parser + 'position'].shape[2] if parser + 'position' in weights else 0
    # A stride leaves no trace in shapes: it is noted with the factor.
    guide = ParsePrior(
        ParseUNet(
            width,
            blocks,
            weights[parser + 'head.weight'].shape[0],
            int(weights['guides.parse.stride']),
            parser + 'aux.0.weight' in weights,
            position,
        ),
        weights['guides.parse.factor'].item(),
    )
    priors = {'parse': weights['net.enter.parse.weight'].shape[1] - 3}
    found = {
        'sr': architecture('net.base.sr'),
        'fusion': architecture('net.fusion'),
        'parse': architecture('net.features.parse'),
    }
    gate = 'net.gate.0.weight' in weights
    return Guided(
        MFPSNet(
            found,
            priors,
            2 ** (length('net.base.up') - 3),
            length('net.base.sr.head.spare') > 0,
            gate,
        ),
        {'parse': guide},
    )
