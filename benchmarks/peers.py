"""Public libraries beside us, where they are installed.

BasicSR, as Real-ESRGAN uses it, and kornia: single operations on the same batch
(degrade_throughput.py --peers), and whole chains (side_by_side.py --peers), where torch does what
they have no operation for. Albumentations: a whole chain, an image at a time.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import degrade
from benchmarks import torch_chain
from benchmarks.in_processes import Work
from degrade import Recipe, Stage, blur, diffjpeg, jpeg, noise, usm
from degrade.draw import Draw
from errors import FacesError
from tools import timing

BATCH = 8
OPS = {
    'blur': Stage('blur', blur, 1, {'kinds': (0, 1), 'taps': (21, 21)}),
    'jpeg': Stage('jpeg', jpeg, 1, {'quality': (50, 95)}),
    'gaussian noise': Stage('noise', noise, 1, {'kinds': (1,), 'gray': 0.0}),
    'Poisson noise': Stage('noise', noise, 1, {'kinds': (0, 1), 'gray': 0.0}),
    'usm': Stage('usm', usm),
}

# An operation of a library: x [B, 3, h, w] float32 and the stage's parameters -> the same shape.
Operation = Callable[[Tensor, Any], Tensor]


def basicsr(device: torch.device) -> dict[str, Operation]:
    """The operations of BasicSR by their names in OPS. Raises ImportError."""
    from basicsr.data.degradations import add_gaussian_noise_pt, add_poisson_noise_pt
    from basicsr.utils import DiffJPEG, USMSharp
    from basicsr.utils.img_process_util import filter2D

    # Built once, as a trainer would.
    codec = DiffJPEG(differentiable=False).to(device)
    sharp = USMSharp().to(device)

    def there(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).float().to(device)

    return {
        # Its filters want the channels first in memory, too.
        'blur': lambda x, p: filter2D(x.contiguous(), blur.kernels(p, device)),
        'jpeg': lambda x, p: codec(x, quality=there(p.quality)),
        'usm': lambda x, p: sharp(x.contiguous()),
        'gaussian noise': lambda x, p: add_gaussian_noise_pt(
            x, there(p.amount * 255), there(p.gray), clip=True
        ),
        'Poisson noise': lambda x, p: add_poisson_noise_pt(
            x, there(p.amount), there(p.gray), clip=True
        ),
    }


def kornia(device: torch.device) -> dict[str, Operation]:
    """The operations of kornia, as far as it has them. Raises ImportError."""
    from kornia.enhance import jpeg_codec_differentiable
    from kornia.filters import filter2d

    def codec(x: Tensor, p: jpeg.Params) -> Tensor:
        return jpeg_codec_differentiable(x, torch.from_numpy(p.quality).float().to(device))

    return {'blur': lambda x, p: filter2d(x, blur.kernels(p, device)), 'jpeg': codec}


# ---- whole chains ----


def chains(device: torch.device) -> dict[str, Mapping[Any, Operation]]:
    """Return the operations of each library that is installed, for torch_chain.degrade."""
    return {name: torch_chain.RUN | _chained(own) for name, own in _installed(device).items()}


def _chained(own: Mapping[str, Operation]) -> dict[Any, Operation]:
    """The operations that a library has, by the modules they stand in for; skipped where off."""
    found: dict[Any, Operation] = {
        blur: lambda x, p: x if (p.kind == blur.DELTA).all() else own['blur'](x, p),
        diffjpeg: lambda x, p: own['jpeg'](x.clamp(0, 1), p) if p.quality.all() else x,
    }
    if 'usm' in own:
        found[usm] = lambda x, p: own['usm'](x, p) if p.on.any() else x
    if 'gaussian noise' in own:
        named = {noise.GAUSSIAN: 'gaussian noise', noise.POISSON: 'Poisson noise'}
        found[noise] = lambda x, p: own[named[int(p.kind[0])]](x, p)
    return found


def albumentations(size: int) -> Work:
    """A chain of Albumentations for images of a size, one after the other: as near to ai6126_2024
    as its operations come, with draws of its own and no sharpening. Raises ImportError.
    """
    # Or importing it asks its server for a newer version.
    os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'
    import albumentations as A

    # Its Poisson noise has another scale; the range of the other is the recipe's.
    shots = A.ShotNoise(scale_range=(0.001, 0.05), p=1)
    chain = A.Compose(
        [
            _blurs(A, 3.0, 1),
            _resized(A, size, (0.2, 1.5), up=0.2, down=0.7),
            A.OneOf([A.GaussNoise(std_range=(1 / 255, 20 / 255), p=1), shots], p=1),
            A.ImageCompression(quality_range=(50, 95), p=1),
            _blurs(A, 1.5, 0.8),
            _resized(A, size // 4, (0.3, 1.2), up=0.3, down=0.4),
            A.OneOf([A.GaussNoise(std_range=(1 / 255, 15 / 255), p=1), shots], p=1),
            A.Resize(size // 4, size // 4),
            A.RingingOvershoot(blur_limit=(7, 21), cutoff=(1.05, 3.14), p=0.8),
            A.ImageCompression(quality_range=(70, 95), p=1),
        ],
        seed=0,
    )
    return lambda image, i: chain(image=image)['image']


def _blurs(A: Any, sigma: float, share: float) -> Any:
    limits = dict(sigma_x_limit=(0.2, sigma), sigma_y_limit=(0.2, sigma))
    return A.AdvancedBlur(blur_limit=(7, 21), **limits, p=share)


def _resized(A: Any, side: int, factor: tuple[float, float], up: float, down: float) -> Any:
    """Sides evenly between the bounds, as often up, down and kept as in the recipe."""
    low, high = factor
    steps = [(i + 0.5) / 6 for i in range(6)]
    sides = [(round(side * (1 + (high - 1) * s)), up / 6) for s in steps]
    sides += [(round(side * (low + (1 - low) * s)), down / 6) for s in steps]
    sides.append((side, 1 - up - down))
    return A.OneOf([A.Resize(n, n, p=p) for n, p in sides], p=1)


# ---- single operations ----


def compare(x: Tensor, pool: Executor | None, rounds: int) -> dict[str, dict[str, float]]:
    """Time every operation and print a line for each.

    x: [N, 3, h, w] uint8; pool: threads that our operations run on, on a CPU
    A blur has to be equal to ours; of a JPEG the distance from libjpeg is printed.
    Returns {operation: {library: images per second}}. Raises FacesError for another blur.
    """
    # A batch as large as a trainer with a discriminator has it.
    x = x[:BATCH]
    libraries = _installed(x.device)
    rates = {}
    for name, stage in OPS.items():
        contenders, notes = _contenders(name, stage, x, pool, libraries)
        seconds = timing.rounds(contenders, rounds, progress=lambda _: None)
        rates[name] = {library: len(x) / timing.median(s) for library, s in seconds.items()}
        cells = [f'{lib} {r:9.1f} img/s {notes.get(lib, "")}' for lib, r in rates[name].items()]
        print(f'{name:15} ' + '   '.join(cells))
    return rates


def _installed(device: torch.device) -> dict[str, dict[str, Operation]]:
    """The operations of each library that is installed."""
    libraries = {}
    for name, operations in (('basicsr', basicsr), ('kornia', kornia)):
        try:
            libraries[name] = operations(device)
        except ImportError as e:
            print(f'{name} is left out: {e}')
    return libraries


def _contenders(
    name: str,
    stage: Stage,
    x: Tensor,
    pool: Executor | None,
    libraries: dict[str, dict[str, Operation]],
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Who can do an operation, and a note on the output of each library. Raises FacesError."""
    recipe = Recipe(name, (stage,))
    params = degrade.sample(recipe, Draw(1, np.arange(len(x))), (x.shape[-2], x.shape[-1]))
    impl = 'cuda' if x.device.type == 'cuda' else 'torch'
    ours = partial(degrade.degrade, x, recipe, params, impl, pool=pool)

    # The libraries take float32; the conversion is not timed, which favours them.
    unit = x.float() / 255
    contenders: dict[str, Callable[[], Tensor]] = {'ours': ours}
    for library, operations in libraries.items():
        if name in operations:
            contenders[library] = partial(operations[name], unit, params[0])

    notes = {
        lib: _distance(name, run(), ours()) for lib, run in contenders.items() if lib != 'ours'
    }
    return {lib: partial(_waited_for, run, x.device) for lib, run in contenders.items()}, notes


def _waited_for(run: Callable[[], Tensor], device: torch.device) -> None:
    run()
    if device.type == 'cuda':
        torch.cuda.synchronize()


def _distance(name: str, theirs: Tensor, ours: Tensor) -> str:
    """What there is to say about an output. Raises FacesError for a blur that is not ours."""
    if name == 'blur':
        error = (theirs - ours).abs().max().item()
        if error > 1e-4:
            raise FacesError(f'blur differs by {error:.1e}: not timed')
    # Their codecs approximate libjpeg's integers: how far they are from it is printed.
    if name == 'jpeg':
        return f'({-10 * torch.log10((theirs - ours).square().mean()).item():.1f} dB from libjpeg)'
    return ''
