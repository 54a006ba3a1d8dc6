"""Synthetic faces, drawn: picture, 19-class mask and 68 landmarks from a seed.

This is the data set that comes with the trainer. Nothing is downloaded and nothing is photographed:
a person is a handful of drawn traits (shape), painted from back to front (scene, skin, mouth, eyes,
beard, hair, hat) on a sheet of linear light (canvas). Only numpy and cv2 are needed.

    python -m synthetic FOLDER --count 72

draws FOLDER/images, FOLDER/masks and FOLDER/landmarks.json.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from errors import RunError
from storage import records

from . import beard, eyes, hair, hat, mouth, scene, shape, skin
from .canvas import Sheet

# Of the drawing code: raise it with every change of what is drawn, and old folders are drawn again.
VERSION = 3


class Face(NamedTuple):
    """One drawn face."""

    image: np.ndarray  # [size, size, 3] uint8 RGB
    mask: np.ndarray  # [size, size] uint8 class numbers, see labels
    landmarks: np.ndarray  # [68, 2] float32 (x, y) pixels, iBUG order


def landmarks(seed: int, size: int = 512) -> np.ndarray:
    """[68, 2] float32 (x, y) pixels of the face `seed`, without drawing it."""
    p = shape.person(seed)
    return p.pose.to_picture(shape.landmarks(p)) * np.float32(size) - np.float32(0.5)


def face(seed: int, size: int = 512) -> Face:
    """Draw the person of a seed in 0 .. 2**63 - 1.

    The face is aligned as FFHQ's are: eyes near y = 0.47, mouth near y = 0.74 of the side.
    """
    p = shape.person(seed)
    sheet = Sheet(size, p.pose)

    # What lies behind the face.
    scene.background(sheet, p)
    hair.back(sheet, p)
    ground = skin.face_light(sheet, p)
    skin.neck(sheet, p, ground)
    scene.necklace(sheet, p)
    scene.clothes(sheet, p)
    for side in (-1, 1):
        skin.ear(sheet, p, side, ground)

    # The face and what lies before it.
    skin.head(sheet, p, ground)
    mouth.mouth(sheet, p)
    eyes.eyes(sheet, p)
    beard.beard(sheet, p)
    eyes.brows(sheet, p)
    if p.glasses != 'none':
        eyes.glasses(sheet, p)
    hair.front(sheet, p)
    scene.earrings(sheet, p)
    hat.hat(sheet, p)
    return Face(scene.camera(sheet, p), sheet.ids, landmarks(seed, size))


# ---- a folder of faces ----


def write(
    folder: str | Path,
    count: int,
    first_seed: int,
    size: int = 512,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Draw the faces first_seed .. first_seed + count - 1 into a folder.

    Writes images/00000.png (RGB), masks/00000.png (class numbers), landmarks.json (name -> 68
    [x, y]) and done.json. A killed run goes on where it stopped, a complete folder returns at once,
    and pictures of another VERSION, size or seed are drawn again.

    workers:  number of processes; None means one per CPU
    progress: called as progress(done, total) now and then
    Returns the sorted paths of the images. Raises FileExistsError when the folder holds pictures
    but no done.json, which means that they were not drawn here, and RuntimeError when a drawing
    process fails.
    """
    folder, total = Path(folder), int(count)
    state = dict(count=total, first_seed=int(first_seed), size=int(size), version=VERSION)
    names = [f'{i:05d}.png' for i in range(total)]
    paths = [folder / 'images' / name for name in names]
    _claim(folder, state)
    todo = [i for i, name in enumerate(names) if not _is_drawn(folder, name)]
    if not todo and _is_complete(folder, state):
        return paths

    drawn = total - len(todo)
    for _ in _draw_all(folder, state, todo, workers or os.cpu_count() or 1):
        drawn += 1
        if progress:
            progress(drawn, total)

    _remove_parts(folder)
    points = {name: _listed(landmarks(first_seed + i, size)) for i, name in enumerate(names)}
    _replace(folder / 'landmarks.json', json.dumps(points).encode())
    _replace(folder / 'done.json', json.dumps({**state, 'complete': True}).encode())
    return paths


def _is_drawn(folder: Path, name: str) -> bool:
    return all((folder / kind / name).exists() for kind in ('images', 'masks'))


def _is_complete(folder: Path, state: dict[str, int]) -> bool:
    done = _state(folder) == {**state, 'complete': True}
    return done and (folder / 'landmarks.json').exists()


