"""Addresses of tar shards in stores (s3://, gs://, https://, ...), whatever fsspec can open.

A store lists what a pattern or a folder stands for; if nothing is found, the reason is told.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import fsspec

from errors import BadFile, DataError
from storage import shown

from . import shards
from .aliases import FilePath
from .listing import natural
from .manifest import Image
from .waiting import Stalled, Thread

# Bytes per request: with less, a connection waits longer than it reads.
BLOCK = 16 << 20
# Seconds in which an address has to answer, and a shard to send something worth while.
TIMEOUT = 30.0

T = TypeVar('T')


class Shards:
    """Addresses of the shards of a data set; len() is their number.

    timeout: seconds without an answer, or with too few bytes, after which a shard is left out
    held: {bytes: files} that are validated on, of which copies are told
    """

    def __init__(
        self,
        urls: Iterable[str],
        timeout: float = TIMEOUT,
        held: Mapping[int, Sequence[Image]] | None = None,
    ) -> None:
        self.urls = list(urls)
        self.timeout = timeout
        self.held = held or {}

    def __len__(self) -> int:
        return len(self.urls)

    def beside(self, held: Mapping[int, Sequence[Image]]) -> 'Shards':
        """The same shards, copies of these files told as well."""
        sizes = {*self.held, *held}
        both = {size: [*self.held.get(size, ()), *held.get(size, ())] for size in sizes}
        return Shards(self.urls, self.timeout, both)


def is_url(source: FilePath) -> bool:
    """Whether a source is an address rather than a path."""
    return '://' in str(source)


def find(source: str, timeout: float = TIMEOUT) -> Shards:
    """Shards of an address, in natural order.

    source: with braces ({000..099}), or with stars or a folder, which the store lists
    timeout: seconds, as for Shards
    Raises DataError: a library is not installed, nothing is found, a store does not answer.
    """
    # Any pattern of several may stand for nothing; only all of them together may not.
    urls: list[str] = []
    for url in shards.braces(source):
        try:
            urls += _listed(url, timeout)
        except ImportError as e:
            raise DataError(
                f'{shown(source)}: {e}: pip install {_package(e)} '
                '(for s3:// and https://: pip install -e .[remote])'
            ) from e
        except Exception as e:  # every file system has its own
            raise DataError(
                f'{shown(source)}: cannot be listed ({reason(e)}); check {checks(source)}'
            ) from e
    if not urls:
        raise DataError(f'{shown(source)}: no shards found; {_why_none(source, timeout)}')
    return Shards(sorted(set(urls), key=natural), timeout)


def find_all(sources: Sequence[str], timeout: float = TIMEOUT) -> Shards:
    """Shards of several addresses, one after the other: as of `find`."""
    # Named twice, a shard would be read twice in an epoch.
    found = [find(source, timeout).urls for source in sources]
    return Shards(dict.fromkeys(itertools.chain.from_iterable(found)), timeout)


def _listed(url: str, timeout: float) -> list[str]:
    """Addresses that an address stands for. Raises whatever its file system does, and BadFile."""
    fs, path = fsspec.core.url_to_fs(url)
    # Only stars and folders need an answer from the store; braces are expanded before.
    if '*' in url:
        found = _ask(lambda: fs.glob(path), timeout)
    elif _is_shard(url) or not _ask(lambda: _is_folder(fs, path), timeout):
        return [url]
    else:
        found = _ask(lambda: fs.glob(f'{path.rstrip("/")}/*.tar'), timeout)
        if not found:
            raise BadFile('a folder without .tar files; those in folders below it: FOLDER/**/*.tar')
    return [fs.unstrip_protocol(p) for p in found]


def _is_shard(url: str) -> bool:
    """Whether an address is one of a shard by its name."""
    # A web server has no folders, and might send a whole shard to tell.
    return url.startswith('http') or url.partition('?')[0].lower().endswith('.tar')


def _is_folder(fs: Any, path: str) -> bool:
    """Whether a store has a folder of this name. Raises FileNotFoundError for a missing bucket."""
    try:
        return fs.info(path)['type'] == 'directory'
    except PermissionError:
        return False  # who may read a shard need not be allowed to list
    except FileNotFoundError:
        # A missing shard is told when its turn comes.
        if '/' in path.strip('/'):
            return False
        raise


def _why_none(source: str, timeout: float) -> str:
    """Why a pattern finds nothing, in words."""
    fs, path = fsspec.core.url_to_fs(next(iter(shards.braces(source))))
    try:
        # Nothing is found in a bucket that is not there, either, which only a listing tells.
        _ask(lambda: fs.ls(path.partition('*')[0].rpartition('/')[0]), timeout)
    except Exception as e:  # every file system has its own
        return f'{reason(e)}; check {checks(source)}'
    return 'check the pattern'


def _ask(question: Callable[[], T], timeout: float) -> T:
    """What a store answers. Raises whatever its file system does, and Stalled."""
    started = time.monotonic()

    def check() -> None:
        if time.monotonic() - started > timeout:
            raise Stalled(f'no answer in {timeout:g} s, --stream-timeout')

    with contextlib.closing(Thread(question() for _ in range(1))) as thread:
        return next(thread.items(check))


def checks(source: str) -> str:
    """What to look at when a store does not answer as it should."""
    s3 = "; AWS_ENDPOINT_URL names a store other than Amazon's" if source.startswith('s3') else ''
    return f'the address, the credentials and the network{s3}'


def _package(error: ImportError) -> str:
    """Name of the missing package; fsspec wraps the original error."""
    cause = getattr(error.__cause__, 'name', None)
    return cause or error.name or 'the package it names'


def reason(error: Exception) -> str:
    """First line of an error, with its class unless it is ours."""
    text = (str(error).strip().splitlines() or [''])[0][:300]
    if isinstance(error, FileNotFoundError):
        return text if 'not exist' in text else f'{error.filename or text} does not exist'
    return text if isinstance(error, BadFile) else f'{type(error).__name__}: {text}'
