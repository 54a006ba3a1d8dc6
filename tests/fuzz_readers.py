"""Damaged and hostile files for everything that reads files: of a run directory, and foreign ones.

python tests/fuzz_readers.py                          5,000 mutations of each kind of file
python tests/fuzz_readers.py config pth --count 200   of some kinds
python tests/fuzz_readers.py config --only 1234       one of them again, with its traceback

A mutation is made of the file that the product itself writes, by a generator seeded with --seed and
its number. Each must be read, or refused by a FacesError or BadFile of one line, within ten seconds
and 2 GB. Prints how many were read, refused and failed; exit status 1 if any failed.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import hashlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

import degrade
import models
import storage
import synthetic
import tasks
import train
from config import flags
from dali_pipes import validation  # noqa: F401  what a run reads is imported before it is forked
from degrade import recipe_file, recipe_text
from errors import BadFile, FacesError, RunError
from faces import landmarks, prior_file
from sources import decoders, files, icc, jph, photo, scan_cache, shards
from tasks import guides, loading, options
from tools import finished_run, report_html
from training import checkpoint, log, resume, soup, watch
from training.ema import EMA
from training.world import World

UNCHANGED = -1  # number of the file itself, which must be read
SECONDS, MEMORY = 10, 2 << 30  # that one mutation may take
SIDE = 64
NET = {'width': [4, 8], 'blocks': [[1], 1, [1]], 'position': 8}
PARSER = {'width': (4, 6, 8), 'blocks': (1, 1, 1), 'stride': 2, 'position': 4}
ARCHITECTURE = {'path': [3, 2], 'cell': [[0, 1], [1, 1], [2, 1], [3, 2], [5, 3], [6, 0]]}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file, how it is damaged, and who reads it."""

    file: str  # within the folder that `write_files` fills
    read: Callable[[Path, Path], object]  # (that folder, file)
    head: int | None = None  # bytes at the beginning that are damaged; all of them
    checksums: bool = False  # of a checkpoint, made to fit the damaged file
    bare: bool = False  # the reader leaves it to its callers to name an OSError or BadFile


# ------------------------------------------------------------------------------------------------
# The files.


def write_files(home: Path) -> None:
    """A finished run, what runs take from elsewhere, and pictures."""
    (home / 'hq').mkdir(parents=True)
    for i in range(6):
        cv2.imwrite(str(home / 'hq' / f'{i}.png'), synthetic.face(i, SIDE).image[..., ::-1])
    assert train.main(flags_of(home)) == 0
    _write_weights(home)
    _write_priors(home)
    _write_texts(home)
    _write_pictures(home)


def flags_of(home: Path) -> list[str]:
    """The command of the run."""
    text = (
        f'--data {home}/hq --val 2 --out {home}/run --preset unet --recipe ai6126_2022 '
        f'--size {SIDE} --nimg 8 --batch 2 --ticks 2 --threads 1 --pipe torch --precision fp32 '
        '--device cpu'
    )
    return [*text.split(), '--net', json.dumps(NET)]


def _write_weights(home: Path) -> None:
    torch.manual_seed(0)
    net = models.RRDBNet(1, 8, 4)
    weights = net.state_dict()
    checkpoint.save_weights(home / 'foreign.safetensors', weights)
    torch.save({'params_ema': weights, 'epoch': 3}, home / 'foreign.pth')
    torch.save(weights, home / 'legacy.pth', _use_new_zipfile_serialization=False)
    arrays = {name: value.numpy() for name, value in weights.items()}
    torch.save({'params': arrays, 'best': np.float64(28.5)}, home / 'arrays.pth')
    lightning = {f'net_g._orig_mod.{name}': value for name, value in weights.items()}
    torch.save({'state_dict': lightning, 'hyper': {'lr': 1e-3}}, home / 'lightning.ckpt')


def _write_priors(home: Path) -> None:
    parser = models.ParseUNet(**PARSER)
    made = {'network': 'parse_unet', 'net': PARSER, 'size': SIDE}
    storage.write_json(home / 'parser/config.json', {'task': 'parse', **made})
    checkpoint.save_weights(home / 'parser/weights.safetensors', parser.state_dict())
    tensors = {f'parser.{name}': value for name, value in parser.state_dict().items()}
    storage.write(home / 'priors.safetensors', prior_file.pack({'parser': made}, tensors))


