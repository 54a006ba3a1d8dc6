"""The processes of one run, started by torchrun (or just this one): who this is, and what they have to agree on."""

import contextlib
import datetime
import os
import time
import uuid

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from errors import PeerLost, PeerMissing


class World:
    """rank, size: this process and how many there are; main: whether it is the one that writes. Context manager.

    device: torch.device asked for; with several processes on GPUs each gets the GPU of its local rank.
    timeout: seconds that a process may keep the others waiting; start: that it may come late. Raises PeerMissing naming the ranks that never came.
    """

    def __init__(self, device, timeout=1800, start=300):
        self.rank, self.size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
        self.main, self.device, self._control = self.rank == 0, device, None
        self.local, self.local_size = (
            int(os.environ.get('LOCAL_RANK', 0)),
            int(os.environ.get('LOCAL_WORLD_SIZE', 1)),
        )
        if self.size == 1:
            return
        if device.type == 'cuda':
            self.device = torch.device('cuda', self.local)
            torch.cuda.set_device(self.device)
        wait = datetime.timedelta(seconds=timeout)
        dist.init_process_group(
            'nccl' if device.type == 'cuda' else 'gloo',
            store=self._all_here(start),
            rank=self.rank,
            world_size=self.size,
            timeout=wait,
        )
        self._control = dist.new_group(
            backend='gloo', timeout=wait
        )  # words between CPUs, which make no GPU wait

    def _all_here(self, seconds):
        """The store that the processes of the run find each other by, once all have come.

        torchrun's store outlives the processes that it restarts, and with it what they left there. So rank 0 answers words that nobody said before with a name for this
        start, and everything later lies under that name.
        """
        wait, until = datetime.timedelta(seconds=seconds), time.monotonic() + seconds
        address, port = os.environ.get('MASTER_ADDR', ''), os.environ.get('MASTER_PORT', '0')
        ours = self.main and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True'
        try:
            store = dist.TCPStore(
                address, int(port), is_master=ours, timeout=wait, wait_for_workers=False
            )
            name = self._called(store, until) if self.main else self._calling(store, wait)
        except RuntimeError as e:
            raise PeerMissing(
                f'rank {self.rank} of {self.size}: rank 0 at {address}:{port} gives no word within {seconds} s: is it running, '
                f'with all the others, and may this machine reach it? ({str(e).splitlines()[0][:200]})'
            ) from e
        return dist.PrefixStore(name, store)

    def _called(self, store, until):
        name, missing = uuid.uuid4().hex, set(range(1, self.size))
        while missing:
            for rank in sorted(missing):
                if store.check([f'hello/{rank}']):
                    store.set(f'answer/{store.get(f"hello/{rank}").decode()}', name)
                if store.check([f'{name}/here/{rank}']):
                    missing.remove(rank)
            if missing and time.monotonic() > until:
                raise PeerMissing(
                    f'rank {", ".join(map(str, sorted(missing)))} of {self.size} did not come in time: start as many processes as the run has, '
                    'on every machine with the same torchrun command'
                )
            time.sleep(0.02)
        store.set(f'{name}/go', '')
        return name

    def _calling(self, store, wait):
        word = uuid.uuid4().hex
        store.set(f'hello/{self.rank}', word)
        store.wait([f'answer/{word}'], wait)
        name = store.get(f'answer/{word}').decode()
        store.set(f'{name}/here/{self.rank}', '')
        store.wait([f'{name}/go'], wait)
        return name

    def wrap(self, net):
        """The network whose gradients are averaged over all processes."""
        if self.size == 1:
            return net
        return DistributedDataParallel(
            net, device_ids=[self.device.index] if self.device.type == 'cuda' else None
        )

    def agree(self, stop, save, seconds):
        """(whether any process wants to stop, whether any wants to save, the seconds of rank 0): equal everywhere, so that all take the same turns."""
        if self.size == 1:
            return stop, save, seconds
        words = torch.tensor([stop, save, seconds if self.main else 0.0], dtype=torch.float64)
        self._do(dist.all_reduce, words, dist.ReduceOp.MAX, group=self._control)
        return bool(words[0]), bool(words[1]), float(words[2])

    def mean(self, value):
        """The mean of a scalar tensor over all processes, everywhere; a GPU is not waited for."""
        if self.size == 1:
            return value
        value = value / self.size
        self._do(dist.all_reduce, value)
        return value

    def gather(self, items):
        """Lists of all processes, one after the other, everywhere."""
        if self.size == 1:
            return items
        lists = [None] * self.size
        self._do(dist.all_gather_object, lists, items, group=self._control)
        return [item for part in lists for item in part]

    @contextlib.contextmanager
    def main_first(self):
        """A part that rank 0 goes through before the others."""
        if not self.main:
            self.barrier()
        yield
        if self.main:
            self.barrier()

    @contextlib.contextmanager
    def sync_gradients(self, nets, yes):
        """Context of forward and backward passes of wrapped networks: gradients are averaged over the processes only in the last of a step."""
        with contextlib.ExitStack() as stack:
            for net in nets if self.size > 1 and not yes else ():
                stack.enter_context(net.no_sync())
            yield

    def barrier(self):
        """Wait for all."""
        if self.size > 1:
            self._do(dist.barrier, group=self._control)

    def _do(self, what, *args, **kwargs):
        try:
            return what(*args, **kwargs)
        except RuntimeError as e:
            raise self.peer_lost(e) from e

    def is_peer_failure(self, error):
        """Whether an error in a backward pass says that another process is gone."""
        words = (
            'Connection closed by peer',
            'Connection reset by peer',
            'Broken pipe',
            'NCCL',
            'Timed out',
        )
        return self.size > 1 and any(w in str(error) for w in words)

    def peer_lost(self, error):
        """PeerLost for what a collective operation raised."""
        reason = str(error).strip().splitlines()[0][:200]
        return PeerLost(
            f'rank {self.rank} of {self.size}: another process of this run has ended ({reason}); its own message stands above. The same command goes on from '
            'the last checkpoint; torchrun --max-restarts does so by itself'
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.size > 1 and kind is None:
            dist.destroy_process_group()
