"""Files of photographs: JPEG with any orientation, PNG, WebP."""

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from .plan import File

ORIENTATION = 0x0112  # tag of EXIF
# How a camera stores what is upright (EXIF 2.32, sec. 4.6.4).
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


def encoded(pixels: np.ndarray, file: File) -> bytes:
    """Return a photo [h, w, 3] uint8 RGB, upright, as a file."""
    stored = np.ascontiguousarray(STORED[file.orientation](pixels))
    if file.gray:
        stored = cv2.cvtColor(stored, cv2.COLOR_RGB2GRAY)
    if file.suffix == '.jpg':
        exif = Image.Exif()
        if file.orientation != 1:
            exif[ORIENTATION] = file.orientation
        data = io.BytesIO()
        Image.fromarray(stored).save(data, 'JPEG', quality=file.quality, exif=exif)
        return data.getvalue()
    # OpenCV's PNG is written in a fraction of the time that Pillow takes.
    bgr = stored if file.gray else cv2.cvtColor(stored, cv2.COLOR_RGB2BGR)
    how = [cv2.IMWRITE_WEBP_QUALITY, file.quality] if file.suffix == '.webp' else []
    return cv2.imencode(file.suffix, bgr, how)[1].tobytes()
