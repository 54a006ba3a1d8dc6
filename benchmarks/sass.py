"""Kernels as machine code of a GPU: compiled as CuPy compiles them, and taken apart, without a GPU.

NVRTC compiles a .cu file to a cubin for one architecture; NVIDIA's disassembler, nvdisasm (the
wheel nvidia-cuda-nvdisasm), prints its instructions; `parsed` makes them readable to a program.
"""

import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from degrade import registers
from errors import KernelError


class Operand(NamedTuple):
    """One operand of an instruction."""

    # R, U: registers of a thread, of a warp; P: predicates; C: constants; I: immediate numbers;
    # M: memory; L: address of an instruction; B: barriers; S: all else
    kind: str
    place: int = 0  # number of the register, or address of the instruction
    bank: int = 0  # of a constant; 1 for predicates of a warp
    negated: bool = False  # -, or ! or ~
    absolute: bool = False
    text: str = ''
    terms: tuple['Operand', ...] = ()  # whose sum is an address


class Instruction(NamedTuple):
    """One instruction of a kernel."""

    address: int
    guard: Operand | None  # predicate without which it does nothing
    opcode: str  # IMAD
    modifiers: tuple[str, ...]  # WIDE, U32
    operands: tuple[Operand, ...]
    text: str


class Kernel(NamedTuple):
    """Machine code of a kernel."""

    name: str
    code: dict[int, Instruction]  # by address
    shared: int  # bytes of a block's shared memory
    constants: dict[int, bytes]  # banks beside bank 0, which holds the arguments
    globals: bytes  # tables that the file declares


# Addresses at which a kernel finds the file's own tables.
GLOBALS_AT = 1 << 40


# ---- disassembling ----


@cache
def disassembler() -> str:
    """Path of nvdisasm. Raises KernelError where there is none."""
    found = shutil.which('nvdisasm')
    spec = importlib.util.find_spec('nvidia')
    for folder in spec.submodule_search_locations or () if spec else ():
        found = found or next((str(p) for p in Path(folder).glob('*/bin/nvdisasm')), None)
    if not found:
        raise KernelError('nvdisasm is missing: pip install nvidia-cuda-nvdisasm')
    return found


