"""What a run is made with: presets, flags that override them, and what of both makes sense together."""

import argparse
import functools
import importlib.util
import json
import os
from pathlib import Path

import torch

import dali_pipes
import degrade
import models
from dali_pipes import cache
from errors import RunError
from faces import landmarks as points_of
from losses import adversarial
from tasks import guides, landmarks, restore
from tasks import parse as parsing
from tasks import search as searching
from training import optim, run, schedule

TASKS, FEATURES = (
    {'restore': restore, 'parse': parsing, 'search': searching, 'landmarks': landmarks},
    restore.FEATURES,
)
MASKED = 'parse', 'landmarks'  # tasks that learn from pictures with masks

# `nimg` images in all or `minutes`, learning rate `lr` at its peak, `ema` horizon in images, `ticks` validations evenly over the run. The U-Net's batch suits CPUs,
# where more steps do more than larger ones; give a GPU 16 or more. What a row does not say stands in DEFAULTS.
RRDB = dict(
    network='rrdbnet',
    net=dict(blocks=16, width=16, growth=7),
    recipe='ai6126_2022',
    batch=16,
    optimizer='adam',
    schedule='multistep',
    ema=16_000,
    ticks=60,
)
HIFACEGAN = dict(
    network='hifacegan',
    recipe='hifacegan',
    batch=2,
    nimg=500_000,
    lr=1e-4,
    discriminator_lr=4e-4,
    optimizer='adam',
    betas=[0.0, 0.9],
    schedule='linear',
    milestones=[0.6],
    warmup=0.0,
    clip=1e3,
    ema=8_000,
    ticks=50,
    pixel_weight=0.0,
    gan='lsgan',
    gan_weight=1.0,
    discriminator='patchgan',
    matching_weight=10.0,
    features='pix2pixhd',
    perceptual_weight=10.0,
)  # 50 epochs of 10,000 faces; no gradient is so large as to be clipped
PARSE = dict(
    task='parse',
    recipe=None,
    loss='lovasz',
    batch=4,
    lr=1e-2,
    optimizer='muon',
    weight_decay=1e-2,
    ema=800,
    ticks=20,
)
FRS = dict(
    recipe='mfps', size=128, batch=4, nimg=1_600_000, lr=2e-3, optimizer='muon', ema=800, ticks=60
)
SEARCH = dict(
    FRS,
    task='search',
    batch=2,
    nimg=200_000,
    lr=0.025,
    optimizer='sgd',
    weight_decay=3e-4,
    schedule='multistep',
    milestones=[n / 10 for n in range(1, 10)],
    loss='smooth_l1',
    ema=400,
    ticks=20,
    keep=1,
)  # of the authors, but for the length
PRESETS = {
    'demo': dict(
        network='unet', net={}, batch=2, minutes=6.5, lr=2e-3, ema=800, ticks=5, optimizer='muon'
    ),
    'unet': dict(
        network='unet', net={}, batch=4, nimg=200_000, lr=2e-3, ema=800, ticks=20, optimizer='muon'
    ),
    'flagship': dict(
        network='unet',
        net=dict(attention=4),
        batch=4,
        nimg=400_000,
        lr=2e-3,
        ema=800,
        ticks=20,
        optimizer='muon',
        last_loss='psnr',
    ),
    'srresnet16': dict(
        network='srresnet',
        net=dict(blocks=16),
        batch=8,
        nimg=2_400_000,
        lr=2e-4,
        ema=8_000,
        ticks=60,
    ),
    'srresnet20': dict(
        network='srresnet',
        net=dict(blocks=20),
        batch=8,
        nimg=2_400_000,
        lr=2e-4,
        ema=8_000,
        ticks=60,
    ),
    'srresnet24': dict(
        network='srresnet',
        net=dict(blocks=24),
        batch=8,
        nimg=2_400_000,
        lr=2e-4,
        ema=8_000,
        ticks=60,
    ),
    'srresnet26': dict(
        network='srresnet',
        net=dict(blocks=26),
        batch=8,
        nimg=2_400_000,
        lr=2e-4,
        ema=8_000,
        ticks=60,
    ),
    'rcan': dict(network='rcan', net={}, batch=8, nimg=2_400_000, lr=2e-4, ema=8_000, ticks=60),
    'swinir78': dict(
        network='swinir',
        net={},
        batch=8,
        nimg=2_400_000,
        lr=2e-4,
        ema=8_000,
        ticks=60,
        loss='charbonnier',
    ),
    'face_unaf': dict(
        network='face_unaf',
        net={},
        batch=16,
        nimg=2_400_000,
        lr=1e-3,
        ema=16_000,
        ticks=60,
        loss='charbonnier',
        last_loss='psnr',
        weight_decay=1e-4,
    ),
    'rrdb_small': dict(RRDB, nimg=4_800_000, lr=2e-4, milestones=[1 / 6, 1 / 3, 2 / 3]),
    'esrgan_small': dict(
        RRDB,
        nimg=6_400_000,
        lr=1e-4,
        milestones=[1 / 8, 1 / 4, 1 / 2, 3 / 4],
        crop=128,
        pixel_weight=1e-2,
        gan='ragan',
        gan_weight=5e-3,
        discriminator='modified_vgg',
        discriminator_net=dict(width=16),
    ),
    'realesrgan_gan': dict(
        network='srresnet',
        net=dict(blocks=24),
        batch=8,
        nimg=1_600_000,
        lr=1e-4,
        ema=8_000,
        ticks=60,
        schedule='constant',
        crop=256,
        target_usm=True,
        features='realesrgan',
        gan='vanilla',
        gan_weight=0.1,
        discriminator='unet_sn',
        discriminator_net=dict(width=24),
    ),
    'hifacegan_16': dict(HIFACEGAN, net=dict(width=16)),
    'hifacegan_32': dict(HIFACEGAN, net=dict(width=32)),
    'hifacegan_64': dict(HIFACEGAN, net=dict(width=64)),
    'renovation_demo': dict(
        network='hifacegan',
        net=dict(width=8, residual=True),
        recipe='face_renovation',
        size=256,
        crop=128,
        batch=2,
        minutes=10,
        lr=2e-3,
        ema=400,
        ticks=10,
        optimizer='muon',
    ),
    'frsnet': dict(FRS, network='frsnet', net={}),
    'mfpsnet': dict(FRS, network='mfpsnet', net={}),
    'search_sr': dict(SEARCH, network='search_sr', net={}),
    'search_parse': dict(SEARCH, network='search_prior', net={}),
    'search_fusion': dict(SEARCH, network='search_fusion', net={}),
    'parse_unet': dict(
        PARSE, network='parse_unet', net=dict(stride=2, aux=True, position=16), nimg=400_000
    ),
    'parse_prior': dict(
        PARSE,
        network='parse_unet',
        net=dict(stride=2, aux=True, position=16),
        nimg=400_000,
        recipe='ai6126_2024',
    ),
    'landmarks': dict(
        PARSE,
        task='landmarks',
        network='heatmap_net',
        net={},
        loss='mse',
        nimg=200_000,
        lr=2e-3,
        recipe='ai6126_2024',
    ),
    'bisenet': dict(
        PARSE,
        network='bisenet',
        net={},
        batch=16,
        nimg=1_280_000,
        ema=2_000,
        optimizer='sgd',
        loss='ohem',
    ),
}
# What published weights become where nobody brings the perceptual loss that they are for: without it the pixel loss has to hold the picture, and the generator
# needs more of the adversarial loss, and a slower discriminator that knows something before it is listened to, for neither of the two to win at once.
WITHOUT_FEATURES = {
    'esrgan_small': dict(
        pixel_weight=1.0, gan_weight=1.25e-2, gan_from=1024, gan_level=0.75, discriminator_lr=1e-5
    )
}
DEFAULTS = dict(
    task='restore',
    repair=True,
    recipe='ai6126_2024',
    seed=0,
    size=512,
    data=None,
    val=None,
    lq_from_usm=True,
    target_usm=False,
    pair_pool=0,
    crop=None,
    start=None,
    trunk=None,
    accumulate=1,
    loss='l1',
    pixel_weight=1.0,
    last_loss=None,
    last_share=0.2,
    vgg=None,
    parser=None,
    perceptual_weight=1.0,
    features='esrgan',
    gan=None,
    gan_weight=0.1,
    gan_from=0,
    gan_level=None,
    discriminator=None,
    discriminator_net={},
    discriminator_lr=None,
    matching_weight=None,
    r1=0.0,
    optimizer='adamw',
    betas=None,
    weight_decay=0.0,
    schedule='cosine',
    warmup=0.03,
    milestones=[0.5, 0.75],
    periods=[1, 1],
    weights=[1],
    tail=0.0,
    clip=1.0,
    keep=3,
    arch=None,
    prior=None,
    drop_priors=None,
    multi_prior_weight=0.0,
    landmarks=None,
    search_from=0.1,
    arch_lr=1e-3,
    arch_weight_decay=1e-3,
    lpips=None,
    compile=False,
    deterministic=False,
    cache='auto',
    decode='auto',
    save_minutes=5.0,
)