def _write_texts(home: Path) -> None:
    storage.write_json(home / 'arch.json', {'sr': ARCHITECTURE})
    points = synthetic.landmarks(0, SIDE).tolist()
    image = {'file_path': 'x/1.png', 'pixel_size': [SIDE, SIDE], 'face_landmarks': points}
    storage.write_json(home / 'landmarks.json', {'0.png': points, '1': {'image': image}})
    toml = 'preset = "unet"\n[optimization]\nbatch = 4\nlr = 1e-3\nmilestones = [0.5, 0.75]\n'
    storage.write(home / 'options.toml', f'{toml}[network]\nnet = {{steps = 2}}\n'.encode())
    shutil.copy(home / 'run/config.json', home / 'options.json')
    storage.write(home / 'recipe.toml', recipe_text.text(degrade.recipe('realesrgan')).encode())
    done = {'count': 1, 'first_seed': 0, 'size': SIDE, 'version': 3, 'complete': True}
    storage.write_json(home / 'drawn/done.json', done)
    storage.write_json(home / 'scan.json', {'version': 1, 'images': [['a.png', 1, 2]]})


def _write_pictures(home: Path) -> None:
    face = synthetic.face(0, SIDE).image[..., ::-1]
    cv2.imwrite(str(home / 'face.png'), face)
    cv2.imwrite(str(home / 'face.jpg'), face)
    with contextlib.suppress(ImportError):
        storage.write(home / 'face.jph', jph.encode(np.ascontiguousarray(face[..., ::-1])))
    _write_other_pictures(home, Image.fromarray(np.ascontiguousarray(face[..., ::-1])))
    with tarfile.open(home / 'faces.tar', 'w') as tar:
        for i in range(3):
            tar.add(home / 'hq' / f'{i}.png', f'{i}.png')


def _write_other_pictures(home: Path, face: Image.Image) -> None:
    """What Pillow describes, with all that it may have."""
    tags = Image.Exif()
    tags[decoders.ORIENTATION], tags[0x010F] = 6, 'A maker'
    more = {'exif': tags.tobytes(), 'icc_profile': icc.display_p3()}
    second = {'save_all': True, 'append_images': [face.rotate(90)]}
    face.save(home / 'face.webp', **more)
    face.save(home / 'lossless.webp', lossless=True)
    face.save(home / 'film.webp', **second)
    face.save(home / 'face.tif', compression='tiff_lzw', **more, **second)
    face.save(home / 'raw.tif')
    face.save(home / 'jpeg.tif', compression='jpeg')
    face.save(home / 'face.bmp')
    face.quantize(16).save(home / 'palette.bmp')
    face.save(home / 'face.avif', **more)
    face.save(home / 'film.avif', **second)
    cv2.imwrite(str(home / 'deep.tif'), np.array(face).astype(np.uint16) * 257)
    with contextlib.suppress(BadFile):
        decoders.heif()
        face.save(home / 'face.heic', **more)


# ------------------------------------------------------------------------------------------------
# Who reads them.


def _infer_run(home: Path, _: Path) -> None:
    loading.load(str(home / 'run'), None, 'cpu')


def _infer_weights(_: Path, file: Path) -> None:
    loading.load(None, str(file), 'cpu')


def _begun(home: Path, _: Path) -> None:
    # As a command that resumes the run takes threads and precision from it, and compares the rest.
    flags.configure(flags_of(home))
    _asked(home).resumes()


def _known(home: Path, _: Path) -> None:
    run = _asked(home)
    other = dataclasses.replace(run, known=resume.Known(train=run.known.train[1:]))
    with contextlib.suppress(RunError):  # the data is another
        other.resumes()


@functools.lru_cache(maxsize=1)
def _asked(home: Path) -> resume.Run:
    config = tasks.configure(flags_of(home))
    images, sets = tasks.of(config).load(config, lambda _: None, lambda _: None)
    return train.asked_for(config, World(torch.device('cpu')), images, sets)


def _finished(home: Path, _: Path) -> None:
    """What reports, comparisons and hints make of the log and the results."""
    r = finished_run.FinishedRun(home / 'run')
    report_html._scores([r])
    watch.hints(r.rows, 0.0, 0, r.task.metric)
    assert r.images >= 0 and r.seconds >= 0
    with contextlib.suppress(FacesError):
        finished_run.score(r.folder, 'odd_half')
    log.Log(r.folder).rewind(4)


def _strip(home: Path, _: Path) -> None:
    report_html._strip(finished_run.FinishedRun(home / 'run'))


