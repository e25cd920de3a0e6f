"""Declared parameters of a generated neuron: numbers, tensors or learnt, held against their bounds.

In: what a generated module declares (`Parameters`' class attributes). Out: attributes that can be
assigned at any time, and the prelude: what kernels see of them. Separate from the neuron, which
adds states and the pass over time.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurogen.runtime.abi import Bound, Constant, Learnable
from neurogen.runtime.base import BaseNode
from neurogen.runtime.memory import exporting
from neurogen.runtime.prelude import Namespace
from neurogen.runtime.surrogate import Surrogate

#: Shape of what is learnt per channel `(C,)`, neuron `(*)` or step `(T,)`; a mapping of these words
#: to shapes where a neuron learns in several ways.
Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]


class Parameters(BaseNode):
    """A neuron's parameters; `Neuron` is built on it.

    Attributes:
        states: Names of the states; each is an attribute, a number before the first input.
        flags: Compile-time flags of the kernels.
        parameter_names: Parameters, learnable ones included.
        constants: The prelude.
        matrices: Matrices whose exponentials some constants are elements of.
        initial: Value of each state before the first step, from the parameters.
        random_starts: Intervals from which initial states are drawn.
        bounds: What parameters must satisfy.
        learnable: `nn.Parameter`s that the neuron makes itself.
        sharing: Parameters that may have a value per 'channel', 'neuron' or 'step'.
        v_reset_may_be_none: Whether None chooses a soft reset.
    """

    states: ClassVar[tuple[str, ...]] = ("v",)
    flags: ClassVar[tuple[str, ...]] = ()
    parameter_names: ClassVar[tuple[str, ...]] = ()
    constants: ClassVar[tuple[Constant, ...]] = ()
    matrices: ClassVar[Mapping[str, Any]] = {}
    initial: ClassVar[Mapping[str, Any]] = {}
    random_starts: ClassVar[Mapping[str, tuple[float, float]]] = {}
    bounds: ClassVar[Mapping[str, Bound]] = {}
    learnable: ClassVar[Mapping[str, Learnable]] = {}
    sharing: ClassVar[Mapping[str, str]] = {}
    v_reset_may_be_none: ClassVar[bool] = False

    _ready: bool
    _resting: set[str]
    _numbers: tuple[float | None, ...]  # constants, initial states; None where a tensor is in it
    _filled: dict[tuple[torch.dtype, torch.device], tuple[Tensor | None, ...]]  # the same, tensors

    def _rest(self) -> None:
        """Let the states that are at rest follow the parameters."""

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name in cls.parameter_names:
            self._check_type(name, value)
            self._replace(name, float(value) if isinstance(value, Real) else value)
        elif name in cls.flags and name != "hard_reset":
            if not isinstance(value, bool):
                raise TypeError(f"{cls.__name__}: {name} is True or False, not {value!r}")
            self._replace(name, value)
        else:
            if name == "surrogate_function" and not isinstance(value, Surrogate):
                raise TypeError(
                    f"{cls.__name__}: surrogate_function is a neurogen.nn.surrogate module, not "
                    f"{type(value).__name__}"
                )
            self.__dict__.get("_resting", set()).discard(name)
            super().__setattr__(name, value)

    def _check_type(self, name: str, value: Any) -> None:
        cls = type(self)
        if value is None and not (name == "v_reset" and cls.v_reset_may_be_none):
            hint = " (this neuron's reset needs it)" if name == "v_reset" else ""
            raise ValueError(f"{cls.__name__}: {name} must be a number or a tensor{hint}")
        if isinstance(value, bool) or not isinstance(value, Real | Tensor | None):
            raise TypeError(
                f"{cls.__name__}: {name} is a number or a tensor, not {type(value).__name__}"
            )
        if self._ready and name in self.learnable and not self._learns(name):
            raise ValueError(f"{cls.__name__}: '{name}' is not learnt with {self._flag_values()}")

    def _replace(self, name: str, value: Any) -> None:
        """Set a parameter or a flag; where a bound does not hold, the old value stays."""
        before = self._current(name)
        self._store(name, value)
        if not self._ready:
            return
        if _elsewhere(before) or _elsewhere(value):  # swapped by who spreads or fakes parameters
            return
        try:
            self._check()
            missing = [n for n in self.learnable if self._learns(n) and self._current(n) is None]
            if missing:
                raise ValueError(
                    f"{type(self).__name__}: {self._flag_values()} learns '{missing[0]}', which "
                    "this neuron was made without; make a new one"
                )
        except Exception:
            self._store(name, before)
            raise
        if not (isinstance(before, Tensor) and isinstance(value, Tensor)):
            self._count()
        self._rest()

    def _store(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter) and self._parameters.get(name) is not None:
            self._parameters[name] = value  # where it was: optimizers go by the order
            return
        for store in (self.__dict__, self._parameters, self._buffers):
            store.pop(name, None)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor):
            self.register_buffer(name, value)
        else:
            self.__dict__[name] = value

    def _current(self, name: str) -> Any:
        for store in (self.__dict__, self._parameters, self._buffers):
            if name in store:
                return store[name]
        return getattr(self, name, None)  # under torch.nn.utils.parametrize it is a property

    def _check(self) -> None:
        """Hold the parameters against their `where`; never called in forward."""
        namespace = Namespace(self)
        for name, bound in self.bounds.items():
            value = self._current(name)
            if value is None or _elsewhere(value):
                continue
            holds = bound.holds(namespace)
            if not bool(holds.all() if isinstance(holds, Tensor) else holds):
                shown = f"tensor{list(value.shape)}" if isinstance(value, Tensor) else value
                raise ValueError(f"{type(self).__name__}: {name}={shown} must satisfy {bound.text}")

    def _make_learnables(self, shape: Shape | None) -> None:
        for name, entry in self.learnable.items():
            if not self._learns(name):
                self._store(name, None)
                continue
            size = (1,) if entry.per == "layer" else self._size(name, entry.per, shape)
            self._store(name, nn.Parameter(torch.empty(size)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Learnable parameters at their initial values; for example after `to_empty`."""
        namespace = Namespace(self)
        for name, entry in self.learnable.items():
            value = self._current(name)
            if self._learns(name) and not value.is_meta:
                with torch.no_grad():
                    value.copy_(torch.as_tensor(entry.init(namespace), device=value.device))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        """As torch does, but a number without dimensions serves a learnable of one element.

        SpikingJelly saves those of its neurons so.
        """
        given = dict(state_dict)
        for name in self.learnable:
            own, value = self._current(name), given.get(prefix + name)
            if isinstance(own, Tensor) and isinstance(value, Tensor) and not value.dim():
                given[prefix + name] = value.reshape(own.shape) if own.numel() == 1 else value
        super()._load_from_state_dict(given, prefix, *others)

    def _size(self, name: str, per: str, shape: Shape | None) -> tuple[int, ...]:
        """Shape of a learnable."""
        kinds = {entry.per for entry in self.learnable.values()} - {"layer"}
        known = shape if isinstance(shape, Mapping) else dict.fromkeys(kinds, shape)
        size = known.get(per) if len(kinds) == 1 or known is shape else None
        if size is None:
            wanted = {"channel": "(C,)", "neuron": "one time step's without N", "step": "(T,)"}[per]
            how = wanted if len(kinds) == 1 else f"{{'{per}': {wanted}, ...}}"
            raise ValueError(
                f"{type(self).__name__}: '{name}' is learnt per {per}; give shape= {how}"
            )
        return tuple(size)

    def _learns(self, name: str) -> bool:
        """Whether a learnable exists with the present flags."""
        when = self.learnable[name].when
        return when is None or bool(when(self))

    def _flag_values(self) -> str:
        return ", ".join(f"{n}={getattr(self, n)}" for n in self.flags if n != "hard_reset")

    @property
    def hard_reset(self) -> bool:
        """Whether a spike sets v to v_reset, instead of subtracting v_threshold."""
        return getattr(self, "v_reset", None) is not None

    def _count(self) -> None:
        """Evaluate what depends on numbers only, once for all calls up to the next assignment."""
        namespace = Namespace(self)
        numbers: list[float | None] = []
        for constant in self.constants:
            needed = constant.when is None or bool(constant.when(self))
            varies = any(isinstance(self._current(name), Tensor) for name in constant.uses)
            value = constant.value(namespace) if needed and not varies else 0.0
            numbers.append(None if needed and varies else float(value))
        numbers += [self._origin(name, namespace) for name in self.states]
        self.__dict__["_numbers"] = tuple(numbers)
        self.__dict__["_filled"] = {target: self._fill(*target) for target in self._filled}

    def _origin(self, state: str, namespace: Namespace) -> float | None:
        if state in self.random_starts:
            return None
        value = self.initial[state](namespace)
        varies = isinstance(value, Tensor) and value.dim()  # what comes of a tensor has dimensions
        return None if varies else float(value)

    def _fill(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor | None, ...]:
        """The numbers as 0-dim tensors; filled in on the device, as copies would wait for it."""
        with torch.inference_mode(False):  # they outlive the call: training may save them
            return tuple([
                None if number is None else torch.full((), number, dtype=dtype, device=device)
                for number in self._numbers
            ])  # fmt: skip

    def _known(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor | None, ...]:
        """Those of constants and initial states that depend on numbers only.

        They are kept: for the next call, and so that a compiled graph takes them as inputs, and
        need not be made again for another number.
        """
        if exporting():
            return self._fill(dtype, device)
        target = (dtype, device)
        known = self._filled.get(target)
        if known is None:
            known = self._fill(dtype, device)
            capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
            if not capturing and all(type(n) is Tensor for n in known if n is not None):
                self._filled[target] = known
        return known

    def prelude(
        self, dtype: torch.dtype, device: torch.device, dims: int = 0, steps: slice | None = None
    ) -> tuple[Tensor, ...]:
        """The constants of a call, once: float64 for numbers, the compute dtype for tensors.

        Args:
            dtype: Compute dtype.
            device: Of the inputs.
            dims: Dimensions of one time step.
            steps: Which of the values per time step are read.
        """
        known = self._known(dtype, device)[: len(self.constants)]
        if not any(value is None for value in known):
            return known  # type: ignore[return-value]
        namespace = Namespace(self, dtype, device, dims, steps)
        return tuple([
            torch.as_tensor(constant.value(namespace)).to(device, dtype) if value is None else value
            for constant, value in zip(self.constants, known, strict=True)
        ])  # fmt: skip


def _elsewhere(value: Any) -> bool:
    """Whether a tensor's values are not here to look at: spread over processes, fake, or meta."""
    if not isinstance(value, Tensor):
        return False
    return value.is_meta or type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__
