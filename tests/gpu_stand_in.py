"""A CUDA GPU for torch on a CPU: what is queued runs at once, and its order is judged.

    with Gpu() as gpu:
        pipe = dali_pipes.make('torch', images, recipe, device='cuda', cache='gpu')

Tensors "on cuda" are stand-ins that hold a tensor on the CPU. A GPU may run what different streams
were given in any order that events, streams and the host do not forbid. Whether a result depends on
the order is decided by the event handler of torch's own CUDA sanitizer, which is told of every
access: of operators, kernels (cupy_stand_in.py), DALI (dali_stand_in.py) and of the host to pinned
memory. Freed memory is handed out again as torch's allocator does it, to the stream that it was
allocated on, so that a missing `record_stream` is a race here as well.

Raises RaceError for two accesses without an order. `waits` names the operators that the host waits
for: those that give it values, and copies that are not asynchronous or not of pinned memory.
"""

import contextlib
import threading
import types
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.cuda._sanitizer import EventHandler, zip_arguments
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from degrade import noise, usm

DEVICE = torch.device('cuda', 0)
DEFAULT, HOST = 0, -1  # streams: CUDA's, and what Python itself does
MEMORY = 8 << 30  # bytes that are free, unless a test says otherwise
CROSSING = 'copy', 'index'  # words in the names of operators that take tensors of two devices
KEPT = noise._tables, usm._row_on  # tables on a device, kept for good


class RaceError(AssertionError):
    """The result depends on which of two streams is faster."""


class Block:
    """Memory on the GPU, or pinned. Its name is what the sanitizer takes for it."""

    def __init__(self, name: int, address: int, size: int, on_gpu: bool) -> None:
        self.name, self.address, self.size, self.on_gpu = name, address, size, on_gpu
        self.others: set[int] = set()  # streams that `record_stream` named

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size


class StandIn(torch.Tensor):
    """A tensor on the GPU, or in pinned memory; `inner` holds its values."""

    inner: torch.Tensor
    block: Block
    gpu: 'Gpu'

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, block: Block, gpu: 'Gpu') -> 'StandIn':
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            # To C++, which may be built without CUDA, no device that it would have to switch to.
            device=torch.device('meta' if block.on_gpu else 'cpu'),
        )
        made.inner, made.block, made.gpu = inner, block, gpu
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu = next(a.gpu for a in tree_leaves((args, kwargs)) if isinstance(a, StandIn))
        return gpu.run(func, args, kwargs or {})

    # What torch does without asking for an operator.

    @property
    def device(self) -> torch.device:
        return DEVICE if self.block.on_gpu else torch.device('cpu')

    @property
    def is_cuda(self) -> bool:
        return self.block.on_gpu

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, **_: Any) -> Any:
        if self.block.on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        self.gpu.touched(HOST, 'numpy', writes=[self.block])
        return self.inner.numpy()

    def tolist(self) -> Any:
        if self.block.on_gpu:
            self.gpu.read_by_host('tolist')
        self.gpu.touched(HOST, 'tolist', reads=[self.block])
        return self.inner.tolist()

    def new_tensor(self, data: Any) -> Any:
        return torch.as_tensor(data, dtype=self.dtype).to(self.device)

    def is_pinned(self, *_: Any) -> bool:
        return not self.block.on_gpu

    def record_stream(self, stream: Any) -> None:
        self.block.others.add(stream.cuda_stream)

    def __repr__(self, **_: Any) -> str:
        return f'StandIn({self.inner!r}, {self.device})'


class Stream:
    """torch.cuda.Stream."""

    def __init__(self, gpu: 'Gpu', number: int) -> None:
        self._gpu = gpu
        self.cuda_stream = number
        self.device = DEVICE

    def record_event(self, event: Any = None) -> 'Event':
        event = event or Event(self._gpu)
        event.record(self)
        return event

    def wait_event(self, event: 'Event') -> None:
        event.wait(self)

    def wait_stream(self, other: 'Stream') -> None:
        self.wait_event(other.record_event())

    def synchronize(self) -> None:
        with self._gpu.lock:
            self._gpu.order._handle_stream_synchronization(self.cuda_stream)