def numbers(text):
    return [float(part) for part in text.split(',')]


def parse(description, argv=None):
    """Flags of train.py -> Namespace; None where a flag was not given."""
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    a = functools.partial(p.add_argument, default=None)
    switch = functools.partial(a, action=argparse.BooleanOptionalAction)
    a(
        '--preset',
        help=f'starting point that the other flags override: {", ".join(PRESETS)} (default: demo; unet if --data is given)',
    )
    a(
        '--network',
        help=f"{', '.join([*restore.NETWORKS, *parsing.NETWORKS, *models.LANDMARKERS, *models.SEARCHES])} (default: the preset's); python -m models lists them with their parameters",
    )
    a('--net', type=json.loads, help='its arguments as JSON, e.g. \'{"steps": 2}\'')
    a(
        '--data',
        help='HQ faces: folder, list of files, glob, or .tar shards (faces-{000..099}.tar, also at s3:// or https://); PNG, JPEG or JPH; or stored pairs, a folder with '
        'LQ/ and GT/, or stacked:FOLDER of pictures with LQ above GT, the GT of --size x --size pixels, of which --recipe says no more than the scale (default: synthetic faces)',
    )
    a(
        '--val',
        nargs='+',
        help='validation sets, each PATH or NAME=PATH: a folder with LQ/ and GT/, stacked:FOLDER of pictures with LQ above GT (recipes of one size), HQ faces as for --data (degraded the same way every time, '
        'and left out of training), or how many of --data to hold out: a number, or a share below 1 (default: 0.01; with masks or landmarks 0.1)',
    )
    a('--recipe', help=f"degradation: {', '.join(degrade.RECIPES)} (default: the preset's)")
    a(
        '--pipe',
        help=f'{", ".join(dali_pipes.PIPES)} (default: dali; torch where DALI is not installed)',
    )
    a(
        '--decode',
        help=f'who decodes PNG and JPH in the dali pipe: {", ".join(dali_pipes.DECODERS)} (default: auto: on a GPU, a few files are decoded both ways and the faster goes on)',
    )
    a('--out', help='run directory (default: runs/PRESET)')
    a('--batch', type=int, help='images at a time per process')
    a('--accumulate', type=int, help='batches whose gradients make one step (default: 1)')
    a('--nimg', type=int, help='length of the run in images')
    a(
        '--minutes',
        type=float,
        help='length of the run as wall time instead, validation included; the schedule is fitted to it',
    )
    a('--optimizer', help=f'{", ".join(optim.OPTIMIZERS)} (default: adamw)')
    a('--lr', type=float, help='peak learning rate')
    a(
        '--betas',
        type=numbers,
        help='adam, adamw and muon: shares of the two averages that a step keeps (default: 0.9,0.99)',
    )
    a('--weight-decay', type=float, help='default: 0')
    a('--schedule', help=f'{", ".join(schedule.SCHEDULES)} (default: cosine)')
    a('--warmup', type=float, help='share of the run with a rising learning rate (default: 0.03)')
    a(
        '--milestones',
        type=numbers,
        help='multistep: shares of the run after which the rate is halved; linear: the first is where it begins to fall (default: 0.5,0.75)',
    )
    a('--periods', type=numbers, help='restarts: relative lengths of the cosines (default: 1,1)')
    a('--weights', type=numbers, help='restarts: relative rates they begin with (default: 1)')
    a(
        '--tail',
        type=float,
        help='share of the run at its end that is another cosine, from 2 %% of --lr (default: 0)',
    )
    a('--clip', type=float, help='largest norm of the gradients (default: 1)')
    a(
        '--loss',
        help=f'{", ".join(restore.LOSSES)}; of a parser {", ".join(parsing.LOSSES)}; of landmarks {", ".join(landmarks.LOSSES)}',
    )
    a('--last-loss', help='another pixel loss for the end of the run, e.g. psnr')
    a('--last-share', type=float, help='share of the run that has it (default: 0.2)')
    a('--start', help='run, checkpoint or weights to begin with instead of chance')
    a('--trunk', help="weights of torchvision's ResNet-18, a file: what bisenet begins with")
    a(
        '--crop',
        type=int,
        help='train on random squares of this side in pixels of the HQ image (default: of the preset; esrgan_small and renovation_demo: 128, realesrgan_gan: 256, all others: whole images)',
    )
    a(
        '--arch',
        nargs='+',
        help='architectures of frsnet, mfpsnet and search_fusion: arch.json of searches, or their runs, one for each part; the parts that none of '
        'them names, and "paper", are those published',
    )
    a(
        '--prior',
        nargs='+',
        help=f'what mfpsnet is guided by, each NAME=PATH, of {", ".join(guides.KINDS)}; without a name, the run of a parser or of landmarks, or a '
        'file of tools/prepare.py priors, which has all three',
    )
    a(
        '--multi-prior-weight',
        type=float,
        help='of a loss where the priors look (MFPSNet, Yu et al., TNNLS 2023), e.g. 0.1; --net \'{"gate": true}\' lets the network weigh the priors (default: 0, off)',
    )
    a(
        '--landmarks',
        help='JSON file of 68 landmarks of every face, {name: [[x, y], ...]} or ffhq-dataset-v2.json: what --preset landmarks learns instead of the 28 points of masks',
    )
    a(
        '--drop-priors',
        nargs='+',
        help='names of priors that are zeros instead, to see what they are good for (default: none)',
    )
    a(
        '--search-from',
        type=float,
        help='share of a search in which weights are trained alone, before the architecture (default: 0.1)',
    )
    a(
        '--arch-lr',
        type=float,
        help='peak learning rate of the architecture, with Adam (default: 1e-3)',
    )
    a('--arch-weight-decay', type=float, help='default: 1e-3')
    a('--gan', help=f'adversarial loss: {", ".join(adversarial.KINDS)} (default: none)')
    a(
        '--gan-weight',
        type=float,
        help="of the adversarial loss (default: of the preset; esrgan_small: 0.0125, with --vgg or --parser the paper's 0.005)",
    )
    a(
        '--gan-from',
        type=int,
        help='images that the discriminator learns from, at its full rate, before the generator listens to it (default: 0; esrgan_small without --vgg and --parser: 1024)',
    )
    a(
        '--gan-level',
        type=float,
        help='hold the discriminator near this share of right judgements: the adversarial loss weighs more while it is right more often, less while less '
        '(default: 0, off; esrgan_small without --vgg and --parser: 0.75)',
    )
    a('--discriminator', help=f'discriminator: {", ".join(models.DISCRIMINATORS)}')
    a('--discriminator-net', type=json.loads, help='its arguments as JSON, e.g. \'{"width": 32}\'')
    a(
        '--discriminator-lr',
        type=float,
        help='its learning rate; lower it while log.jsonl tells a d_accuracy near 1 (default: --lr; esrgan_small without --vgg and --parser: 1e-5)',
    )
    a(
        '--matching-weight',
        type=float,
        help="of the difference of patchgan's feature maps of restored and real faces (default: 0)",
    )
    a('--r1', type=float, help='weight of the penalty on its gradients at real images (default: 0)')
    a(
        '--pixel-weight',
        type=float,
        help="of the pixel loss; 0: there is none (default: 1; esrgan_small with --vgg or --parser: the paper's 0.01)",
    )
    a('--vgg', help="weights of torchvision's VGG19, a file: adds a perceptual loss")
    a('--parser', help='run of parse_unet whose encoder takes the place of VGG19')
    a('--perceptual-weight', type=float, help='of that loss (default: 1)')
    a(
        '--features',
        help=f'layers that it compares: {", ".join(restore.FEATURES)} (default: esrgan)',
    )
    a('--ema', type=float, help='horizon of the weight average in images')
    a('--ticks', type=int, help='validations, checkpoints and pictures, evenly over the run')
    a(
        '--lpips',
        help="weights of torchvision's AlexNet or VGG16, a file: validation tells LPIPS, too (pip install -e .[lpips])",
    )
    a(
        '--keep',
        type=int,
        help='best weight averages that are kept, and averaged at the end if that helps (default: 3)',
    )
    a(
        '--seed',
        type=int,
        help='of the weights, the order, the flips and the degradations (default: 0)',
    )
    a('--size', type=int, help='side of the HQ images in pixels (default: 512)')
    switch(
        '--lq-from-usm',
        help='degrade the sharpened face, where the recipe has it so (default: yes)',
    )
    switch(
        '--repair',
        help='of a parser: masks with left and right exchanged are put right for training (default: yes)',
    )
    switch(
        '--target-usm',
        help='train on the sharpened face; validation keeps the plain one (default: no)',
    )
    a(
        '--pair-pool',
        type=int,
        help='ai6126_2024_parity: size of the emulated queue of training pairs (default: 0, off)',
    )
    a('--precision', help='bf16, fp16 or fp32 (default: bf16 where the hardware computes it)')
    switch('--compile', help='torch.compile: slower to start, faster on a GPU (default: no)')
    switch('--deterministic', help='on a GPU, too, the same bits every time; slower (default: no)')
    a('--device', help='cuda, cuda:1, cpu (default: cuda if there is one)')
    a(
        '--threads',
        type=int,
        help='CPU threads (default: all cores); bit-identical resume needs the same number',
    )
    a(
        '--cache',
        help=f'decoded images are kept: {", ".join(cache.MODES)} (default: auto: on the GPU, else in host memory, if they take less than '
        f'{100 * cache.SHARE:.0f} %% of what is free; file: in $FACES_CACHE, for later runs, too)',
    )
    a(
        '--save-minutes',
        type=float,
        help='minutes between checkpoints, beside one at every tick (default: 5)',
    )
    a(
        '--strict',
        action='store_true',
        help='refuse a data set with bad files instead of skipping them',
    )
    a('--verify', action='store_true', help='decode every file once before training')
    a('--dry-run', action='store_true', help='print the options and exit')
    return p.parse_args(argv)


