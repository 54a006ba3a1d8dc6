"""The processes of a run, started by torchrun (or this one alone), and what they agree on."""

from program import Whole

import contextlib
import datetime
import os
import re
import time
import uuid
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from errors import FacesError, PeerLost, PeerMissing, ProcessError, RunError

Item = TypeVar('Item')

POLL = 0.02  # seconds between two looks at the store
# In the messages of gloo and NCCL when a peer has gone.
PEER_FAILURES = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Broken pipe',
    'Connection timed out',
    'No route to host',
    'NCCL',
    'Timed out',
)
# Rank 0 may read or draw a data set for hours while the others wait for it.
PATIENCE = datetime.timedelta(days=7)
SAID = 3  # seconds in which rank 0 tells of a mistake that every process meets


class World:
    """This process among those of a run; a context manager.

    rank, size: number of this process, and how many there are
    local_rank, local_size: the same on this machine
    main: whether it is the one that writes the run directory
    device: where this process computes
    """

    def __init__(self, device: torch.device, timeout: float = 1800, start: float = 300) -> None:
        """Find the other processes as the environment variables of torchrun describe them.

        device: the device asked for; of several processes on GPUs, each gets that of its local rank
        timeout: seconds that a process may keep the others waiting
        start: seconds that a process may come late
        Raises PeerMissing, which names the ranks that never came, and ProcessError for variables
        that torchrun has not set like this.
        """
        self.size = _inherited('WORLD_SIZE', 1, Whole(1, 100_000))
        self.rank = _inherited('RANK', 0, Whole(0, self.size - 1))
        self.local_size = _inherited('LOCAL_WORLD_SIZE', 1, Whole(1, self.size))
        self.local_rank = _inherited('LOCAL_RANK', 0, Whole(0, self.local_size - 1))
        self.main = self.rank == 0
        self.saved = False  # whether there is a checkpoint to go on from
        self.device = device
        self._control: dist.ProcessGroup | None = None
        self._patient: dist.ProcessGroup | None = None
        self._store: dist.Store | None = None
        if self.size > 1:
            self._connect(timeout, start)

    def _connect(self, timeout: float, start: float) -> None:
        on_gpu = self.device.type == 'cuda'
        # One GPU per process of this machine; work that names no device goes there too.
        if on_gpu:
            self.device = torch.device('cuda', self.local_rank)
            torch.cuda.set_device(self.device)
        wait = datetime.timedelta(seconds=timeout)
        self._store = self._rendezvous(start)
        dist.init_process_group(
            'nccl' if on_gpu else 'gloo',
            store=self._store,
            rank=self.rank,
            world_size=self.size,
            timeout=wait,
        )
        # Decisions are exchanged between CPUs, so that no GPU has to be waited for.
        self._control = dist.new_group(backend='gloo', timeout=wait)
        self._patient = dist.new_group(backend='gloo', timeout=PATIENCE)

    # ---- finding each other ----

    def _rendezvous(self, seconds: float) -> dist.Store:
        """Return the store that the processes of this start share, once all have come.

        torchrun's store outlives the processes that it restarts, and with it what they left there.
        So each process asks with a word that was never used before, rank 0 answers with a name for
        this start, and everything later lies under that name.
        """
        wait = datetime.timedelta(seconds=seconds)
        until = time.monotonic() + seconds
        address = os.environ.get('MASTER_ADDR', '')
        port = os.environ.get('MASTER_PORT', '0')

        # Unless torchrun serves the store, rank 0 does.
        serving = self.main and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True'
        try:
            store = dist.TCPStore(
                address, int(port), is_master=serving, timeout=wait, wait_for_workers=False
            )
            name = self._receive_all(store, until) if self.main else self._join(store, wait)
        except RuntimeError as error:
            raise PeerMissing(
                f'rank {self.rank} of {self.size}: rank 0 at {address}:{port} did not answer '
                f'within {seconds} s: is it running, with all the others, and can this machine '
                f'reach it? ({_first_line(error)})'
            ) from error
        return dist.PrefixStore(name, store)

    def _receive_all(self, store: dist.Store, until: float) -> str:
        """Rank 0: name this start, and answer the others until all have joined it."""
        name = uuid.uuid4().hex
        missing = set(range(1, self.size))
        while missing:
            # A word may be that of a process which has ended, so only `here` counts.
            for rank in sorted(missing):
                if store.check([f'hello/{rank}']):
                    word = store.get(f'hello/{rank}').decode()
                    store.set(f'answer/{word}', name)
                if store.check([f'{name}/here/{rank}']):
                    missing.remove(rank)
            if missing and time.monotonic() > until:
                ranks = ', '.join(map(str, sorted(missing)))
                raise PeerMissing(
                    f'rank {ranks} of {self.size} did not connect in time: start as many '
                    'processes as the run has, on every machine with the same torchrun command'
                )
            time.sleep(POLL)
        store.set(f'{name}/go', '')
        return name

    def _join(self, store: dist.Store, wait: datetime.timedelta) -> str:
        """All other ranks: ask for the name of this start, and wait for the rest."""
        # The answer is filed under a word of this process, so no earlier start can have given it.
        word = uuid.uuid4().hex
        store.set(f'hello/{self.rank}', word)
        store.wait([f'answer/{word}'], wait)
        name = store.get(f'answer/{word}').decode()

        # Nobody goes on before all are here: a rank that never comes is rank 0's to report.
        store.set(f'{name}/here/{self.rank}', '')
        store.wait([f'{name}/go'], wait)
        return name

    # ---- working together ----

    def wrap(self, net: nn.Module) -> nn.Module:
        """Return the network as one whose gradients are averaged over all processes."""
        if self.size == 1:
            return net
        on_gpu = self.device.type == 'cuda'
        return DistributedDataParallel(net, device_ids=[self.device.index] if on_gpu else None)

    def agree(self, stop: int, save: bool, seconds: float) -> tuple[int, bool, float]:
        """Return the signal by which any process is to stop, whether any wants to save, and rank
        0's clock.

        stop: number of the signal that this process has received, or 0
        The answer is equal everywhere, so that all processes take the same turns.
        """
        if self.size == 1:
            return stop, save, seconds
        # The maximum of all: 'yes' wins, and of the clocks only that of rank 0 is not 0.
        words = torch.tensor([stop, save, seconds if self.main else 0.0], dtype=torch.float64)
        self._collective(dist.all_reduce, words, dist.ReduceOp.MAX, group=self._control)
        return int(words[0]), bool(words[1]), float(words[2])

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar tensor over all processes; a GPU is not waited for."""
        if self.size == 1:
            return value
        value = value / self.size
        self._collective(dist.all_reduce, value)
        return value

    def gather(self, items: list[Item]) -> list[Item]:
        """Return the lists of all processes, concatenated by rank; equal everywhere."""
        if self.size == 1:
            return items
        lists: list[list[Item]] = [[] for _ in range(self.size)]
        self._collective(dist.all_gather_object, lists, items, group=self._control)
        return [item for part in lists for item in part]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Context that rank 0 goes through before the others."""
        if not self.main:
            self.barrier(self._patient)
        yield
        if self.main:
            self.barrier(self._patient)

    @contextlib.contextmanager
    def sync_gradients(self, nets: Iterable[DistributedDataParallel], last: bool) -> Iterator[None]:
        """Context of the passes of wrapped networks; `last`: whether they end a step.

        Gradients are averaged over the processes only then, however many batches a step has.
        """
        with contextlib.ExitStack() as stack:
            if self.size > 1 and not last:
                for net in nets:
                    stack.enter_context(net.no_sync())
            yield

    def barrier(self, group: dist.ProcessGroup | None = None) -> None:
        """Wait for all processes."""
        if self.size > 1:
            self._collective(dist.barrier, group=group or self._control)

    def require_same(self, facts: Mapping[str, str]) -> None:
        """Raise RunError, in all processes alike, unless all have found the same.

        facts: {what: its value for this process}
        """
        every = self.gather([dict(facts)])
        for what, value in every[0].items():
            for rank, other in enumerate(every):
                if other[what] != value:
                    raise RunError(
                        f'rank {rank} of {self.size} begins with something else than rank 0: '
                        f'{what} is {other[what]}, of rank 0 {value}; all machines of a run need '
                        'the same --out, on a disk that they share, and the same data'
                    )

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                self._collective(dist.broadcast, tensor, 0)

    # ---- losing each other ----

    def _collective(
        self, operation: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        try:
            operation(*args, **kwargs)
        except RuntimeError as error:
            raise self.peer_lost(error) from error

    def is_peer_failure(self, error: Exception) -> bool:
        """Tell whether an error in a backward pass means that another process is gone."""
        return self.size > 1 and any(words in str(error) for words in PEER_FAILURES)

    def attribute(self, error: FacesError) -> None:
        """Let an error that this process alone has met be told, under its rank.

        What all meet is told by rank 0 alone, and so is what it has told of first.
        """
        if self._store is None or not error.of_all:
            return
        if self.main:
            with contextlib.suppress(RuntimeError):
                self._store.set('said', str(error))
            return
        said = ''
        try:
            self._store.wait(['said'], datetime.timedelta(seconds=SAID))
            said = self._store.get('said').decode()
        except dist.DistNetworkError:
            return  # rank 0, which serves the store unless torchrun does, has ended before
        except RuntimeError:
            pass  # it has said nothing
        if said != str(error):
            error.of_all = False
            error.args = (f'rank {self.rank} of {self.size}: {error}',)

    def peer_lost(self, error: Exception) -> PeerLost:
        """Make the PeerLost for what a collective operation raised."""
        advice = (
            '. The same command goes on from the last checkpoint; torchrun --max-restarts does so '
            'by itself'
        )
        return PeerLost(
            f'rank {self.rank} of {self.size}: another process of this run has ended '
            f'({_first_line(error)}); its own message stands above{advice if self.saved else ""}'
        )

    def __enter__(self) -> 'World':
        """Return this world, already connected."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the group, unless an error may have left it broken."""
        if self.size > 1 and kind is None:
            dist.destroy_process_group()


def _inherited(name: str, default: int, range_: Whole) -> int:
    """A number that torchrun gives its processes, or another program has left behind."""
    text = os.environ.get(name)
    try:
        if name == 'WORLD_SIZE' and text not in (None, '1') and not os.environ.get('MASTER_ADDR'):
            raise ArgumentTypeError(f'{text}, but MASTER_ADDR is not set')
        return default if text is None else range_(text)
    except ArgumentTypeError as error:
        raise ProcessError(
            f'{name} in the environment: {error}: start several processes with torchrun, or unset '
            f'{name}'
        ) from None


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0]
    return re.sub(r'^\[[^]]*\] ', '', line)[:200]  # without the place in the source of gloo


@contextlib.contextmanager
def first_on_gpu(device: torch.device) -> Iterator[None]:
    """Let what is computed meanwhile go before what other streams of a GPU have to do.

    The degradation of the next batch thus takes what the training leaves.
    """
    if device.type != 'cuda':
        yield
        return
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device, priority=-1)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)
