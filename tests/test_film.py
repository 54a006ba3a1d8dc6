"""Films: times, sound, colours and place of what comes out; stopped, and gone on with."""

import argparse
import os
import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import infer
import models
from benchmarks import film_flicker
from errors import BadFile
from faces import align, detect, paste
from faces import keep as faces_keep
from sources import film, film_pieces
from sources.film import Frame
from tasks import film_run, films

av = pytest.importorskip('av')
BASE = Fraction(1, 1000)
SIZES = (48, 64), (64, 96)
RANGES, MATRICES = {'limited': 1, 'full': 2}, {'BT.709': 1, 'BT.601': 5}


def picture(number, h=48, w=64):
    """Slow colours, and a lighter square that moves."""
    y, x = np.mgrid[:h, :w] / max(h, w)
    rgb = np.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.7 - 0.5 * x * y], 2) * 255
    rgb[8:20, number % 30 + 4 : number % 30 + 16] += 30
    return np.clip(rgb, 0, 255).astype(np.uint8)


def made(
    path, count=12, times=None, sound=True, tags=(1, 1, 1, 1), size=(48, 64), pixels='yuv420p'
):
    """Write a film with frames at `times`, in milliseconds, and a tone."""
    times = times or [40 * i for i in range(count)]
    with av.open(str(path), 'w') as container:
        video = container.add_stream('libx264', rate=25, options={'crf': '1', 'bf': '2'})
        video.height, video.width, video.pix_fmt = *size, pixels
        context = video.codec_context
        context.time_base, context.color_range, context.colorspace = BASE, *tags[:2]
        context.color_primaries, context.color_trc = tags[2:]
        container.metadata['title'] = 'a film of ours'
        if sound:
            tone = container.add_stream('aac', rate=44100, layout='mono')
        for number, time in enumerate(times):
            rgb = av.VideoFrame.from_ndarray(picture(number, *size), 'rgb24')
            frame = rgb.reformat(
                format=pixels,
                src_color_range=2,
                dst_color_range=tags[0],
                src_colorspace=tags[1],
                dst_colorspace=tags[1],
            )
            frame.pts, frame.time_base = time, BASE
            frame.color_range, frame.colorspace = tags[:2]
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            samples = np.sin(np.arange(44100 * times[-1] // 1000) / 20)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, 'fltp', 'mono')
            frame.sample_rate, frame.pts = 44100, 0
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
    return str(path)


def packets(path):
    with av.open(path) as container:
        stream = container.streams.audio[0]
        found = [p for p in container.demux(stream) if p.dts is not None]
        return [(p.pts * p.time_base, p.duration * p.time_base, bytes(p)) for p in found]


def times(path):
    with av.open(path) as container:
        return [f.pts * f.time_base for f in container.decode(video=0)]


# ---- frames in and out ----


@pytest.mark.parametrize('kind', ['.mp4', '.mkv', '.mov'])
def test_times_and_sound_are_those_of_the_film(kind, tmp_path):
    """Frames at odd times, in pieces; the sound packet by packet."""
    at = [0, 40, 95, 110, 200, 201, 320, 400, 420, 500, 640, 650]
    source = made(tmp_path / f'in{kind}', times=at)
    whole = film.probe(source, 1 << 20)
    frames = list(film.frames(whole))
    assert [f.time * whole.time_base for f in frames] == [Fraction(t, 1000) for t in at]
    pieces = [tmp_path / 'a.nut', tmp_path / 'b.nut', tmp_path / 'c.nut']
    for piece, some in zip(pieces, (frames[:5], frames[5:6], frames[6:]), strict=True):
        film_pieces.encode(piece, whole, some)
    out = tmp_path / f'out{kind}'
    film_pieces.joined(out, whole, pieces, {f.time: f.duration for f in frames}, metadata=True)
    assert times(str(out)) == times(source)
    assert packets(str(out)) == packets(source)
    with av.open(str(out)) as container:
        assert container.metadata['title'] == 'a film of ours'
        assert container.streams.video[0].codec_context.has_b_frames == 0
    assert sorted(p.name for p in tmp_path.glob('.new*')) == []


@pytest.mark.parametrize('span', RANGES)
@pytest.mark.parametrize('matrix', MATRICES)
@pytest.mark.parametrize('pixels', ['yuv420p', 'yuv444p', 'yuv420p10le'])
def test_colours_keep_their_range_and_matrix(span, matrix, pixels, tmp_path):
    tags = (RANGES[span], MATRICES[matrix], 1, 1)
    source = made(tmp_path / 'in.mp4', 3, tags=tags, pixels=pixels)
    whole = film.probe(source, 1 << 20)
    frames = list(film.frames(whole))
    levels = 257 if pixels.endswith('10le') else 1
    for number, frame in enumerate(frames):
        error = frame.pixels / levels - picture(number)
        assert abs(error.mean()) < 0.6 and abs(error).mean() < 3
    # Before the encoder rounds them, they come back without a cast.
    for frame in frames:
        stored = film_pieces._frame(frame, whole, film_pieces.pixel_format(whole))
        error = (film._rgb(stored, whole).astype(float) - frame.pixels) / levels
        assert abs(error.mean((0, 1))).max() < (0.1 if '444' in pixels else 0.35)
        assert abs(error).mean() < 0.8
    film_pieces.encode(tmp_path / 'a.nut', whole, frames)
    again = film.probe(str(tmp_path / 'a.nut'), 1 << 20)
    assert again.colours.tags[:2] == tags[:2] and again.pixels.replace('j', '') == pixels
    for frame, other in zip(frames, film.frames(again), strict=True):
        error = (frame.pixels.astype(float) - other.pixels) / levels
        assert abs(error.mean()) < 0.6 and abs(error).mean() < 2


def turned(path, quarters):
    """Write into a film's header that it is to be turned: the matrix of tkhd (ISO 14496-12)."""
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 4 + 40  # version and flags, then fields up to the matrix
    a, b = {1: (0, 1), 2: (-1, 0), 3: (0, -1)}[quarters]
    one = 1 << 16
    struct.pack_into('>9i', data, at, a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize('quarters', [1, 2, 3])
def test_a_film_on_its_side_is_turned_once(quarters, tmp_path):
    source = made(tmp_path / 'in.mp4', 3)
    (tmp_path / 'turned.mp4').write_bytes((tmp_path / 'in.mp4').read_bytes())
    turned(tmp_path / 'turned.mp4', quarters)
    plain, other = (film.probe(str(tmp_path / n), 1 << 20) for n in ('in.mp4', 'turned.mp4'))
    assert (other.width, other.height) == ((64, 48) if quarters == 2 else (48, 64))
    # A matrix turns clockwise, as players show it.
    for a, b in zip(film.frames(plain), film.frames(other), strict=True):
        assert (b.pixels == np.rot90(a.pixels, -quarters)).all()
    film_pieces.encode(tmp_path / 'a.nut', other, film.frames(other))
    film_pieces.joined(tmp_path / 'out.mp4', other, [tmp_path / 'a.nut'], {}, metadata=True)
    assert film.probe(str(tmp_path / 'out.mp4'), 1 << 20).turns == 0
    assert source != str(tmp_path / 'out.mp4')


def test_times_may_begin_before_zero(tmp_path, monkeypatch):
    """Frames keep their distances, wherever the first one lies; those without a time follow."""
    source = made(tmp_path / 'in.mkv', times=[0, 40, 80, 120, 160])
    whole = film.probe(source, 1 << 20)

    class Shifted:
        def __init__(self, frame):
            self.frame = frame
            self.pts = None if frame.pts == 80 else frame.pts - 60

        def __getattr__(self, name):
            return getattr(self.frame, name)

    original = av.open

    class Container:
        def __init__(self, *args):
            self.inner = original(*args)
            self.streams = self.inner.streams

        def decode(self, stream):
            return map(Shifted, self.inner.decode(stream))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.inner.close()

    monkeypatch.setattr(av, 'open', Container)
    assert [f.time for f in film.frames(whole)] == [-60, -20, -19, 60, 100]


def test_a_film_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path):
    """Two films in one: a transport stream holds whatever is put into it."""
    one, other = (made(tmp_path / f'{i}.ts', 4, sound=False, size=s) for i, s in enumerate(SIZES))
    joined = tmp_path / 'both.ts'
    joined.write_bytes(b''.join(Path(path).read_bytes() for path in (one, other)))
    whole = film.probe(str(joined), 1 << 20)
    frames = list(film.frames(whole))
    assert len(frames) > 4 and {f.pixels.shape for f in frames} == {(48, 64, 3)}


def test_what_is_no_film_is_named(tmp_path):
    (tmp_path / 'text.mp4').write_text('no film')
    (tmp_path / 'empty.mp4').write_bytes(b'')
    whole = made(tmp_path / 'in.mp4')
    data = (tmp_path / 'in.mp4').read_bytes()
    (tmp_path / 'cut.mp4').write_bytes(data[: len(data) // 2])
    with av.open(str(tmp_path / 'sound.mp4'), 'w') as container:
        tone = container.add_stream('aac', rate=44100, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), 'fltp', 'mono')
        frame.sample_rate = 44100
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))
    for name in ('text.mp4', 'empty.mp4', 'cut.mp4', 'sound.mp4', 'none.mp4'):
        with pytest.raises(BadFile, match=name):
            film.probe(str(tmp_path / name), 1 << 20)
    with pytest.raises(BadFile, match='too large'):
        film.probe(whole, 1000)


# ---- a film through infer.py ----


def finder(every=1):
    """A detector of one face, which follows the lighter square and jitters."""
    seen = []

    def find(photo, min_face=detect.MIN_FACE):
        seen.append(0)
        rng = np.random.default_rng(int(photo.sum()) % 1000)
        centre = np.array([24.0, 24.0]) + rng.normal(0, 0.7, 2)
        points = ((align.TEMPLATE + 0.5) / align.SIDE - 0.5) * 40 + centre
        box = np.concatenate([centre - 15, centre + 15])[None]
        if every == 0:
            return detect.Found(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))
        return detect.Found(box, points[None], np.ones(1))

    return find


