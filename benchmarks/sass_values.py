"""What the instructions of a GPU compute, lane by lane, in NumPy: see sass_machine.py."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .sass import Instruction, Operand

if TYPE_CHECKING:
    from .sass_machine import Machine

U32, S32, U64, S64 = np.uint32, np.int32, np.uint64, np.int64
MASK = np.uint64(0xFFFFFFFF)
Handler = Callable[['Machine', Instruction], None]
TABLE: dict[str, Handler] = {}


def computes(*opcodes: str) -> Callable[[Handler], Handler]:
    """Enter a function under the opcodes that it computes; a warp's have a U before them."""

    def enter(handler: Handler) -> Handler:
        for opcode in opcodes:
            TABLE[opcode] = TABLE['U' + opcode] = handler
        return handler

    return enter


def _signed(v: np.ndarray) -> np.ndarray:
    return np.asarray(v).view(S32)


def _is_predicate(op: Operand) -> bool:
    return op.kind == 'P'


# ---- whole numbers ----


@computes('MOV', 'R2UR')
def _mov(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], m.u32(i.operands[-1]))


@computes('S2R', 'S2UR')
def _s2r(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], m.special(i.operands[1].text))


@computes('CS2R')
def _cs2r(m: 'Machine', i: Instruction) -> None:
    assert i.operands[1].text == 'SRZ', i.text
    m.put(i.operands[0], np.zeros((), U64 if not i.modifiers else U32))


@computes('LDC')
def _ldc(m: 'Machine', i: Instruction) -> None:
    target, source = i.operands
    if i.modifiers == ('U8',):
        m.put(target, m.constant(source, 1))
    else:
        m.put(target, m.u64(source) if i.modifiers else m.u32(source))


@computes('IADD3', 'VIADD')
def _iadd3(m: 'Machine', i: Instruction) -> None:
    target, *rest = i.operands
    outs = []
    while _is_predicate(rest[0]):
        outs.append(rest.pop(0))
    total = np.zeros((), U64)
    for op in rest:
        # A difference adds the complement and one, so that it carries where it does not borrow.
        total = total + (m.predicate(op) if _is_predicate(op) else m.addend(op))
    m.put(target, (total & MASK).astype(U32))
    # Three numbers may carry twice: the second target tells.
    for k, out in enumerate(outs):
        m.put_predicate(out, (total >> U64(32)) > k)


@computes('IMAD')
def _imad(m: 'Machine', i: Instruction) -> None:
    target, *rest = i.operands
    outs = [rest.pop(0)] if _is_predicate(rest[0]) else []
    a, b, c, *carry = rest
    if 'WIDE' in i.modifiers or 'HI' in i.modifiers:
        product = _product(m, i, a, b)
        addend = m.u64(c)
        total = product + addend
        carried = total < product
        if 'X' in i.modifiers:
            with_carry = total + m.predicate(carry[0]).astype(U64)
            carried |= with_carry < total
            total = with_carry
        m.put(target, total if 'WIDE' in i.modifiers else (total >> U64(32)).astype(U32))
        for out in outs:
            m.put_predicate(out, carried)
        return
    total = m.u32(a) * m.u32(b) + m.u32(c)
    if 'X' in i.modifiers:
        total = total + m.predicate(carry[0]).astype(U32)
    m.put(target, total.astype(U32))


def _product(m: 'Machine', i: Instruction, a: Operand, b: Operand) -> np.ndarray:
    """64 bits of a product, signed unless it says U32."""
    if 'U32' in i.modifiers:
        return m.u32(a).astype(U64) * m.u32(b).astype(U64)
    return (_signed(m.u32(a)).astype(S64) * _signed(m.u32(b)).astype(S64)).view(U64)


@computes('LEA')
def _lea(m: 'Machine', i: Instruction) -> None:
    target, *rest = i.operands
    outs = [rest.pop(0)] if _is_predicate(rest[0]) else []
    carry = [m.predicate(rest.pop()) for _ in range(_is_predicate(rest[-1]))]
    shift = U64(int(rest[-1].text, 0))
    low = m.u32(rest[0]).astype(U64)
    if 'SX32' in i.modifiers:
        low = _signed(m.u32(rest[0])).astype(S64).view(U64)
    elif 'HI' in i.modifiers:
        low = low | m.u32(rest[2]).astype(U64) << U64(32)
    shifted = low << shift
    shifted = shifted >> U64(32) if 'HI' in i.modifiers else shifted & MASK
    total = shifted + m.addend(rest[1])
    for more in carry:
        total = total + more
    m.put(target, (total & MASK).astype(U32))
    for out in outs:
        m.put_predicate(out, (total >> U64(32)) > 0)


