"""Zips that are the same for the same files, and as small as losslessly possible where asked."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2

import storage
from errors import RunError
from faces import masks
from sources import files

ENTRY = (1980, 1, 1, 0, 0, 0)  # the same files make the same zip
STORED = ('.png', '.zip', '.pdf')  # compressed already


def smaller(data: bytes, of_masks: bool = False) -> bytes:
    """A PNG's pixels at the highest compression, if that is smaller."""
    if of_masks:
        best = masks.png(masks.decode(data))
        return best if len(best) < len(data) else data
    pixels = files.decode(data)
    highest = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    best = cv2.imencode('.png', pixels[..., ::-1], highest)[1].tobytes()
    same = (files.decode(best) == pixels).all()
    return best if same and len(best) < len(data) else data


def write_zip(out: Path, entries: Mapping[str, bytes], max_mb: float | None = None) -> int:
    """Write {name in the zip: bytes}, whole or not at all -> bytes of the zip.

    Raises RunError for a zip beyond max_mb, or one that cannot be written.
    """
    # In memory first: a zip that is too large never reaches the disk.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in entries.items():
            method = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
            z.writestr(zipfile.ZipInfo(name, ENTRY), data, method)
    content = buffer.getvalue()
    if max_mb and len(content) > max_mb * 1e6:
        raise RunError(
            f'{out} would have {len(content) / 1e6:.1f} MB at the highest compression, more than '
            f'--max-mb {max_mb:g}: raise it if the challenge allows that, or submit fewer images'
        )
    storage.write(out, content)
    return len(content)
