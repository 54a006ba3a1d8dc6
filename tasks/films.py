"""Films: faces found in every frame, followed, smoothed over time, restored, and put back.

What is done lies in a folder beside the output, in pieces of so many frames: the same command goes
on where it was stopped, and the film comes out the same. No more than a few frames are in memory.

    found-00000.npz   faces, times and thumbnails of frames
    looks.npz         how light each face is in each frame, and how sharp in some
    00000.nut         restored frames, encoded
"""

import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

import storage
from errors import BadFile, RunError
from faces import align, detect, paste, tracks
from faces.tracks import Track
from sources import film as film_file
from sources import film_pieces
from sources.decoders import to_8bit
from sources.film import Film, Frame
from sources.photo import Photo
from storage import records, shown
from training.lock import Lock

from . import photos
from .photos import How, Network

PIECE = 100  # frames that are lost by a stop, at most
LIGHT = 48  # pixels of the faces whose light is measured
INNER = slice(LIGHT // 4, -LIGHT // 4)  # of these: eyes to mouth
LARGEST_LIFT = 4.0  # levels: more is a lamp, or a cloud, and no flicker
LOOKED_AT = 10  # frames from one to the next in which a face is looked at for its sharpness

Bar = Callable[[Iterable[Any], str, int], Iterable[Any]]  # (items, what is done, how many)


class Work(NamedTuple):
    """A film that is restored, and the folder where it grows."""

    film: Film
    folder: Path
    how: How
    bar: Bar

    def piece(self, number: int) -> Path:
        """Encoded frames."""
        return self.folder / f'{number:05}.nut'

    def found(self, number: int) -> Path:
        """Faces of some frames."""
        return self.folder / f'found-{number:05}.npz'

    def counted(self, number: int) -> Iterator[Frame]:
        """Frames from a piece on."""
        return film_file.frames(self.film, number * PIECE)


class Seen(NamedTuple):
    """What was found in a film."""

    times: np.ndarray  # [n] int64, in units of its time base
    durations: np.ndarray  # [n] int64
    found: list[Track]  # as the detector found them
    tracks: list[Track]  # smoothed


class Look(NamedTuple):
    """What is done about a track's light and detail."""

    lift: np.ndarray  # [n] levels by which its face is to be lighter in every frame
    keep: float  # how much of the film stays in it


class Restored(NamedTuple):
    """What there is to say of a film."""

    frames: int
    faces: int  # people, or as often as one came into view


def opened(work: Work, plan: dict[str, Any]) -> int:
    """Take over what lies in the folder -> frames that are restored already.

    plan: what the work depends on; what was done after another one is thrown away
    Raises RunError where the folder cannot be written.
    """
    # Another film, network or flag makes other frames: pieces of both would not fit together.
    note = work.folder / 'plan.json'
    if not note.exists() or _plan(note) != plan:
        # What is not of ours may lie there as well.
        for kind in ('*.nut', '*.npz'):
            for path in work.folder.glob(kind):
                path.unlink()
    storage.write_json(note, plan)
    return min(PIECE * len(_done(work.piece)), work.film.frames)


def claimed(folder: Path) -> Lock:
    """Make a folder for a film, or take one that was begun. Raises RunError for any other."""
    try:
        begun = not os.path.lexists(folder) or (folder / 'plan.json').is_file()
        # With nothing but a lock in it, the work has hardly begun.
        empty = folder.is_dir() and all(path.name[0] == '.' for path in folder.iterdir())
        if not begun and not empty:
            raise RunError(
                f'{shown(folder)} is in the way, and not of an unfinished film: move it, or give '
                'another --output'
            )
        return Lock(folder, '--output')
    except OSError as error:
        raise RunError(f'{shown(folder)} cannot be made: {error.strerror}') from error


def _plan(path: Path) -> Any:
    try:
        return records.loads(storage.read(path))
    except (OSError, BadFile):
        return None


def _done(name: Callable[[int], Path]) -> list[Path]:
    """Files of pieces that exist, from the first on."""
    return list(itertools.takewhile(Path.exists, map(name, itertools.count())))


def restored(work: Work, detector: detect.Detector, network: Network) -> Restored:
    """Restore all pieces. Raises BadFile for a damaged film, RunError where none can be written."""
    seen = found(work, detector)
    known = looks(work, seen)
    count = len(seen.times)
    start = len(_done(work.piece))

    # Pieces by themselves: what goes to the network together does not depend on a stop.
    frames = work.bar(work.counted(start), 'restoring', max(count - start * PIECE, 0))
    stream = iter(frames)
    for number in range(start, -(-count // PIECE)):
        some = itertools.islice(stream, PIECE)
        jobs = (job(frame, seen, known, work.how) for frame in some)
        film_pieces.encode(work.piece(number), work.film, _again(jobs, seen, network, work.how))
    return Restored(count, len(seen.tracks))


def _again(jobs: Iterable[photos.Job], seen: Seen, network: Network, how: How) -> Iterator[Frame]:
    """Restored frames with their times."""
    for done in photos.restored_faces(jobs, network, how):
        number = int(done.name)
        time, duration = int(seen.times[number]), int(seen.durations[number])
        yield Frame(number, time, duration, done.photo.pixels)


def join(work: Work, output: Path, metadata: bool) -> int:
    """Put the pieces together, and throw the folder away -> damaged packets that were left out."""
    # Encoders do not tell how long a frame is shown: the film does.
    durations: dict[int, int] = {}
    for path in _done(work.found):
        # Times are those of frames as they were decoded, not as they were encoded.
        part = _loaded(path)
        durations |= dict(zip(part['times'].tolist(), part['durations'].tolist(), strict=True))
    refused = film_pieces.joined(output, work.film, _done(work.piece), durations, metadata)
    shutil.rmtree(work.folder)
    return refused


# ---- faces over time ----


def found(work: Work, detector: detect.Detector) -> Seen:
    """Find the faces of all frames, as far as they are not known yet, and follow them."""
    known = _done(work.found)
    # A piece that is not full is the last one.
    complete = bool(known) and len(_loaded(known[-1])['times']) < PIECE
    if not complete:
        start = len(known)
        total = max(work.film.frames - start * PIECE, 0)
        stream = iter(work.bar(work.counted(start), 'finding faces', total))
        for number in itertools.count(start):
            some = list(_rows(itertools.islice(stream, PIECE), detector, work.how.min_face))
            if some:
                _save(work.found(number), some)
            if len(some) < PIECE:
                break
    return _seen([_loaded(path) for path in _done(work.found)])


Row = tuple[int, int, np.ndarray, detect.Found]  # time, duration, thumbnail, faces of a frame


def _rows(
    frames: Iterable[Frame], detector: detect.Detector, min_face: int | None
) -> Iterator[Row]:
    for frame in frames:
        pixels = to_8bit(frame.pixels)
        faces = detector(pixels, min_face or detect.smallest(pixels))
        yield frame.time, frame.duration, tracks.thumb(pixels), faces


def _save(path: Path, rows: list[Row]) -> None:
    times, durations, thumbs, faces = zip(*rows, strict=True)
    arrays = dict(
        times=np.array(times, np.int64),
        durations=np.array(durations, np.int64),
        thumbs=np.stack(thumbs),
        counts=np.array([len(one.score) for one in faces]),
    )
    boxes, points, score = (np.concatenate(field) for field in zip(*faces, strict=True))
    _write(path, **arrays, boxes=boxes, points=points, score=score)


def _write(path: Path, **arrays: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # of keywords
    storage.write(path, buffer.getvalue())


def _loaded(path: Path) -> dict[str, np.ndarray]:
    # Long films have more pieces than a process may have open files.
    with np.load(path) as content:
        return dict(content)


def _seen(parts: list[dict[str, np.ndarray]]) -> Seen:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ends = np.cumsum(columns['counts'])[:-1]
    fields = [np.split(columns[name], ends) for name in detect.Found._fields]
    faces = [detect.Found(*one) for one in zip(*fields, strict=True)]
    # Of the whole film at once: what is smoothed looks a few frames ahead.
    followed = tracks.follow(faces, tracks.cuts(columns['thumbs']))
    smooth = [tracks.smoothed(track) for track in followed]
    return Seen(columns['times'], columns['durations'], followed, smooth)


# ---- light and sharpness ----


def looks(work: Work, seen: Seen) -> list[Look]:
    """Return of every track what is done about its light and its detail."""
    path = work.folder / 'looks.npz'
    if not path.exists():
        _write(path, **_measured(work, seen))
    known = _loaded(path)
    found = []
    # Slow changes are the scene's; what is left of them from frame to frame is flicker.
    for i in range(len(seen.tracks)):
        light = known[f'light-{i}']
        lift = np.clip(tracks.smooth(light) - light, -LARGEST_LIFT, LARGEST_LIFT)
        # One share for all frames: a face that was sharper and softer by turns would flicker.
        found.append(Look(lift, float(np.median(known[f'keep-{i}']))))
    return found


def _measured(work: Work, seen: Seen) -> dict[str, np.ndarray]:
    """{light-i: mean level of a face in every frame; keep-i: what should stay in some of them}"""
    light = [np.zeros(len(track.score)) for track in seen.tracks]
    keep: list[list[float]] = [[] for _ in seen.tracks]
    # A film without faces is not decoded once more.
    frames = work.counted(0) if seen.tracks else ()
    for frame in work.bar(frames, 'measuring faces', len(seen.times)):
        pixels = to_8bit(frame.pixels)
        for i, track in at(seen, frame.number):
            number = frame.number - track.start
            m = align.matrix(track.points[number], LIGHT)
            if m is not None:
                face = align.warped(pixels, m, (LIGHT, LIGHT), how=cv2.INTER_LINEAR)
                inner = face[INNER, INNER].astype(np.float64)
                light[i][number] = (inner @ paste.LUMA).mean()
                if number % LOOKED_AT == 0:
                    keep[i].append(photos.kept(pixels, track.points[number], work.how))
    known = {f'light-{i}': one for i, one in enumerate(light)}
    return known | {f'keep-{i}': np.array(some or [0.0]) for i, some in enumerate(keep)}


def at(seen: Seen, number: int) -> Iterator[tuple[int, Track]]:
    """Tracks of a frame, with their numbers."""
    for i, track in enumerate(seen.tracks):
        if track.start <= number < track.stop:
            yield i, track


def job(frame: Frame, seen: Seen, known: list[Look], how: How) -> photos.Job:
    """What is to be done for a frame."""
    # The smoothed places of all faces that are in view.
    own = list(at(seen, frame.number))
    now = [frame.number - track.start for _, track in own]
    boxes = np.array([track.boxes[j] for (_, track), j in zip(own, now, strict=True)])
    points = np.array([track.points[j] for (_, track), j in zip(own, now, strict=True)])
    score = np.array([track.score[j] for (_, track), j in zip(own, now, strict=True)])
    faces = detect.Found(boxes.reshape(-1, 4), points.reshape(-1, 5, 2), score)
    lift = [float(known[i].lift[j]) for (i, _), j in zip(own, now, strict=True)]
    photo = Photo(frame.pixels)
    pixels = to_8bit(frame.pixels)
    keep = [known[i].keep for i, _ in own]
    return photos.with_faces(str(frame.number), photo, pixels, faces, how, lift, keep)