@computes('SHF')
def _shf(m: 'Machine', i: Instruction) -> None:
    target, low, amount, high = i.operands
    pair = m.u32(low).astype(U64) | m.u32(high).astype(U64) << U64(32)
    wraps = 'W' in i.modifiers
    by = m.u32(amount).astype(U64)
    most = U64(63 if 'U64' in i.modifiers or 'S64' in i.modifiers else 32)
    by = by & U64(31) if wraps else np.minimum(by, most)
    if 'L' in i.modifiers:
        shifted = pair << by
    elif 'S32' in i.modifiers or 'S64' in i.modifiers:
        shifted = (pair.view(S64) >> by.astype(S64)).view(U64)
    else:
        shifted = pair >> by
    wants_high = 'HI' in i.modifiers
    m.put(target, ((shifted >> U64(32)) if wants_high else shifted & MASK).astype(U32))


@computes('LOP3')
def _lop3(m: 'Machine', i: Instruction) -> None:
    target, *rest = i.operands
    out = rest.pop(0) if _is_predicate(rest[0]) else None
    if _is_predicate(target):
        out, target = target, i.operands[1]
        rest = list(i.operands[2:])
    value = _logic(int(rest[3].text, 0), *(m.u32(op) for op in rest[:3]))
    m.put(target, value)
    if out:
        m.put_predicate(out, value != 0)


