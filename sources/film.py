"""Films: their frames as RGB with times, and pieces of new ones put together with the old sound.

PyAV brings FFmpeg in its wheel (extra `video`). Frames are brought to full-range RGB by the matrix
and range that the film names, and back to these, so that what is not changed keeps its colours. A
film that says that it lies on its side is turned upright.

Pieces are encoded without frames that are predicted from later ones: then each of them ends where
the next one begins, whatever the times between frames are.
"""

import contextlib
import fractions
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from errors import BadFile, RunError
from storage import shown

from .files import check_area

SUFFIXES = (
    *('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi', '.mpg', '.mpeg', '.ts', '.mts', '.m2ts'),
    *('.wmv', '.3gp', '.flv'),
)
# Suffixes of files that can hold H.264 beside any sound; others become Matroska.
KEPT = '.mp4', '.m4v', '.mov', '.mkv'
# Of the encoder: hardly any loss beside that of the film itself; two threads give the same bits
# on every machine.
ENCODER = {'crf': '16', 'preset': 'medium', 'bf': '0'}
THREADS = 2
HIGH = 720  # rows from which a film that does not say so has the colours of BT.709
BT709, BT601 = 1, 5  # as libswscale numbers matrices
UNSPECIFIED = 0, 2  # colour spaces without a name (H.273)
DEEP, DEEP_BITS = 'yuv444p10le', 10  # of films of more than 8 bits
LIMITED, FULL = 1, 2  # ranges of levels: that of studios, and all
# Shares of red and blue in the light, by matrix.
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.3, 0.11),
    5: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


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
    matrix: int  # as libswscale numbers them
    tags: tuple[int, int, int, int]  # range, matrix, primaries, transfer: as stored
    aspect: fractions.Fraction | None  # of a pixel


class Frame(NamedTuple):
    """One frame."""

    number: int
    time: int  # in units of the film's time base
    duration: int  # the same; 0 if unknown
    pixels: np.ndarray  # [h, w, 3] uint8, or uint16 of a film of more than 8 bits; upright


