"""Pictures between files and tensors."""

from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from errors import RunError
from sources import files


def read(path: Path) -> Tensor:
    """[3, H, W] uint8 RGB of a picture. Raises OSError and BadFile."""
    return torch.from_numpy(files.decode(files.read_bytes(path))).permute(2, 0, 1)


def png(image: Tensor) -> bytes:
    """[3, H, W] uint8 RGB as a PNG file."""
    return cv2.imencode('.png', image.permute(1, 2, 0).numpy()[..., ::-1])[1].tobytes()


def is_picture(path: Path) -> bool:
    """Whether --output names a picture rather than a folder, which may have a dot in its name.
    Raises RunError for one that is no PNG.
    """
    if path.is_dir() or path.suffix.lower() not in files.SUFFIXES:
        return False
    if path.suffix.lower() != '.png':
        name = path.with_suffix('.png').name
        raise RunError(f'--output {path}: pictures are written as PNG; give {name}, or a folder')
    return True


def needs_truth(lpips: str) -> str:
    """What to say where there is nothing to compare with."""
    return f'--lpips {lpips} compares restored images with their ground truth: give --gt'


def sized(images: Tensor, size: int) -> Tensor:
    """[n, 3, S, S] uint8 -> [n, 3, size, size]: faces as large as a network was trained on."""
    if images.shape[-1] == size:
        return images
    # What is larger is averaged.
    resized = F.interpolate(
        images.float(), size=(size, size), mode='bilinear', antialias=True, align_corners=False
    )
    return resized.round().to(torch.uint8)