@pytest.fixture
def home(tmp_path, monkeypatch):
    torch.manual_seed(0)
    # Large ones, or what comes out is hardly another face.
    weights = {k: 10 * v for k, v in models.SRResNet(2, 8).state_dict().items()}
    save_file(weights, tmp_path / 'w.safetensors')
    monkeypatch.setattr(detect, 'make', lambda path: finder())
    monkeypatch.setattr(films, 'PIECE', 5)
    return tmp_path


def restored(home, source, output, *more):
    argv = ['--weights', home / 'w.safetensors', source, '--output', output, '--device', 'cpu']
    return infer.main([str(a) for a in [*argv, '--batch', '2', *more]])


def test_a_film_is_restored_with_its_sound(home, capsys):
    source = made(home / 'in.mp4', 12)
    assert restored(home, source, home / 'out', '--scale', '2') == 0
    assert '12 frames with 1 restored face' in capsys.readouterr().out
    out = str(home / 'out' / 'in.mp4')
    assert times(out) == times(source) and packets(out) == packets(source)
    whole = film.probe(out, 1 << 20)
    assert (whole.width, whole.height, whole.frames) == (128, 96, 12)
    assert sorted(p.name for p in (home / 'out').iterdir()) == ['in.mp4']
    # The face is another one, the rest is the film.
    for before, after in zip(
        film.frames(film.probe(source, 1 << 20)), film.frames(whole), strict=True
    ):
        plain = cv2.resize(before.pixels, (128, 96), interpolation=cv2.INTER_LANCZOS4)
        error = np.abs(plain.astype(float) - after.pixels).mean(2)
        assert error[:, 100:].mean() < 2.5 < error[30:66, 30:66].mean()


