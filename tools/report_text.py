"""What an author adds to a report: headlines and paragraphs of a text file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import storage
from errors import BadFile, RunError

LARGEST = 1 << 20  # bytes
AFTER = '---'  # a line; what follows it comes after the results


class Passage(NamedTuple):
    """A headline or a paragraph."""

    headline: bool
    text: str


class Words(NamedTuple):
    """What comes before the chapters of a run, and what after them."""

    before: list[Passage]
    after: list[Passage]


def read(path: Path) -> Words:
    """The passages of a UTF-8 file: empty lines part them, and `#` begins a headline.

    Raises RunError for a file that is not there, is not text, or has nothing to say.
    """
    try:
        text = storage.read(path, LARGEST).decode('utf-8-sig')
    except (OSError, BadFile) as error:
        reason = getattr(error, 'strerror', None) or error
        raise RunError(f'--text {path} cannot be read ({reason}): give a text file') from error
    except UnicodeDecodeError as error:
        raise RunError(f'--text {path} is not UTF-8: save it as such') from error
    if '\0' in text:
        raise RunError(f'--text {path} is not text: it holds zeros; give a text file')

    # Lines end as on any system.
    lines = [line.strip() for line in re.sub('\r\n?', '\n', text).split('\n')]
    if lines.count(AFTER) > 1:
        raise RunError(
            f'--text {path} has {lines.count(AFTER)} lines of {AFTER}: one alone parts what comes '
            'before the chapters of the run from what comes after them'
        )
    at = lines.index(AFTER) if AFTER in lines else len(lines)
    words = Words(_passages(lines[:at]), _passages(lines[at + 1 :]))
    if not words.before and not words.after:
        raise RunError(f'--text {path} is empty: write into it, or leave --text out')
    return words


def _passages(lines: Sequence[str]) -> list[Passage]:
    """Headlines end with their line, paragraphs with an empty one or before a headline."""
    found: list[Passage] = []
    begun = False
    for line in lines:
        # A paragraph goes on until an empty line or a headline.
        headline = line.startswith('#')
        if headline:
            found.append(Passage(True, re.sub('^#+ *', '', line)))
        elif line and begun:
            found[-1] = Passage(False, f'{found[-1].text} {line}')
        elif line:
            found.append(Passage(False, line))
        begun = bool(line) and not headline
    return [passage for passage in found if passage.text]
