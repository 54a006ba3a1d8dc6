"""Losses: f(output, target) -> scalar float32, smaller is better; weights belong to the task that adds them up."""

from . import adversarial, features, heatmap, pixel

RESTORE = {
    'l1': pixel.l1,
    'charbonnier': pixel.charbonnier,
    'smooth_l1': pixel.smooth_l1,
    'mse': pixel.mse,
    'psnr': pixel.psnr,
}
# Weights of cross entropy, Lovász-softmax and Dice; None: online hard example mining instead.
PARSE = {'ce': (1, 0, 0), 'lovasz': (1, 2, 0), 'mixed': (0.5, 0.3, 1), 'ohem': None}
LANDMARKS = {'mse': heatmap.squared}
FEATURES = {
    'esrgan': features.ESRGAN,
    'realesrgan': features.REAL_ESRGAN,
    'pix2pixhd': features.PIX2PIXHD,
}
ADVERSARIAL = adversarial.KINDS
