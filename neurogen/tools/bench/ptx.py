"""Bytes that a CUDA kernel moves, counted by executing its PTX for one thread.

In: PTX and the arguments of a launch. Out: bytes loaded from and stored to global memory. Integers,
addresses and what is decided by them are computed; numbers are not: a floating-point value, and
whatever was loaded, is unknown (None), and so are results that depend on it. A branch on something
unknown goes both ways, in two runs, and the larger traffic counts: an input that is read unless the
neuron is refractory counts as read. So loops are counted with their true number of rounds, however
the compiler unrolled, split or duplicated them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: A register's value: an unsigned integer, a predicate, or unknown.
Value = int | bool | None

#: Instructions of one thread, after which something must be wrong.
LIMIT = 2_000_000

_INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)(?P<guard>%\w+)\s+)?(?P<name>[a-z][\w.]*)\s*(?P<rest>.*)"
)
_PARAMETER = re.compile(
    r"\.param(?: \.align (?P<align>\d+))? \.(?P<kind>\w+)(?: \.ptr[^,]*?)? (?P<name>\w+)"
    r"(?:\[(?P<count>\d+)\])?"
)
_ADDRESS = re.compile(r"\[(?P<base>[%\w$.]+)(?:\+(?P<offset>-?\d+))?\]")
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "lo": operator.lt, "ls": operator.le,
    "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[..., int]] = {
    "mov": lambda a: a, "cvta": lambda a: a, "cvt": lambda a: a,
    "neg": operator.neg, "not": operator.invert,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "mad": lambda a, b, c: a * b + c, "and": operator.and_, "or": operator.or_,
    "xor": operator.xor, "min": min, "max": max,
    "shl": lambda a, b: a << min(b, 64), "shr": lambda a, b: a >> min(b, 64),
    "div": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "rem": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),
}  # fmt: skip
_SPACES = ("global", "param", "local", "shared", "const")
_CONTROL = frozenset(("call", "brx", "trap", "exit"))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes between a thread and global memory.

    Attributes:
        loads: Read.
        stores: Written.
        marked: Of both, those within a stretch of memory that was asked about.
    """

    loads: int
    stores: int
    marked: int


@dataclass(frozen=True, slots=True)
class _Instruction:
    """One line of PTX.

    Attributes:
        guard: The predicate that it depends on, and the value that lets it run.
        name: Opcode and modifiers, `("ld", "global", "f32")`.
    """

    guard: tuple[str, bool] | None
    name: tuple[str, ...]
    operands: tuple[str, ...]


class Kernel:
    """One entry function of some PTX."""

    def __init__(self, ptx: str, name: str) -> None:
        """Find and read a function.

        Args:
            ptx: The text of a module.
            name: Of the function.

        Raises:
            ValueError: No such function.
        """
        body = re.search(rf"\.entry {name}\((.*?)\)[^{{]*\n\{{\n(.*?)\n\}}\n", ptx, re.DOTALL)
        if body is None:
            raise ValueError(f"the PTX has no kernel '{name}'")
        self.parameters: dict[str, int] = {}  # where each begins
        place = 0
        for declared in _PARAMETER.finditer(body[1]):
            size = _bits(declared["kind"]) // 8
            place += -place % int(declared["align"] or size)
            self.parameters[declared["name"]] = place
            place += size * int(declared["count"] or 1)
        self.labels: dict[str, int] = {}
        self.instructions: list[_Instruction] = []
        for line in _statements(body[2]):
            if line.endswith(":"):
                self.labels[line[:-1]] = len(self.instructions)
            elif match := _INSTRUCTION.fullmatch(line):
                guard = (match["guard"], not match["negated"]) if match["guard"] else None
                operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^\s,]+", match["rest"])
                self.instructions.append(
                    _Instruction(guard, tuple(match["name"].split(".")), tuple(operands))
                )

    def traffic(self, arguments: bytes, block: int, marked: range = range(0)) -> Traffic:
        """What the first thread of a launch loads and stores.

        Args:
            arguments: The kernel's parameters, as they lie in memory.
            block: Threads of a block.
            marked: Addresses that are counted apart, too.

        Raises:
            ValueError: The PTX has what is not understood here.
        """
        ways = [_Thread(self, arguments, block, marked, taken).run() for taken in (False, True)]
        return max(ways, key=lambda way: way.loads + way.stores)


