"""What is scored by photographs of which everything is known, on accounts made by hand."""

import numpy as np
import pytest

from benchmarks import build_accuracy
from benchmarks.photographs import score, truth
from faces import align
from storage import printable
from tools.building import accounts
from tools.building.accounts import DUPLICATE, Account
from tools.building.accounts import Face as Found


def face(left=100.0, group='0-0', reasons=(), side=100.0):
    """A face as the truth has it."""
    points = (align.TEMPLATE - (130, 100)) * side / 350 + (left, 50)
    box = [left, 50.0, left + side * 5 / 7, 50 + side]
    return truth.Face(box, points.tolist(), 0, group, list(reasons))


def photo(name, *faces):
    return truth.Photo(name, 900, 500, 'plain', list(faces))


def found(of, name, dropped='', away=0.0, **more):
    points = (np.array(of.points) + (away, 0)).tolist()
    return Found('', name, of.box, points, {}, '', dropped)


def seen(photos, faces, bad=()):
    told = truth.Truth(0, photos, [])
    return score.seen(told, [Account(0, len(photos), list(bad), faces, {})])


def test_faces_are_matched_one_to_one():
    a, b, tiny = face(100), face(400), face(700, side=50.0)
    where = photo('p', a, b, tiny)
    # One found twice, one a little off, one where nothing is.
    off = face(410)
    stray = face(250)
    got = seen([where], [found(a, 'p'), found(off, 'p'), found(a, 'p'), found(stray, 'p')])
    assert [pair.found is not None for pair in got.pairs] == [True, True, False]
    assert len(got.strangers) == 2
    assert score.recall(got.pairs) == (2, 3) and score.recall(score.large(got.pairs)) == (2, 2)
    # What is in the same place of another photo is another face.
    assert score.recall(seen([where], [found(a, 'q')]).pairs) == (0, 3)
    assert len(seen([where], [found(a, 'q')]).strangers) == 1


def test_the_nearest_of_two_faces_is_taken_and_only_once():
    a, b = face(100), face(130)
    got = seen([photo('p', a, b)], [found(face(128), 'p'), found(face(102), 'p')])
    assert [pair.found.box[0] for pair in got.pairs] == [102, 128] and not got.strangers
    got = seen([photo('p', a, b)], [found(face(112), 'p')])
    assert [pair.found is not None for pair in got.pairs] == [True, False]


def test_errors_are_in_parts_of_the_eyes_distance():
    a = face(side=350.0)
    eyes = 318.90277 - 192.98138
    pairs = seen([photo('p', a)], [found(a, 'p', away=0.05 * eyes)]).pairs
    assert score.errors(pairs) == pytest.approx([0.05], rel=1e-3)
    assert len(score.errors([score.Pair(a, None)])) == 0


def test_copies_and_singles():
    """Of a group one stays; what a measure has dropped is in no group."""
    fates = {
        'three, one too many kept': ['', '', DUPLICATE],
        'two, as it shall be': ['', DUPLICATE],
        'two, neither kept': [DUPLICATE, DUPLICATE],
        'two, of which one is too small': ['', 'side'],
        'single': [''],
        'single, dropped': [DUPLICATE],
        'not found': [None],
    }
    pairs = [
        score.Pair(face(group=group), None if fate is None else found(face(), 'p', fate))
        for group, members in fates.items()
        for fate in members
    ]
    pairs.append(score.Pair(face(group='bad', reasons=['side']), found(face(), 'p', DUPLICATE)))
    assert score.copies(pairs) == (1 + 1 + 1, 2 + 1 + 1)
    assert score.singles(pairs) == (2, 6)


def test_reasons_are_right_if_any_of_them_is():
    blurred, small = face(reasons=['resolution', 'blur']), face(reasons=['side'])
    fates = [(blurred, 'blur'), (blurred, 'resolution'), (blurred, ''), (blurred, 'side')]
    fates += [(small, 'side'), (small, None), (face(), 'side')]
    pairs = [score.Pair(f, None if d is None else found(f, 'p', d)) for f, d in fates]
    counts = score.reasons(pairs)
    assert counts['resolution'] == {'resolution': 2, 'kept': 1, 'side': 1}
    assert counts['side'] == {'side': 1, 'not found': 1}
    assert score.right(counts) == (3, 5)
    assert score.good_dropped(pairs) == {'side': 1}


def test_files_that_must_and_must_not_be_named():
    odd = [
        truth.Damaged('a', '', True),
        truth.Damaged('b', '', True),
        truth.Damaged('c', '', False),
    ]
    told = truth.Truth(0, [photo('d')], odd)
    assert score.named(odd, {'a': 'truncated'}) == (1, 2)
    assert score.slandered(told, {'a': '', 'c': '', 'd': '', 'e': ''}) == ['d', 'c']


def test_names_are_compared_as_they_are_printed():
    a = face()
    got = seen([photo(printable('two\nlines'), a)], [found(a, 'two\nlines')], [('x\ty', 'bad')])
    assert score.recall(got.pairs) == (1, 1) and got.bad == {'x\\ty': 'bad'}


def built(folder, photos, faces, odd=(), bad=()):
    """A truth and what was built, as files."""
    truth.write(folder / 'truth.json', truth.Truth(0, photos, list(odd)))
    (folder / 'built').mkdir()
    account = Account(0, len(photos), list(bad), faces, {})
    (folder / 'built' / 'faces-000000.json').write_bytes(accounts.encoded(account))
    return [str(folder / 'truth.json'), str(folder / 'built')]


def test_the_program_tells_whether_all_goals_are_reached(tmp_path, capsys):
    a, b, dark = face(group='a'), face(group='b'), face(400, reasons=['exposure'])
    odd = [truth.Damaged('x.jpg', 'empty', True)]
    photos = [photo('1', a), photo('2', a), photo('3', b, dark)]
    faces = [found(a, '1'), found(a, '2', DUPLICATE), found(b, '3'), found(dark, '3', 'exposure')]
    good, other = tmp_path / 'good', tmp_path / 'other'
    for folder in (good, other):
        folder.mkdir()
    assert build_accuracy.main(built(good, photos, faces, odd, [('x.jpg', 'empty')])) == 0
    said = capsys.readouterr().out
    assert said.count('reached') == 6 and '3 of 3' in said and 'MISSED' not in said
    faces[2] = found(b, '3', DUPLICATE)
    assert build_accuracy.main(built(other, photos, faces, odd)) == 1
    said = capsys.readouterr().out
    assert said.count('MISSED') == 2 and 'not named: x.jpg (empty)' in said


def test_what_is_not_there_is_named(tmp_path, capsys):
    argv = built(tmp_path, [photo('1', face())], [])
    assert build_accuracy.main([str(tmp_path / 'none.json'), argv[1]]) == 2
    assert 'none.json' in capsys.readouterr().err
    assert build_accuracy.main([argv[0], str(tmp_path / 'empty')]) == 2
    assert 'no account of a shard' in capsys.readouterr().err
