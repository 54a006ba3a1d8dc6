"""NVIDIA DALI as the pipes use it, on the GPU of gpu_stand_in.py.

    with Gpu() as gpu, Dali(gpu):
        pipe = dali_pipes.make('dali', images, recipe, device='cuda', decode='cpu')

It runs ahead by its queue's depth, on a stream of its own, and has one buffer more than that: the
one it gave out is written again once `run` is called again, which waits for no one.
"""

import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpu_stand_in import DEVICE, Gpu, Stream

from sources import files

# A node of the graph: what it yields of a batch, given the outputs of the sources.
Node = Callable[[dict[Any, Any]], list[Any]]


class Dali:
    """Module `nvidia.dali` for as long as the block lasts."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> 'Dali':
        fn = types.ModuleType('nvidia.dali.fn')
        fn.external_source = _external_source
        fn.decoders = types.SimpleNamespace(image=_decoded)
        fn.flip = _flipped
        names = types.SimpleNamespace(UINT8='uint8', INT32='int32')
        dali = types.ModuleType('nvidia.dali')
        dali.fn = fn
        kinds = types.SimpleNamespace(RGB='rgb')
        dali.types = types.SimpleNamespace(DALIDataType=names, DALIImageType=kinds)
        dali.pipeline_def = self._pipeline_def
        nvidia = types.ModuleType('nvidia')
        nvidia.dali = dali
        for name, module in (('nvidia', nvidia), ('nvidia.dali', dali), ('nvidia.dali.fn', fn)):
            self._patch.setitem(sys.modules, name, module)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _pipeline_def(self, **how: Any) -> Any:
        return lambda graph: lambda: Pipeline(self._gpu, graph, **how)


class _Node:
    """An output of the graph; `evaluate` gives its values of a batch."""

    def __init__(self, evaluate: Node, on_gpu: bool = False) -> None:
        self.evaluate, self.on_gpu = evaluate, on_gpu

    def gpu(self) -> '_Node':
        return _Node(self.evaluate, on_gpu=True)


def _external_source(source: Any, dtype: Any, batch: bool, num_outputs: int | None = None) -> Any:
    assert batch

    def of(number: int | None) -> _Node:
        def evaluate(seen: dict[Any, Any]) -> list[Any]:
            if source not in seen:
                try:
                    seen[source] = source()
                except Exception as e:
                    raise RuntimeError(f'Critical error in pipeline:\n{e}') from e
            return seen[source] if number is None else seen[source][number]

        return _Node(evaluate)

    return of(None) if num_outputs is None else [of(i) for i in range(num_outputs)]


def _decoded(data: _Node, device: str, output_type: Any) -> _Node:
    assert device in ('cpu', 'mixed')
    return _Node(
        lambda seen: [_pixels(file.tobytes()) for file in data.evaluate(seen)],
        on_gpu=device == 'mixed',
    )


def _pixels(file: bytes) -> np.ndarray:
    if file[:2] == b'P6':  # what the pipe has decoded itself
        width, height = map(int, file.split(b' ')[1:3])
        return np.frombuffer(file, np.uint8)[-width * height * 3 :].reshape(height, width, 3)
    return files.decode(file)


def _flipped(image: _Node, horizontal: _Node) -> _Node:
    def evaluate(seen: dict[Any, Any]) -> list[Any]:
        images, flips = image.evaluate(seen), horizontal.evaluate(seen)
        return [x[:, ::-1] if flip else x for x, flip in zip(images, flips, strict=True)]

    return _Node(evaluate, image.on_gpu)


class Pipeline:
    """What `pipeline_def` makes of a function."""

    def __init__(
        self,
        gpu: Gpu,
        graph: Callable[[], _Node],
        batch_size: int,
        num_threads: int,
        device_id: int | None,
        prefetch_queue_depth: int = 2,
        exec_pipelined: bool = True,
        exec_async: bool = True,
    ) -> None:
        self._gpu, self._output = gpu, graph()
        self._on_gpu = device_id is not None
        self._depth = prefetch_queue_depth if exec_async else 0
        self._most = batch_size
        self._ready: deque[Output] = deque()
        self._buffers: deque[Any] = deque()  # the one that was written first comes first
        self._stream = Stream(gpu, gpu._new_stream().cuda_stream) if self._on_gpu else None

    def build(self) -> None:
        pass

    def run(self) -> tuple['Output']:
        while len(self._ready) <= self._depth:
            self._ready.append(Output(self._made()))
        if self._stream:
            self._stream.synchronize()
        return (self._ready.popleft(),)

    def _made(self) -> Any:
        images = self._output.evaluate({})
        if not self._stream or not self._output.on_gpu:
            return images
        whole = torch.from_numpy(np.stack(images))
        with self._gpu._in_stream(self._stream):
            if len(self._buffers) <= self._depth:
                shape = (self._most, *whole.shape[1:])
                buffer = torch.empty(shape, dtype=torch.uint8, device=DEVICE)
            else:
                buffer = self._buffers.popleft()
            self._buffers.append(buffer)
            part = buffer[: len(whole)]
            part.inner.copy_(whole)
            self._gpu.touched(self._stream.cuda_stream, 'DALI', writes=[buffer.block])
        return part


class Output:
    """What `run` returns."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def as_tensor(self) -> Any:
        return self._made if isinstance(self._made, torch.Tensor) else np.stack(self._made)

    def as_cpu(self) -> 'Output':
        made = self._made
        return Output(list(made.inner.numpy()) if isinstance(made, torch.Tensor) else made)

    def __iter__(self) -> Any:
        return iter(self._made)