def of_preset(name, c):
    """What a preset says for a run with options like these."""
    return PRESETS[name] | (
        {} if c.get('vgg') or c.get('parser') else WITHOUT_FEATURES.get(name, {})
    )


def configure(args):
    """Flags and preset -> the options that define the run, as in config.json."""
    preset = run.choose(args.preset or ('unet' if args.data else 'demo'), PRESETS, 'preset')
    given = {k: v for k, v in vars(args).items() if v is not None and k != 'dry_run'}
    c = DEFAULTS | dict(
        format=run.FORMAT,
        pipe=_default_pipe,
        out=f'runs/{preset}',
        precision=default_precision,
        threads=os.cpu_count(),
        device='cuda' if torch.cuda.is_available() else 'cpu',
    )
    c |= of_preset(preset, given) | given | {'preset': preset}
    if 'nimg' in given or 'minutes' in given:  # one of the two is the length
        c |= {k: given.get(k) for k in ('nimg', 'minutes')}
        if all(k in given for k in ('nimg', 'minutes')):
            raise RunError('--nimg and --minutes are two lengths of one run: give one')
    c |= {'nimg': c.get('nimg'), 'minutes': c.get('minutes')}
    c['gan_level'] = c['gan_level'] or None  # 0: off
    c |= {
        k: v
        for k, v in run.read_config(c['out']).items()
        if k in ('threads', 'precision') and k not in given
    }  # bits depend on them
    c = {k: v(c) if callable(v) else v for k, v in c.items()}
    _check_names(c)
    _fit(c)
    _check(c)
    return c


