"""Thresholds of the measures of faces, as flags: --least-side 128, --most-yaw 60.

Only ends that somebody would turn have a flag; an angle has one for both ways.
"""

import program

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from errors import RunError
from faces.measures import Limits


class Threshold(NamedTuple):
    """One end of a measure's range."""

    end: str  # 'least' or 'most'
    measure: str
    range: program.Number
    help: str

    @property
    def flag(self) -> str:
        """Name of the flag, as argparse stores it."""
        return f'{self.end}_{self.measure}'


PART = program.Number(0, 1)
ANGLE = program.Number(0, 180)
LEVEL = program.Number(0, 255)
THRESHOLDS = (
    Threshold(
        'least', 'side', program.Number(0, 100_000), 'side of the face in the photo, in pixels'
    ),
    Threshold('least', 'score', PART, 'how sure the detector is'),
    Threshold('least', 'inside', PART, 'share of the aligned square that lies inside the photo'),
    Threshold('most', 'yaw', ANGLE, 'degrees that it is turned to either side'),
    Threshold('most', 'pitch', ANGLE, 'degrees that it looks up or down'),
    Threshold('most', 'roll', ANGLE, 'degrees that it leans to either side'),
    Threshold(
        'least',
        'resolution',
        program.Number(0, 4096),
        'side in pixels that it is worth, however large it is',
    ),
    Threshold(
        'most',
        'blur',
        program.Number(0, 1000),
        'dB by which motion took more detail in one direction than in another',
    ),
    Threshold('least', 'jpeg', program.Number(0, 100), 'quality at which the JPEG was saved'),
    Threshold('least', 'exposure', LEVEL, 'mean level: darker ones are dropped'),
    Threshold('most', 'exposure', LEVEL, 'mean level: lighter ones are dropped'),
    Threshold('most', 'clipped', PART, 'share of it that is black or white'),
    Threshold('least', 'contrast', LEVEL, 'standard deviation of its levels'),
    Threshold(
        'least',
        'colourfulness',
        program.Number(0, 1000),
        'colourfulness; above 0, gray faces are dropped',
    ),
    Threshold('most', 'occluded', PART, 'share of it that is covered, by --parser'),
)


def add(group: argparse._ArgumentGroup) -> None:
    """Add a flag for each, with the usual limits as defaults."""
    usual = named(Limits())
    for each in THRESHOLDS:
        group.add_argument(
            f'--{each.end}-{each.measure}',
            type=each.range,
            default=usual[each.flag],
            metavar='X',
            help=f'{each.help} (default: %(default)s)',
        )


def limits(flags: Mapping[str, float]) -> Limits:
    """Limits of these flags. Raises RunError where the least is above the most."""
    # Ends without a flag stay as they are.
    found = Limits()._asdict()
    for each in THRESHOLDS:
        least, most = found[each.measure]
        value = flags[each.flag]
        if each.range is ANGLE:
            least, most = -value, value
        elif each.end == 'least':
            least = value
        else:
            most = value
        if least > most:
            raise RunError(
                f'--least-{each.measure} {least:g} is above --most-{each.measure} {most:g}'
            )
        found[each.measure] = (least, most)
    return Limits(**found)


def named(of: Limits) -> dict[str, float]:
    """Limits by the names of their flags."""
    ranges = of._asdict()
    return {each.flag: ranges[each.measure][each.end == 'most'] for each in THRESHOLDS}