def _logic(table: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Bit by bit the entry of an eight-bit table at 4 a + 2 b + c."""
    value = np.zeros_like(a & b & c)
    for k in range(8):
        if table >> k & 1:
            value = value | (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    return value


@computes('PLOP3')
def _plop3(m: 'Machine', i: Instruction) -> None:
    *outs, a, b, c, table, other = i.operands
    values = [m.predicate(op) for op in (a, b, c)]
    for out, lut in zip(outs, (table, other), strict=True):
        m.put_predicate(out, _logic(int(lut.text, 0), *values))


@computes('SEL', 'FSEL')
def _sel(m: 'Machine', i: Instruction) -> None:
    target, a, b, p = i.operands
    read = m.bits if i.opcode == 'FSEL' else m.u32
    m.put(target, np.where(m.predicate(p), read(a), read(b)))


@computes('IABS')
def _iabs(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], np.abs(_signed(m.u32(i.operands[1]))).view(U32))


@computes('VIMNMX', 'IMNMX', 'VIADDMNMX')
def _minmax(m: 'Machine', i: Instruction) -> None:
    target, *values, is_min = i.operands
    numbers = [m.u32(op) for op in values]
    if i.opcode == 'VIADDMNMX':
        numbers = [numbers[0] + numbers[1], numbers[2]]
    if 'U32' not in i.modifiers:
        numbers = [_signed(v) for v in numbers]
    value = np.where(m.predicate(is_min), np.minimum(*numbers), np.maximum(*numbers))
    if 'RELU' in i.modifiers:
        value = np.maximum(value, 0)
    m.put(target, value.astype(S64).astype(U32))


@computes('POPC')
def _popc(m: 'Machine', i: Instruction) -> None:
    v = np.asarray(m.u32(i.operands[1]))
    octets = v[..., None] >> np.arange(32, dtype=U32) & U32(1)
    m.put(i.operands[0], octets.sum(-1).astype(U32))


@computes('FLO')
def _flo(m: 'Machine', i: Instruction) -> None:
    v = m.u32(i.operands[1])
    highest = np.floor(np.log2(np.maximum(v, 1).astype(np.float64))).astype(S32)
    value = np.where(v == 0, -1, 31 - highest if 'SH' in i.modifiers else highest)
    m.put(i.operands[0], value.astype(S32).view(U32))


@computes('PRMT')
def _prmt(m: 'Machine', i: Instruction) -> None:
    target, a, selector, b = i.operands
    pair = m.u32(a).astype(U64) | m.u32(b).astype(U64) << U64(32)
    choice = m.u32(selector)
    value = np.zeros((), U32)
    for k in range(4):
        nibble = (choice >> U32(4 * k)) & U32(15)
        octet = pair >> ((nibble & U32(7)).astype(U64) * U64(8)) & U64(255)
        sign = np.where(octet >> U64(7) > 0, U64(255), U64(0))
        octet = np.where(nibble & U32(8) > 0, sign, octet)
        value = value | octet.astype(U32) << U32(8 * k)
    m.put(target, value)


@computes('BREV')
def _brev(m: 'Machine', i: Instruction) -> None:
    v = m.u32(i.operands[1])
    value = sum((v >> U32(k) & U32(1)) << U32(31 - k) for k in range(32))
    m.put(i.operands[0], np.asarray(value, U32))


@computes('IDP')
def _idp(m: 'Machine', i: Instruction) -> None:
    target, a, b, c = (i.operands[0], *(m.u32(op) for op in i.operands[1:]))
    assert i.modifiers[:2] == ('2A', 'LO') and i.modifiers[3] == 'U8', i.text
    kind = np.int16 if i.modifiers[2] == 'S16' else np.uint16
    low = (a & U32(0xFFFF)).astype(np.uint16).view(kind).astype(S32)
    high = (a >> U32(16)).astype(np.uint16).view(kind).astype(S32)
    value = low * (b & U32(255)).astype(S32) + high * (b >> U32(8) & U32(255)).astype(S32)
    m.put(target, (value + _signed(c)).astype(S32).view(U32))


@computes('P2R')
def _p2r(m: 'Machine', i: Instruction) -> None:
    target, _, b, mask = i.operands
    chosen = U32(int(mask.text, 0))
    value = m.u32(b) & ~chosen
    for k in range(7):
        if chosen >> U32(k) & U32(1):
            value = value | m.predicate(Operand('P', k)).astype(U32) << U32(k)
    m.put(target, value)


@computes('R2P')
def _r2p(m: 'Machine', i: Instruction) -> None:
    _, a, mask = i.operands
    value = m.u32(a)
    for k in range(7):
        if int(mask.text, 0) >> k & 1:
            m.put_predicate(Operand('P', k), (value >> U32(k) & U32(1)) > 0)


# ---- comparisons ----

_COMPARE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'LT': np.less,
    'LE': np.less_equal,
    'GT': np.greater,
    'GE': np.greater_equal,
    'EQ': np.equal,
    'NE': np.not_equal,
}


def _combined(m: 'Machine', i: Instruction, result: np.ndarray, before: Operand) -> None:
    """Write a comparison, combined with a predicate; the second target gets its opposite."""
    first, second = i.operands[:2]
    other = m.predicate(before)
    if 'OR' in i.modifiers:
        outcomes = result | other, ~result | other
    elif 'XOR' in i.modifiers:
        outcomes = result ^ other, ~result ^ other
    else:
        outcomes = result & other, ~result & other
    m.put_predicate(first, outcomes[0])
    m.put_predicate(second, outcomes[1])


@computes('ISETP')
def _isetp(m: 'Machine', i: Instruction) -> None:
    _, _, x, y, before, *low = i.operands
    a, b = np.asarray(m.u32(x)), np.asarray(m.u32(y))
    if 'U32' not in i.modifiers:
        a, b = a.view(S32), b.view(S32)
    result = _COMPARE[i.modifiers[0]](a, b)
    if 'EX' in i.modifiers:
        # The high halves of 64 bits; those of the low halves have been compared.
        strict = {'GE': np.greater, 'GT': np.greater, 'LE': np.less, 'LT': np.less}
        below = m.predicate(low[0])
        if i.modifiers[0] == 'NE':
            result = result | below
        elif i.modifiers[0] == 'EQ':
            result = result & below
        else:
            result = strict[i.modifiers[0]](a, b) | (a == b) & below
    _combined(m, i, result, before)


@computes('FSETP', 'DSETP')
def _fsetp(m: 'Machine', i: Instruction) -> None:
    first, second, x, y, before = i.operands
    read = m.f64 if i.opcode == 'DSETP' else m.f32
    a, b = read(x), read(y)
    how = i.modifiers[0]
    if how in ('MAX', 'MIN'):
        picks = (a >= b) if how == 'MAX' else (a <= b)
        m.put_predicate(first, picks | np.isnan(b))
        m.put_predicate(second, np.isnan(b))
        return
    _combined(m, i, _float_compare(how, a, b), before)


def _float_compare(how: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Comparison that is false of what cannot be compared, or true if it ends in U."""
    unordered = np.isnan(a) | np.isnan(b)
    if how == 'NAN':
        return unordered
    if how == 'NUM':
        return ~unordered
    result = _COMPARE[how[:2]](a, b)
    return result | unordered if how.endswith('U') else result & ~unordered


@computes('FSET')
def _fset(m: 'Machine', i: Instruction) -> None:
    target, x, y, before = i.operands
    how = next(name for name in i.modifiers if name[:2] in _COMPARE)
    result = _float_compare(how, m.f32(x), m.f32(y)) & m.predicate(before)
    m.put(target, result.astype(np.float32).view(U32))


@computes('FCHK')
def _fchk(m: 'Machine', i: Instruction) -> None:
    out, x, y = i.operands
    a, b = m.bits(x) >> U32(23) & U32(255), m.bits(y) >> U32(23) & U32(255)
    # Quotients of numbers whose exponents are ordinary need no special care; 0 is none.
    apart = a.astype(S32) - b.astype(S32)
    ordinary = (a > 24) & (a < 255) & (b > 1) & (b < 253) & (np.abs(apart) < 125)
    m.put_predicate(out, ~ordinary)


# ---- floats ----


def _stored(v: np.ndarray) -> np.ndarray:
    return np.asarray(v, np.float32).view(U32)


@computes('FFMA')
def _ffma(m: 'Machine', i: Instruction) -> None:
    a, b, c = (m.f32(op).astype(np.float64) for op in i.operands[1:4])
    m.put(i.operands[0], _stored(_saturated(i, a * b + c)))


@computes('FADD')
def _fadd(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], _stored(_saturated(i, m.f32(i.operands[1]) + m.f32(i.operands[2]))))