def _listed(points: np.ndarray) -> list[list[float]]:
    """Landmarks as JSON holds them, to a thousandth of a pixel."""
    return points.astype(float).round(3).tolist()


def _state(folder: Path) -> dict[str, Any]:
    """What done.json says, {} where there is none, or a damaged one."""
    try:
        return records.read(folder / 'done.json', dict[str, Any], 'it is written anew')
    except (FileNotFoundError, NotADirectoryError, RunError):
        return {}


def _claim(folder: Path, state: dict[str, int]) -> None:
    """Make the folder ready for these faces.

    What another version drew is removed, and done.json names the faces before the first is drawn.
    """
    pictures = [f for kind in ('images', 'masks') for f in sorted((folder / kind).glob('*.png'))]
    if pictures and not (folder / 'done.json').exists():
        raise FileExistsError(
            f'{folder} holds {len(pictures)} pictures but no done.json, so they were not drawn '
            'here; choose another folder'
        )
    old = _state(folder)
    same = all(old.get(key) == state[key] for key in ('first_seed', 'size', 'version'))
    for path in pictures:
        if not same or not path.stem.isdigit() or int(path.stem) >= state['count']:
            path.unlink()
    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if not same or old.get('count') != state['count']:
        _replace(folder / 'done.json', json.dumps({**state, 'complete': False}).encode())


# ---- files that a kill leaves whole ----


def _replace(path: Path, data: bytes) -> None:
    """Write bytes so that a kill leaves either the old file or the new one."""
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_bytes(data)
    os.replace(part, path)


def _remove_parts(folder: Path) -> None:
    """Remove halves of files, except those of another process that is drawing here just now."""
    for part in folder.glob('*/*.part'):
        if not _alive(part):
            part.unlink(missing_ok=True)


def _alive(part: Path) -> bool:
    """Whether the process that writes a file of `_replace` still runs on this machine."""
    if os.name == 'nt':  # where signal 0 ends a process, and a file that is open is not removed
        return True
    try:
        os.kill(int(part.suffixes[-2][1:]), 0)
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


# ---- drawing ----


def _draw_all(folder: Path, state: dict[str, int], todo: list[int], workers: int) -> Iterator[int]:
    """Draw these faces with at most `workers` processes; yields the number of each."""
    workers = max(1, min(workers, len(todo)))
    if workers == 1:
        return _draw(folder, state, todo)
    return _processes(folder, state, [todo[k::workers] for k in range(workers)])


def _draw(folder: Path, state: dict[str, int], numbers: Iterable[int]) -> Iterator[int]:
    """Draw and write these faces one by one; yields each number when its files are in place."""
    for i in numbers:
        drawn = face(state['first_seed'] + i, state['size'])
        _replace(folder / 'masks' / f'{i:05d}.png', _png(drawn.mask))
        _replace(folder / 'images' / f'{i:05d}.png', _png(drawn.image[..., ::-1]))
        yield i


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', image)[1].tobytes()


def _processes(folder: Path, state: dict[str, int], jobs: list[list[int]]) -> Iterator[int]:
    """Run `_draw` in one fresh interpreter per job; all of them report on one pipe.

    A fork of a process that has started threads or CUDA may hang, and multiprocessing's spawn would
    import the caller's main script once more.
    """
    read, write_end = os.pipe()
    running = [
        subprocess.Popen(_command(folder, state, job), stdout=write_end, env=_environment())
        for job in jobs
    ]
    os.close(write_end)
    with open(read) as reports:
        for number in reports:
            yield int(number)

    failed = [process.args for process in running if process.wait()]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(running)} drawing processes failed (their messages are above); '
            'run the same again to go on, or try workers=1. '
            f'First: {" ".join(map(str, failed[0]))[:300]}'  # type: ignore[arg-type]
        )


def _command(folder: Path, state: dict[str, int], job: list[int]) -> list[str]:
    """Command line of one drawing process, see __main__."""
    options = [('--count', 'count'), ('--first-seed', 'first_seed'), ('--size', 'size')]
    line = [sys.executable, '-m', __name__, str(folder)]
    for flag, key in options:
        line += [flag, str(state[key])]
    return [*line, '--only', ','.join(map(str, job))]


def _environment() -> dict[str, str]:
    """Ours, with this package found from any folder."""
    root = str(Path(__file__).resolve().parents[1])
    places = [root, os.environ.get('PYTHONPATH', '')]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, places))}
