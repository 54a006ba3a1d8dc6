"""What a trained parser sees in faces: ids of their parts, and masks to blend them by."""

import cv2
import numpy as np
import torch
from torch import Tensor

from errors import RunError
from faces import masks, paste

from . import loading, parse
from .images import sized

# What of a picture around a face is not the face: it stays the photo's own.
AROUND = 'background', 'hat', 'neck_l', 'neck', 'cloth'
SOFT = 1 / 50  # of the side: sigma of a mask's edge


class FaceParser:
    """A parser of a run, or of a file of tools/publish.py.

    Images [B, 3, H, W] uint8 on its device -> ids [B, H, W] uint8.
    """

    def __init__(self, path: str, device: str) -> None:
        """Load it. Raises RunError for anything else."""
        loaded = loading.of_either(path, device, '--parser')
        assert loaded.config is not None  # a run has one
        if loaded.task.name != 'parse':
            raise RunError(
                f'--parser {path} is a run of {loaded.config.preset}, which restores: give one of '
                'a parser'
            )
        self.net = loaded.net
        self.size = loaded.config.data.size
        self.device = device
        self.autocast = loaded.autocast(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Both on the parser's device; see parse.parse for faces of other sizes."""
        with self.autocast():
            return parse.parse(self.net, images, size=self.size)

    @torch.no_grad()
    def masks(self, faces: np.ndarray) -> np.ndarray:
        """Return where faces [n, S, S, 3] uint8 are faces: [n, S, S] float32, 0 to 1, soft.

        Everything from the chin to the hair; nothing at the very edge.
        """
        # Parsed at the size that it was trained on, and softened there: the edge is as wide in all.
        images = torch.from_numpy(faces).permute(0, 3, 1, 2).to(self.device)
        ids = self(sized(images, self.size)).cpu().numpy()
        inside = _INSIDE[ids].astype(np.float32)
        side = faces.shape[1]
        square = paste.square(side)
        soft = [cv2.GaussianBlur(part, (0, 0), SOFT * len(part)) for part in inside]
        large = [cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR) for part in soft]
        return np.stack([part * square for part in large])


_INSIDE = np.array([name not in AROUND for name in masks.CLASSES])
