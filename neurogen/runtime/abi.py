"""What generated modules and kernels agree on with the runtime; a change here is a new `ABI`.

In: nothing. Out: the data that a generated module declares, and the order in which a kernel's
arguments are packed: every field has eight bytes, in the order of `arguments.h.jinja`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from neurogen.errors import BackendError

ABI = 5
SURROGATE_PARAMETERS = 4


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter-only subexpression that kernels read.

    Attributes:
        name: What the kernels call it.
        uses: Parameters in it.
        value: It, as a function of a namespace of parameters and flags.
        when: The flags under which it is needed; None where always.
        stepped: Whether it may differ from step to step: then its value may lead with T.
    """

    name: str
    uses: tuple[str, ...]
    value: Callable[[Any], Any]
    when: Callable[[Any], bool] | None = None
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """What a parameter must satisfy, checked at construction and assignment."""

    text: str
    holds: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Learnable:
    """An `nn.Parameter`: its initial value, its shape, and what equations see of it."""

    init: Callable[[Any], Any]
    per: str = "layer"
    transform: str = "identity"
    bounds: tuple[float, float] | None = None
    when: Callable[[Any], bool] | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """What `linearise` and `linearise_charge` return: (name, d what, d by what) of each block.

    S is the output, V.v a state before or after the step, H.v a charged state, X.x an input.

    Attributes:
        step: Of fire and reset, and of the charge where a state enters.
        charge: Of the charge where no state enters.
        uses: Inputs, parameters, learnables and flags behind `charge`.
    """

    step: tuple[tuple[str, str, str], ...]
    charge: tuple[tuple[str, str, str], ...]
    uses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernels:
    """The source text of a neuron's kernels, in files beside the generated module or in memory.

    Attributes:
        module: `__file__` of the generated module.
        kept: For each value of a step that the backward pass may keep, the constants (bits) whose
            gradients read it; -1 where it is always read.
        digests: Of the files' texts. Kernels read their arguments by raw pointers: those of another
            spec, or of another version, would read anything.
        texts: Those of kernels in memory.
    """

    module: str
    kept: tuple[int, ...]
    digests: tuple[tuple[str, str], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()

    def rows(self, wanted: int) -> int:
        """Values kept of each step where the gradients of these constants (bits) are asked for."""
        return sum(mask < 0 or mask & wanted != 0 for mask in self.kept)

    def text(self, file: str) -> str:
        """The text of `kernels.cpp` or `kernels.cu`.

        Raises:
            BackendError: The file beside the module is not the one that was generated with it.
        """
        for name, text in self.texts:
            if name == file:
                return text
        path = Path(self.module).with_name(file)
        try:
            text = path.read_text(encoding="utf-8")  # whatever ends its lines
        except (OSError, UnicodeDecodeError):
            text = ""
        if hashlib.sha256(text.encode()).hexdigest()[:16] != dict(self.digests).get(file):
            raise BackendError(
                f"{path} is missing, or is not the file that was generated with {self.module}; run "
                "`neurogen build` again, for all backends, and import the module anew."
            )
        return text


@dataclass(frozen=True, slots=True)
class Variant:
    """All that is fixed when the kernel of one direction is compiled.

    Attributes:
        backward: Which direction.
        io: Storage type: float, double, neurogen::half, neurogen::bfloat16.
        flags: Values of the neuron's compile-time flags.
        wanted: Bit k: the gradient of constant k.
        surrogate: Kernel text of primitive and slope.
    """

    backward: bool
    io: str
    flags: tuple[tuple[str, bool], ...]
    detach_reset: bool
    spiking: bool
    wanted: int
    surrogate: str

    @property
    def macros(self) -> tuple[tuple[str, str], ...]:
        """Macros of the kernel text."""
        return (
            ("BACKWARD", str(int(self.backward))),
            ("IO", self.io),
            *self._wanted,
            ("DETACH_RESET", str(int(self.detach_reset))),
            ("SPIKING", str(int(self.spiking))),
            *((f"FLAG_{name}", str(int(value))) for name, value in self.flags),
        )

    @property
    def _wanted(self) -> Iterator[tuple[str, str]]:
        """The bits, 64 to a macro: WANTED, and WANTED_1 … where there are more."""
        for word in range(max(1, -(-self.wanted.bit_length() // 64))):
            bits = self.wanted >> 64 * word & 2**64 - 1
            yield (f"WANTED_{word}" if word else "WANTED"), f"{bits:#x}"


@dataclass(frozen=True, slots=True)
class Operand:
    """A value per neuron, maybe broadcast: neuron n reads element n // inner % count of `data`.

    Where `data` has several times `count` elements, each time step has its own.
    """

    data: Tensor
    inner: int
    count: int

    @property
    def packed(self) -> tuple[int, int, int]:
        """As the kernel reads it."""
        return (self.data.data_ptr(), self.inner, self.count)

    @property
    def stride(self) -> int:
        """Elements from one time step to the next; 0 where all steps read the same."""
        return 0 if self.data.numel() == self.count else self.count


def pack_floats(values: tuple[float, ...]) -> tuple[int, ...]:
    """Float64 numbers as the 64-bit integers with the same bits, padded to four."""
    padded = (*values, *([0.0] * (SURROGATE_PARAMETERS - len(values))))
    return struct.unpack(
        f"={SURROGATE_PARAMETERS}q", struct.pack(f"={SURROGATE_PARAMETERS}d", *padded)
    )
