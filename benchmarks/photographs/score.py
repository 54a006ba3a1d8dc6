"""What was built from made photographs, compared with what is true of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.face_detection import OVERLAP, squares
from faces import tracks
from storage import printable
from tools.building.accounts import DUPLICATE, Account
from tools.building.accounts import Face as Found

from .truth import Damaged, Face, Photo, Truth

LARGE = 64.0  # pixels of a face's longer side: smaller ones may be missed
NEAR = 0.03  # of the eyes' distance, within which points shall be

Share = tuple[int, int]  # how many, of how many


class Pair(NamedTuple):
    """A face that is there, and what was found of it."""

    wanted: Face
    found: Found | None


class Seen(NamedTuple):
    """All accounts of a heap, face by face."""

    pairs: list[Pair]
    strangers: list[Found]  # that are no faces, or faces found twice
    bad: Mapping[str, str]  # names of files that could not be used, and why


def seen(truth: Truth, accounts: Iterable[Account]) -> Seen:
    """Bring a truth and the accounts of all shards together."""
    found: dict[str, list[Found]] = {}
    bad: dict[str, str] = {}
    for account in accounts:
        bad.update((printable(name), reason) for name, reason in account.bad)
        for face in account.faces:
            found.setdefault(printable(face.source), []).append(face)
    pairs, strangers = [], []
    for photo in truth.photos:
        some, others = matched(photo, found.pop(photo.name, []))
        pairs += some
        strangers += others
    # Faces in what is no photo of ours.
    strangers += [face for faces in found.values() for face in faces]
    return Seen(pairs, strangers, bad)


def matched(photo: Photo, found: Sequence[Found]) -> tuple[list[Pair], list[Found]]:
    """Pair the faces of a photo with those found in it -> pairs, and found ones without a partner.

    Two are one where their squares have OVERLAP of their union in common, the nearest first.
    """
    boxes = [np.array([f.box for f in faces]).reshape(-1, 4) for faces in (photo.faces, found)]
    shares = tracks.overlap(squares(boxes[0]), squares(boxes[1]))
    partner: dict[int, int] = {}
    for flat in np.argsort(-shares, axis=None, kind='stable'):
        i, k = divmod(int(flat), max(len(found), 1))
        if shares[i, k] >= OVERLAP and i not in partner and k not in partner.values():
            partner[i] = k
    pairs = [
        Pair(face, found[partner[i]] if i in partner else None)
        for i, face in enumerate(photo.faces)
    ]
    return pairs, [face for k, face in enumerate(found) if k not in partner.values()]


# ---- figures ----


def large(pairs: Iterable[Pair]) -> list[Pair]:
    """Return those whose faces are good and have LARGE pixels at least."""
    return [p for p in pairs if not p.wanted.reasons and _side(p.wanted) >= LARGE]


def recall(pairs: Sequence[Pair]) -> Share:
    """Return how many faces were found."""
    return sum(p.found is not None for p in pairs), len(pairs)


def errors(pairs: Iterable[Pair]) -> np.ndarray:
    """Return how far points are off: [n], of each found face, in parts of its eyes' distance.

    The mean distance of its five points from where they are.
    """
    rows = []
    for wanted, found in pairs:
        if found:
            there = np.array(wanted.points)
            eyes = np.hypot(*(there[1] - there[0]))
            rows.append(np.hypot(*(np.array(found.points) - there).T).mean() / eyes)
    return np.array(rows)


def copies(pairs: Iterable[Pair]) -> Share:
    """Return how many faces were dropped as duplicates, of those that are copies.

    Of each group, one is to stay. Faces that a measure has dropped are not in it any more.
    """
    dropped = wanted = 0
    for members in _groups(pairs):
        spare = len(members) - 1
        wanted += spare
        dropped += min(spare, sum(face.dropped == DUPLICATE for face in members))
    return dropped, wanted


def singles(pairs: Iterable[Pair]) -> Share:
    """Return how many faces were dropped as duplicates, of those to which there is no copy.

    A group of copies of which none stays counts as one.
    """
    groups = list(_groups(pairs))
    lost = sum(all(face.dropped == DUPLICATE for face in members) for members in groups)
    return lost, len(groups)


def _groups(pairs: Iterable[Pair]) -> Iterable[list[Found]]:
    """Found faces of each group that failed no measure and have nothing wrong with them."""
    groups: dict[str, list[Found]] = {}
    for wanted, found in pairs:
        if found and not wanted.reasons and found.dropped in ('', DUPLICATE):
            groups.setdefault(wanted.group, []).append(found)
    return groups.values()


def reasons(pairs: Iterable[Pair]) -> dict[str, Counter[str]]:
    """{first right measure: {what dropped such a face, 'kept' or 'not found': how many}}."""
    counts: dict[str, Counter[str]] = {}
    for wanted, found in pairs:
        if wanted.reasons:
            fate = 'not found' if found is None else found.dropped or 'kept'
            # Another right one counts as the first.
            fate = wanted.reasons[0] if fate in wanted.reasons else fate
            counts.setdefault(wanted.reasons[0], Counter())[fate] += 1
    return counts


def right(counts: Mapping[str, Counter[str]]) -> Share:
    """Return how many bad faces were dropped for what is wrong with them, of those found."""
    all_found = sum(n for c in counts.values() for fate, n in c.items() if fate != 'not found')
    return sum(c[reason] for reason, c in counts.items()), all_found


def good_dropped(pairs: Iterable[Pair]) -> Counter[str]:
    """{measure: good faces of LARGE pixels and more that it dropped}, whatever its limit is."""
    fates = (p.found.dropped for p in large(pairs) if p.found)
    return Counter(fate for fate in fates if fate not in ('', DUPLICATE))


def named(files: Iterable[Damaged], bad: Mapping[str, str]) -> Share:
    """Return how many files were named, of those that cannot be used."""
    wanted = [file.name for file in files if file.bad]
    return sum(name in bad for name in wanted), len(wanted)


def slandered(truth: Truth, bad: Mapping[str, str]) -> list[str]:
    """Return what was named as bad and can be used."""
    fine = [photo.name for photo in truth.photos]
    fine += [file.name for file in truth.damaged if not file.bad]
    return [name for name in fine if name in bad]


def _side(face: Face) -> float:
    left, top, right, bottom = face.box
    return max(right - left, bottom - top)