def is_film(path: str) -> bool:
    """Whether a path names a film, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def check_installed() -> None:
    """Raise RunError where PyAV is missing."""
    if importlib.util.find_spec('av') is None:
        raise RunError('films need PyAV: pip install -e .[video]')


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Raise BadFile for what FFmpeg says of a file."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise BadFile(f'{shown(path)}: cannot be read as a film: {reason}') from None


# ---- reading ----


def probe(path: str, most: int) -> Film:
    """Return what a film is. most: pixels of a frame. Raises BadFile."""
    import av

    with _named(path), av.open(path) as container:
        if not container.streams.video:
            raise BadFile(f'{shown(path)}: has sound, but no pictures')
        stream = container.streams.video[0]
        check_area(stream.codec_context.width, stream.codec_context.height, most)
        first: Any = next(container.decode(stream), None)
        if first is None:
            raise BadFile(f'{shown(path)}: has no frame')
        return _film(path, container, stream, first)


def _film(path: str, container: Any, stream: Any, first: Any) -> Film:
    # Sides as they are shown, not as they are stored.
    turns = round(first.rotation / 90) % 4
    size = (first.width, first.height) if turns % 2 == 0 else (first.height, first.width)
    rate = stream.average_rate or stream.guessed_rate or fractions.Fraction(25)
    seconds = (container.duration or 0) / 1e6
    aspect = stream.codec_context.sample_aspect_ratio
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
        matrix=_matrix(first),
        tags=(
            first.color_range,
            # What is stored as RGB becomes YCbCr without a name.
            first.colorspace or UNSPECIFIED[1],
            first.color_primaries,
            first.color_trc,
        ),
        aspect=aspect if aspect and not turns % 2 else None,
    )


def _matrix(frame: Any) -> int:
    if frame.colorspace in UNSPECIFIED:
        return BT709 if min(frame.width, frame.height) >= HIGH else BT601
    # H.273 has two numbers for the matrix of BT.601.
    return {6: BT601}.get(frame.colorspace, int(frame.colorspace))


def frames(film: Film, start: int = 0) -> Iterator[Frame]:
    """Decode a film from a frame on. Raises BadFile where it is damaged."""
    import av

    with _named(film.path), av.open(film.path) as container:
        stream = container.streams.video[0]
        # As many threads as there are cores: decoding gives the same frames.
        stream.thread_type = 'AUTO'
        time: int | None = None
        for number, frame in enumerate(container.decode(stream)):
            # Frames without a time follow the one before; none may be earlier than that.
            least = frame.pts or 0 if time is None else time + 1
            time = least if frame.pts is None else max(frame.pts, least)
            # A seek would land on any frame; to decode and drop those before is exact.
            if number < start:
                continue
            pixels = _rgb(frame, film)
            upright = np.rot90(pixels, film.turns) if film.turns else pixels
            yield Frame(number, time, frame.duration or 0, np.ascontiguousarray(upright))


def _rgb(frame: Any, film: Film) -> np.ndarray:
    """[h, w, 3] uint8, or uint16 of a film of more than 8 bits."""
    from av.video.reformatter import ColorRange, Interpolation

    # A film may change its size on the way: frames keep that of the first one.
    sides = (film.width, film.height) if film.turns % 2 == 0 else (film.height, film.width)
    size = dict(width=sides[0], height=sides[1])
    how = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    if film.depth > 8:
        # libswscale's own way to 16 bits makes white a little less than that.
        deep = frame.reformat(**size, format=DEEP, interpolation=how)
        return rgb48(_planes(deep), film, DEEP_BITS)
    return frame.reformat(  # type: ignore[no-any-return]  # of a library without types
        **size,
        format='rgb24',
        src_colorspace=film.matrix,
        dst_colorspace=film.matrix,
        src_color_range=film.tags[0] or LIMITED,
        dst_color_range=ColorRange.JPEG,
        interpolation=how,
    ).to_ndarray()


def _planes(frame: Any) -> np.ndarray:
    """[h, w, 3] view of planes of full size."""
    rows = [np.frombuffer(plane, np.uint16).reshape(frame.height, -1) for plane in frame.planes]
    return np.stack([row[:, : frame.width] for row in rows], 2)


# ---- writing ----


def encode(path: Path, film: Film, pictures: Iterable[Frame]) -> None:
    """Write frames as a piece of a film, whole or not at all.

    pictures: of one size, whose times go on
    Raises RunError where the disk is full, or the encoder refuses them.
    """
    import av

    fresh = path.with_name(f'.new-{path.name}')
    try:
        # This container keeps any time base.
        with av.open(str(fresh), 'w', format='nut') as container:
            stream: Any = None
            for picture in pictures:
                if stream is None:
                    stream = _stream(container, film, picture.pixels.shape)
                container.mux(stream.encode(_frame(picture, film, stream.pix_fmt)))
            container.mux(stream.encode(None))
        fresh.replace(path)
    except (av.FFmpegError, OSError) as error:
        fresh.unlink(missing_ok=True)
        raise RunError(f'{shown(path)} cannot be written: {error.strerror}') from error


def _stream(container: Any, film: Film, shape: tuple[int, ...]) -> Any:
    stream = container.add_stream('libx264', rate=film.rate, options=ENCODER)
    context = stream.codec_context
    context.height, context.width = shape[:2]
    context.pix_fmt = pixel_format(film)
    context.time_base = film.time_base
    context.thread_count = THREADS
    context.color_range, context.colorspace = film.tags[0], film.tags[1]
    context.color_primaries, context.color_trc = film.tags[2:]
    if film.aspect:
        context.sample_aspect_ratio = film.aspect
    stream.time_base = film.time_base
    return stream


def pixel_format(film: Film) -> str:
    """Name of the format that is written: as much colour and as many bits as the film has."""
    chroma = next((name for name in ('444', '422') if name in film.pixels), '420')
    return f'yuv{chroma}p10le' if film.depth > 8 else f'yuv{chroma}p'


def _frame(picture: Frame, film: Film, name: str) -> Any:
    import av

    # libswscale's own way to full-range colours takes half a level from them.
    depth = DEEP_BITS if film.depth > 8 else 8
    levels = yuv(picture.pixels, film, depth)
    height, width, _ = levels.shape
    whole = DEEP if film.depth > 8 else 'yuv444p'
    frame: Any = av.VideoFrame(width, height, whole)
    for i, plane in enumerate(frame.planes):
        rows: np.ndarray = np.frombuffer(plane, levels.dtype).reshape(height, -1)
        rows[:, :width] = levels[..., i]
    frame.color_range, frame.colorspace = film.tags[0], film.tags[1]
    if name != whole:
        frame = frame.reformat(format=name)
    frame.pts, frame.time_base = picture.time, film.time_base
    frame.duration = picture.duration
    return frame


# ---- colours ----


def _to_yuv(film: Film, depth: int) -> np.ndarray:
    """[3, 4] by which RGB from 0 to 1 becomes Y, Cb and Cr in levels (H.273, sec. 8.3)."""
    red, blue = WEIGHTS.get(film.matrix, WEIGHTS[BT709])
    luma = np.array([red, 1 - red - blue, blue])
    r, _, b = np.eye(3)
    rows = np.array([luma, (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))])
    # Black, no colour, and the distance to white and to the strongest colour.
    unit = 1 << (depth - 8)
    if film.tags[0] == FULL:
        black, spans = 0, [256 * unit - 1] * 3
    else:
        black, spans = 16 * unit, [219 * unit, 224 * unit, 224 * unit]
    return np.column_stack([rows * np.array(spans)[:, None], [black, 128 * unit, 128 * unit]])


def yuv(pixels: np.ndarray, film: Film, depth: int) -> np.ndarray:
    """Return RGB [h, w, 3] uint8 or uint16 as Y, Cb and Cr of a film, rounded to `depth` bits."""
    unit = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    levels = cv2.transform(unit, _to_yuv(film, depth).astype(np.float32))
    kind = np.uint8 if depth == 8 else np.uint16
    return np.clip(np.rint(levels), 0, (1 << depth) - 1).astype(kind)


def rgb48(levels: np.ndarray, film: Film, depth: int) -> np.ndarray:
    """Return Y, Cb and Cr [h, w, 3] of a film as RGB uint16."""
    there = np.vstack([_to_yuv(film, depth), [0, 0, 0, 1]])
    back = np.linalg.inv(there)[:3] * 65535
    rgb = cv2.transform(levels.astype(np.float32), back.astype(np.float32))
    return np.clip(np.rint(rgb), 0, 65535).astype(np.uint16)


def joined(
    path: Path, film: Film, pieces: Iterable[Path], durations: dict[int, int], metadata: bool
) -> None:
    """Write pieces as one film with everything but the pictures of the old one, packet by packet.

    durations: of frames by their times, in units of the time base
    metadata:  keep title, place and the like
    Raises RunError and BadFile.
    """
    import av

    fresh = path.with_name(f'.new-{path.name}')
    try:
        with av.open(film.path) as old, av.open(str(fresh), 'w') as new:
            if metadata:
                new.metadata.update(old.metadata)
            with av.open(str(next(iter(pieces)))) as first:
                video = new.add_stream_from_template(first.streams.video[0])
            video.time_base = film.time_base
            if film.aspect:
                video.sample_aspect_ratio = film.aspect
            others = _others(old, new)
            _interleave(new, _video(pieces, video, durations), _sound(old, others))
        fresh.replace(path)
    except (av.FFmpegError, OSError) as error:
        fresh.unlink(missing_ok=True)
        raise RunError(f'{shown(path)} cannot be written: {error.strerror}') from error


def _others(old: Any, new: Any) -> dict[int, Any]:
    """{number of a stream of the old film: that of the new one} of sound and subtitles."""
    # Attached pictures and data of cameras stay behind: few containers hold them.
    others = {}
    for stream in old.streams:
        if stream.type in ('audio', 'subtitle'):
            others[stream.index] = new.add_stream_from_template(stream)
            others[stream.index].metadata.update(stream.metadata)
    return others


def _video(pieces: Iterable[Path], stream: Any, durations: dict[int, int]) -> Iterator[Any]:
    import av

    for piece in pieces:
        with av.open(str(piece)) as container:
            for packet in container.demux(video=0):
                # The last one of a file is empty.
                if packet.dts is None:
                    continue
                packet.duration = durations.get(packet.pts, packet.duration or 0)
                packet.stream = stream
                yield packet


def _sound(old: Any, others: dict[int, Any]) -> Iterator[Any]:
    if not others:
        return
    for packet in old.demux([old.streams[index] for index in others]):
        if packet.dts is not None:
            packet.stream = others[packet.stream_index]
            yield packet


def _interleave(new: Any, *sources: Iterator[Any]) -> None:
    """Write packets in the order of their times, so that none has to wait for others."""
    # One packet of each at a time: memory does not grow with the film.
    heads = [(source, next(source, None)) for source in sources]
    heads = [(source, head) for source, head in heads if head is not None]
    while heads:
        first = min(range(len(heads)), key=lambda i: _seconds(heads[i][1]))
        source, packet = heads[first]
        following = next(source, None)
        new.mux(packet)
        if following is None:
            del heads[first]
        else:
            heads[first] = source, following


def _seconds(packet: Any) -> fractions.Fraction:
    return packet.dts * packet.time_base