@computes('FMUL')
def _fmul(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], _stored(_saturated(i, m.f32(i.operands[1]) * m.f32(i.operands[2]))))


def _saturated(i: Instruction, v: np.ndarray) -> np.ndarray:
    return np.clip(v, 0, 1) if 'SAT' in i.modifiers else v


@computes('FMNMX')
def _fmnmx(m: 'Machine', i: Instruction) -> None:
    target, a, b, is_min = i.operands
    x, y = m.f32(a), m.f32(b)
    m.put(target, _stored(np.where(m.predicate(is_min), np.fmin(x, y), np.fmax(x, y))))


@computes('MUFU')
def _mufu(m: 'Machine', i: Instruction) -> None:
    how = i.modifiers[0]
    if how.endswith('64H'):
        # Of the high word of a double, the low word being zero, to the high word.
        source = i.operands[1]
        is_number = source.kind == 'I' and 'x' not in source.text
        high = np.asarray(float(source.text) if is_number else 0.0).view(U64)
        if not is_number:
            high = m.u32(source).astype(U64) << U64(32)
        value = _FUNCTIONS[how[:3]](high.view(np.float64))
        m.put(i.operands[0], (np.asarray(value).view(U64) >> U64(32)).astype(U32))
        return
    m.put(i.operands[0], _stored(_FUNCTIONS[how](m.f32(i.operands[1]).astype(np.float64))))


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'RCP': lambda v: 1 / v,
    'RSQ': lambda v: 1 / np.sqrt(v),
    'SQRT': np.sqrt,
    'LG2': np.log2,
    'EX2': np.exp2,
    'SIN': np.sin,
    'COS': np.cos,
}


@computes('HFMA2')
def _hfma2(m: 'Machine', i: Instruction) -> None:
    # The compiler's way to write two constants; nothing here computes with half floats.
    target, a, b, high, low = i.operands
    assert m.is_zero(a) and m.is_zero(b), i.text
    halves = np.array([float(low.text), float(high.text)], np.float16)
    m.put(target, halves.view(U32)[0])


