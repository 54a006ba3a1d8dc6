"""Films: what they are, and their frames as upright RGB with times.

PyAV brings FFmpeg in its wheel (extra `video`). Frames are brought to full-range RGB by the matrix
and range that the film names (film_colours.py). A film that says that it lies on its side is turned
upright. film_pieces.py writes films.
"""

import contextlib
import fractions
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from errors import BadFile, RunError
from storage import open_regular, shown

from .files import check_area
from .film_colours import BT601, BT709, UNSPECIFIED, Colours, rgb48

SUFFIXES = (
    *('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi', '.mpg', '.mpeg', '.ts', '.mts', '.m2ts'),
    *('.wmv', '.3gp', '.flv'),
)
HIGH = 720  # rows from which a film that does not say so has the colours of BT.709
DEEP, DEEP_BITS = 'yuv444p10le', 10  # of films of more than 8 bits
AGAIN = fractions.Fraction(1, 5)  # seconds by which a time falls where it begins again


class Film(NamedTuple):
    """What a film is, and what a film that is made from it keeps."""

    path: str
    width: int  # pixels, upright
    height: int
    frames: int  # as the file says, or by its length: for a progress bar
    time_base: fractions.Fraction  # seconds
    rate: fractions.Fraction  # frames a second, on average
    turns: int  # quarters by which frames are turned counter-clockwise
    pixels: str  # FFmpeg's name of the format
    depth: int  # bits
    colours: Colours
    aspect: fractions.Fraction | None  # of a pixel, upright


class Frame(NamedTuple):
    """One frame."""

    number: int
    time: int  # in units of the film's time base
    duration: int  # the same; 0 if unknown
    pixels: np.ndarray  # [h, w, 3] uint8, or uint16 of a film of more than 8 bits; upright


def is_film(path: str) -> bool:
    """Whether a path names a film, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES and not os.path.isdir(path)


def check_installed() -> None:
    """Raise RunError where PyAV is missing."""
    if importlib.util.find_spec('av') is None:
        raise RunError('films need PyAV: pip install -e .[video]')


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a film as av.container.InputContainer. Raises BadFile for what FFmpeg says of it."""
    import av

    try:
        # A pipe would be waited for; and `12:30.mkv` is no address of a protocol.
        open_regular(path).close()
        with av.open(os.path.abspath(path)) as container:
            yield container
    except BadFile as error:
        raise BadFile(f'{shown(path)}: {error}') from None
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise BadFile(f'{shown(path)}: cannot be read as a film: {reason}') from None


def probe(path: str, most: int) -> Film:
    """Return what a film is. most: pixels of a frame. Raises BadFile."""
    with opened(path) as container:
        if not container.streams.video:
            raise BadFile('has sound, but no pictures')
        stream = container.streams.video[0]
        check_area(stream.codec_context.width, stream.codec_context.height, most)
        first: Any = next(container.decode(stream), None)
        if first is None:
            raise BadFile('has no frame')
        return _film(path, container, stream, first)


def _film(path: str, container: Any, stream: Any, first: Any) -> Film:
    # Sides as they are shown, not as they are stored.
    turns = round(first.rotation / 90) % 4
    size = (first.width, first.height) if turns % 2 == 0 else (first.height, first.width)
    rate = stream.average_rate or stream.guessed_rate or fractions.Fraction(25)
    seconds = (container.duration or 0) / 1e6
    aspect = stream.codec_context.sample_aspect_ratio or None
    return Film(
        path=path,
        width=size[0],
        height=size[1],
        frames=stream.frames or round(seconds * rate),
        time_base=stream.time_base,
        rate=rate,
        turns=turns,
        pixels=first.format.name,
        depth=max(component.bits for component in first.format.components),
        colours=_colours(first),
        aspect=1 / aspect if aspect and turns % 2 else aspect,
    )


def _colours(frame: Any) -> Colours:
    # What is stored as RGB (0) becomes Y, Cb and Cr without a name.
    named = frame.colorspace or UNSPECIFIED
    tags = frame.color_range, named, frame.color_primaries, frame.color_trc
    if named == UNSPECIFIED:
        return Colours(BT709 if min(frame.width, frame.height) >= HIGH else BT601, tags)
    # H.273 has two numbers for the matrix of BT.601.
    return Colours({6: BT601}.get(named, int(named)), tags)


def frames(film: Film, start: int = 0) -> Iterator[Frame]:
    """Decode a film from a frame on. Raises BadFile where it is damaged."""
    with opened(film.path) as container:
        stream = container.streams.video[0]
        # As many threads as there are cores: decoding gives the same frames.
        stream.thread_type = 'AUTO'
        times = Rising(film.time_base)
        for number, frame in enumerate(container.decode(stream)):
            time = times(frame.pts, frame.duration or 0)
            # A seek would land on any frame; to decode and drop those before is exact.
            if number < start:
                continue
            pixels = _rgb(frame, film)
            upright = np.rot90(pixels, film.turns) if film.turns else pixels
            yield Frame(number, time, frame.duration or 0, np.ascontiguousarray(upright))


class Rising:
    """Times that rise, also where those of a film begin again, as in files that were put together.

    time_base: seconds of a unit
    """

    def __init__(self, time_base: fractions.Fraction) -> None:
        """Begin with any time."""
        self._again = AGAIN / time_base
        self._last: int | None = None
        self._duration, self._step = 0, 1
        self._offset = 0

    def __call__(self, time: int | None, duration: int) -> int:
        """Return a time that is later than the one before; one that is missing follows it."""
        if self._last is None:
            risen = time or 0
        else:
            # Not every film tells durations: the last step serves as well.
            following = self._last + max(self._duration, self._step)
            if time is None:
                risen = self._last + 1
            elif time + self._offset < self._last - self._again:
                self._offset = following - time
                risen = following
            else:
                risen = max(time + self._offset, self._last + 1)
        if self._last is not None:
            self._step = risen - self._last
        self._last, self._duration = risen, duration
        return risen


def _rgb(frame: Any, film: Film) -> np.ndarray:
    """[h, w, 3] uint8, or uint16 of a film of more than 8 bits."""
    from av.video.reformatter import ColorRange, Interpolation

    # A film may change its size on the way: frames keep that of the first one.
    sides = (film.width, film.height) if film.turns % 2 == 0 else (film.height, film.width)
    colours = film.colours
    how = dict(
        width=sides[0],
        height=sides[1],
        src_colorspace=colours.matrix,
        dst_colorspace=colours.matrix,
        src_color_range=colours.range,
        interpolation=(
            Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        ),
    )
    if film.depth > 8:
        deep = frame.reformat(**how, format=DEEP, dst_color_range=colours.range)
        return rgb48(_planes(deep), colours, DEEP_BITS)
    plain = frame.reformat(**how, format='rgb24', dst_color_range=ColorRange.JPEG)
    return plain.to_ndarray()  # type: ignore[no-any-return]  # of a library without types


def _planes(frame: Any) -> np.ndarray:
    """[h, w, 3] view of planes of full size."""
    rows = [np.frombuffer(plane, np.uint16).reshape(frame.height, -1) for plane in frame.planes]
    return np.stack([row[:, : frame.width] for row in rows], 2)
