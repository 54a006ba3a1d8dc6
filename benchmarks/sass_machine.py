"""A GPU's machine code, executed on a CPU in NumPy, to count what it executes.

    with cuda_shim.in_place(launch):
        degrade.degrade(x, recipe, params, 'cuda')

Within the block every launch of degrade.kernels runs the instructions that ptxas made for sm_90:
loops, branches, calls and all. So the counts need no guess about trip counts, unrolling or
divergence; and a kernel that gives other results here than on the CPU (tools/cuda_shim.py) shows
that this file, or the compiler, is wrong.

All lanes of all warps that stand at the same instruction execute it together. Lanes of a warp that
branch apart meet again where the machine code says so (BSSY, BSYNC). An instruction counts once for
a warp and every time that lanes of it execute it, whether its predicate holds or not: that is a
slot of the scheduler's. Time, latency and caches are not modelled.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from degrade import kernels

from .sass import GLOBALS_AT, Instruction, Kernel, Operand, kernels_of
from .sass_values import TABLE, U32, U64

STEP = 16  # bytes of an instruction
ARGUMENTS_AT = 0x210  # in constant bank 0 of sm_90
LOCAL = 4096  # bytes of a thread's own memory
RUNNING, MEETING, BARRIER, ENDED = range(4)
SECTOR = 32  # bytes that memory is read and written by
NEVER = 1 << 60
LONGEST = 10_000  # turns of a loop, for every thread, after which it is taken for endless


class Segment(NamedTuple):
    """Memory that a kernel may touch."""

    base: int
    data: np.ndarray  # uint8


class Access(NamedTuple):
    """What an instruction touches of one memory."""

    memory: np.ndarray  # uint8
    places: np.ndarray  # first byte of each thread's
    threads: np.ndarray


class Executed(NamedTuple):
    """What some blocks of a launch have executed."""

    instructions: dict[int, int]  # by address: how many warps
    sectors: int  # of global memory, of 32 bytes each, that loads and stores ask for
    distinct: int  # of these, once for every block


class Machine:
    """Some blocks of one launch. All arrays have a place per thread."""

    def __init__(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        blocks: np.ndarray,
        arguments: bytes,
        segments: Sequence[Segment],
    ) -> None:
        """Nothing runs before `run`.

        blocks:    [n] numbers of the blocks, x fastest
        arguments: as the kernel finds them from ARGUMENTS_AT on
        """
        self.kernel = kernel
        self.threads = int(np.prod(block))
        assert self.threads % 32 == 0, 'a block must consist of whole warps'
        count = self.threads * len(blocks)
        self.registers = np.zeros((256, count), U32)
        self.uniform = np.zeros((64, count), U32)
        self.predicates = np.zeros((2, 8, count), bool)
        self.predicates[:, 7] = True
        self.meetings = np.zeros((16, count), U32)  # lanes that meet at a barrier of a warp
        self.pc = np.zeros(count, np.int64)
        self.state = np.zeros(count, np.uint8)
        self.warp = np.arange(count) >> 5
        self.bit = (U32(1) << (np.arange(count) & 31).astype(U32)).astype(np.float64)
        self.shared = np.zeros((len(blocks), kernel.shared + 1024), np.uint8)
        self.local = np.zeros((count, LOCAL), np.uint8)
        self.in_block = np.repeat(np.arange(len(blocks)), self.threads)
        self.specials = _specials(grid, block, blocks)
        self.bank = _bank(grid, block, arguments)
        tables = Segment(GLOBALS_AT, np.frombuffer(kernel.globals, np.uint8))
        self.segments = sorted([s for s in (*segments, tables) if len(s.data)])
        self.bases = np.array([s.base for s in self.segments], U64)
        self.counts: dict[int, int] = defaultdict(int)
        self.most = LONGEST * count  # of one instruction
        self.sectors = 0
        self.touched: list[np.ndarray] = []  # sectors and blocks, of every access
        self.group: Any = slice(None)  # threads that execute the present instruction
        self.mask: np.ndarray | None = None  # those of the group whose predicate holds

    # ---- values of the present group ----

    def u32(self, op: Operand) -> np.ndarray:
        """32 bits of an operand, a sign or complement applied."""
        value = self._plain(op)
        if not op.negated:
            return value
        return ~value if op.text[0] == '~' else (U32(0) - value)

    def _plain(self, op: Operand) -> np.ndarray:
        if op.kind == 'R':
            return self.registers[op.place][self.group]
        if op.kind == 'U':
            return self.uniform[op.place][self.group]
        if op.kind == 'I':
            return np.asarray(int(op.text, 0) & 0xFFFFFFFF, U32)
        assert op.kind == 'C', op
        return self.constant(op, 4)

    def addend(self, op: Operand) -> np.ndarray:
        """32 bits in 64; a negated operand is its complement and one."""
        value = self._plain(op)
        if not op.negated:
            return value.astype(U64)
        inverted = (~value).astype(U64)
        return inverted if op.text[0] == '~' else inverted + U64(1)

    def u64(self, op: Operand) -> np.ndarray:
        """64 bits of a pair of registers, or of a constant."""
        if op.kind == 'C':
            return self.constant(op, 8)
        if op.kind == 'I':
            return np.asarray(int(op.text, 0), np.int64).view(U64)
        if self.is_zero(op):
            return np.zeros((), U64)
        value = self._plain(op).astype(U64)
        value |= self._plain(op._replace(place=op.place + 1)).astype(U64) << U64(32)
        return U64(0) - value if op.negated else value

    def is_zero(self, op: Operand) -> bool:
        """Whether an operand is the register that is always zero."""
        return (op.kind, op.place) in (('R', 255), ('U', 63))

    def bits(self, op: Operand) -> np.ndarray:
        """Bits of a float, its sign applied."""
        if op.kind == 'I':
            return _float_bits(op.text)
        value = self._plain(op)
        if op.absolute:
            value = value & U32(0x7FFFFFFF)
        return value ^ U32(0x80000000) if op.negated else value

    def f32(self, op: Operand) -> np.ndarray:
        """Value of a float."""
        return np.asarray(self.bits(op)).view(np.float32)

    def f64(self, op: Operand) -> np.ndarray:
        """Value of a double."""
        if op.kind == 'I':
            return np.asarray(float(op.text.replace('QNAN', 'NAN')))
        value = np.asarray(self.u64(op._replace(negated=False))).view(np.float64)
        value = np.abs(value) if op.absolute else value
        return -value if op.negated else value

    def predicate(self, op: Operand) -> np.ndarray:
        """Truth of a predicate."""
        value = self.predicates[op.bank, op.place][self.group]
        return ~value if op.negated else value

    def constant(self, op: Operand, size: int) -> np.ndarray:
        """`size` bytes of a constant, as an integer of 32 or 64 bits."""
        bank = self.bank if op.bank == 0 else self.kernel.constants[op.bank]
        at = sum(self.u32(term).astype(np.int64) for term in op.terms)
        data = np.frombuffer(bank, np.uint8)
        places = np.asarray(at)[..., None] + np.arange(size)
        words = np.ascontiguousarray(data[places])
        kind = {1: np.uint8, 4: U32, 8: U64}[size]
        return words.view(kind)[..., 0].astype(U32 if size < 8 else U64)

    def special(self, name: str) -> np.ndarray:
        """Value of a special register."""
        value = self.specials[name]
        return value[self.group] if value.ndim else value

    # ---- results ----

    def put(self, op: Operand, value: np.ndarray) -> None:
        """Write 32 bits to a register, or 64 to a pair of them."""
        if self.is_zero(op):
            return
        file = self.uniform if op.kind == 'U' else self.registers
        value = np.asarray(value)
        if value.dtype == U64:
            self._write(file[op.place], (value & U64(0xFFFFFFFF)).astype(U32))
            self._write(file[op.place + 1], (value >> U64(32)).astype(U32))
            return
        assert value.dtype == U32, (op, value.dtype)
        self._write(file[op.place], value)

    def put_predicate(self, op: Operand, value: np.ndarray) -> None:
        """Write a predicate."""
        if op.place != 7:
            self._write(self.predicates[op.bank, op.place], np.asarray(value))

    def _write(self, row: np.ndarray, value: np.ndarray) -> None:
        if self.mask is None:
            row[self.group] = value
            return
        row[self.chosen()] = value[self.mask] if value.ndim else value

    def chosen(self) -> np.ndarray:
        """Threads of the group whose predicate holds."""
        members = np.arange(len(self.pc))[self.group]
        return members if self.mask is None else members[self.mask]

    # ---- memory ----

    def address(self, op: Operand) -> np.ndarray:
        """[threads that take part] int64 addresses."""
        total: np.ndarray = np.zeros((), np.int64)
        for term in op.terms:
            value = self.u64(term) if '.64' in term.text else self.u32(term).astype(U64)
            if term.kind == 'I':
                value = np.asarray(int(term.text, 0), np.int64).view(U64)
            if '.X' in term.text:
                value = value * U64(int(term.text.split('.X')[1].split('.')[0]))
            total = total + value.view(np.int64)
        members = np.arange(len(self.pc))[self.group]
        total = np.broadcast_to(total, members.shape)
        return total if self.mask is None else total[self.mask]

    def global_memory(self, at: np.ndarray, size: int) -> Iterator[Access]:
        """Yield what an access of `size` bytes touches, tensor by tensor.

        Raises AssertionError for an address that belongs to nothing or is not aligned.
        """
        assert not (at % size).any(), f'{self.kernel.name}: address not aligned to {size}'
        threads = self.chosen()
        sectors = _distinct(self.warp[threads] * (1 << 43) + at // SECTOR)
        self.sectors += len(sectors)
        block = (sectors >> 43) * 32 // self.threads
        self.touched.append(block * (1 << 43) + (sectors & (1 << 43) - 1))
        which = np.searchsorted(self.bases, at.astype(U64), 'right') - 1
        for number in np.unique(which):
            base, data = self.segments[number]
            mine = which == number
            places = at[mine] - base
            is_inside = number >= 0 and (places + size <= len(data)).all()
            assert is_inside, f'{self.kernel.name}: access out of bounds'
            yield Access(data, places, threads[mine])

    def own_memory(
        self, memory: np.ndarray, owner: np.ndarray, at: np.ndarray, size: int
    ) -> Iterator[Access]:
        """Yield what is touched of a block's or a thread's own memory."""
        assert not (at % size).any(), f'{self.kernel.name}: address not aligned to {size}'
        assert (at >= 0).all() and (at + size <= memory.shape[1]).all(), self.kernel.name
        threads = self.chosen()
        yield Access(memory.reshape(-1), owner[threads] * memory.shape[1] + at, threads)

    # ---- control ----

    def run(self) -> Executed:
        """Execute until all threads have ended."""
        with np.errstate(all='ignore'):
            while self._schedule():
                pass
        touched = _distinct(np.concatenate(self.touched)) if self.touched else ()
        return Executed(dict(self.counts), self.sectors, len(touched))

    def _schedule(self) -> bool:
        """Run the threads that are furthest behind until they meet others, wait or end."""
        running = self.state == RUNNING
        if not running.any():
            waiting = self.state == BARRIER
            stuck = self.state == MEETING
            assert not stuck.any(), f'{self.kernel.name}: lanes wait for each other'
            self.state[waiting] = RUNNING
            return bool(waiting.any())
        places = np.where(running, self.pc, NEVER)
        first = int(places.min())
        here = places == first
        everyone = bool(here.all())
        self.group = slice(None) if everyone else np.flatnonzero(here)
        ahead = NEVER if everyone else int(places[~here].min())
        self._burst(first, ahead)
        return True

    def _burst(self, pc: int, ahead: int) -> None:
        """Execute the group from `pc` on, as long as it is behind `ahead` and together."""
        members = self.warp[self.group]
        warps = 1 + int(np.count_nonzero(np.diff(members)))
        code = self.kernel.code
        while True:
            instruction = code[pc]
            self.counts[pc] += warps
            assert self.counts[pc] < self.most, f'{self.kernel.name} does not end'
            self.mask = None
            if instruction.guard and instruction.guard.place != 7:
                self.mask = self.predicate(instruction.guard)
            control = CONTROL.get(instruction.opcode)
            if control:
                target = control(self, instruction)
                if target is None:
                    return
                pc = target
            else:
                self._compute(instruction)
                pc += STEP
            if pc >= ahead:
                self.pc[self.group] = pc
                return

    def _compute(self, instruction: Instruction) -> None:
        if self.mask is not None:
            if not self.mask.any():
                return
            if self.mask.all():
                self.mask = None
        TABLE[instruction.opcode](self, instruction)

    def lanes(self, threads: np.ndarray) -> np.ndarray:
        """[warps] uint32: the lanes among these threads."""
        size = len(self.pc) // 32
        return np.bincount(self.warp[threads], self.bit[threads], size).astype(U64).astype(U32)

    def release(self) -> None:
        """Let lanes go on that wait for nobody any more."""
        waiting = np.flatnonzero(self.state == MEETING)
        ended = self.lanes(np.flatnonzero(self.state == ENDED))
        for pc in np.unique(self.pc[waiting]):
            here = waiting[self.pc[waiting] == pc]
            barrier = self.kernel.code[int(pc)].operands[0].place
            present = (self.lanes(here) | ended)[self.warp[here]]
            done = here[(self.meetings[barrier, here] & ~present) == 0]
            self.state[done] = RUNNING
            self.pc[done] += STEP


# ---- instructions that decide what comes next ----
#
# They return its address, or None where the group has come apart.


def _branch(m: Machine, i: Instruction) -> int | None:
    taken = m.predicate(i.guard) if i.guard else np.ones(len(m.chosen()), bool)
    for op in i.operands[:-1]:
        taken = taken & m.predicate(op)
    target = i.operands[-1].place
    return _part(m, i, taken, target)


def _part(m: Machine, i: Instruction, taken: np.ndarray, target: int) -> int | None:
    """Go to the target where a branch is taken, and on where it is not."""
    if taken.all():
        return target
    if not taken.any():
        return i.address + STEP
    m.pc[m.group] = np.where(taken, target, i.address + STEP)
    return None


def _indexed_branch(m: Machine, i: Instruction) -> int | None:
    register, offset = i.operands[:2]
    base = i.address + STEP + int(offset.text, 0)
    targets = m.u32(register).view(np.int32).astype(np.int64) + base
    m.pc[m.group] = targets
    return None


def _call(m: Machine, i: Instruction) -> int | None:
    taken = np.ones(len(np.arange(len(m.pc))[m.group]), bool) if m.mask is None else m.mask
    return _part(m, i, taken, i.operands[-1].place)


def _return(m: Machine, i: Instruction) -> int | None:
    assert m.mask is None, i.text
    m.pc[m.group] = m.u32(i.operands[0]).astype(np.int64)
    return None


def _end(m: Machine, i: Instruction) -> int | None:
    if m.mask is not None and not m.mask.any():
        return i.address + STEP
    m.pc[m.group] = i.address + STEP
    m.state[m.chosen()] = ENDED
    m.release()
    return None


def _remember(m: Machine, i: Instruction) -> int | None:
    """BSSY: the lanes that are together now meet again."""
    members = np.arange(len(m.pc))[m.group]
    lanes = m.lanes(members)
    m.meetings[i.operands[0].place, members] = lanes[m.warp[members]]
    return i.address + STEP


def _leave(m: Machine, i: Instruction) -> int | None:
    """BREAK: these lanes do not come to the meeting."""
    going = np.ones(len(np.arange(len(m.pc))[m.group]), bool) if m.mask is None else m.mask
    for op in i.operands[:-1]:
        going = going & m.predicate(op)
    barrier = i.operands[-1].place
    gone = np.arange(len(m.pc))[m.group][going]
    meeting = m.meetings[barrier].copy()
    lanes = m.lanes(gone)[m.warp]
    touched = (lanes != 0) & (meeting & lanes == lanes)
    m.meetings[barrier] = np.where(touched, meeting & ~lanes, meeting)
    if (m.state == MEETING).any():
        m.pc[m.group] = i.address + STEP
        m.release()
        return None
    return i.address + STEP


def _meet(m: Machine, i: Instruction) -> int | None:
    """BSYNC: wait for the lanes that BSSY saw together."""
    members = np.arange(len(m.pc))[m.group]
    needed = m.meetings[i.operands[0].place, members]
    present = m.lanes(members) | m.lanes(np.flatnonzero(m.state == ENDED))
    if not (needed & ~present[m.warp[members]]).any():
        return i.address + STEP
    m.pc[members] = i.address
    m.state[members] = MEETING
    m.release()
    return None


def _barrier(m: Machine, i: Instruction) -> int | None:
    assert m.mask is None or m.mask.all(), f'{m.kernel.name}: a barrier for some lanes only'
    m.pc[m.group] = i.address + STEP
    m.state[m.group] = BARRIER
    return None


def _next(m: Machine, i: Instruction) -> int | None:
    return i.address + STEP


CONTROL = {
    'BRA': _branch,
    'BRX': _indexed_branch,
    'CALL': _call,
    'RET': _return,
    'EXIT': _end,
    'BSSY': _remember,
    'BREAK': _leave,
    'BSYNC': _meet,
    'BAR': _barrier,
    'WARPSYNC': _next,
    'NOP': _next,
    'YIELD': _next,
}


# ---- loads and stores ----

_SIZES = {'U8': 1, 'S8': 1, 'U16': 2, 'S16': 2, '64': 8, '128': 16}


def _size(i: Instruction) -> int:
    return next((_SIZES[name] for name in i.modifiers if name in _SIZES), 4)


def _accesses(m: Machine, i: Instruction, op: Operand) -> Iterator[Access]:
    at, size = m.address(op), _size(i)
    if i.opcode in ('LDG', 'STG', 'REDG'):
        return m.global_memory(at, size)
    if i.opcode in ('LDL', 'STL'):
        return m.own_memory(m.local, np.arange(len(m.pc)), at, size)
    return m.own_memory(m.shared, m.in_block, at, size)


def _words(memory: np.ndarray, size: int) -> np.ndarray:
    """Memory as bytes, as pairs of them, or as words of 32 bits."""
    width = min(size, 4)
    whole = memory[: len(memory) // width * width]
    return whole.view({1: np.uint8, 2: np.uint16, 4: U32}[width])


def _load(m: Machine, i: Instruction) -> None:
    target, op = i.operands
    size = _size(i)
    signs = {'S8': np.int8, 'S16': np.int16}
    sign = next((signs[name] for name in i.modifiers if name in signs), None)
    for memory, places, threads in _accesses(m, i, op):
        words = _words(memory, size)
        for k in range(max(size // 4, 1)):
            value = words[places // min(size, 4) + k]
            value = value.view(sign).astype(np.int32) if sign else value
            m.registers[target.place + k, threads] = value.astype(U32)
    m.registers[255] = 0


def _store(m: Machine, i: Instruction) -> None:
    op, source = i.operands
    size = _size(i)
    file = m.uniform if source.kind == 'U' else m.registers
    for memory, places, threads in _accesses(m, i, op):
        words = _words(memory, size)
        for k in range(max(size // 4, 1)):
            row = file[source.place if m.is_zero(source) else source.place + k]
            words[places // min(size, 4) + k] = row[threads].astype(words.dtype)


def _atomic_or(m: Machine, i: Instruction) -> None:
    *targets, op, source = i.operands
    assert 'OR' in i.modifiers and all(m.is_zero(t) for t in targets), i.text
    for memory, places, threads in _accesses(m, i, op):
        np.bitwise_or.at(_words(memory, 4), places // 4, m.registers[source.place, threads])


def _shuffle(m: Machine, i: Instruction) -> None:
    _, target, source, by, _ = i.operands
    assert i.modifiers == ('UP',) and m.mask is None, i.text
    members = np.arange(len(m.pc))[m.group]
    distance = int(by.text, 0)
    above = np.where(members % 32 >= distance, members - distance, members)
    m.put(target, m.registers[source.place][above])


TABLE.update(
    {
        **dict.fromkeys(('LDG', 'LDS', 'LDL'), _load),
        **dict.fromkeys(('STG', 'STS', 'STL'), _store),
        **dict.fromkeys(('ATOMS', 'REDG'), _atomic_or),
        'SHFL': _shuffle,
    }
)


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """Sorted, each once: np.unique takes five times as long."""
    ranked = np.sort(numbers)
    return ranked[np.concatenate([[True], ranked[1:] != ranked[:-1]])]


# ---- launches ----


def _specials(
    grid: Sequence[int], block: Sequence[int], blocks: np.ndarray
) -> dict[str, np.ndarray]:
    """{name: values [threads]} of the registers that tell a thread who it is."""
    gx, gy, _ = (*grid, 1, 1)[:3]
    bx, by, bz = (*block, 1, 1)[:3]
    thread = np.tile(np.arange(bx * by * bz), len(blocks))
    number = np.repeat(blocks, bx * by * bz)
    found = {
        'SR_TID.X': thread % bx,
        'SR_TID.Y': thread // bx % by,
        'SR_TID.Z': thread // (bx * by),
        'SR_CTAID.X': number % gx,
        'SR_CTAID.Y': number // gx % gy,
        'SR_CTAID.Z': number // (gx * gy),
        'SR_LANEID': thread % 32,
        'SR_CgaCtaId': np.zeros(()),
    }
    return {name: values.astype(U32) for name, values in found.items()}


def _bank(grid: Sequence[int], block: Sequence[int], arguments: bytes) -> bytes:
    """Constant bank 0: sizes of the block and the grid, the stack, and the arguments."""
    bank = bytearray(ARGUMENTS_AT)
    sizes = np.array([*(*block, 1, 1)[:3], *(*grid, 1, 1)[:3]], U32)
    bank[: sizes.nbytes] = sizes.tobytes()
    bank[0x28:0x2C] = np.array(LOCAL, U32).tobytes()
    return bytes(bank + arguments + bytes(16))


def laid_out(args: Sequence[kernels.Argument]) -> tuple[bytes, list[Segment]]:
    """Arguments as C lays them out, and the memory that they point to."""
    # Addresses of our own, so that runs repeat, and tensors that cross a multiple of 2^32.
    out = bytearray()
    segments = []
    for number, a in enumerate(args):
        value = a if isinstance(a, np.generic) else np.uint64(0)
        if isinstance(a, torch.Tensor):
            base = (number + 1 << 34) - 4096
            flat = a.detach().as_strided((a.numel(),), (1,)).view(torch.uint8).numpy()
            segments.append(Segment(base, flat))
            value = np.uint64(base)
        out += bytes(-len(out) % value.itemsize) + value.tobytes()
    return bytes(out), segments


def _float_bits(text: str) -> np.ndarray:
    """Bits of a float as the disassembler prints it."""
    if 'x' in text:
        return np.asarray(int(text, 0) & 0xFFFFFFFF, U32)
    return np.asarray(float(text.replace('QNAN', 'NAN')), np.float32).view(U32)


def launch(
    file: str | Path,
    name: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *args: kernels.Argument,
) -> None:
    """Do what `kernels.launch` does, on CPU tensors, by the machine code."""
    kernel = kernels_of(file)[name]
    grid = tuple(int(n) for n in grid)
    every = np.arange(int(np.prod(grid)))
    threads = int(np.prod(block))
    at_once = max(1, (1 << 14) // threads)
    for start in range(0, len(every), at_once):
        blocks = every[start : start + at_once]
        Machine(kernel, grid, block, blocks, *laid_out(args)).run()