class Stopped(BaseException):
    """As a kill is: nothing is done about it."""


@pytest.mark.parametrize('at', [0, 3, 7, 11, 13, 20])
def test_a_stopped_film_comes_out_the_same(at, home, monkeypatch, capsys):
    """Stopped while faces are found (after 3 and 11 frames), and while they are restored."""
    source = made(home / 'in.mp4', 12)
    assert restored(home, source, home / 'whole.mp4') == 0

    count = 0

    def counting(function):
        def run(*args, **more):
            nonlocal count
            count += 1
            if count > at:
                raise Stopped
            return function(*args, **more)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(detect, 'make', lambda path: counting(finder()))
        patch.setattr(film_pieces, '_frame', counting(film_pieces._frame))
        with pytest.raises(Stopped):
            restored(home, source, home / 'again.mp4')
    assert not (home / 'again.mp4').exists()
    capsys.readouterr()
    assert restored(home, source, home / 'again.mp4') == 0
    assert ('going on after 5 frames' in capsys.readouterr().out) == (at == 20)
    assert (home / 'again.mp4').read_bytes() == (home / 'whole.mp4').read_bytes()
    assert not (home / 'again.mp4.parts').exists()


def test_other_flags_begin_anew(home, capsys):
    source = made(home / 'in.mp4', 12)
    args = infer.parser().parse_args([source, '--keep', '0.5', '--device', 'cpu'])
    args.input = source
    net = models.SRResNet(2, 8)
    plan = film_run.plan(args, net)
    assert film_run.plan(args, net) == plan
    for change in ({'keep': 0.4}, {'scale': 4}, {'tta': True}):
        other = argparse.Namespace(**{**vars(args), **change})
        assert film_run.plan(other, net) != plan
    net.state_dict()['conv_first.weight'][0, 0, 0, 0] += 1
    assert film_run.plan(args, net) != plan


