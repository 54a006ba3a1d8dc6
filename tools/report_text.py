"""What an author adds to a report: headlines and paragraphs of a text file."""

import re
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
        raise RunError(f'--text {path} cannot be read: {reason}') from error
    except UnicodeDecodeError as error:
        raise RunError(f'--text {path} is not UTF-8: save it as such') from error

    # Lines end as on any system; the first and the last may be that of three dashes.
    lines = re.sub('\r\n?', '\n', text)
    before, _, after = f'\n{lines}\n'.partition(f'\n{AFTER}\n')
    words = Words(_passages(before), _passages(after))
    if not words.before and not words.after:
        raise RunError(f'--text {path} is empty')
    return words


def _passages(text: str) -> list[Passage]:
    """Headlines end with their line, paragraphs with an empty one or before a headline."""
    found: list[Passage] = []
    begun = False
    for line in map(str.strip, text.split('\n')):
        # A paragraph goes on until an empty line or a headline.
        headline = line.startswith('#')
        if headline:
            found.append(Passage(True, line.lstrip('# ')))
        elif line and begun:
            found[-1] = Passage(False, f'{found[-1].text} {line}')
        elif line:
            found.append(Passage(False, line))
        begun = bool(line) and not headline
    return found