def _resume(home: Path, file: Path) -> None:
    newest = checkpoint.latest(home / 'run')
    if newest is not None:
        train.load(newest, *_players(home), torch.device('cpu'))


@functools.lru_cache(maxsize=1)
def _players(home: Path) -> tuple[Any, EMA]:
    config = tasks.configure(flags_of(home))
    players = tasks.of(config).build(config, torch.device('cpu'))
    return players, EMA(players.net, 800)


def _soup(home: Path, _: Path) -> None:
    like = _players(home)[0].net.state_dict()
    soup.greedy_soup(home / 'run', like, lambda weights: float(len(weights)))


def _priors(_: Path, file: Path) -> None:
    described = guides.describe([f'parse={file}'], SIDE / 4)
    guides.fill(nn.ModuleDict(guides.build(described)), [f'parse={file}'])


def _parser(home: Path, _: Path) -> None:
    _priors(home, home / 'parser')


def _options(_: Path, file: Path) -> None:
    try:
        flags.configure(['--config', str(file), '--threads', '1'])
    except SystemExit as stop:
        raise RuntimeError('refused by the parser of flags, which does not know the file') from stop


def _picture(_: Path, file: Path) -> None:
    data = files.read_bytes(file)
    files.check(data)
    files.sound(data)
    files.decode(data)


def _photo(_: Path, file: Path) -> None:
    """As for training, and as a photograph."""
    data = files.read_bytes(file)
    with contextlib.suppress(BadFile):
        files.sound(data)
    photo.encoded(photo.read(data))


def _stream(home: Path, file: Path) -> None:
    """A codestream that is wrong though its checksum is right."""
    data = bytearray(file.read_bytes())
    data[jph._HEADER - 4 : jph._HEADER] = zlib.crc32(data[jph._HEADER :]).to_bytes(4, 'big')
    file.write_bytes(data)
    _picture(home, file)


def _drawn(home: Path, _: Path) -> None:
    synthetic._is_complete(home / 'drawn', {'count': 1})


KINDS = {
    'config': Kind('run/config.json', _infer_run),
    'begun': Kind('run/config.json', _begun),
    'known': Kind('run/data.json', _known),
    'log': Kind('run/log.jsonl', _finished),
    'result': Kind('run/result.json', _finished),
    'machine': Kind('run/machine.json', _finished),
    'checksums': Kind('run/checkpoints/000000008/checksums.json', _resume),
    'state': Kind('run/checkpoints/000000008/state.pt', _resume, checksums=True),
    'checkpoint': Kind('run/checkpoints/000000008/net.safetensors', _resume, 3000, True),
    'weights': Kind('run/weights.safetensors', _infer_run, 3000),
    'best': Kind('run/best/*.safetensors', _soup, 3000),
    'samples': Kind('run/samples/000000008.png', _strip, 200),
    'arch': Kind('arch.json', lambda _, file: options.architectures([str(file)])),
    'safetensors': Kind('foreign.safetensors', _infer_weights, 3000),
    'pth': Kind('foreign.pth', _infer_weights),
    'legacy': Kind('legacy.pth', _infer_weights, 6000),
    'arrays': Kind('arrays.pth', _infer_weights),
    'lightning': Kind('lightning.ckpt', _infer_weights),
    'priors': Kind('priors.safetensors', _priors, 6000),
    'parser': Kind('parser/config.json', _parser),
    'landmarks': Kind('landmarks.json', lambda _, file: landmarks.read(file)),
    'toml': Kind('options.toml', _options),
    'recipe': Kind('recipe.toml', lambda _, file: recipe_file.read(file)),
    'json': Kind('options.json', _options),
    'drawn': Kind('drawn/done.json', _drawn),
    'scan': Kind('scan.json', lambda _, file: scan_cache.load(file, 1)),
    'tar': Kind('faces.tar', lambda _, file: shards.index(str(file)), 1024, bare=True),
    'png': Kind('face.png', _picture, 200, bare=True),
    'jpeg': Kind('face.jpg', _picture, 700, bare=True),
    'stream': Kind('face.jph', _stream, bare=True),
    'jph': Kind('face.jph', _picture, 300, bare=True),
    'photo': Kind('face.jpg', _photo, 700, bare=True),
    **{
        name: Kind(name, _photo, bare=True)
        for name in (
            *('face.webp', 'lossless.webp', 'film.webp', 'face.tif', 'raw.tif', 'jpeg.tif'),
            *('deep.tif', 'face.bmp', 'palette.bmp', 'face.avif', 'film.avif', 'face.heic'),
        )
    },
}