def _fit(c):
    """Arguments of a network that follow from other options: its scale, its architectures, its priors."""
    network, scale = c['network'], scale_of(c)
    searched = c['task'] == 'search'
    if c['landmarks']:
        if c['task'] != 'landmarks' or not c['data']:
            raise RunError(
                f'--landmarks {c["landmarks"]} is for --preset landmarks with --data, a folder or list of the faces that it names'
            )
        c['net'] = dict(c['net'], points=points_of.IBUG)
    if c['multi_prior_weight'] and (
        network not in models.GUIDED or not c['multi_prior_weight'] > 0
    ):
        raise RunError(
            f'--multi-prior-weight {c["multi_prior_weight"]}: a positive number, of {", ".join(models.GUIDED)} only, not of {network}'
        )
    if c['multi_prior_weight'] and set(c['drop_priors'] or ()) >= set(guides.named(c['prior'])):
        raise RunError(
            f'--multi-prior-weight {c["multi_prior_weight"]} needs a prior that --drop-priors leaves'
        )
    if c['prior'] or c['drop_priors']:
        if network not in (*models.GUIDED, 'search_prior', 'search_fusion'):
            raise RunError(
                f'--{"prior" if c["prior"] else "drop-priors"} is for {", ".join(models.GUIDED)} and the searches of their parts, not for {network}'
            )
    if network in ('frsnet', *models.GUIDED) or searched:
        c['net'] = dict(c['net'], scale=scale)
    if network in (*models.GUIDED, 'search_prior', 'search_fusion'):
        c['guides'] = guides.describe(c['prior'], c['size'] / scale)
        if not c['guides']:
            raise RunError(
                f'--preset {c["preset"]} needs facial priors: --prior RUN of a parser that sees through the degradation (python train.py --preset parse_prior '
                f'--recipe {c["recipe"]} --size {c["size"]})'
            )
        c['net']['priors'] = {name: of['channels'] for name, of in c['guides'].items()}
        wrong = next((name for name in c['drop_priors'] or () if name not in c['guides']), None)
        if wrong:
            raise RunError(f'--drop-priors {wrong}: --prior names {", ".join(c["guides"])} only')
    given = c.pop('arch')  # what it says is kept, where it stood is not
    if given and network not in ('frsnet', 'mfpsnet', 'search_fusion'):
        raise RunError(
            f'--arch {" ".join(given)} is for frsnet, mfpsnet and search_fusion, not for {network}'
        )
    if given:
        known = architectures(given)
        c['net'] |= (
            {'architecture': known['sr']} if network == 'frsnet' else {'architectures': known}
        )


