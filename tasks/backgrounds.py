"""What lies around the faces of a photo, enlarged: by Lanczos's filter, or by a network in tiles.

A network is given one tile at a time, never the whole photo. Tiles overlap by what the network
sees around a pixel, so that no seam shows; that reach is measured. Networks that know where in a
face a pixel lies, or that look at all of a picture at once, are of no use here.
"""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import models
from errors import RunError
from faces import paste

Background = Callable[[np.ndarray, int], np.ndarray]  # ([h, w, 3], scale) -> [h * s, w * s, 3]
Network = Callable[[Tensor], Tensor]  # [n, 3, h, w] uint8 -> [n, 3, h * s, w * s] uint8

TILE = 256  # pixels
LOST = 1e-3  # of what a pixel depends on may lie beyond the overlap
PROBE = 192  # pixels of the picture by which a network's reach is measured
MOST = 64  # pixels of a reach: with more, a network looks at the whole picture


def lanczos(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge [h, w] or [h, w, 3] by Lanczos's filter; always a new array."""
    if scale == 1:
        return pixels.copy()
    h, w = pixels.shape[:2]
    return cv2.resize(pixels, (w * scale, h * scale), interpolation=cv2.INTER_LANCZOS4)


class Tiled:
    """A network as Background.

    restore:  applies it
    own:      factor by which it enlarges
    reach:    pixels by which tiles overlap on every side
    """

    def __init__(self, restore: Network, own: int, reach: int, tile: int = TILE) -> None:
        """Take note of how tiles are made."""
        self._restore, self._own = restore, own
        self._reach, self._tile = reach, tile

    def __call__(self, pixels: np.ndarray, scale: int) -> np.ndarray:
        """Enlarge a photo [h, w, 3] uint8 or uint16; one of greys stays one."""
        h, w, _ = pixels.shape
        # A network may add colours where there were none.
        gray = paste.is_gray(pixels)
        levels = np.iinfo(pixels.dtype).max // 255
        whole = np.empty((h * scale, w * scale, 3), pixels.dtype)
        for y, x in _corners(h, w, self._tile):
            top, left = max(y - self._reach, 0), max(x - self._reach, 0)
            part = pixels[top : y + self._tile + self._reach, left : x + self._tile + self._reach]
            done = self._enlarged(part, levels, scale)
            if gray:
                done = paste.grayed(done)
            # The middle of the tile, without what it shares with its neighbours.
            at_y, at_x = (y - top) * scale, (x - left) * scale
            target = whole[y * scale :, x * scale :][: self._tile * scale, : self._tile * scale]
            inner = done[at_y:, at_x:][: target.shape[0], : target.shape[1]]
            target[:] = np.clip(np.rint(inner * levels), 0, np.iinfo(pixels.dtype).max)
        return whole

    def _enlarged(self, part: np.ndarray, levels: int, scale: int) -> np.ndarray:
        """[h * scale, w * scale, 3] float32, 0 to 255."""
        # A network has the sizes that it has: 16 bits enter with 8, and leave rounded to them.
        rounded = np.rint(part / levels).astype(np.uint8)
        batch = torch.from_numpy(np.ascontiguousarray(rounded)).permute(2, 0, 1)[None]
        made = self._restore(batch)[0].permute(1, 2, 0).numpy().astype(np.float32)
        if self._own == scale:
            return made
        how = cv2.INTER_AREA if self._own > scale else cv2.INTER_LANCZOS4
        h, w, _ = part.shape
        return cv2.resize(made, (w * scale, h * scale), interpolation=how)


def _corners(h: int, w: int, tile: int) -> Iterator[tuple[int, int]]:
    # Row by row, as the photo lies in memory.
    for y in range(0, h, tile):
        for x in range(0, w, tile):
            yield y, x


def reach(net: nn.Module, name: str) -> int:
    """Return by how many pixels what a pixel depends on may lie away from it.

    net:  a restorer on its device
    name: of the flag that chose it, for the message
    Raises RunError for a network that is made for faces alone.
    """
    # Positions in a face, or priors of faces, mean nothing elsewhere.
    if isinstance(net, models.Guided) or getattr(net, 'position', None) is not None:
        raise RunError(
            f'{name}: this network knows where in a face a pixel lies, so that it restores faces '
            'alone: give --background lanczos, or the weights of another network'
        )
    x = torch.rand(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
    x = x.to(next(net.parameters()).device).requires_grad_()
    with torch.enable_grad():
        y = net(x).float()
        centre = y.shape[-1] // 2
        (gradient,) = torch.autograd.grad(y[..., centre, centre].sum(), x)

    # Distance beyond which hardly anything counts.
    amount = gradient[0].abs().sum(0).cpu()
    away = (torch.arange(PROBE) - PROBE // 2).abs()
    distance = torch.maximum(away[:, None], away[None])
    by_distance = torch.zeros(PROBE).index_add(0, distance.flatten(), amount.flatten())
    beyond = 1 - by_distance.cumsum(0) / by_distance.sum()
    # One more, for the other pixels that the network makes of the one in the middle.
    far = int((beyond > LOST).sum()) + 1
    if far > MOST:
        raise RunError(
            f'{name}: what this network makes of a pixel depends on what lies more than {MOST} '
            'pixels away, so that tiles would show: give --background lanczos, or the weights of '
            'another network'
        )
    return far
