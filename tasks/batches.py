"""A validation set, or a folder of pictures, read ahead of the network in groups of equal sizes,
shared by processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from training.world import World

Item = TypeVar('Item')
SHOWN = 4  # pictures of a validation set that are shown


def ahead(pool: Executor, get: Callable[[int], Item], count: int, depth: int) -> Iterator[Item]:
    """get(0), get(1), ... in order, computed by the pool up to `depth` ahead: a folder of any size
    in bounded memory.
    """
    # As many futures as `depth` bound the memory; results leave in the order they were asked for.
    waiting: deque[Future[Item]] = deque()
    for i in range(count):
        waiting.append(pool.submit(get, i))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def grouped(items: Iterable[tuple[Any, ...]], limit: int) -> Iterator[list[tuple[Any, ...]]]:
    """Runs of up to `limit` items (name, tensors, or None where one is missing) of equal sizes."""
    # Pictures of a folder may differ in size, and only equal ones make a batch.
    group: list[tuple[Any, ...]] = []
    shapes_before = None
    for item in items:
        shapes = [x if x is None else x.shape for x in item[1:]]
        if group and (len(group) == limit or shapes != shapes_before):
            yield group
            group = []
        group.append(item)
        shapes_before = shapes
    if group:
        yield group


def batches(
    data: Sequence[Any], device: torch.device | str, world: World | None, batch: int, threads: int
) -> Iterator[list[torch.Tensor]]:
    """This process's share of a validation set: [tensors of the items without their names],
    stacked, on the device.

    data: items (name, tensor, ...); of several processes each takes every size-th item
    """
    # A stride over the numbers gives every process the same mixture of easy and hard images.
    mine = share(len(data), world)
    with ThreadPoolExecutor(threads) as pool:
        items = ahead(pool, lambda i: data[mine[i]], len(mine), 2 * batch)
        for group in grouped(items, batch):
            columns = list(zip(*group, strict=True))
            yield [_on(torch.stack(column), torch.device(device)) for column in columns[1:]]


def _on(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device; on a GPU without waiting for it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else x.to(device)


def share(count: int, world: World | None) -> range:
    """Numbers of the items that this process takes."""
    return range(world.rank, count, world.size) if world else range(count)


def collected(rows: list[Any], count: int, world: World | None) -> list[Any]:
    """Rows of all processes in the order of the items, everywhere. rows: one for each item of
    `share`
    """
    if world is None or world.size == 1:
        return rows
    # Rows come back process by process; their numbers put them into the order of the set.
    numbered = list(zip(share(count, world), rows, strict=True))
    return [row for _, row in sorted(world.gather(numbered), key=lambda pair: pair[0])]
