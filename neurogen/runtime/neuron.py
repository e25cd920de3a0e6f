"""The generated neuron's frame: parameters, prelude, state, and the functional core around kernels.

In: what a generated module declares (`Neuron`'s class attributes). Out: an `nn.Module` with the
field's keywords. Generated classes hold data and one eager step; everything they share is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurogen.runtime import backend as backends
from neurogen.runtime import functions as fn
from neurogen.runtime.abi import Bound, Constant, Kernels, Learnable
from neurogen.runtime.base import BaseNode
from neurogen.runtime.fused import IO_TYPES, Call, run
from neurogen.runtime.surrogate import Surrogate

State = dict[str, Any]


class Neuron(BaseNode):
    """Base class of generated neurons; see the generated class for its equation and arguments.

    Attributes:
        inputs: Names of the inputs, in the order of `forward`.
        states: Names of the states; each is an attribute, a number before the first input.
        flags: Compile-time flags of the kernels.
        constants: The prelude.
        matrices: Matrices whose exponentials some constants are elements of.
        initial: Value of each state before the first step, from the parameters.
        bounds: What parameters must satisfy.
        learnable: `nn.Parameter`s that the neuron makes itself.
        kernels: Source text of the fused kernels.
    """

    inputs: ClassVar[tuple[str, ...]] = ("x",)
    states: ClassVar[tuple[str, ...]] = ("v",)
    differentiable: ClassVar[tuple[bool, ...]] = (True,)
    flags: ClassVar[tuple[str, ...]] = ()
    parameter_names: ClassVar[tuple[str, ...]] = ()
    constants: ClassVar[tuple[Constant, ...]] = ()
    matrices: ClassVar[Mapping[str, Any]] = {}
    initial: ClassVar[Mapping[str, Any]] = {}
    bounds: ClassVar[Mapping[str, Bound]] = {}
    learnable: ClassVar[Mapping[str, Learnable]] = {}
    v_reset_may_be_none: ClassVar[bool] = False
    kernels: ClassVar[Kernels]

    def __init__(
        self,
        own: Mapping[str, Any],
        surrogate_function: Surrogate | None,
        detach_reset: bool,
        step_mode: str,
        backend: str,
        store_v_seq: bool,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(_memories={}, _starts={}, _constants={}, _ready=False, _at_rest=False)
        self.step_mode = step_mode
        self.surrogate_function = (
            self.default_surrogate() if surrogate_function is None else surrogate_function
        )
        self.detach_reset = bool(detach_reset)
        self.store_v_seq = bool(store_v_seq)
        for name, value in own.items():
            setattr(self, name, value)
        self._make_learnables(shape)
        self.__dict__["_ready"] = True
        for name in self.bounds:
            self._check(name)
        self.backend = backend
        for state in self.states:
            self._memories[state] = None
        self._memories["v_seq"] = None
        self.reset()

    # -- parameters --------------------------------------------------------------------------

    def default_surrogate(self) -> Surrogate:
        """A new instance of the surrogate that the spec declares."""
        raise TypeError(f"{type(self).__name__} declares no surrogate")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).parameter_names:
            self._set_parameter(name, value)
        elif name == "surrogate_function" and not isinstance(value, Surrogate):
            raise TypeError(
                f"surrogate_function is a neurogen.nn.surrogate module, not {type(value).__name__}"
            )
        elif name in type(self).flags and name != "hard_reset" and not isinstance(value, bool):
            raise TypeError(f"{name} is True or False, not {value!r}")
        else:
            if name in self.__dict__.get("_memories", ()):
                self.__dict__["_at_rest"] = False
            super().__setattr__(name, value)

    def _set_parameter(self, name: str, value: Any) -> None:
        if value is None and not (name == "v_reset" and type(self).v_reset_may_be_none):
            hint = " (this neuron's reset needs it)" if name == "v_reset" else ""
            raise ValueError(f"{type(self).__name__}: {name} must be a number or a tensor{hint}")
        if isinstance(value, bool) or not isinstance(value, int | float | Tensor | None):
            raise TypeError(
                f"{type(self).__name__}: {name} is a number or a tensor, not {type(value).__name__}"
            )
        before = self._current(name)
        for store in (self.__dict__, self._parameters, self._buffers):
            store.pop(name, None)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor):
            self.register_buffer(name, value)
        else:
            self.__dict__[name] = None if value is None else float(value)
        if self.__dict__.get("_ready"):
            try:
                for checked in self.bounds:
                    self._check(checked)
            except ValueError:
                self.__dict__["_ready"] = False
                self._set_parameter(name, before)
                self.__dict__["_ready"] = True
                raise
            if self._at_rest:
                self._rest()

    def _current(self, name: str) -> Any:
        for store in (self.__dict__, self._parameters, self._buffers):
            if name in store:
                return store[name]
        return None

    def _check(self, name: str) -> None:
        """Hold a parameter against its `where`; never called in forward."""
        value, bound = self._current(name), self.bounds[name]
        if value is None or (isinstance(value, Tensor) and value.is_meta):
            return
        outcome = bound.holds(_Namespace(self, torch.float64, torch.device("cpu")))
        if not bool(torch.as_tensor(outcome).all()):
            shown = (
                f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else value
            )
            raise ValueError(f"{type(self).__name__}: {name}={shown} must satisfy {bound.text}")

    def _make_learnables(self, shape: tuple[int, ...] | None) -> None:
        namespace = _Namespace(self, torch.float64, torch.device("cpu"))
        for name, entry in self.learnable.items():
            if entry.when is not None and not entry.when(self):
                self.__dict__[name] = None
                continue
            if entry.per != "layer" and shape is None:
                raise ValueError(
                    f"{type(self).__name__}: '{name}' is learnt per {entry.per}; give shape="
                )
            value = torch.as_tensor(entry.init(namespace)).to(torch.get_default_dtype())
            size = (1,) if entry.per == "layer" else tuple(shape or ())
            self.register_parameter(name, nn.Parameter(value.expand(size).clone()))

    @property
    def hard_reset(self) -> bool:
        """Whether a spike sets v to v_reset, instead of subtracting v_threshold."""
        return getattr(self, "v_reset", None) is not None

    def prelude(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        """The constants of a call, once: float64 for numbers, the compute dtype for tensors."""
        given = _Namespace(self, dtype, device)
        exact = _Namespace(self, torch.float64, torch.device("cpu"))
        return tuple(self._constant(k, c, given, exact) for k, c in enumerate(self.constants))

    def _constant(
        self, index: int, constant: Constant, given: _Namespace, exact: _Namespace
    ) -> Tensor:
        dtype, device = given._dtype, given._device
        if constant.when is not None and not constant.when(self):
            values: tuple[Any, ...] = ()
            compute = lambda _: 0.0  # noqa: E731
        else:
            values = tuple(self._current(name) for name in constant.uses)
            compute = constant.value
        if any(isinstance(value, Tensor) for value in values):
            return torch.as_tensor(compute(given)).to(device, dtype)
        flags = tuple(getattr(self, flag) for flag in self.flags)
        key = (index, values, flags, dtype, device)
        cached = self._constants.get(key)
        if cached is None:
            if len(self._constants) > 256:
                self._constants.clear()
            value = torch.as_tensor(compute(exact), dtype=torch.float64)
            cached = self._constants[key] = value.to(device, dtype)
        return cached

    # -- state -------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Every state at its initial value: numbers where the parameters are numbers."""
        for state in self.states:
            self._memories[state] = self._initial(state)
        self.__dict__["_at_rest"] = True

    def _initial(self, state: str) -> Any:
        value = self.initial[state](_Namespace(self, torch.float64, torch.device("cpu")))
        if isinstance(value, Tensor):
            return value.item() if value.dim() == 0 and not value.requires_grad else value
        return float(value)

    def reset(self) -> None:
        """Every state to its initial value (v to v_reset, or 0 if None); v_seq to None."""
        self._rest()
        self._memories["v_seq"] = None

    def register_memory(self, name: str, value: Any) -> None:
        """Generated neurons declare their states in the spec."""
        raise TypeError(f"{type(self).__name__}: declare states in the spec, not at run time")

    # -- forward -----------------------------------------------------------------------------

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What this machine can run, in both step modes."""
        return backends.supported()

    @property
    def backend(self) -> str:
        """'auto', 'torch', 'cpp' or 'cupy'."""
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value != "auto" and value not in backends.NAMES:
            raise ValueError(
                f"{type(self).__name__}: backend is one of auto, {', '.join(backends.NAMES)}; "
                f"not {value!r}"
            )
        if value != "auto" and (reason := backends.missing(value)):
            raise backends.BackendError(
                f"backend='{value}' cannot run: {reason} This machine can run "
                f"{', '.join(backends.supported())}."
            )
        self.__dict__["_backend"] = value

    def functional(
        self, *inputs: Tensor, state: State | None = None, sequences: tuple[str, ...] = ()
    ) -> tuple[Tensor, State]:
        """The neuron as a pure function: nothing is remembered.

        Args:
            inputs: `[T, N, *]` each, floating, of one shape, dtype and device.
            state: Value of each state before the first step; those not named start at rest.
            sequences: States whose potentials of all time steps are asked for.

        Returns:
            Outputs `[T, N, *]` in the inputs' dtype, and the states after the last step in the
            compute dtype; asked-for sequences stand there as `v_seq`, `[T, N, *]`.
        """
        self._check_inputs(inputs)
        first = inputs[0]
        device = first.device
        values = {name: (state or {}).get(name, None) for name in self.states}
        for name, value in values.items():
            if value is None:
                values[name] = self._initial(name)
        wide = first.dtype == torch.float64 or any(
            isinstance(v, Tensor) and v.dtype == torch.float64 and v.dim() for v in values.values()
        )
        compute = torch.float64 if wide else torch.float32
        constants = self.prelude(compute, device)
        states = tuple(self._state(n, v, first, compute) for n, v in values.items())
        flags = tuple((flag, bool(getattr(self, flag))) for flag in self.flags)
        chosen = backends.choose(self.backend, device.type)
        if chosen == "torch":
            outputs, finals, kept = self._eager(inputs, states, constants, compute, sequences)
        else:
            surrogate = self.surrogate_function
            call = Call(
                backends.launcher(chosen), self.kernels, flags, self.detach_reset,
                surrogate.spiking, type(surrogate).kernel, surrogate.arguments, len(inputs),
                self.differentiable, tuple(name in sequences for name in self.states),
            )  # fmt: skip
            if wide and first.dtype != torch.float64:
                inputs = tuple(x.to(compute) for x in inputs)
            outputs, *rest = run(call, inputs, states, constants)
            outputs = outputs.to(first.dtype)
            finals, kept = rest[: len(states)], rest[len(states) :]
        result: State = dict(zip(self.states, finals, strict=True))
        names = [name for name in self.states if name in sequences]
        result |= {f"{name}_seq": value for name, value in zip(names, kept, strict=True)}
        return outputs, result

    def _check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        name = type(self).__name__
        if len(inputs) != len(self.inputs):
            raise TypeError(f"{name} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), "
                            f"not {len(inputs)}")  # fmt: skip
        first = inputs[0]
        for label, x in zip(self.inputs, inputs, strict=True):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name}: {label} is a tensor, not {type(x).__name__}")
            if x.dtype not in IO_TYPES:
                raise TypeError(f"{name}: {label} must be a floating-point tensor, not {x.dtype}; "
                                f"convert it, e.g. {label}.float()")  # fmt: skip
            if x.dim() < 2:
                raise ValueError(
                    f"{name}: in step_mode 'm' {label} has shape [T, N, *]; this one has "
                    f"{list(x.shape)}. For a single time step use step_mode 's'"
                )
            if x.shape != first.shape or x.dtype != first.dtype or x.device != first.device:
                raise ValueError(
                    f"{name}: inputs have one shape, dtype and device; {self.inputs[0]} is "
                    f"{list(first.shape)} {first.dtype} on {first.device}, {label} is "
                    f"{list(x.shape)} {x.dtype} on {x.device}"
                )
        if first.shape[0] == 0:
            raise ValueError(f"{name}: the input has no time steps (T = 0)")

    def _state(self, name: str, value: Any, first: Tensor, compute: torch.dtype) -> Tensor:
        """A state as the kernels take it: 0-dim, or of one time step's shape."""
        if not isinstance(value, Tensor):
            return torch.full((), float(value), dtype=compute, device=first.device)
        step = first.shape[1:]
        if value.device != first.device and value.dim():
            raise ValueError(
                f"{type(self).__name__}: the input is on {first.device}, the state {name} on "
                f"{value.device}; call reset(), or move the module with .to()"
            )
        if value.shape != step and value.numel() != 1:
            initial = self._initial(name)
            if value is initial or (isinstance(initial, Tensor) and initial.shape == value.shape):
                value = value.expand(step)  # parameters of a neuron's own shape
            else:
                raise ValueError(
                    f"{type(self).__name__}: the input of a time step has shape {list(step)}, the "
                    f"state {name} {list(value.shape)}; call reset() before a new batch or shape"
                )
        value = value.to(device=first.device, dtype=compute)
        return value.reshape(()) if value.numel() == 1 and value.shape != step else value

    def _eager(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...],
        constants: tuple[Tensor, ...], compute: torch.dtype, sequences: tuple[str, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:  # fmt: skip
        """The torch backend: the generated step, T times."""
        flags = [bool(getattr(self, flag)) for flag in self.flags]
        shape = inputs[0].shape[1:]
        current = tuple(fn.spread(s, shape) for s in states)
        constants = tuple(fn.spread(c, shape) if c.requires_grad else c for c in constants)
        outputs: list[Tensor] = []
        kept: list[list[Tensor]] = [[] for name in self.states if name in sequences]
        for xs in zip(*(x.unbind(0) for x in inputs), strict=True):
            wide = [x.to(compute) for x in xs]
            output, *current = self.step(*wide, *current, *constants, self.surrogate_function,
                                         self.detach_reset, *flags)  # type: ignore[assignment]  # fmt: skip
            outputs.append(output.to(xs[0].dtype))
            wanted = (s for n, s in zip(self.states, current, strict=True) if n in sequences)
            for history, value in zip(kept, wanted, strict=True):
                history.append(value)
        return torch.stack(outputs), tuple(current), [torch.stack(history) for history in kept]

    @staticmethod
    def step(*arguments: Any) -> tuple[Tensor, ...]:
        """One step in plain torch: inputs, states, constants, surrogate, flags -> output, states."""
        raise TypeError("a generated neuron defines its step")

    def multi_step_forward(self, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        """All time steps `[T, N, *]`, continuing from the present state."""
        sequences = ("v",) if self.store_v_seq and "v" in self.states else ()
        return self._advance(inputs, sequences)

    def single_step_forward(self, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        """One time step `[N, *]`, continuing from the present state."""
        steps = tuple(x.unsqueeze(0) if isinstance(x, Tensor) else x for x in inputs)
        return self._advance(steps, ()).squeeze(0)

    def _advance(self, inputs: tuple[Tensor, ...], sequences: tuple[str, ...]) -> Tensor:
        memories = self._memories
        state = None if self._at_rest else {name: memories[name] for name in self.states}
        outputs, following = self.functional(*inputs, state=state, sequences=sequences)
        memories.update(following)
        self.__dict__["_at_rest"] = False
        return outputs

    def extra_repr(self) -> str:
        """Threshold, reset, mode, backend and the neuron's own parameters."""
        shown: dict[str, Any] = {}
        for name in (*self.parameter_names, *self.learnable):
            value = self._current(name)
            if not isinstance(value, Tensor):
                shown[name] = value
            else:
                shown[name] = f"tensor{list(value.shape)}"
        shown |= {flag: getattr(self, flag) for flag in self.flags if flag != "hard_reset"}
        shown |= {
            "detach_reset": self.detach_reset,
            "step_mode": self.step_mode,
            "backend": self.backend,
        }
        hidden = [name for name in self.learnable if shown.get(name) is None]
        return ", ".join(f"{name}={value}" for name, value in shown.items() if name not in hidden)


class _Namespace:
    """Parameters as the prelude sees them: 0-dim float64 for numbers, compute dtype for tensors."""

    def __init__(self, node: Neuron, dtype: torch.dtype, device: torch.device) -> None:
        self._node, self._dtype, self._device = node, dtype, device
        self._exponentials: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        node = self._node
        if name in node.flags:
            return bool(getattr(node, name))
        value = node._current(name)
        if isinstance(value, Tensor):
            value = value.to(self._dtype) if value.dim() else value.to(self._dtype).reshape(1)
            entry = node.learnable.get(name)
            return value if entry is None else _TRANSFORMS[entry.transform](value, entry.bounds)
        if value is None:
            return math.nan
        return torch.tensor(value, dtype=torch.float64, device=self._device)

    # No name of a spec ends in an underscore, so these collide with no parameter.

    def number_(self, value: float) -> Tensor:
        """A literal of a prelude."""
        return torch.tensor(value, dtype=torch.float64, device=self._device)

    def element_(self, name: str, row: int, column: int) -> Tensor:
        """An element of exp(matrix), in float64; the exponential is taken once a call."""
        if name not in self._exponentials:
            entries = [e for entries in self._node.matrices[name](self) for e in entries]
            wide = torch.broadcast_tensors(
                *(torch.as_tensor(e, dtype=torch.float64, device=self._device) for e in entries)
            )
            size = math.isqrt(len(entries))
            stacked = torch.stack(wide, -1).unflatten(-1, (size, size))
            self._exponentials[name] = torch.linalg.matrix_exp(stacked)
        return self._exponentials[name][..., row, column]


def _sigmoid_between(value: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    low, high = bounds or (0.0, 1.0)
    return low + (high - low) * torch.sigmoid(value)


_TRANSFORMS = {
    "identity": lambda value, bounds: value,
    "sigmoid": _sigmoid_between,
    "softplus": lambda value, bounds: torch.nn.functional.softplus(value) + (bounds or (0.0,))[0],
    "exp": lambda value, bounds: torch.exp(value),
    "clamp": lambda value, bounds: torch.clamp(value, *bounds),
}
