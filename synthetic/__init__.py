"""Synthetic faces, drawn: picture, 19-class mask and 68 landmarks from a seed; the data set that comes with the trainer.

Nothing is downloaded and nothing is photographed: a person is a handful of drawn traits (shape), painted from back to
front (scene, skin, mouth, eyes, beard, hair, hat) on a sheet of linear light (canvas). Only numpy and cv2.

    python -m synthetic FOLDER --count 72        draws FOLDER/images, FOLDER/masks, FOLDER/landmarks.json
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from . import beard, eyes, hair, hat, mouth, scene, shape, skin
from .canvas import Sheet

VERSION = 3  # of the drawing code: raise it with every change of what is drawn, and old folders are drawn again


class Face(NamedTuple):
    image: np.ndarray  # [size, size, 3] uint8 RGB
    mask: np.ndarray  # [size, size] uint8, index into masks.CLASSES
    landmarks: np.ndarray  # [68, 2] float32 (x, y) pixels, iBUG order


def landmarks(seed, size=512):
    """-> [68, 2] float32 (x, y) pixels of face `seed`, without drawing it."""
    p = shape.person(seed)
    return p.pose.to_picture(shape.landmarks(p)) * np.float32(size) - np.float32(0.5)


def face(seed, size=512):
    """Draw the person of this seed (0 .. 2**63 - 1), aligned as FFHQ is: eyes near y = 0.47, mouth near y = 0.74 of the side."""
    p = shape.person(seed)
    sheet = Sheet(size, p.pose)
    scene.background(sheet, p)
    hair.back(sheet, p)
    ground = skin.face_light(sheet, p)
    skin.neck(sheet, p, ground)
    scene.necklace(sheet, p)
    scene.clothes(sheet, p)
    for side in (-1, 1):
        skin.ear(sheet, p, side, ground)
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


def write(folder, count, first_seed, size=512, workers=None, progress=None):
    """Draw faces first_seed .. first_seed + count - 1 into folder -> sorted list of the image paths.

    Writes images/00000.png (RGB), masks/00000.png (class ids), landmarks.json (name -> 68 [x, y]) and done.json, with up to
    `workers` processes (None: one per CPU); progress(done, total) is called now and then. A killed run goes on where it was, a
    complete folder returns at once, pictures of another VERSION, size or seed are drawn again. Raises FileExistsError when the
    folder holds pictures but no done.json (they are not ours), RuntimeError when a drawing process fails.
    """
    folder, total = Path(folder), int(count)
    state = dict(count=total, first_seed=int(first_seed), size=int(size), version=VERSION)
    names = [f'{i:05d}.png' for i in range(total)]
    paths = [folder / 'images' / name for name in names]
    _claim(folder, state)
    todo = [
        i
        for i, name in enumerate(names)
        if not all((folder / kind / name).exists() for kind in ('images', 'masks'))
    ]
    if (
        not todo
        and (folder / 'landmarks.json').exists()
        and _state(folder) == {**state, 'complete': True}
    ):
        return paths
    workers = max(1, min(workers or os.cpu_count() or 1, len(todo)))
    jobs = [todo[k::workers] for k in range(workers)]
    drawn = total - len(todo)
    for _ in _draw(folder, state, jobs[0]) if workers == 1 else _processes(folder, state, jobs):
        drawn += 1
        if progress:
            progress(drawn, total)
    points = {
        name: landmarks(first_seed + i, size).astype(float).round(3).tolist()
        for i, name in enumerate(names)
    }
    for left in folder.glob('*/*.part'):
        if not _alive(
            left
        ):  # of a process that was killed, not of another that draws here just now
            left.unlink(missing_ok=True)
    _replace(folder / 'landmarks.json', json.dumps(points).encode())
    _replace(folder / 'done.json', json.dumps({**state, 'complete': True}).encode())
    return paths


def _replace(path, data):
    """Write bytes so that a kill leaves either the old file or the new one."""
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_bytes(data)
    os.replace(part, path)


def _alive(part):
    """Whether the process that writes a file of `_replace` still runs, as far as this machine knows."""
    try:
        os.kill(int(part.suffixes[-2][1:]), 0)
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


def _state(folder):
    """-> what done.json says, {} where there is none."""
    try:
        return json.loads((folder / 'done.json').read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _claim(folder, state):
    """Make the folder ready for these faces: remove what another version drew, then say whose it is before the first picture."""
    ours = [f for kind in ('images', 'masks') for f in sorted((folder / kind).glob('*.png'))]
    if ours and not (folder / 'done.json').exists():
        raise FileExistsError(
            f'{folder} holds {len(ours)} pictures but no done.json, so they were not drawn here; '
            f'choose another folder'
        )
    old = _state(folder)
    same = all(old.get(key) == state[key] for key in ('first_seed', 'size', 'version'))
    for path in ours:
        if not same or not path.stem.isdigit() or int(path.stem) >= state['count']:
            path.unlink()
    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if not same or old.get('count') != state['count']:
        _replace(folder / 'done.json', json.dumps({**state, 'complete': False}).encode())


def _png(image):
    return cv2.imencode('.png', image)[1].tobytes()


def _draw(folder, state, numbers):
    """Draw and write these faces one by one; yields each number when its files are in place."""
    for i in numbers:
        drawn = face(state['first_seed'] + i, state['size'])
        _replace(folder / 'masks' / f'{i:05d}.png', _png(drawn.mask))
        _replace(folder / 'images' / f'{i:05d}.png', _png(drawn.image[..., ::-1]))
        yield i


def _processes(folder, state, jobs):
    """`_draw` in one fresh interpreter per job; all of them report on one pipe. Fresh ones, because a fork of a process that
    has started threads or CUDA may hang, and multiprocessing's spawn would import the caller's main script once more."""
    root = str(Path(__file__).resolve().parents[2])
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')])),
    }
    line = [
        sys.executable,
        '-m',
        __package__,
        str(folder),
        '--count',
        str(state['count']),
        '--first-seed',
        str(state['first_seed']),
        '--size',
        str(state['size']),
        '--only',
    ]
    read, write_end = os.pipe()
    running = [
        subprocess.Popen([*line, ','.join(map(str, job))], stdout=write_end, env=env)
        for job in jobs
    ]
    os.close(write_end)
    with open(read) as reports:
        for number in reports:
            yield int(number)
    failed = [process.args for process in running if process.wait()]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(running)} drawing processes failed (their messages stand above); run the '
            f'same again to go on, or try workers=1. First: {" ".join(failed[0])[:300]}'
        )
