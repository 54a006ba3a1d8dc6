"""What the accounts of all shards come to, in memory that does not grow with their number."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from errors import DataError
from storage import printable

from . import sheets
from .accounts import DUPLICATE, Account, Face
from .charts import AXES, Counts
from .sheets import Limits, Strip

NAMED = 200  # bad photos that are named
REASONS = 500  # kinds of reasons that are told apart


class Example(NamedTuple):
    """A face that is shown."""

    rank: float  # the lowest of a strip are shown
    key: str
    value: float
    source: str
    shard: int


class Tally:
    """What is counted, and which faces are shown."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.shards = self.photos = self.empty = self.faces = self.bad = 0
        self.fates: Counter[str] = Counter()  # '' for kept
        self.reasons: Counter[str] = Counter()
        self.named: list[tuple[str, str]] = []
        self.counts: dict[str, Counts] = {}
        self.examples: dict[tuple[str, Strip], list[Example]] = {}

    def add(self, account: Account) -> None:
        """Count what a shard holds. Raises DataError for a measure that is none."""
        faces, bad = account.faces, account.bad
        # A photo of whose faces none was found is told apart from one that could not be read.
        self.shards += 1
        self.photos += account.photos
        self.empty += account.photos - len(bad) - len({face.source for face in faces})
        self.faces += len(faces)
        self.fates.update(face.dropped for face in faces)
        for name, reason in bad:
            self._add_bad(name, reason)
        self._add_values(faces)
        self._add_examples(account)

    def _add_bad(self, name: str, reason: str) -> None:
        self.bad += 1
        if len(self.named) < NAMED:
            self.named.append((name, reason))
        # 'truncated at byte 1,024' and 'truncated at byte 77' are of one kind.
        kind = re.sub(r'\d[\d,.]*', 'N', printable(reason, 120))
        known = kind in self.reasons or len(self.reasons) < REASONS
        self.reasons[kind if known else 'other reasons'] += 1

    def _add_values(self, faces: Sequence[Face]) -> None:
        dropped = np.array([face.dropped for face in faces], object)
        for measure in dict.fromkeys(name for face in faces for name in face.measures):
            if measure not in AXES:
                raise DataError(
                    f'an account has the measure {printable(measure, 40)}, which is none of '
                    f'{", ".join(AXES)}: make the report with the version that built the set'
                )
            if measure not in self.counts:
                self.counts[measure] = Counts(AXES[measure])
            # Kept, dropped by this very measure, dropped by another one.
            kinds = np.where(dropped == '', 0, np.where(dropped == measure, 1, 2))
            self.counts[measure].add(sheets.values_of(faces, measure), kinds)

    def _add_examples(self, account: Account) -> None:
        for (measure, strip), pairs in sheets.chosen(account.faces, self.limits).items():
            sign = -1 if strip.highest else 1
            # A shard's own are chosen before duplicates are known, and only these have copies.
            new = [
                Example(sign * value, face.key, value, face.source, account.shard)
                for value, face in pairs
                if face.dropped != DUPLICATE
            ]
            known = self.examples.get((measure, strip), [])
            self.examples[measure, strip] = sorted(known + new)[: sheets.MOST]
