"""Identity: whether two pictures show the same person, by a network that the user brings.

The cosine between the embeddings of the restored and of the true face (ArcFace: Deng et al., CVPR
2019), or the angle in degrees, "Deg" of the restoration papers. These use ArcFace; the angle by
another network, SFace for instance, is of the same kind but not comparable with theirs.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

import storage
from errors import BadFile, MetricError
from faces import align
from storage import shown

from .pairs import check

CROP = 112  # pixels of the side that these networks take
# Layers of arithmetic: a network that begins with one scales its pixels itself.
_ARITHMETIC = 'NaryEltwise', 'Eltwise', 'Scale', 'Power', 'BatchNorm'

Embed = Callable[[np.ndarray], np.ndarray]  # [112, 112, 3] uint8 BGR -> [D] float64


def identity(path: str | Path) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function (output, target: [B, 3, S, S] uint8) -> cosine [B] float64, -1 to 1.

    Faces are squares aligned as FFHQ's, so that their eyes, nose and mouth lie at the template's
    places; by these OpenCV's FaceRecognizerSF cuts the 112 x 112 pixels that the network sees. It
    runs on the CPU, wherever the pictures are. NaN for an embedding of nothing but zeros.

    path: an ONNX file that takes one RGB picture [1, 3, 112, 112] and returns its embedding. SFace
        and others that scale 0 to 255 in their first layers are given these values; others, as
        ArcFace's of insightface, -1 to 1

    Raises MetricError for another file. The function raises ValueError for other types or shapes,
    and MetricError for pictures that are not square.
    """
    recognizer, embed = _read(path)

    def measure(output: Tensor, target: Tensor) -> Tensor:
        check('identity', output, target)
        if output.shape[-1] != output.shape[-2]:
            raise MetricError(
                f'identity of pictures of {output.shape[-1]}x{output.shape[-2]}: faces aligned as '
                "FFHQ's are square"
            )
        cosines = [
            _cosine(*(embed(_crop(recognizer, image)) for image in pair))
            for pair in zip(_arrays(output), _arrays(target), strict=True)
        ]
        return torch.tensor(cosines, dtype=torch.float64, device=output.device)

    return measure


def degrees(cosine: Tensor) -> Tensor:
    """Angles in degrees, 0 (the same) to 180, of cosines of any shape."""
    # Rounding leaves the cosine of equal vectors a little above 1.
    return torch.rad2deg(torch.arccos(cosine.double().clamp(-1, 1)))


def _read(path: str | Path) -> tuple[cv2.FaceRecognizerSF, Embed]:
    """(the recogniser, which crops; its embedding, or that of a network of another kind)."""
    named = f'the identity network {shown(path)}'
    try:
        data = np.frombuffer(storage.read(path), np.uint8)
        net = cv2.dnn.readNetFromONNX(data)
        recognizer = cv2.FaceRecognizerSF.create('onnx', data, np.zeros(0, np.uint8))
        embed = _of_sface(recognizer) if _scales(net) else _of_arcface(net)
        # Any network is taken; what it gives shows whether it is one of these.
        found = embed(np.zeros((CROP, CROP, 3), np.uint8))
    except (OSError, BadFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MetricError(f'{named} cannot be read ({reason})') from error
    except cv2.error as error:
        reason = storage.printable(error.err or str(error), 160)
        raise MetricError(
            f'{named} is no ONNX file of SFace or ArcFace, which take [1, 3, {CROP}, {CROP}] '
            f'({reason})'
        ) from error
    if len(found) < 2:
        raise MetricError(f'{named} returns one number, no embedding: give SFace or ArcFace')
    return recognizer, embed


def _scales(net: cv2.dnn.Net) -> bool:
    """Whether there is arithmetic before the first convolution."""
    for name in net.getLayerNames():
        kind = net.getLayer(name).type
        if kind.startswith(_ARITHMETIC):
            return True
        if kind.startswith('Conv'):
            return False
    return False


def _of_sface(recognizer: cv2.FaceRecognizerSF) -> Embed:
    def embed(crop: np.ndarray) -> np.ndarray:
        return np.asarray(recognizer.feature(crop), np.float64).ravel()

    return embed


def _of_arcface(net: cv2.dnn.Net) -> Embed:
    def embed(crop: np.ndarray) -> np.ndarray:
        half = 127.5
        blob = cv2.dnn.blobFromImage(crop, 1 / half, (CROP, CROP), (half, half, half), swapRB=True)
        net.setInput(blob)
        return np.asarray(net.forward(), np.float64).ravel()

    return embed


def _arrays(images: Tensor) -> np.ndarray:
    """[B, S, S, 3] BGR, as OpenCV has them."""
    return np.ascontiguousarray(images.flip(1).permute(0, 2, 3, 1).cpu().numpy())


def _crop(recognizer: cv2.FaceRecognizerSF, image: np.ndarray) -> np.ndarray:
    side = image.shape[0]
    points = align.scaled_points(align.TEMPLATE, side / align.SIDE)
    # A face as OpenCV's detector describes it: box, five points, score; only points are looked at.
    row = np.array([0, 0, side, side, *points.ravel(), 1], np.float32)
    return np.asarray(recognizer.alignCrop(image, row[None]))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths else float('nan')