@cache
def kernels_of(file: str | Path, architecture: str = '90') -> dict[str, Kernel]:
    """{name: machine code} of the kernels of a file. Raises KernelError."""
    binary, _ = registers.compiled(file, architecture)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'kernels.cubin')
        path.write_bytes(binary)
        command = [disassembler(), '-c', str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sections = _sections(binary)
    return {
        name: Kernel(
            name,
            parsed(listing),
            len(sections.get(f'.nv.shared.{name}', b'')),
            {2: sections.get(f'.nv.constant2.{name}', b''), 4: sections.get('.nv.constant4', b'')},
            sections.get('.nv.global.init', b''),
        )
        for name, listing in _listings(text)
    }


def _listings(text: str) -> list[tuple[str, str]]:
    """(name, lines) of every kernel in a disassembly."""
    parts = re.split(r'^//-+ \.text\.(\w+) +-+$', text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


# ---- ELF ----


def _sections(binary: bytes) -> dict[str, bytes]:
    """{name: contents} of a cubin; addresses of tables are filled in."""
    (start,) = struct.unpack_from('<Q', binary, 40)
    size, count, names = struct.unpack_from('<HHH', binary, 58)
    headers = [struct.unpack_from('<IIQQQQIIQQ', binary, start + size * i) for i in range(count)]
    strings = headers[names][4]
    found = {}
    for header in headers:
        name = _string(binary, strings + header[0])
        is_empty = header[1] == 8  # takes memory but no space in the file
        found[name] = bytes(header[5]) if is_empty else binary[header[4] : header[4] + header[5]]
    _relocate(found)
    return found


def _relocate(sections: dict[str, bytes]) -> None:
    """Write the addresses of the file's tables into constant bank 4."""
    bank = bytearray(sections.get('.nv.constant4', b''))
    for at, info, addend in struct.iter_unpack('<QQq', sections.get('.rela.nv.constant4', b'')):
        value = struct.unpack_from('<Q', sections['.symtab'], 24 * (info >> 32) + 8)[0]
        struct.pack_into('<Q', bank, at, GLOBALS_AT + value + addend)
    for at, info in struct.iter_unpack('<QQ', sections.get('.rel.nv.constant4', b'')):
        value = struct.unpack_from('<Q', sections['.symtab'], 24 * (info >> 32) + 8)[0]
        struct.pack_into('<Q', bank, at, GLOBALS_AT + value)
    sections['.nv.constant4'] = bytes(bank)


def _string(binary: bytes, at: int) -> str:
    return binary[at : binary.index(b'\0', at)].decode()


# ---- instructions ----

_LINE = re.compile(r'^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z0-9_.]+)([^;]*);')


def parsed(listing: str) -> dict[int, Instruction]:
    """{address: instruction} of a kernel's lines."""
    lines = listing.splitlines()
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for line in lines:
        label = re.match(r'^([.$\w]+):$', line)
        if label:
            waiting.append(label[1])
        found = _LINE.match(line)
        if found:
            labels |= dict.fromkeys(waiting, int(found[1], 16))
            waiting = []
    code = {}
    for line in lines:
        found = _LINE.match(line)
        if found:
            instruction = _instruction(found, labels)
            code[instruction.address] = instruction
    return code


def _instruction(found: re.Match[str], labels: dict[str, int]) -> Instruction:
    address, guard, name, rest = found.groups()
    opcode, *modifiers = name.split('.')
    rest = re.sub(r'\(\*.*', '', rest)
    # BRX has its number behind a blank, all others behind a comma.
    parts = re.split(r'\s*,\s*|\s+(?=-?0x)', rest.strip()) if rest.strip() else []
    operands = tuple(_operand(part.strip(), labels) for part in parts)
    guarding = _operand(guard, labels) if guard else None
    text = f'{name} {rest.strip()}'
    return Instruction(int(address, 16), guarding, opcode, tuple(modifiers), operands, text)


def _operand(text: str, labels: dict[str, int]) -> Operand:
    whole = text
    label = re.search(r'`\((.*)\)', text)
    if label:
        register = re.match(r'R(\d+) ', text)
        if register:
            return Operand('R', int(register[1]), text=whole)
        return Operand('L', labels[label[1]], text=whole)
    memory = re.search(r'(?:^|\])\[(.*)\]$', text)
    if memory and not text.startswith('c['):
        terms = tuple(_operand(term, labels) for term in memory[1].split('+') if term)
        return Operand('M', text=whole, terms=terms)
    negated = text[0] in '-!~'
    text = text[1:] if negated and not re.match(r'-[\d.I]', text) else text
    negated = negated and not re.match(r'-[\d.I]', whole)
    absolute = text.startswith('|')
    text = text.strip('|').replace('|', '')
    return _plain(text, whole)._replace(negated=negated, absolute=absolute)


def _plain(text: str, whole: str) -> Operand:
    """Operand without a sign."""
    constant = re.match(r'c\[0x(\w+)\]\s*\[(.*)\]', text)
    if constant:
        term = _plain(constant[2].split('+')[0], whole)
        offset = _plain(constant[2].split('+')[1], whole) if '+' in constant[2] else None
        terms = (term, offset) if offset else (term,)
        return Operand('C', bank=int(constant[1], 16), text=whole, terms=terms)
    register = re.match(r'(U?)R(\d+|Z)(?![\w])', text)
    if register:
        last = 63 if register[1] else 255
        number = last if register[2] == 'Z' else int(register[2])
        return Operand('U' if register[1] else 'R', number, text=whole)
    predicate = re.match(r'(U?)P(\d|T)$', text)
    if predicate:
        number = 7 if predicate[2] == 'T' else int(predicate[2])
        return Operand('P', number, bank=len(predicate[1]), text=whole)
    barrier = re.match(r'B(\d+)$', text)
    if barrier:
        return Operand('B', int(barrier[1]), text=whole)
    if re.match(r'[-+]?(0x|\d|\.\d|INF|QNAN)', text):
        return Operand('I', text=text)
    return Operand('S', text=text)