# ------------------------------------------------------------------------------------------------
# The mutations.

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**30, 10**400, 1e308, 1e-320,
    float('nan'), float('inf'), -float('inf'), '', 'x', '\0', '../x', '/dev/zero', 'é\ud800',
    'x' * 5000, [], [[]], {}, {'': None}, [1, 2], ['a'], {'a': {'b': {}}},
)  # fmt: skip
TEXTS = (
    b'NaN', b'-Infinity', b'1e999', b'9' * 5000, b'[' * 3000, b'{"a":' * 500, b'null', b'"', b'\\',
    b'\\ud800', b'\xff\xfe', b'\0', b'<html>', b'\x89PNG', b'PK\x03\x04', b'0x' + b'f' * 6000,
    b'1979-05-27T07:32:00Z', b'"""', b'\xff\xff\xff\xff\xff\xff\xff\x7f', b'\x80\x02',
)  # fmt: skip


def mutated(data: bytes, kind: str, rng: random.Random) -> bytes:
    """The file with one to three faults."""
    if KINDS[kind].file.endswith(('.json', '.jsonl')) and rng.random() < 0.6:
        return _changed_json(data, rng)
    limit = KINDS[kind].head
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _changed_bytes(data, min(limit or len(data), len(data)), rng)
    return data


def _changed_bytes(data: bytes, limit: int, rng: random.Random) -> bytes:
    at = rng.randrange(max(limit, 1))
    end = min(at + rng.choice((1, 2, 4, 8, 64)), len(data))
    how = rng.randrange(8)
    if how < 2 and data:  # a flipped bit is what disks and wires make
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if how == 2:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if how == 3:
        return data[: rng.choice((at, rng.randrange(len(data) + 1)))]
    if how == 4:
        return data[:at] + data[end:]
    if how == 5:
        return data[:at] + data[at:end] * rng.choice((2, 3, 50)) + data[end:]
    filling = rng.choice(TEXTS) if how == 6 else bytes([rng.choice((0, 0x7F, 0x80, 0xFF))]) * 8
    return data[:at] + filling + data[at if rng.random() < 0.5 else end :]


def _changed_json(data: bytes, rng: random.Random) -> bytes:
    """Another value at some place of a JSON file, or another name of one."""
    lines = data.decode().splitlines() if data.count(b'\n{') else [data.decode()]
    number = rng.randrange(len(lines))
    content = json.loads(lines[number])
    places = list(_places(content))
    inside, key = rng.choice(places) if places else (content, None)
    if key is None or rng.random() < 0.03:
        content = rng.choice(ODD)
    elif isinstance(inside, dict) and rng.random() < 0.2:
        value = inside.pop(key)
        inside.update({rng.choice(('', 'x', str(key) + '_', '../x', '\ud800')): value})
    else:
        inside[key] = rng.choice(ODD)
    sys.set_int_max_str_digits(0)
    lines[number] = json.dumps(content)
    sys.set_int_max_str_digits(4300)
    return ('\n'.join(lines) + '\n').encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = value if isinstance(value, dict) else range(len(value))
    if isinstance(value, (dict, list)):
        for key in list(keys):
            yield value, key
            if isinstance(value[key], (dict, list)):
                yield from _places(value[key])


# ------------------------------------------------------------------------------------------------
# Trying them, in processes of their own: a fault may end one.


