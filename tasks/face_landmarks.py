"""What a trained landmark network finds in faces: the points that LMD compares."""

from collections.abc import Callable

import torch
from torch import Tensor

from errors import MetricError, RunError
from faces import heatmaps

from . import landmarks, loading
from .images import sized


def landmark_network(
    run: str, device: str, flag: str = '--landmarks'
) -> Callable[[Tensor], Tensor]:
    """Return a function (faces [B, 3, S, S] uint8 on the device) -> points [B, K, 2] float64.

    Points are (x, y) in pixels of the faces, of which the network sees its training size.

    run: run directory of `train.py --preset landmarks`, or a file of tools/publish.py
    flag: that named it, for messages

    Raises RunError for a run of anything else. The function raises MetricError for pictures that
    are not square.
    """
    loaded = loading.of_either(run, device, flag)
    assert loaded.config is not None  # a run has one
    if loaded.task.name != 'landmarks':
        raise RunError(
            f'{flag} {run} is a run of {loaded.config.preset}, which finds no landmarks: give one '
            'of train.py --preset landmarks'
        )
    size = loaded.config.data.size
    net = loaded.net
    precision = loaded.autocast(device)

    @torch.no_grad()
    def find(faces: Tensor) -> Tensor:
        side = faces.shape[-1]
        if faces.shape[-2] != side:
            raise MetricError(
                f'landmarks of pictures of {side}x{faces.shape[-2]}: aligned faces are square'
            )
        with precision():
            points = landmarks.find(net, sized(faces, size))
        return heatmaps.reduced(points.double(), size / side)

    return find