class Event:
    """torch.cuda.Event."""

    def __init__(self, gpu: 'Gpu') -> None:
        self._gpu = gpu
        with gpu.lock:
            gpu.order._handle_event_creation(id(self))

    def record(self, stream: Stream | None = None) -> None:
        number = (stream or self._gpu.current()).cuda_stream
        with self._gpu.lock:
            self._gpu.order._handle_event_record(id(self), number)

    def wait(self, stream: Stream | None = None) -> None:
        number = (stream or self._gpu.current()).cuda_stream
        with self._gpu.lock:
            self._gpu.order._handle_event_wait(id(self), number)

    def synchronize(self) -> None:
        with self._gpu.lock:
            self._gpu.order._handle_event_synchronization(id(self))

    def elapsed_time(self, _: 'Event') -> float:
        return 1.0


class Gpu:
    """The GPU, for as long as the block lasts; see above."""

    def __init__(self, memory: int = MEMORY) -> None:
        self.free = memory
        self.lock = threading.RLock()
        self.order = EventHandler()
        self.waits: list[str] = []  # operators for whose result the host waited
        self._streams = 0
        self._names = 0
        self._here = threading.local()
        self._blocks: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self._freed: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._registered: dict[int, Block] = {}  # by address, memory that was pinned later
        self._patch = pytest.MonkeyPatch()
        self.order._handle_stream_creation(HOST)

    # ---- in torch's place ----

    def __enter__(self) -> 'Gpu':
        here = dict(
            Stream=lambda device=None, **_: self._new_stream(),
            Event=lambda **_: Event(self),
            stream=self._in_stream,
            current_stream=lambda device=None: self.current(),
            synchronize=lambda device=None: self.synchronize(),
            mem_get_info=lambda device=None: (self.free, self.free),
            memory_allocated=lambda device=None: 0,
            memory_reserved=lambda device=None: 0,
            max_memory_allocated=lambda device=None: 0,
            reset_peak_memory_stats=lambda device=None: None,
            current_device=lambda: 0,
            device_count=lambda: 1,
            is_available=lambda: True,
            get_device_name=lambda device=None: 'stand-in',
            get_device_capability=lambda device=None: (9, 0),
            cudart=lambda: types.SimpleNamespace(
                cudaHostRegister=self._register, cudaHostUnregister=self._unregister
            ),
            set_device=lambda device: None,
            is_bf16_supported=lambda **_: True,
            _lazy_init=lambda: None,
        )
        for name, value in here.items():
            self._patch.setattr(torch.cuda, name, value)
        # What DataLoader asks before its thread pins what the workers send.
        for name, value in (('is_available', True), ('current_device_index', 0)):
            self._patch.setattr(torch.accelerator, name, lambda value=value: value)
        self._patch.setattr(torch.accelerator, 'current_accelerator', lambda *_: DEVICE)
        self._patch.setattr(torch.accelerator, 'set_device_index', lambda _: None)
        self._patch.setattr(torch.Tensor, 'pin_memory', lambda x: self.allocated(x.clone(), False))
        self._patch.setattr(torch, 'from_dlpack', lambda x: x)

        # Dispatch modes belong to a thread: every new one gets the mode as well.
        run = threading.Thread.run
        gpu = self

        def run_on_gpu(thread: threading.Thread) -> None:
            with _Mode(gpu):
                run(thread)

        self._patch.setattr(threading.Thread, 'run', run_on_gpu)
        self._forget()
        self._mode = _Mode(self)
        self._mode.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._mode.__exit__(None, None, None)
        self._patch.undo()
        self._forget()

    def current(self) -> Stream:
        """The current stream of this thread."""
        stack = getattr(self._here, 'stack', None)
        return stack[-1] if stack else Stream(self, DEFAULT)

    def synchronize(self) -> None:
        """Wait for everything."""
        with self.lock:
            self.order._handle_device_synchronization()

    def _new_stream(self) -> Stream:
        with self.lock:
            self._streams += 1
            self.order._handle_stream_creation(self._streams)
            return Stream(self, self._streams)

    @contextlib.contextmanager
    def _in_stream(self, stream: Stream) -> Iterator[None]:
        stack = self._here.__dict__.setdefault('stack', [])
        stack.append(stream)
        try:
            yield
        finally:
            stack.pop()

    def _register(self, address: int, size: int, _: int) -> int:
        self._registered[address] = Block(self._new_name(), address, size, on_gpu=False)
        return 0

    def _unregister(self, address: int) -> int:
        # The GPU can no longer reach it.
        self.touched(HOST, 'cudaHostUnregister', writes=[self._registered.pop(address)])
        return 0

    # ---- memory ----

    def allocated(self, inner: torch.Tensor, on_gpu: bool) -> StandIn:
        """A tensor of its own memory, which takes the place of what its stream has freed."""
        storage, stream = inner.untyped_storage(), self.current().cuda_stream
        with self.lock:
            freed = self._freed[stream, storage.nbytes()] if on_gpu else []
            name = freed.pop() if freed else self._new_name()
            block = Block(name, storage.data_ptr(), storage.nbytes(), on_gpu)
            self._blocks[storage._cdata] = block
            if on_gpu:
                weakref.finalize(block, self._free, name, stream, block.size, block.others)
        return StandIn(inner, block, self)

    def _new_name(self) -> int:
        self._names += 1
        return self._names

    def _forget(self) -> None:
        """What is kept on a device for good was kept on this one."""
        for function in KEPT:
            function.cache_clear()

    def _free(self, name: int, stream: int, size: int, others: set[int]) -> None:
        # Memory that another stream was recorded for is held back until that stream is done.
        with self.lock:
            if not others - {stream}:
                self._freed[stream, size].append(name)

    def block_at(self, address: int) -> Block | None:
        """The block that an address lies in."""
        with self.lock:
            live = list(self._blocks.values())
        return next((block for block in live if address in block), None)

    def _block_of(self, x: torch.Tensor) -> Block | None:
        """The block of a tensor; None of memory that the GPU cannot reach."""
        if isinstance(x, StandIn):
            return x.block
        return next((b for b in self._registered.values() if x.data_ptr() in b), None)

    # ---- accesses ----

    def touched(
        self, stream: int, what: str, reads: Iterable[Block] = (), writes: Iterable[Block] = ()
    ) -> None:
        """Something is queued on a stream, or done by the host. Raises RaceError."""
        written = {b.name for b in writes}
        read = {b.name for b in reads} - written
        if not written | read:
            return
        with self.lock:
            # Whatever is queued begins after what the host has done so far.
            states = self.order.syncs.current_sync_states
            if stream != HOST:
                self.order.syncs._state_wait_for_other(states[stream], states[HOST])
            aliases: dict[int, list[str]] = {name: [] for name in written | read}
            errors = self.order._handle_kernel_launch(stream, read, written, set(), what, aliases)
        if errors:
            before, now = errors[0].previous_access, errors[0].current_access
            raise RaceError(
                f'{now.operator} on stream {now.stream} {now.type}: not ordered after '
                f'{before.operator} on stream {before.stream}, {before.type}'
            )

    def read_by_host(self, what: str) -> None:
        """The host waits for the current stream."""
        self.waits.append(what)
        self.current().synchronize()

    def launched(self, name: str, pointers: Iterable[tuple[int, bool]]) -> None:
        """A kernel is launched with (address, whether it is written there)."""
        found = [(self.block_at(address), written) for address, written in pointers if address]
        assert all(block for block, _ in found), f'{name} is given memory that is not there'
        assert all(block.on_gpu for block, _ in found), f'{name} is given memory of the host'
        reads = [block for block, written in found if not written]
        writes = [block for block, written in found if written]
        self.touched(self.current().cuda_stream, name, reads, writes)

    # ---- operators ----

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on the CPU, and note what it accesses where."""
        what = func._schema.name
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        mine = [a for a in given if isinstance(a, StandIn)]
        device = kwargs.get('device')
        device = torch.device(device) if device is not None else None
        pinned = bool(kwargs.get('pin_memory'))
        # Indices are brought to where C++ takes the tensor to be.
        to_gpu = device is not None and device.type in ('cuda', 'meta')
        on_gpu = to_gpu or any(a.block.on_gpu for a in mine)
        if not (mine or to_gpu or pinned):
            return func(*args, **kwargs)

        # As torch has it: only copies, indices and numbers go from one device to another.
        there = [isinstance(a, StandIn) and a.block.on_gpu for a in given if a.dim()]
        if len(set(there)) > 1 and not any(word in what for word in CROSSING):
            raise RuntimeError(f'{what}: expected all tensors on the same device, not cuda and cpu')

        inner = {a.inner.untyped_storage()._cdata: a for a in mine}
        bare_kwargs = {k: v for k, v in kwargs.items() if k not in ('device', 'pin_memory')}
        bare_args, bare_kwargs = tree_map(_inner, (args, bare_kwargs))
        out = func(*bare_args, **bare_kwargs)

        # What is new belongs where the operator ran, unless that was told.
        reads, writes = self._accesses(func, args, kwargs)
        new_on_gpu = on_gpu and (device is None or to_gpu)

        def wrapped(t: Any) -> Any:
            if not isinstance(t, torch.Tensor):
                return t
            owner = inner.get(t.untyped_storage()._cdata)
            if owner is not None:
                same = next((a for a in mine if a.inner is t), None)
                return same if same is not None else StandIn(t, owner.block, self)
            if not (new_on_gpu or pinned):
                return t
            made = self.allocated(t, new_on_gpu)
            if 'empty' not in func._schema.name:
                writes.append(made.block)
            return made

        results = tree_map(wrapped, out)
        self.touched(self.current().cuda_stream if on_gpu else HOST, what, reads, writes)
        named = {a.name: value for a, value in zip_arguments(func._schema, args, kwargs)}
        if on_gpu and self._waits(given, results, bool(named.get('non_blocking'))):
            self.read_by_host(what)
        return results

    def _accesses(self, func: Any, args: Any, kwargs: Any) -> tuple[list[Block], list[Block]]:
        """Blocks that an operator reads and writes of its arguments."""
        reads: list[Block] = []
        writes: list[Block] = []
        for argument, value in zip_arguments(func._schema, args, kwargs):
            alias = argument.alias_info
            if alias is not None and not alias.is_write:
                continue  # a view takes no more than the shape
            to = writes if alias is not None else reads
            tensors = [a for a in tree_leaves(value) if isinstance(a, torch.Tensor)]
            to += [block for block in map(self._block_of, tensors) if block]
        return reads, writes

    def _waits(self, given: list[Any], results: Any, non_blocking: bool) -> bool:
        """Whether the host waits for an operator on the GPU."""
        # For values that Python is given, and for memory that the GPU cannot reach by itself.
        made = [r for r in tree_leaves(results) if r is not None]
        if made and not any(isinstance(r, StandIn) for r in made):
            return True
        if any(a.dim() and not self._block_of(a) for a in given):
            return True

        # Copies wait unless they are told not to.
        places = {a.block.on_gpu for a in (*given, *made) if isinstance(a, StandIn)}
        return len(places) > 1 and not non_blocking


class _Mode(TorchDispatchMode):
    """Every operator of a thread goes through the GPU."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._gpu.run(func, args, kwargs or {})


def _inner(a: Any) -> Any:
    return a.inner if isinstance(a, StandIn) else a