def architectures(paths):
    """{part: architecture} of arch.json files, of the runs that hold them, or of the word paper; what they lack is as published. Raises RunError for what is none."""
    known = dict(models.PAPER)
    for path in paths:
        if path == 'paper':
            continue
        file = Path(path, 'arch.json') if Path(path).is_dir() else Path(path)
        try:
            found = json.loads(file.read_text())
            for part, architecture in found.items():
                if part not in known:
                    raise ValueError(f'there is no part {part}, but {", ".join(known)}')
                models.decode.check(architecture, 3 if part == 'sr' else 0)
        except OSError as e:
            raise RunError(
                f'--arch {file} cannot be read ({e.strerror}): give arch.json of a finished search, or its run'
            ) from e
        except (ValueError, TypeError, AttributeError) as e:
            raise RunError(f'--arch {file} is no architecture: {e}') from e
        known |= found
    return known


def _check_names(c):
    """Raise RunError, with the near miss, for a name that nothing has."""
    task = TASKS[c['task']]
    names = dict(
        pipe=dali_pipes.PIPES,
        recipe=degrade.RECIPES,
        cache=cache.MODES,
        decode=dali_pipes.DECODERS,
        loss=task.LOSSES,
        last_loss=task.LOSSES,
        optimizer=optim.OPTIMIZERS,
        schedule=schedule.SCHEDULES,
        precision=('bf16', 'fp16', 'fp32'),
        network=task.NETWORKS,
        gan=adversarial.KINDS,
        discriminator=models.DISCRIMINATORS,
        features=FEATURES,
    )
    for k, known in names.items():
        if c[k] is not None:
            run.choose(c[k], known, k)