@pytest.mark.parametrize('keep, wanted', [([], 0.4), (['--keep', '0.7'], 0.7)])
def test_one_share_of_a_face_stays_in_all_its_frames(keep, wanted, home, monkeypatch):
    """The median of what its frames deserve, or what the flag says."""
    shares, used = iter([0.1, 0.4, 0.9]), []

    def paste_into(canvas, faces, scale, share, gray):
        used.append(share)

    monkeypatch.setattr(faces_keep, 'share', lambda *_: next(shares))
    monkeypatch.setattr(paste, 'paste', paste_into)
    monkeypatch.setattr(films, 'LOOKED_AT', 4)
    assert restored(home, made(home / 'in.mp4', 12), home / 'out.mp4', *keep) == 0
    assert used == [wanted] * 12


def test_the_benchmark_of_flicker(home, capsys):
    """The same film in both ways: places that the finder shakes are followed calmly."""
    source = made(home / 'in.mp4', 12)
    argv = [source, '--weights', home / 'w.safetensors', '--device', 'cpu', '--scale', '1']
    assert film_flicker.main([str(a) for a in argv]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[0] for row in rows] == ['place', 'light', 'detail']
    assert 0 < float(rows[0][5]) < 0.5 * float(rows[0][1])


def test_pieces_of_another_plan_are_thrown_away_and_nothing_else(home):
    whole = film.probe(made(home / 'in.mp4', 12), 1 << 20)
    work = films.Work(whole, home / 'parts', None, None)
    with films.claimed(work.folder):
        assert films.opened(work, {'scale': 1}) == 0
        work.piece(0).write_bytes(b'frames')
        work.found(0).write_bytes(b'faces')
        (work.folder / 'notes.txt').write_text('mine')
        assert films.opened(work, {'scale': 1}) == 5 and work.piece(0).exists()
        assert films.opened(work, {'scale': 2}) == 0
    left = {path.name for path in work.folder.iterdir() if path.name[0] != '.'}
    assert left == {'plan.json', 'notes.txt'}


def test_without_faces_or_sound(home, monkeypatch, capsys):
    monkeypatch.setattr(detect, 'make', lambda path: finder(0))
    source = made(home / 'in.mp4', 7, sound=False)
    assert restored(home, source, home / 'out') == 0
    assert 'no face found' in capsys.readouterr().out
    assert times(str(home / 'out' / 'in.mp4')) == times(source)
    assert restored(home, source, home / 'out', '--require-face') == 2


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (['--output', 'in.mp4'], '--output'),
        (['--output', 'out.avi'], 'out.mkv'),
        (['--faces-only'], 'for photographs'),
        (['--aligned'], 'is a film'),
        (['--max-pixels', '9000'], '--max-pixels'),
        (['--scale', '1'], '--scale 2'),
    ],
)
def test_what_cannot_be_done_is_said_at_once(more, said, home, monkeypatch, capsys):
    made(home / 'in.mp4', 2, size=(48, 64))
    if '--scale' in more:
        made(home / 'in.mkv', 2, size=(47, 63), pixels='yuv444p')
        monkeypatch.setattr(film_pieces, 'pixel_format', lambda film: 'yuv420p')
    monkeypatch.chdir(home)
    name = 'in.mkv' if '--scale' in more else 'in.mp4'
    before = (home / name).read_bytes()
    assert infer.main([name, '--weights', 'w.safetensors', '--device', 'cpu', *more]) == 2
    assert said in capsys.readouterr().err
    assert (home / name).read_bytes() == before


@pytest.mark.parametrize('kind', ['folder', 'file', 'link'])
def test_what_is_no_unfinished_film_is_left_alone(kind, home, capsys):
    source = made(home / 'in.mp4', 3)
    parts = home / 'out' / 'in.mp4.parts'
    parts.parent.mkdir()
    if kind == 'folder':
        parts.mkdir()
        (parts / 'thesis.txt').write_text('precious')
    elif kind == 'file':
        parts.write_text('precious')
    else:
        parts.symlink_to(home / 'nowhere')
    assert restored(home, source, home / 'out') == 2
    assert 'is in the way' in capsys.readouterr().err
    assert os.path.lexists(parts)
    assert kind != 'folder' or (parts / 'thesis.txt').read_text() == 'precious'


