"""What messengers and calls do to a picture: WebP, AVIF (Pillow) and H.264 (PyAV), and back.

All of them have half the chroma in both directions. Of H.264 the picture is the last of a few
frames, across which it moves in a straight line, so that it is predicted from others.

The codecs are libraries for CPUs: on a GPU the pictures that drew one travel there and back, and
whoever asked for the batch waits. Their bits repeat with the same versions of the libraries only,
see `versions`.
"""

import importlib.util
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, features

from . import canvas
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .pointwise import no_record
from .quantize import to_8bit
from .ranges import Interval, Values, Weights
from .upload import upload

KINDS = 'none', 'webp', 'avif', 'h264'
NONE, WEBP, AVIF, H264 = range(4)
MOST_MOVE = 2.0  # pixels between frames
EVERY = 1.0, 1.0, 1.0  # weights of the three codecs
AVIF_SPEED = 8  # of 10: what encoders in phones can afford

Range = tuple[int, int]

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {
    'kinds': Weights(KINDS[1:]),
    'quality': Interval(1, 100, whole=True),
    'crf': Interval(0, 51, whole=True),
    'frames': Interval(1, 16, whole=True),
}


class Params(NamedTuple):
    """Codec and strength."""

    kind: np.ndarray  # [B] int64 index into KINDS
    quality: np.ndarray  # [B] int64: WebP's and AVIF's quality, H.264's crf
    frames: np.ndarray  # [B] int64 of H.264
    move: np.ndarray  # [B, 2] float64 pixels down and right from frame to frame


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    kinds: tuple[float, ...] = EVERY,
    quality: Range = (30, 95),
    crf: Range = (20, 38),
    frames: Range = (1, 4),
) -> Params:
    """Draw codecs and strengths.

    kinds:   weights of WebP, AVIF and H.264; a shorter list is fine
    quality: range of WebP's and AVIF's quality
    crf:     range of H.264's constant rate factor: 18 is hardly seen, 51 the worst
    frames:  range of the number of frames of which the last is kept
    Raises ValueError for a codec whose library is missing.
    """
    _check(kinds)
    kind = 1 + draw.choice('kind', kinds)
    qualities, crfs = draw.integers('quality', *quality), draw.integers('crf', *crf)
    moves = [draw.uniform(side, -MOST_MOVE, MOST_MOVE) for side in ('down', 'right')]
    return Params(
        np.where(on, kind, NONE),
        np.where(kind == H264, crfs, qualities),
        draw.integers('frames', *frames),
        np.stack(moves, 1),
    )


# ---- the libraries ----


def _check(kinds: tuple[float, ...]) -> None:
    """Raise ValueError for a codec that this installation lacks."""
    weights = dict(zip(KINDS[1:], kinds, strict=False))
    for name in ('webp', 'avif'):
        if weights.get(name) and not features.check(name):
            raise ValueError(f'this Pillow has no {name}: pip install --upgrade "pillow>=11.3"')
    if weights.get('h264') and importlib.util.find_spec('av') is None:
        raise ValueError('h264 needs PyAV: pip install -e .[video]')


def versions(kinds: tuple[float, ...]) -> dict[str, str]:
    """Return the versions of the libraries that decide about the bits."""
    weights = dict(zip(KINDS[1:], kinds, strict=False))
    found = {name: str(features.version(name)) for name in ('webp', 'avif') if weights.get(name)}
    if weights.get('h264'):
        import av

        found['h264'] = '.'.join(map(str, av.library_versions['libavcodec']))
    return found


def told(p: Params, size: np.ndarray) -> list[str]:
    """Codec of one sample in words, [] without one."""
    if p.kind == NONE:
        return []
    if p.kind == H264:
        return ['h264', f'crf {number(p.quality)}', f'frame {number(p.frames)}']
    return [KINDS[int(p.kind)], f'quality {number(p.quality)}']


# ---- the codecs, of one 8-bit picture ----


def coded(rgb: np.ndarray, p: Params) -> np.ndarray:
    """Encode and decode [h, w, 3] uint8 with one sample's parameters."""
    if p.kind == H264:
        return _h264(rgb, int(p.quality), int(p.frames), p.move)
    options: dict[str, Any] = {'format': 'WEBP', 'quality': int(p.quality)}
    if p.kind == AVIF:
        options |= {'format': 'AVIF', 'speed': AVIF_SPEED, 'max_threads': 1}
    # In memory; what the encoder's threads do would depend on the machine.
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, **options)
    with Image.open(file) as image:
        return np.array(image.convert('RGB'))