def _check(c):
    """Raise RunError for what cannot be run, naming flag, value and remedy."""
    task = TASKS[c['task']]
    for k in (
        'batch',
        'accumulate',
        'nimg',
        'minutes',
        'lr',
        'clip',
        'ema',
        'ticks',
        'keep',
        'size',
        'threads',
        'save_minutes',
        'crop',
        'discriminator_lr',
        'arch_lr',
    ):
        if c[k] is not None and not c[k] > 0:
            raise RunError(f'--{k.replace("_", "-")} {c[k]}: must be positive')
    _check_machine(c)
    _check_data(c)
    _check_losses(c)
    _check_gan(c)
    _check_networks(c, task)
    _check_steps(c)


def _check_machine(c):
    if c['device'] != 'cpu' and not (
        c['device'].split(':')[0] == 'cuda' and torch.cuda.is_available()
    ):
        raise RunError(
            f'--device {c["device"]}: '
            + (
                'there is no CUDA GPU that torch can use; give --device cpu'
                if c['device'].startswith('cuda')
                else 'give cuda or cpu'
            )
        )
    if c['pipe'] == 'dali' and not _has_dali():
        raise RunError(
            '--pipe dali needs NVIDIA DALI: pip install -e .[cuda13], or [cuda12] for drivers 525-579; --pipe torch does without'
        )
    if c['decode'] == 'gpu' and (c['pipe'] != 'dali' or c['device'] == 'cpu'):
        raise RunError(
            f'--decode gpu needs --pipe dali and a GPU, this is {c["pipe"]} on {c["device"]}: give --decode cpu, or auto'
        )


