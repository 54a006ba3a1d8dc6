"""Films that are written: pieces of encoded frames, joined with the sound of the film they are of.

Pieces are encoded without frames that are predicted from later ones: then each of them ends where
the next one begins, whatever the times between frames are.
"""

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from errors import RunError
from storage import shown

from . import film as film_file
from .film import DEEP, DEEP_BITS, Film, Frame, Rising
from .film_colours import yuv

# Suffixes of films that are written, and FFmpeg's names of them.
CONTAINERS = {'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska'}
# Of the encoder: hardly any loss beside that of the film itself; two threads give the same bits
# on every machine.
ENCODER = {'crf': '16', 'preset': 'medium', 'bf': '0'}
THREADS = 2


@contextlib.contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of another one, or is deleted after an error.

    Raises RunError where the disk is full, or FFmpeg refuses.
    """
    import av

    fresh = path.absolute().with_name(f'.new-{path.name}')
    try:
        yield fresh
        fresh.replace(path)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise RunError(f'{shown(path)} cannot be written: {reason}') from error
    finally:
        fresh.unlink(missing_ok=True)


# ---- pieces ----


def encode(path: Path, film: Film, pictures: Iterable[Frame]) -> None:
    """Write frames as a piece of a film, whole or not at all.

    pictures: one or more, of one size, whose times go on
    Raises RunError where the disk is full, or the encoder refuses them.
    """
    import av

    # This container keeps any time base.
    with _fresh(path) as fresh, av.open(str(fresh), 'w', format='nut') as container:
        stream: Any = None
        for picture in pictures:
            if stream is None:
                stream = _stream(container, film, picture.pixels.shape)
            container.mux(stream.encode(_frame(picture, film, stream.pix_fmt)))
        if stream is None:
            raise RunError(f'{shown(film.path)} has fewer frames than before: begin anew')
        container.mux(stream.encode(None))


def _stream(container: Any, film: Film, shape: tuple[int, ...]) -> Any:
    # The rate only guides the encoder: every frame has a time of its own.
    stream = container.add_stream('libx264', rate=film.rate, options=ENCODER)
    context = stream.codec_context
    context.height, context.width = shape[:2]
    context.pix_fmt = pixel_format(film)
    context.time_base = film.time_base
    context.thread_count = THREADS
    tags = film.colours.tags
    context.color_range, context.colorspace = tags[:2]
    context.color_primaries, context.color_trc = tags[2:]
    if film.aspect:
        context.sample_aspect_ratio = film.aspect
    stream.time_base = film.time_base
    return stream


def pixel_format(film: Film) -> str:
    """Name of the format that is written: as much colour and as many bits as the film has."""
    whole = any(name in film.pixels for name in ('444', 'rgb', 'bgr', 'gbr'))
    chroma = '444' if whole else '422' if '422' in film.pixels else '420'
    return f'yuv{chroma}p10le' if film.depth > 8 else f'yuv{chroma}p'


def _frame(picture: Frame, film: Film, name: str) -> Any:
    import av

    depth = DEEP_BITS if film.depth > 8 else 8
    levels = yuv(picture.pixels, film.colours, depth)
    height, width, _ = levels.shape
    whole = DEEP if film.depth > 8 else 'yuv444p'
    frame: Any = av.VideoFrame(width, height, whole)
    for i, plane in enumerate(frame.planes):
        rows: np.ndarray = np.frombuffer(plane, levels.dtype).reshape(height, -1)
        rows[:, :width] = levels[..., i]
    frame.color_range, frame.colorspace = film.colours.tags[:2]
    # Fewer colours than pixels are FFmpeg's own affair.
    if name != whole:
        frame = frame.reformat(format=name)
    frame.pts, frame.time_base = picture.time, film.time_base
    frame.duration = picture.duration
    return frame


# ---- a film of them ----


def check(film: Film, suffix: str) -> None:
    """Raise RunError where a kind of file cannot hold the sound or the subtitles of a film."""
    import av

    # In memory, up to the header, where containers say what they refuse.
    with film_file.opened(film.path) as old:
        try:
            with av.open(io.BytesIO(), 'w', format=CONTAINERS[suffix]) as new:
                _stream(new, film, (film.height // 2 * 2 or 2, film.width // 2 * 2 or 2))
                _others(old, new, False)
                new.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f'{suffix} cannot hold the sound or subtitles of {shown(film.path)} ({reason}): '
                'give an --output that ends in .mkv'
            ) from error


def joined(
    path: Path, film: Film, pieces: Iterable[Path], durations: dict[int, int], metadata: bool
) -> int:
    """Write pieces as one film with the sound and the subtitles of the old one, packet by packet.

    durations: of frames by their times, in units of the time base
    metadata:  keep title, place and the like
    Returns how many packets were left out, since FFmpeg refuses them. Raises RunError and BadFile.
    """
    import av

    kind = CONTAINERS[path.suffix.lower()]
    with (
        film_file.opened(film.path) as old,
        _fresh(path) as fresh,
        av.open(str(fresh), 'w', format=kind) as new,
    ):
        # Title, place and date of recording, by the names that the container has for them.
        if metadata:
            new.metadata.update(old.metadata)
        with av.open(str(next(iter(pieces)))) as first:
            video = new.add_stream_from_template(first.streams.video[0])
        video.time_base = film.time_base
        if film.aspect:
            video.sample_aspect_ratio = film.aspect
        sound = _sound(old, _others(old, new, metadata))
        return _interleave(new, _video(pieces, video, film, durations), sound)


def _others(old: Any, new: Any, metadata: bool) -> dict[int, Any]:
    """{number of a stream of the old film: that of the new one} of sound and subtitles."""
    # Attached pictures, and data of cameras, stay behind: few containers hold them.
    others = {}
    for stream in old.streams:
        if stream.type in ('audio', 'subtitle'):
            added = others[stream.index] = new.add_stream_from_template(stream)
            kept = stream.metadata if metadata else {'language': stream.metadata.get('language')}
            added.metadata.update({k: v for k, v in kept.items() if v})
    return others


def _video(
    pieces: Iterable[Path], stream: Any, film: Film, durations: dict[int, int]
) -> Iterator[Any]:
    import av

    for piece in pieces:
        with av.open(str(piece)) as container:
            for packet in container.demux(video=0):
                # The last one of a file is empty.
                if packet.dts is None:
                    continue
                units = film.time_base / packet.time_base
                duration = durations.get(round(packet.pts / units))
                packet.duration = round(duration * units) if duration else packet.duration
                packet.stream = stream
                yield packet


def _sound(old: Any, others: dict[int, Any]) -> Iterator[Any]:
    if not others:
        return
    streams = [old.streams[index] for index in others]
    times = {stream.index: Rising(stream.time_base) for stream in streams}
    for packet in old.demux(streams):
        if packet.dts is None:
            continue
        # Where times begin again, those of the sound go on as those of the frames do.
        index, before = packet.stream_index, packet.dts
        moved = times[index](before, packet.duration or 0) - before
        if moved:
            packet.dts, packet.pts = before + moved, (packet.pts or before) + moved
        packet.stream = others[index]
        yield packet


def _interleave(new: Any, video: Iterator[Any], sound: Iterator[Any]) -> int:
    """Write packets in the order of their times, so that none has to wait for others.

    Returns how many of the sound were refused: films that were cut or sent have damaged ones.
    """
    import av

    refused = 0
    # One packet of each at a time: memory does not grow with the film.
    heads: list[tuple[Iterator[Any], Any]] = []
    for source in (video, sound):
        heads += [(source, packet) for packet in itertools.islice(source, 1)]
    while heads:
        first = min(range(len(heads)), key=lambda i: heads[i][1].dts * heads[i][1].time_base)
        source, packet = heads[first]
        following = next(source, None)
        try:
            new.mux(packet)
        except av.InvalidDataError:
            if source is video:
                raise
            refused += 1
        if following is None:
            del heads[first]
        else:
            heads[first] = source, following
    return refused
