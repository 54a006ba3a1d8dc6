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
UNSPECIFIED, LIMITED = (0, 2), 1  # colour spaces without a name (H.273); range of studios


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
        tags=(first.color_range, first.colorspace, first.color_primaries, first.color_trc),
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

    name = 'rgb48le' if film.depth > 8 else 'rgb24'
    with _named(film.path), av.open(film.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'
        previous = -1
        for number, frame in enumerate(container.decode(stream)):
            # Frames without a time follow the one before; none may be earlier than that.
            time = previous + 1 if frame.pts is None else max(frame.pts, previous + 1)
            previous = time
            if number < start:
                continue
            pixels = _converted(frame, film, name).to_ndarray()
            upright = np.rot90(pixels, film.turns) if film.turns else pixels
            yield Frame(number, time, frame.duration or 0, np.ascontiguousarray(upright))


def _converted(frame: Any, film: Film, name: str) -> Any:
    from av.video.reformatter import ColorRange, Interpolation

    how = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return frame.reformat(
        format=name,
        src_colorspace=film.matrix,
        dst_colorspace=film.matrix,
        src_color_range=film.tags[0] or LIMITED,
        dst_color_range=ColorRange.JPEG,
        interpolation=how,
    )


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
    from av.video.reformatter import ColorRange, Interpolation

    rgb = 'rgb48le' if picture.pixels.dtype == np.uint16 else 'rgb24'
    frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.pixels), rgb)
    frame = frame.reformat(
        format=name,
        src_colorspace=film.matrix,
        dst_colorspace=film.matrix,
        src_color_range=ColorRange.JPEG,
        dst_color_range=film.tags[0] or LIMITED,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )
    frame.pts, frame.time_base = picture.time, film.time_base
    frame.duration = picture.duration
    frame.color_range, frame.colorspace = film.tags[0], film.tags[1]
    return frame


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