def test_two_processes_do_not_restore_one_film(home, capsys):
    source = made(home / 'in.mp4', 3)
    (home / 'out').mkdir()
    with films.claimed(home / 'out' / 'in.mp4.parts'):
        assert restored(home, source, home / 'out') == 2
    assert 'is in use' in capsys.readouterr().err
    assert restored(home, source, home / 'out') == 0


def test_a_pipe_is_not_waited_for(home, capsys):
    os.mkfifo(home / 'pipe.mp4')
    assert restored(home, home / 'pipe.mp4', home / 'out') == 2
    assert 'pipe.mp4: not a regular file' in capsys.readouterr().err


def test_a_name_is_no_protocol(home, monkeypatch):
    made(home / '12:30.mkv', 3)
    monkeypatch.chdir(home)
    assert infer.main(['12:30.mkv', '--weights', 'w.safetensors', '--output', 'out']) == 0
    assert len(times(str(home / 'out' / '12:30.mkv'))) == 3


def test_a_folder_is_in_the_way_of_a_film(home, capsys):
    (home / 'out' / 'in.mp4').mkdir(parents=True)
    assert restored(home, made(home / 'in.mp4', 3), home / 'out') == 2
    assert 'is a folder' in capsys.readouterr().err


def test_sound_that_does_not_fit_is_refused_before_the_work(home, monkeypatch, capsys):
    """FLAC in MOV, for one."""
    source = home / 'in.mkv'
    with av.open(str(source), 'w') as container:
        video = container.add_stream('libx264', rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, 'yuv420p'
        text = container.add_stream('flac', rate=44100, layout='stereo')
        frame = av.VideoFrame.from_ndarray(picture(0), 'rgb24')
        container.mux(video.encode(frame.reformat(format='yuv420p')))
        container.mux(video.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 8192), np.int16), 's16', 'stereo')
        tone.sample_rate = 44100
        container.mux(text.encode(tone))
        container.mux(text.encode(None))
    monkeypatch.setattr(films, 'restored', None)
    assert restored(home, source, home / 'out.mov') == 2
    assert 'ends in .mkv' in capsys.readouterr().err


def test_times_that_begin_again_go_on(home):
    """Two films put together as transport streams: the second follows the first."""
    one = made(home / 'one.ts', 8)
    (home / 'in.ts').write_bytes(Path(one).read_bytes() * 2)
    assert restored(home, home / 'in.ts', home / 'out') == 0
    steps = np.diff([float(t) for t in times(str(home / 'out' / 'in.mkv'))])
    assert len(steps) == 15 and abs(steps - 0.04).max() < 0.005
    sound = np.diff([float(p[0]) for p in packets(str(home / 'out' / 'in.mkv'))])
    assert sound.min() > 0 and sound.max() < 0.1


@pytest.mark.parametrize('kept', ['all', 'none'])
def test_metadata_of_sound_goes_too(kept, home):
    source = home / 'in.mkv'
    made(source, 3)
    with av.open(str(source)) as old, av.open(str(home / 'tagged.mkv'), 'w') as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        streams[1].metadata.update({'title': 'Secret', 'language': 'deu'})
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    assert restored(home, home / 'tagged.mkv', home / 'out', '--metadata', kept) == 0
    with av.open(str(home / 'out' / 'tagged.mkv')) as out:
        told = {k.lower(): v for k, v in out.streams.audio[0].metadata.items()}
    assert told['language'] == 'deu' and (told.get('title') == 'Secret') == (kept == 'all')


def test_a_single_frame_keeps_its_duration(home):
    source = made(home / 'in.mp4', 1, sound=False)
    assert restored(home, source, home / 'out') == 0
    lengths = []
    for path in (source, str(home / 'out' / 'in.mp4')):
        with av.open(path) as container:
            stream = container.streams.video[0]
            lengths.append(stream.duration * stream.time_base)
    assert lengths[0] == lengths[1]


def test_frames_go_by_one_after_the_other(home, monkeypatch):
    """However long a film is, few of its frames are in memory."""
    alive = most = 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    original = film.frames

    def frames(*args):
        nonlocal alive, most
        for f in original(*args):
            alive += 1
            most = max(most, alive)
            yield Frame(f.number, f.time, f.duration, f.pixels.view(Counted))

    monkeypatch.setattr(film, 'frames', frames)
    assert restored(home, made(home / 'in.mp4', 30), home / 'out') == 0
    assert most <= 8