def attempt(home: Path, kind: str, seed: int, number: int, explain: bool = False) -> str:
    """'read', 'refused', or what went wrong."""
    k = KINDS[kind]
    path = next(home.glob(k.file))
    data = path.read_bytes()
    rng = random.Random(f'{seed}/{kind}/{number}')
    kept = {
        p: p.read_bytes()
        for p in (home / 'run/log.jsonl', path.with_name('checksums.json'))
        if p.exists()
    }
    if number != UNCHANGED:
        path.write_bytes(mutated(data, kind, rng))
    if k.checksums:
        _fit_checksums(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return _outcome(lambda: k.read(home, path), k.bare, explain)
    finally:
        path.write_bytes(data)
        for other, content in kept.items():
            if other != path:
                other.write_bytes(content)


def _fit_checksums(path: Path) -> None:
    sums = path.with_name('checksums.json')
    known = json.loads(sums.read_bytes())
    known[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(json.dumps(known))


def _outcome(read: Callable[[], object], bare: bool, explain: bool) -> str:
    try:
        signal.alarm(SECONDS)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            read()
        return next((f'warning: {w.message}' for w in said if '\n' in str(w.message)), 'read')
    except (FacesError, BadFile, OSError) as error:
        if not (isinstance(error, FacesError) or bare):
            return f'{type(error).__name__} is not named: {str(error)[:200]!r}'
        text = str(error)
        fault = '\n' in text or len(text) > 1500 or 'weights_only' in text
        return f'message: {text[:300]!r}' if fault else 'refused'
    except BaseException as error:
        if explain:
            traceback.print_exc(file=sys.__stderr__)
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f'{Path(where.filename).name}:{where.lineno}'
        return f'{type(error).__name__} at {place}: {str(error)[:120]!r}'
    finally:
        signal.alarm(0)


class _LateError(BaseException):
    """Past whoever takes any Exception for a damaged file."""


def _late(*_: object) -> None:
    raise _LateError('too slow')


def _worker(home: Path, kind: str, seed: int, numbers: list[int], pipe: int) -> None:
    signal.signal(signal.SIGALRM, _late)
    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as own:
        shutil.copytree(home, own, dirs_exist_ok=True)
        for number in numbers:
            os.write(pipe, f'{number} {attempt(Path(own), kind, seed, number)}\n'.encode())
            if number % 200 == 0:
                gc.collect()


def tried(home: Path, kind: str, seed: int, numbers: list[int]) -> dict[int, str]:
    """{number: outcome} of some mutations; one that ends its process or waits is an outcome."""
    outcomes: dict[int, str] = {}
    while left := [n for n in numbers if n not in outcomes]:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _worker(home, kind, seed, left, theirs)
            finally:
                os._exit(0)
        os.close(theirs)
        outcomes |= _collected(ours, pid)
        os.close(ours)
        _, status = os.waitpid(pid, 0)
        rest = [n for n in left if n not in outcomes]
        if rest:
            outcomes[rest[0]] = f'ended or waited: status {status}'
    return outcomes


def _collected(pipe: int, pid: int) -> dict[int, str]:
    """What a worker reports until it ends, or is silent for too long."""
    text = b''
    while select.select([pipe], [], [], 3 * SECONDS)[0]:
        part = os.read(pipe, 1 << 16)
        if not part:
            break
        text += part
    else:
        os.kill(pid, signal.SIGKILL)
    lines = text.decode(errors='replace').split('\n')[:-1]
    return {int(number): outcome for number, _, outcome in (line.partition(' ') for line in lines)}


# ------------------------------------------------------------------------------------------------
# The command.


def main() -> int:
    """Try the mutations that the command line asks for -> exit status."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('kinds', nargs='*', help=f'{", ".join(KINDS)} (default: all)')
    p.add_argument('--count', type=int, default=5000, help='of each (default: %(default)s)')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', type=int, help='number of one mutation, to see its traceback')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            write_files(home)
        if args.only is not None:
            for kind in args.kinds:
                print(attempt(home, kind, args.seed, args.only, explain=True))
            return 0
        failures = 0
        for kind in args.kinds or KINDS:
            if list(home.glob(KINDS[kind].file)):
                failures += _report(kind, tried_all(home, kind, args))
    return int(failures > 0)


def tried_all(home: Path, kind: str, args: argparse.Namespace) -> dict[int, str]:
    """All mutations of a kind, with the time that they took."""
    started = time.monotonic()
    (itself,) = tried(home, kind, args.seed, [UNCHANGED]).values()
    if itself != 'read':
        raise SystemExit(f'{kind}: the file itself is not read: {itself}')
    outcomes = tried(home, kind, args.seed, list(range(args.count)))
    print(f'{kind}: {time.monotonic() - started:.0f} s', end=', ')
    return outcomes


def _report(kind: str, outcomes: dict[int, str]) -> int:
    """Print the counts, and each sort of failure once -> number of failures."""
    counts = Counter(o if o in ('read', 'refused') else 'failed' for o in outcomes.values())
    print(', '.join(f'{counts[o]:,} {o}' for o in ('read', 'refused', 'failed')), flush=True)
    sorts: dict[str, list[int]] = {}
    for number, outcome in outcomes.items():
        if outcome not in ('read', 'refused'):
            sorts.setdefault(outcome.split(': ')[0], []).append(number)
    for sort, numbers in sorts.items():
        print(f'    {len(numbers)} x {sort}, e.g. {numbers[0]}: {outcomes[numbers[0]]}')
    return counts['failed']


if __name__ == '__main__':
    sys.exit(main())
