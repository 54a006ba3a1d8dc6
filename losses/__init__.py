"""Losses: f(output, target) -> scalar float32, smaller is better.

Weights belong to the task that adds losses up. Adding a loss takes its function, in a file here,
and a row of the table that offers it.
"""

from . import adversarial, features, heatmap, pixel

# Of restorers, by the names of --loss and --last-loss.
RESTORE = {
    'l1': pixel.l1,
    'charbonnier': pixel.charbonnier,
    'smooth_l1': pixel.smooth_l1,
    'mse': pixel.mse,
    'psnr': pixel.psnr,
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
