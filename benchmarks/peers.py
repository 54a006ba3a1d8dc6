"""Single operations against the installed functions of BasicSR (as Real-ESRGAN uses them) and kornia, on the same batch: degrade_throughput.py --peers."""

import numpy as np
import torch

import degrade
from benchmarks import timing
from degrade import Recipe, Stage, blur, jpeg, noise, usm
from degrade.draw import Draw

BATCH = 8
OPS = {
    'blur': Stage('blur', blur, 1, dict(kinds=(0, 1), taps=(21, 21))),
    'jpeg': Stage('jpeg', jpeg, 1, dict(quality=(50, 95))),
    'gaussian noise': Stage('noise', noise, 1, dict(kinds=(1,), gray=0.0)),
    'Poisson noise': Stage('noise', noise, 1, dict(kinds=(0, 1), gray=0.0)),
    'usm': Stage('usm', usm),
}


def basicsr(device):
    """{operation: function of (x [B, 3, h, w] float32, params)}. Raises ImportError."""
    from basicsr.data.degradations import add_gaussian_noise_pt, add_poisson_noise_pt
    from basicsr.utils import DiffJPEG, USMSharp
    from basicsr.utils.img_process_util import filter2D

    codec, sharp = DiffJPEG(differentiable=False).to(device), USMSharp().to(device)
    return {
        'blur': lambda x, p: filter2D(x, blur.kernels(p, device)),
        'jpeg': lambda x, p: codec(x, quality=torch.from_numpy(p.quality).float().to(device)),
        'usm': lambda x, p: sharp(x),
        'gaussian noise': lambda x, p: add_gaussian_noise_pt(
            x, sigma=torch.from_numpy(p.amount * 255).float().to(device), clip=True
        ),
        'Poisson noise': lambda x, p: add_poisson_noise_pt(
            x, scale=torch.from_numpy(p.amount).float().to(device), clip=True
        ),
    }


def kornia(device):
    """The same of kornia, as far as it has them."""
    from kornia.enhance import jpeg_codec_differentiable
    from kornia.filters import filter2d

    return {
        'blur': lambda x, p: filter2d(x, blur.kernels(p, device)),
        'jpeg': lambda x, p: jpeg_codec_differentiable(
            x, torch.from_numpy(p.quality).float().to(device)
        ),
    }


def compare(x, pool, rounds):
    """Table of images per second; x [N, 3, h, w] uint8. Blur is checked to be ours, JPEG is told how far it is from libjpeg. Returns {operation: {library: rate}}."""
    device, x = x.device, x[:BATCH]
    unit, impl, libraries, rates = (
        x.float() / 255,
        'cuda' if x.device.type == 'cuda' else 'torch',
        {},
        {},
    )
    for library in basicsr, kornia:
        try:
            libraries[library.__name__] = library(device)
        except ImportError as e:
            print(f'{library.__name__} is left out: {e}')
    for name, stage in OPS.items():
        recipe = Recipe(name, (stage,))
        params = degrade.sample(recipe, Draw(1, np.arange(len(x))), x.shape[-2:])
        contenders = {'ours': lambda: degrade.degrade(x, recipe, params, impl, pool=pool)}
        contenders |= {
            n: lambda f=functions[name]: f(unit, params[0])
            for n, functions in libraries.items()
            if name in functions
        }
        notes = {
            n: _distance(name, run(), contenders['ours']())
            for n, run in contenders.items()
            if n != 'ours'
        }
        if device.type == 'cuda':
            contenders = {
                n: lambda run=run: (run(), torch.cuda.synchronize())
                for n, run in contenders.items()
            }
        seconds = timing.rounds(contenders, rounds, progress=lambda _: None)
        rates[name] = {n: len(x) / timing.median(s) for n, s in seconds.items()}
        print(
            f'{name:15} '
            + '   '.join(f'{n} {r:9.1f} img/s {notes.get(n, "")}' for n, r in rates[name].items())
        )
    return rates


def _distance(name, theirs, ours):
    if name == 'blur':
        error = (theirs - ours).abs().max().item()
        if error > 1e-4:
            raise SystemExit(f'blur differs by {error:.1e}: not timed')
    if name == 'jpeg':
        return f'({-10 * torch.log10((theirs - ours).square().mean()).item():.1f} dB from libjpeg)'
    return ''