@computes('DADD')
def _dadd(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], np.asarray(m.f64(i.operands[1]) + m.f64(i.operands[2])).view(U64))


@computes('DMUL')
def _dmul(m: 'Machine', i: Instruction) -> None:
    m.put(i.operands[0], np.asarray(m.f64(i.operands[1]) * m.f64(i.operands[2])).view(U64))


@computes('DFMA')
def _dfma(m: 'Machine', i: Instruction) -> None:
    a, b, c = (m.f64(op) for op in i.operands[1:4])
    product, lost = _two_product(a, b)
    total = product + c
    back = total - product
    missing = (product - (total - back)) + (c - back)
    exact = total + (missing + lost)
    # Where the parts overflow, or are no numbers, the plain sum is right.
    value = np.where(np.isfinite(exact), exact, total)
    m.put(i.operands[0], np.asarray(value, np.float64).view(U64))


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Product, and what its rounding lost (Dekker 1971)."""
    parts = []
    for v in (a, b):
        wide = v * 134217729.0
        high = wide - (wide - v)
        parts.append((high, v - high))
    (a1, a2), (b1, b2) = parts
    product = a * b
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


# ---- between whole numbers and floats ----


@computes('I2F', 'I2FP')
def _i2f(m: 'Machine', i: Instruction) -> None:
    target, source = i.operands
    value = _whole(m, i, source)
    if 'F64' in i.modifiers:
        m.put(target, value.astype(np.float64).view(U64))
        return
    rounded = np.asarray(value.astype(np.float32))
    if 'RP' in i.modifiers:
        below = rounded.astype(np.float64) < value.astype(np.float64)
        rounded = np.where(below, np.nextafter(rounded, np.float32(np.inf)), rounded)
    m.put(target, _stored(rounded))


def _whole(m: 'Machine', i: Instruction, source: Operand) -> np.ndarray:
    """The number to convert, of the type that the instruction names."""
    if 'U64' in i.modifiers or 'S64' in i.modifiers:
        value = np.asarray(m.u64(source))
        return value.view(S64) if 'S64' in i.modifiers else value
    value = np.asarray(m.u32(source))
    part = re.search(r'\.([BH])(\d)', source.text)
    shift = int(part[2]) * (8 if part[1] == 'B' else 16) if part else 0
    for name, bits in (('8', 255), ('16', 0xFFFF)):
        if 'U' + name in i.modifiers:
            return value >> U32(shift) & U32(bits)
        assert 'S' + name not in i.modifiers, i.text
    return value if 'U32' in i.modifiers else value.view(S32)


@computes('F2I')
def _f2i(m: 'Machine', i: Instruction) -> None:
    target, source = i.operands
    value = m.f64(source) if 'F64' in i.modifiers else m.f32(source).astype(np.float64)
    how = next((name for name in i.modifiers if name in _ROUND), 'RN')
    value = np.nan_to_num(_ROUND[how](value))
    if 'U64' in i.modifiers:
        m.put(target, np.clip(value, 0, 2.0**63).astype(U64))
    elif 'U32' in i.modifiers:
        m.put(target, np.clip(value, 0, 2.0**32 - 1).astype(U64).astype(U32))
    else:
        m.put(target, np.clip(value, -(2.0**31), 2.0**31 - 1).astype(S64).astype(U32))


_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'RN': np.rint,
    'TRUNC': np.trunc,
    'FLOOR': np.floor,
    'CEIL': np.ceil,
}


@computes('F2F')
def _f2f(m: 'Machine', i: Instruction) -> None:
    target, source = i.operands
    if i.modifiers == ('F32', 'F64'):
        m.put(target, _stored(m.f64(source).astype(np.float32)))
    else:
        assert i.modifiers == ('F64', 'F32'), i.text
        m.put(target, m.f32(source).astype(np.float64).view(U64))


@computes('FRND')
def _frnd(m: 'Machine', i: Instruction) -> None:
    how = next((name for name in i.modifiers if name in _ROUND), 'RN')
    target, source = i.operands
    if 'F64' in i.modifiers:
        m.put(target, np.asarray(_ROUND[how](m.f64(source))).view(U64))
    else:
        m.put(target, _stored(_ROUND[how](m.f32(source))))