def _check_data(c):
    scale = scale_of(c)
    if c['size'] % scale or c['seed'] < 0:
        raise RunError(
            f'--size {c["size"]} must be a multiple of the scale {scale} and --seed {c["seed"]} not negative'
        )
    if c['crop'] and (c['crop'] % scale or c['crop'] > c['size']):
        raise RunError(
            f'--crop {c["crop"]} must be a multiple of the scale {scale}, up to --size {c["size"]}'
        )


def _check_losses(c):
    if c['task'] in MASKED:
        if c['gan'] or c['vgg'] or c['parser'] or c['lpips'] or c['crop'] or c['last_loss']:
            raise RunError(
                f'--preset {c["preset"]} trains {"a parser" if c["task"] == "parse" else "on masks"}: --gan, --vgg, --parser, --lpips, --crop and --last-loss are for restorers'
            )
        if c['target_usm'] or not c['lq_from_usm']:
            raise RunError(
                f'--preset {c["preset"]}: --target-usm and --no-lq-from-usm are for restorers'
            )
        return
    if c['task'] == 'search' and (c['gan'] or not 0 <= c['search_from'] < 1):
        raise RunError(
            f'--gan {c["gan"]} is for restorers, not for a search'
            if c['gan']
            else f'--search-from {c["search_from"]}: a share of the run is wanted, from 0 to below 1'
        )
    for k in ('pixel_weight', 'perceptual_weight', 'gan_weight', 'matching_weight', 'r1'):
        if c[k] is not None and c[k] < 0:
            raise RunError(f'--{k.replace("_", "-")} {c[k]}: must not be negative')
    if not (c['pixel_weight'] or c['vgg'] or c['parser'] or c['gan'] and not c['gan_from']):
        raise RunError(
            '--pixel-weight 0 leaves nothing to learn from'
            + (
                f' in the first {c["gan_from"]} images: --gan-from 0 lets the generator listen at once; or'
                if c['gan']
                else ':'
            )
            + ' give it a weight, or a perceptual loss (--vgg, --parser)'
            + ('' if c['gan'] else ', or --gan')
        )
    if c['last_loss'] and not c['pixel_weight']:
        raise RunError(
            f'--last-loss {c["last_loss"]} takes the place of a pixel loss, and --pixel-weight is 0: give it a weight'
        )


def _check_gan(c):
    if c['matching_weight'] and not (c['gan'] and c['discriminator'] == 'patchgan'):
        raise RunError(
            f'--matching-weight {c["matching_weight"]} compares feature maps of a discriminator that gives some: --gan lsgan --discriminator patchgan'
        )
    if not c['gan']:
        return
    if not c['discriminator']:
        raise RunError(
            f'--gan {c["gan"]} needs a discriminator: --discriminator {" or ".join(models.DISCRIMINATORS)}'
        )
    if c['gan_level'] is not None and not 0.5 < c['gan_level'] < 1:
        raise RunError(
            f'--gan-level {c["gan_level"]}: a share of right judgements above 0.5, which is chance, and below 1; 0 is off'
        )
    if c['discriminator'] == 'modified_vgg' and (c['crop'] or c['size']) != 128:
        raise RunError(
            '--discriminator modified_vgg takes 128x128 pixels: give --crop 128, or another --discriminator'
        )
    if c['discriminator'] == 'modified_vgg' and c['r1']:
        raise RunError(
            f'--r1 {c["r1"]} needs a discriminator that judges each picture alone, without batch normalisation: --discriminator unet_sn'
        )
    if c['discriminator'] == 'patchgan' and c['discriminator_net'].get('channels', 6) not in (3, 6):
        raise RunError(
            f'--discriminator-net {json.dumps(c["discriminator_net"])}: patchgan judges pictures beside their inputs (6 channels) or alone (3)'
        )