def _h264(rgb: np.ndarray, crf: int, frames: int, move: np.ndarray) -> np.ndarray:
    """Encode a moving picture and decode its last frame."""
    import av

    # Sides are even in 4:2:0.
    h, w, _ = rgb.shape
    rgb = np.pad(rgb, ((0, h % 2), (0, w % 2), (0, 0)), 'edge')
    # Without frames that are predicted from later ones, as in calls; one thread, for the same bits.
    encoder: Any = av.CodecContext.create('libx264', 'w')
    encoder.width, encoder.height = rgb.shape[1], rgb.shape[0]
    encoder.pix_fmt, encoder.framerate, encoder.time_base = 'yuv420p', 25, Fraction(1, 25)
    encoder.thread_count = 1
    encoder.options = {'crf': str(crf), 'preset': 'veryfast', 'tune': 'zerolatency'}
    decoder: Any = av.CodecContext.create('h264', 'r')
    decoder.thread_count = 1

    # The encoder is flushed by None, and so is the decoder.
    shown = None
    pictures = [
        av.VideoFrame.from_ndarray(_moved(rgb, move * left)) for left in range(frames - 1, -1, -1)
    ]
    packets = [packet for picture in (*pictures, None) for packet in encoder.encode(picture)]
    for packet in (*packets, None):
        for frame in decoder.decode(packet):
            shown = frame
    assert shown is not None, 'a stream without a frame'
    return shown.to_ndarray(format='rgb24')[:h, :w]


def _moved(rgb: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Move a picture down and right; its edges are repeated."""
    if not by.any():
        return np.ascontiguousarray(rgb)
    # Between pixels: the result is never looked at but by the encoder.
    matrix = np.array([[1, 0, by[1]], [0, 1, by[0]]])
    return cv2.warpAffine(rgb, matrix, rgb.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


# ---- implementations: all of them are the same codecs ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Round an image [h, w, 3] float64 to 8 bits, encode and decode it."""
    if p.kind == NONE:
        return x
    return coded(np.clip(np.rint(x * 255), 0, 255).astype(np.uint8), p) / 255.0


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Round a batch to 8 bits, encode and decode it."""
    on = np.flatnonzero(p.kind != NONE)
    if not len(on):
        return c
    # One after the other: the pipes spread the images of a batch over threads already.
    pix = canvas.unit(c.pix).clone()
    for i in on.tolist():
        h, w = c.size[i]
        levels = _levels(pix[i : i + 1, :, :h, :w])
        y = coded(canvas.hwc(levels.cpu()), Params(*(field[i] for field in p)))
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(y).to(pix.device))[0]
    return c._replace(pix=pix)


def _levels(x: torch.Tensor) -> torch.Tensor:
    return (to_8bit(x) * 255).round().to(torch.uint8)


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """There is no kernel."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Encode and decode those of a batch on a GPU that drew a codec, on the CPU's threads.

    Waits for what was queued on the current stream.
    """
    on = np.flatnonzero(p.kind != NONE)
    if not len(on):
        return c
    pix = canvas.unit(c.pix).clone()
    rows = upload(on, pix.device)

    # Through pinned memory: a copy to any other would make the whole GPU wait.
    there = _levels(pix[rows]).permute(0, 2, 3, 1).contiguous()
    host = torch.empty(there.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(there, non_blocking=True)
    torch.cuda.current_stream(pix.device).synchronize()

    # In place, each in the corner of its part of the buffer.
    pixels = host.numpy()

    def one(place: int) -> None:
        i = on[place]
        h, w = c.size[i]
        rgb = np.ascontiguousarray(pixels[place, :h, :w])
        pixels[place, :h, :w] = coded(rgb, Params(*(field[i] for field in p)))

    list(_threads().map(one, range(len(on))))
    back = host.to(pix.device, non_blocking=True).permute(0, 3, 1, 2)
    return c._replace(pix=pix.index_copy_(0, rows, canvas.unit(back)))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), 'codec')
