"""How much of a picture's detail is there, whether right or not: what a blurred restoration loses and PSNR hardly sees."""

import torch


def sharpness(output, target):
    """Gradient energy of [B, 3, H, W] uint8 as a share of the truth's -> [B] float64: 1 for equal pictures, less where the output is blurred, more where it is noisy.

    The energy is the sum of squared differences between neighbours to the right and below, over all channels; of a truth without any the share is NaN or infinite.
    """
    if output.shape != target.shape or output.dtype != torch.uint8 or target.dtype != torch.uint8:
        raise ValueError(
            f'sharpness of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} {target.dtype}: '
            'two uint8 tensors of one shape are needed (see to_uint8)'
        )
    return _energy(output) / _energy(target)


def _energy(x):
    return sum(x.to(torch.int32).diff(dim=d).square().flatten(1).sum(1) for d in (2, 3)).double()