def _check_networks(c, task):
    if c['trunk'] and c['network'] != 'bisenet':
        raise RunError(f'--trunk {c["trunk"]} is for --preset bisenet, not for {c["network"]}')
    made = []
    for network, arguments, flag in (
        (task.NETWORKS[c['network']], c['net'], 'net'),
        (
            models.DISCRIMINATORS.get(c['discriminator']),
            c['discriminator_net'],
            'discriminator-net',
        ),
    ):
        try:
            with torch.device('meta'):  # shapes only
                made.append(network and network(**arguments))
        except (TypeError, ValueError, IndexError) as e:
            raise RunError(
                f'--{flag} {json.dumps(arguments)}: {network.__name__} cannot be built so ({e})'
            ) from e
    scale, wanted = models.scale(made[0]), scale_of(c)
    if c['task'] == 'restore' and scale != wanted:
        fitting = ', '.join(r.name for r in degrade.RECIPES.values() if r.scale == scale)
        raise RunError(
            f'--network {c["network"]} gives pictures {scale} times as large as its input, --recipe {c["recipe"]} has truths {wanted} times as large: '
            + (
                f'give --recipe {fitting}, or another --network'
                if fitting
                else 'give other arguments (--net), or another --network'
            )
        )


def _check_steps(c):
    if c['optimizer'] == 'muon' and c['task'] == 'search':
        raise RunError(
            '--optimizer muon knows matrices by their layers, and a search trains parameters without: give sgd, adam or adamw'
        )
    if c['betas'] and (
        c['optimizer'] == 'sgd' or len(c['betas']) != 2 or not all(0 <= b < 1 for b in c['betas'])
    ):
        raise RunError(
            f'--betas {",".join(f"{b:g}" for b in c["betas"])}: adam, adamw and muon take two, from 0 up to, but not, 1'
            + (', and sgd none' if c['optimizer'] == 'sgd' else '')
        )
    try:
        rate(0.5, c)
    except ValueError as e:
        raise RunError(f'--warmup, --tail, --periods or --milestones: {e}') from e


def scale_of(c):
    """Ground truth / input of a run's recipe; a parser without one is fed what restorers of 4x make."""
    return degrade.recipe(c['recipe']).scale if c['recipe'] else 4


def _default_pipe(c):
    if _has_dali():
        return 'dali'
    print('DALI is not installed: --pipe torch (pip install -e .[cuda13] brings it)')
    return 'torch'


def _has_dali():
    try:
        return importlib.util.find_spec('nvidia.dali') is not None
    except (ModuleNotFoundError, ValueError):  # no package nvidia at all
        return False


def default_precision(c):
    """bf16 where c['device'] computes it in hardware, else fp32."""
    if c['device'].startswith('cuda'):
        return 'bf16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    info = Path('/proc/cpuinfo')
    flags = info.read_text() if info.exists() else ''
    return 'bf16' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'fp32'


def network(c):
    """The untrained network of a run, also of one made before there were tasks."""
    net = TASKS[c.get('task', 'restore')].NETWORKS[c['network']](**c['net'])
    return (
        models.Guided(
            net,
            guides.build(c['guides']),
            c['drop_priors'] or (),
            bool(c.get('multi_prior_weight')),
        )
        if c.get('guides')
        else net
    )


def rate(progress, c):
    """Learning rate of a run's options at a share of it."""
    return schedule.lr(
        progress,
        c['lr'],
        c['schedule'],
        **{k: c[k] for k in ('warmup', 'milestones', 'periods', 'weights', 'tail')},
    )


def autocast(c, device):
    """Callable that returns the context of a run's forward passes; float32 stays float32."""
    return functools.partial(
        torch.autocast,
        device.type,
        torch.float16 if c['precision'] == 'fp16' else torch.bfloat16,
        enabled=c['precision'] != 'fp32',
    )
