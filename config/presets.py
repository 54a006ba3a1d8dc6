"""Presets: named starting points that flags override; what a row does not say stands in `schema`."""

from typing import Any

from . import schema

# `nimg` images in all or `minutes`, learning rate `lr` at its peak, `ema` horizon in images,
# `ticks` validations evenly over the run. The U-Net's batch suits CPUs, where more steps do more
# than larger ones; give a GPU 16 or more.
# fmt: off
RRDB = dict(network='rrdbnet', net=dict(blocks=16, width=16, growth=7), recipe='ai6126_2022', batch=16, optimizer='adam',
            schedule='multistep', ema=16_000, ticks=60)
# As published: 50 epochs of 10,000 faces. No gradient is so large as to be clipped.
HIFACEGAN = dict(network='hifacegan', recipe='hifacegan', batch=2, nimg=500_000, lr=1e-4, discriminator_lr=4e-4,
                 optimizer='adam', betas=(0.0, 0.9), schedule='linear', milestones=(0.6,), warmup=0.0, clip=1e3, ema=8_000,
                 ticks=50, pixel_weight=0.0, gan='lsgan', gan_weight=1.0, discriminator='patchgan', matching_weight=10.0,
                 features='pix2pixhd', perceptual_weight=10.0)
PARSE = dict(task='parse', recipe=None, loss='lovasz', batch=4, lr=1e-2, optimizer='muon', weight_decay=1e-2, ema=800,
             ticks=20)
FRS = dict(recipe='mfps', size=128, batch=4, nimg=1_600_000, lr=2e-3, optimizer='muon', ema=800, ticks=60)
# As published, but for the length.
SEARCH = dict(FRS, task='search', batch=2, nimg=200_000, lr=0.025, optimizer='sgd', weight_decay=3e-4,
              schedule='multistep', milestones=tuple(n / 10 for n in range(1, 10)), loss='smooth_l1', ema=400, ticks=20,
              keep=1)
PARSE_UNET = dict(stride=2, aux=True, position=16)

PRESETS: dict[str, dict[str, Any]] = {
    'demo':            dict(network='unet',      net={},                batch=2,  minutes=6.5,    lr=2e-3, ema=800,    ticks=5,  optimizer='muon'),
    'unet':            dict(network='unet',      net={},                batch=4,  nimg=200_000,   lr=2e-3, ema=800,    ticks=20, optimizer='muon'),
    'flagship':        dict(network='unet',      net=dict(attention=4), batch=4,  nimg=400_000,   lr=2e-3, ema=800,    ticks=20, optimizer='muon', last_loss='psnr'),
    'srresnet':        dict(network='srresnet',  net=dict(blocks=16),   batch=8,  nimg=2_400_000, lr=2e-4, ema=8_000,  ticks=60),
    'rcan':            dict(network='rcan',      net={},                batch=8,  nimg=2_400_000, lr=2e-4, ema=8_000,  ticks=60),
    'swinir78':        dict(network='swinir',    net={},                batch=8,  nimg=2_400_000, lr=2e-4, ema=8_000,  ticks=60, loss='charbonnier'),
    'face_unaf':       dict(network='face_unaf', net={},                batch=16, nimg=2_400_000, lr=1e-3, ema=16_000, ticks=60, loss='charbonnier', last_loss='psnr', weight_decay=1e-4),
    'rrdb_small':      dict(RRDB, nimg=4_800_000, lr=2e-4, milestones=(1 / 6, 1 / 3, 2 / 3)),
    'esrgan_small':    dict(RRDB, nimg=6_400_000, lr=1e-4, milestones=(1 / 8, 1 / 4, 1 / 2, 3 / 4), crop=128, pixel_weight=1e-2, gan='ragan', gan_weight=5e-3,
                            discriminator='modified_vgg', discriminator_net=dict(width=16)),
    'realesrgan_gan':  dict(network='srresnet',  net=dict(blocks=24),   batch=8,  nimg=1_600_000, lr=1e-4, ema=8_000,  ticks=60, schedule='constant', crop=256,
                            target_usm=True, features='realesrgan', gan='vanilla', gan_weight=0.1, discriminator='unet_sn', discriminator_net=dict(width=24)),
    'hifacegan':       dict(HIFACEGAN, net=dict(width=64)),
    'renovation_demo': dict(network='hifacegan', net=dict(width=8, residual=True), recipe='face_renovation', size=256, crop=128, batch=2, minutes=10, lr=2e-3, ema=400, ticks=10, optimizer='muon'),
    'frsnet':          dict(FRS, network='frsnet',  net={}),
    'mfpsnet':         dict(FRS, network='mfpsnet', net={}),
    'search_sr':       dict(SEARCH, network='search_sr',     net={}),
    'search_parse':    dict(SEARCH, network='search_prior',  net={}),
    'search_fusion':   dict(SEARCH, network='search_fusion', net={}),
    'parse_unet':      dict(PARSE, network='parse_unet', net=PARSE_UNET, nimg=400_000),
    'parse_prior':     dict(PARSE, network='parse_unet', net=PARSE_UNET, nimg=400_000, recipe='ai6126_2024'),
    'landmarks':       dict(PARSE, task='landmarks', network='heatmap_net', net={}, loss='mse', nimg=200_000, lr=2e-3, recipe='ai6126_2024'),
    'bisenet':         dict(PARSE, network='bisenet', net={}, batch=16, nimg=1_280_000, ema=2_000, optimizer='sgd', loss='ohem'),
}

# Names of a preset with one value set, for those who know them: name -> (preset, arguments of its
# network).
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    'srresnet16':   ('srresnet',  dict(blocks=16)),
    'srresnet20':   ('srresnet',  dict(blocks=20)),
    'srresnet24':   ('srresnet',  dict(blocks=24)),
    'srresnet26':   ('srresnet',  dict(blocks=26)),
    'hifacegan_16': ('hifacegan', dict(width=16)),
    'hifacegan_32': ('hifacegan', dict(width=32)),
    'hifacegan_64': ('hifacegan', dict(width=64)),
}
# fmt: on
NAMES = (*PRESETS, *ALIASES)

# What published weights become without the perceptual loss that they are meant for. The pixel loss
# then has to preserve the picture, and the generator needs more of the adversarial loss and a
# slower discriminator that has learnt something before the generator listens to it, or one of the
# two wins at once.
WITHOUT_FEATURES: dict[str, dict[str, Any]] = {
    'esrgan_small': dict(
        pixel_weight=1.0, gan_weight=1.25e-2, gan_from=1024, gan_level=0.75, discriminator_lr=1e-5
    )
}


def row(name: str, *, features: bool = False) -> dict[str, Any]:
    """{option: value} of a preset or an alias. features: whether the run has a perceptual loss"""
    preset, net = ALIASES.get(name, (name, {}))
    values = dict(PRESETS[preset])
    values['net'] = values['net'] | net
    return values if features else values | WITHOUT_FEATURES.get(preset, {})


def config(name: str, **changed: Any) -> schema.Config:
    """The options of a preset before flags and machine have their say; changed: options to replace."""
    options = {'preset': name} | row(name) | changed
    return schema.replace_options(schema.Config(), **options)
