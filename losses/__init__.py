"""Losses: f(output, target) -> scalar float32, smaller is better.

Weights belong to the task that adds losses up. A pixel loss takes its function, in a file here, and
one import line.
"""

# ruff: noqa: F401 - what is imported is a table.

import types

from . import adversarial, features, heatmap

# Of restorers, by the names of --loss and --last-loss: every function that is imported here.
# isort: off
from .pixel import l1, charbonnier, smooth_l1, mse, psnr
# isort: on

RESTORE = {
    name: value for name, value in list(globals().items()) if isinstance(value, types.FunctionType)
}
# Of parsers: weights of cross entropy, Lovász-softmax and Dice; None: online hard example mining.
PARSE: dict[str, tuple[float, float, float] | None] = {
    'ce': (1, 0, 0),
    'lovasz': (1, 2, 0),
    'mixed': (0.5, 0.3, 1),
    'ohem': None,
}
# Of networks that find landmarks.
LANDMARKS = {'mse': heatmap.squared}
# Perceptual losses of restorers: weights by layer of VGG19.
FEATURES = {
    'esrgan': features.ESRGAN,
    'realesrgan': features.REAL_ESRGAN,
    'pix2pixhd': features.PIX2PIXHD,
}
# Names of the adversarial losses.
ADVERSARIAL = adversarial.KINDS