class _Thread:
    """The first thread of a launch."""

    def __init__(
        self, kernel: Kernel, arguments: bytes, block: int, marked: range, taken: bool
    ) -> None:
        self.kernel, self.arguments, self.marked, self.taken = kernel, arguments, marked, taken
        self.registers: dict[str, Value] = {"%ntid.x": block, "%tid.x": 0, "%ctaid.x": 0}
        self.registers |= kernel.parameters
        self.loads = self.stores = self.within = 0

    def run(self) -> Traffic:
        """Execute the kernel to its end."""
        place = 0
        for _ in range(LIMIT):
            instruction = self.kernel.instructions[place]
            opcode = instruction.name[0]
            if opcode == "bra":
                target = self.kernel.labels[instruction.operands[0]]
                # Unknown: one way, then the other; a loop that waits for a number is left.
                unknown = self.taken and target > place
                place = target if self._runs(instruction, unknown) else place + 1
                continue
            if self._runs(instruction, unknown=True):
                if opcode == "ret":
                    return Traffic(self.loads, self.stores, self.within)
                self._execute(instruction)
            place += 1
        raise ValueError(f"the kernel did not end within {LIMIT} instructions")

    def _runs(self, instruction: _Instruction, unknown: bool) -> bool:
        """Whether an instruction's predicate lets it run."""
        if instruction.guard is None:
            return True
        value = self.registers.get(instruction.guard[0])
        return unknown if value is None else bool(value) == instruction.guard[1]

    def _execute(self, instruction: _Instruction) -> None:
        name, operands = instruction.name, instruction.operands
        opcode, modifiers = name[0], name[1:]
        if opcode in _CONTROL:
            raise ValueError(f"the traffic of '{'.'.join(name)}' is not known")
        if opcode in ("ld", "st", "atom", "red"):
            self._access(name, operands)
        elif opcode == "setp":
            compare = _COMPARISONS.get(modifiers[0])
            a, b = (self._value(operand, modifiers[-1]) for operand in operands[1:3])
            known = compare is not None and a is not None and b is not None and len(modifiers) == 2
            self.registers[operands[0]] = compare(a, b) if known else None  # type: ignore[misc, arg-type]
        elif opcode == "selp":
            choice, kind = self.registers.get(operands[3]), modifiers[-1]
            chosen = None if choice is None else self._value(operands[1 if choice else 2], kind)
            self._write(operands[0], kind, chosen)
        elif modifiers and modifiers[-1] == "pred":
            self.registers[operands[0]] = self._predicate(opcode, operands[1:])
        else:
            self._compute(name, operands)

    def _compute(self, name: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """Integer arithmetic; the result of anything else is unknown."""
        opcode, kind = name[0], name[-1]
        target = name[-2] if opcode == "cvt" else kind
        values = [self._value(operand, kind) for operand in operands[1:]]
        function = _ARITHMETIC.get(opcode)
        if function is None or None in values or (opcode in ("div", "rem") and not values[1]):
            self.registers[operands[0]] = None
            return
        width = 2 * _bits(target) if "wide" in name else _bits(target)
        result = function(*values) >> (width if "hi" in name else 0)
        self.registers[operands[0]] = result & ((1 << width) - 1)

    def _predicate(self, opcode: str, operands: tuple[str, ...]) -> bool | None:
        """Logic with three values."""
        values = [self.registers.get(operand) for operand in operands]
        if opcode == "and" and False in values:
            return False
        if opcode == "or" and True in values:
            return True
        if None in values:
            return None
        if opcode == "not":
            return not values[0]
        logic = {"mov": any, "and": all, "or": any}.get(opcode, lambda found: sum(found) % 2 == 1)
        return bool(logic(values))

    def _access(self, name: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """Memory: parameters are read, the rest is counted."""
        kind = name[-1]
        space = next((part for part in name if part in _SPACES), "global")  # generic: the same
        count = next((int(part[1]) for part in name if re.fullmatch(r"v[248]", part)), 1)
        size = _bits(kind) // 8 * count
        if space == "global":
            self.stores += size * (name[0] != "ld")
            self.loads += size * (name[0] != "st")
            place = self._address(operands[0 if name[0] in ("st", "red") else 1])
            self.within += size * (place in self.marked)
        if name[0] not in ("ld", "atom"):
            return
        for register in re.findall(r"%\w+", operands[0]):
            self.registers[register] = None
        if space == "param" and count == 1 and not kind.startswith("f"):
            place = self._address(operands[1])
            raw = b"" if place is None else self.arguments[place : place + size]
            if len(raw) < size:
                raise ValueError(f"no argument lies at {operands[1]}, {place}")
            self._write(operands[0], kind, int.from_bytes(raw, "little"))

    def _address(self, operand: str) -> int | None:
        match = _ADDRESS.fullmatch(operand)
        base = None if match is None else self.registers.get(match["base"])
        if match is None or base is None:
            return None
        return (base + int(match["offset"] or 0)) & (2**64 - 1)

    def _write(self, register: str, kind: str, value: Value) -> None:
        known = value is not None and not kind.startswith("f")
        self.registers[register] = value & ((1 << _bits(kind)) - 1) if known else None  # type: ignore[operator]

    def _value(self, operand: str, kind: str) -> Value:
        """An operand as an integer of a type; None where it is no integer, or unknown."""
        if kind.startswith("f"):
            return None
        if re.fullmatch(r"-?\d+", operand):
            value: Value = int(operand)
        elif re.fullmatch(r"0x[0-9a-fA-F]+U?", operand):
            value = int(operand.rstrip("U"), 16)
        else:
            value = self.registers.get(operand)
        if value is None:
            return None
        value &= (1 << _bits(kind)) - 1
        negative = kind.startswith("s") and value >> (_bits(kind) - 1)
        return value - (1 << _bits(kind)) if negative else value


def _bits(kind: str) -> int:
    """The width of a type: `s64`, `f16x2`."""
    match = re.fullmatch(r"[a-z]+(\d+)(?:x(\d))?", kind)
    return int(match[1]) * int(match[2] or 1) if match else 64


def _statements(body: str) -> Iterator[str]:
    """Labels and instructions, without declarations and comments."""
    for line in re.sub(r"//[^\n]*", "", body).splitlines():
        for part in re.split(r"(?<=[:;])\s*", line.strip()):
            text = part.strip().rstrip(";").strip()
            if text and text[0] not in ".{}":
                yield text
