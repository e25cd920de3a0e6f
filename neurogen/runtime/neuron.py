"""The generated neuron's frame: states, and the functional core around kernels.

In: what a generated module declares (`Neuron`'s class attributes). Out: an `nn.Module` with the
field's keywords. Generated classes hold data and one eager step; everything they share is here and
in `parameters.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurogen.errors import BackendError
from neurogen.runtime import backend as backends
from neurogen.runtime import functions as fn
from neurogen.runtime import fused, operators
from neurogen.runtime.abi import ABI, Blocks, Kernels
from neurogen.runtime.call import IO_TYPES, call_of
from neurogen.runtime.parameters import Parameters, Shape
from neurogen.runtime.prelude import Namespace
from neurogen.runtime.registry import register
from neurogen.runtime.surrogate import Surrogate

State = dict[str, Any]


class Neuron(Parameters):
    """Base class of generated neurons; see the generated class for its equation and arguments.

    Attributes:
        inputs: Names of the inputs, in the order of `forward`.
        differentiable: For each state, whether a gradient flows through it.
        noises: Names of the noises, and whether each is drawn in eval(), too.
        kernels: Source text of the fused kernels.
        registered: Name of the class in graphs.
        blocks: What `linearise` and `linearise_charge` return, the step's Jacobian in blocks.
    """

    inputs: ClassVar[tuple[str, ...]] = ("x",)
    differentiable: ClassVar[tuple[bool, ...]] = (True,)
    noises: ClassVar[Mapping[str, bool]] = {}
    kernels: ClassVar[Kernels]
    registered: ClassVar[str]
    blocks: ClassVar[Blocks]
    linearise: ClassVar[Callable[..., tuple[Any, ...]]]
    linearise_charge: ClassVar[Callable[..., tuple[Any, ...]]]
    surrogate_function: Surrogate

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Refuse what would be wrong silently: another runtime's code, equations in Python."""
        super().__init_subclass__(**keywords)
        if "kernels" in cls.__dict__:  # a generated class
            cls.registered = register(cls)
            made_for = cls.step.__globals__.get("abi")
            if made_for != ABI:
                raise ImportError(
                    f"{cls.__name__} was generated for ABI {made_for} of neurogen, this one has "
                    f"ABI {ABI}; run `neurogen build` again"
                )
        for name in ("neuronal_charge", "neuronal_fire", "neuronal_reset", "step"):
            owner = next(base for base in cls.__mro__ if name in base.__dict__)
            if owner not in Neuron.__mro__ and "kernels" not in owner.__dict__:
                raise TypeError(
                    f"{owner.__name__}.{name} would be ignored: {cls.__name__} is compiled from a "
                    "spec. Change the equations in a spec of your own, or subclass "
                    "neurogen.runtime.base.BaseNode"
                )

    def __init__(
        self,
        own: Mapping[str, Any],
        surrogate_function: Surrogate | None,
        detach_reset: bool,
        step_mode: str,
        backend: str,
        store_v_seq: bool,
        shape: Shape | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(
            _memories={}, _starts={}, _resting=set(), _ready=False, _numbers=(),
            _filled={(torch.float32, torch.device("cpu")): ()},
        )  # fmt: skip
        self.step_mode = step_mode
        self.surrogate_function = (
            self.default_surrogate() if surrogate_function is None else surrogate_function
        )
        self.detach_reset = bool(detach_reset)
        self.store_v_seq = bool(store_v_seq)
        for name, value in own.items():
            setattr(self, name, value)
        self._make_learnables(shape)
        self._check()
        self.__dict__["_ready"] = True
        self._count()
        self.backend = backend
        self.reset()

    def default_surrogate(self) -> Surrogate:
        """A new instance of the surrogate that the spec declares."""
        raise TypeError(f"{type(self).__name__} declares no surrogate")

    # -- state -------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Let the states that are at rest follow the parameters."""
        for place, state in enumerate(self.states, len(self.constants)):
            if state not in self._resting:
                continue
            value: Any = self._numbers[place]
            if value is None and state not in self.random_starts:
                value = torch.as_tensor(self.initial[state](Namespace(self))).detach()
            self._memories[state] = value  # None where it is drawn, when there is a shape

    def reset(self) -> None:
        """Every state to its initial value (v to v_reset, or 0 if None); v_seq to None."""
        self._resting.update(self.states)
        self._rest()
        self._memories["v_seq"] = None
        if self.monitor is not False:
            self.set_monitor()

    def register_memory(self, name: str, value: Any) -> None:
        """Generated neurons declare their states in the spec."""
        raise TypeError(f"{type(self).__name__}: declare states in the spec, not at run time")

    def __getstate__(self) -> dict[str, Any]:
        """Without what the next forward computes again."""
        return super().__getstate__() | {"_filled": {}, "_resting": set(self._resting)}

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.update(_resting=set(self._resting), _filled=dict(self._filled))
        return replica

    # -- forward -----------------------------------------------------------------------------

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What this machine can run, in both step modes."""
        return backends.supported()

    @property
    def backend(self) -> str:
        """'auto', 'torch', 'cpp' or 'cupy'."""
        return str(self._backend)

    @backend.setter
    def backend(self, value: str) -> None:
        if value != "auto" and value not in backends.NAMES:
            raise ValueError(
                f"{type(self).__name__}: backend is one of auto, {', '.join(backends.NAMES)}; "
                f"not {value!r}"
            )
        if value != "auto" and (reason := backends.missing(value)):
            raise BackendError(
                f"backend='{value}' cannot run: {reason} This machine can run "
                f"{', '.join(backends.supported())}."
            )
        self.__dict__["_backend"] = value

    def functional(
        self, *inputs: Tensor, state: State | None = None, sequences: tuple[str, ...] = (),
        t: int | None = None,
    ) -> tuple[Tensor, State]:  # fmt: skip
        """The neuron as a pure function: nothing is remembered.

        Args:
            inputs: `[T, N, *]` each, floating, of one shape, dtype and device.
            state: Value of each state before the first step; those not named start at rest.
            sequences: States whose potentials of all time steps are asked for.
            t: Where parameters per time step begin to be read; without it their length is T.

        Returns:
            Outputs `[T, N, *]` in the inputs' dtype, and the states after the last step in the
            compute dtype; asked-for sequences stand there as `v_seq`, `[T, N, *]`. Neurons with
            noise give back, and take, a `noise_state`.
        """
        return self._pass(inputs, state or {}, sequences, t, False)

    def _pass(
        self, inputs: tuple[Tensor, ...], state: State, sequences: tuple[str, ...], t: int | None,
        remembers: bool,
    ) -> tuple[Tensor, State]:  # fmt: skip
        """`functional`; `remembers` says that a module keeps what comes of it."""
        self._check_inputs(inputs)
        given = self._check_state(state)
        first = inputs[0]
        device, step = first.device, first.shape[1:]
        wide = first.dtype == torch.float64 or any(
            isinstance(v, Tensor) and v.dtype == torch.float64 and v.dim() for v in given.values()
        )
        compute = torch.float64 if wide else torch.float32
        constants = self.prelude(compute, device, len(step), self._steps(first.shape, t))
        self._check_constants(constants, first.shape)
        chance = self._chance(state)
        states = tuple(
            self._given(name, given[name], first, compute) if name in given
            else self._initial(name, step, compute, device, chance)
            for name in self.states
        )  # fmt: skip
        surrogate = self.surrogate_function
        chosen = self._choose(device, surrogate)
        if chosen == "torch":
            drawn = self._draw(chance, first, compute)
            outputs, finals, kept = self._eager(inputs, states, constants, sequences, drawn)
        else:
            if wide:
                inputs = tuple(x.to(compute) for x in inputs)
            asked = tuple([name in sequences for name in self.states])
            tensors = (*inputs, *states, *constants)
            outputs, *rest = self._fused(chosen, tensors, surrogate, chance, asked, remembers)
            outputs = outputs.to(first.dtype)
            finals, kept = tuple(rest[: len(states)]), rest[len(states) :]
        result: State = dict(zip(self.states, finals, strict=True))
        names = [name for name in self.states if name in sequences]
        result |= {f"{name}_seq": value for name, value in zip(names, kept, strict=True)}
        if chance is not None:
            result["noise_state"] = torch.stack([chance[0], chance[1] + first.shape[0]])
        return outputs, result

    def _fused(
        self, backend: str, tensors: tuple[Tensor, ...], surrogate: Surrogate,
        chance: Tensor | None, asked: tuple[bool, ...], remembers: bool,
    ) -> Sequence[Tensor]:  # fmt: skip
        """Outputs, final states and the sequences asked for, from the kernels."""
        cls: Any = type(self)
        kind: Any = type(surrogate)
        flags = tuple([bool(getattr(self, flag)) for flag in cls.flags])
        shape, spiking = surrogate.arguments, surrogate.spiking
        drawn = self._drawn() if chance is not None and cls.noises else None
        if drawn is None:
            chance = None
        if torch.compiler.is_compiling() or type(tensors[0]) is not Tensor:
            return operators.run(
                tensors, chance, cls.registered, backend, flags, self.detach_reset,
                kind.registered, spiking, shape, asked, drawn, remembers,
            )  # fmt: skip
        call = call_of(cls, backend, flags, self.detach_reset, kind, spiking, shape, asked, drawn)
        return fused.run(call, tensors, chance)

    # Of chance there is none here; `StochasticNeuron` has it.

    def _chance(self, state: State) -> Tensor | None:
        """Seed and time steps drawn before, int64 `[2]`."""
        return None

    def _drawn(self) -> int:
        """Bit k: noise k is not 0."""
        return 0

    def _draw(self, chance: Tensor | None, first: Tensor, compute: torch.dtype) -> list[Tensor]:
        """Noise `[T, N, *]` for inputs like `first`, by name in order."""
        return []

    def _steps(self, shape: torch.Size, t: int | None) -> slice:
        """Which values per time step a call reads; `shape` is `[T, N, *]`."""
        steps, name = shape[0], type(self).__name__
        if t is not None and "step" not in self.sharing.values():
            raise TypeError(f"{name} takes no t=: none of its parameters is `per: step`")
        for parameter, per in self.sharing.items():
            value = self._current(parameter)
            if not isinstance(value, Tensor) or value.numel() == 1:
                continue
            if per == "channel" and len(shape) < 3:
                raise ValueError(
                    f"{name}: {parameter} has a value per channel, dimension 1 of [N, C, *]; the "
                    f"input of a time step has shape {list(shape[1:])}"
                )
            if per == "step" and (len(value) != steps if t is None else (
                not 0 <= t <= len(value) - steps)):  # fmt: skip
                raise ValueError(
                    f"{name}: {parameter} has values for {len(value)} time steps, asked for are "
                    f"{steps} from t={t}; mode 'm' takes all of them, in mode 's' give t=0, 1, ..."
                )
        return slice(t or 0, (t or 0) + steps)

    def _choose(self, device: torch.device, surrogate: Surrogate) -> str:
        """The backend of a call."""
        chosen = backends.choose(self.backend, device.type)
        if chosen == "torch" or type(surrogate).kernel:
            return chosen
        reason = f"{type(surrogate).__name__} is written in Python; a spec's surrogate is fused"
        if self.backend != "auto":
            raise BackendError(f"backend='{chosen}' cannot run: {reason}.")
        backends.warn_once(f"running on backend 'torch', step by step, because {reason}.")
        return "torch"

    def _check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        name = type(self).__name__
        if len(inputs) != len(self.inputs):
            raise TypeError(
                f"{name} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), "
                f"not {len(inputs)}"
            )
        first = inputs[0]
        for label, x in zip(self.inputs, inputs, strict=True):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name}: {label} is a tensor, not {type(x).__name__}")
            if x.dtype not in IO_TYPES:
                raise TypeError(
                    f"{name}: {label} must be a floating-point tensor, not {x.dtype}; convert it, "
                    f"e.g. {label}.float()"
                )
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

    def _check_state(self, state: State) -> State:
        """The given states; sequences that an earlier call returned beside them are passed over."""
        for name in state:
            chance = name == "noise_state" and (self.noises or self.random_starts)
            if not chance and name.removesuffix("_seq") not in self.states:
                raise ValueError(
                    f"{type(self).__name__} has no state '{name}'; its states are "
                    f"{', '.join(self.states)}"
                )
        return {n: v for n, v in state.items() if n in self.states and v is not None}

    def _check_constants(self, constants: tuple[Tensor, ...], shape: torch.Size) -> None:
        step = shape[1:]
        for constant, value in zip(self.constants, constants, strict=True):
            if value.numel() == 1:
                continue
            by_step = constant.stepped and value.dim() == len(shape)
            if not _broadcasts(value.shape, shape if by_step else step):
                raise ValueError(
                    f"{type(self).__name__}: {constant.name} has shape {list(value.shape)}, which "
                    f"does not broadcast to one time step of the input, {list(step)}"
                )

    def _initial(
        self, name: str, step: torch.Size, compute: torch.dtype, device: torch.device,
        chance: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """A state at rest as the kernels take it: 0-dim, or of one time step's shape."""
        known = self._known(compute, device)[len(self.constants) + self.states.index(name)]
        if known is not None:
            return known
        value = torch.as_tensor(self.initial[name](Namespace(self, compute, device, len(step))))
        value = value.to(device, compute)
        if value.numel() == 1:
            return value.reshape(())
        self._fits(name, _broadcasts(value.shape, step), value, step)
        return fn.spread(value, step)

    def _given(self, name: str, value: Any, first: Tensor, compute: torch.dtype) -> Tensor:
        """A state from before as the kernels take it: 0-dim, or of one time step's shape."""
        if not isinstance(value, Tensor):
            return torch.full((), float(value), dtype=compute, device=first.device)
        step = first.shape[1:]
        if value.dim():
            self._fits(name, value.shape == step, value, step)
            if value.device != first.device:
                raise ValueError(
                    f"{type(self).__name__}: the input is on {first.device}, the state {name} on "
                    f"{value.device}; call reset(), or move the module with .to()"
                )
        return value.to(device=first.device, dtype=compute)

    def _fits(self, name: str, fits: bool, value: Tensor, step: torch.Size) -> None:
        if not fits:
            raise ValueError(
                f"{type(self).__name__}: the input of a time step has shape {list(step)}, the "
                f"state {name} {list(value.shape)}; call reset() before a new batch or shape"
            )

    def _eager(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...],
        constants: tuple[Tensor, ...], sequences: tuple[str, ...], drawn: list[Tensor],
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:  # fmt: skip
        """The torch backend: the generated step, T times."""
        flags = [bool(getattr(self, flag)) for flag in self.flags]
        first, compute = inputs[0], states[0].dtype
        shape = first.shape[1:]
        current = [fn.spread(s, shape) for s in states]
        by_step = [c.unbind(0) if c.dim() > len(shape) else (c,) for c in constants]
        read = [[fn.spread(c, shape) if c.requires_grad else c for c in cs] for cs in by_step]
        outputs: list[Tensor] = []
        kept: list[list[Tensor]] = [[] for name in self.states if name in sequences]
        for t, xs in enumerate(zip(*(x.unbind(0) for x in inputs), strict=True)):
            wide = [x.to(compute) for x in xs]
            now = [cs[min(t, len(cs) - 1)] for cs in read]
            results = self.step(
                *wide, *current, *(xi[t] for xi in drawn), *now, self.surrogate_function,
                self.detach_reset, *flags,
            )  # fmt: skip
            # What names no input and no state is one number until here.
            whole = [r if r.shape == shape else fn.spread(r, shape) for r in results]
            output, current = whole[0], whole[1:]
            outputs.append(output.to(first.dtype))
            wanted = (s for n, s in zip(self.states, current, strict=True) if n in sequences)
            for history, value in zip(kept, wanted, strict=True):
                history.append(value)
        return torch.stack(outputs), tuple(current), [torch.stack(history) for history in kept]

    @staticmethod
    def step(*arguments: Any) -> tuple[Tensor, ...]:
        """One step: inputs, states, noise, constants, surrogate, flags -> output, states."""
        raise TypeError("a generated neuron defines its step")

    def multi_step_forward(self, *inputs: Tensor) -> Tensor:
        """All time steps `[T, N, *]`, continuing from the present state."""
        sequences = ("v",) if self.store_v_seq and "v" in self.states else ()
        return self._advance(inputs, sequences)

    def single_step_forward(self, *inputs: Tensor, t: int | None = None) -> Tensor:
        """One time step `[N, *]`, continuing from the present state.

        Args:
            inputs: `[N, *]` each.
            t: Which value of parameters that have one per time step.
        """
        for label, x in zip(self.inputs, inputs, strict=False):
            if isinstance(x, Tensor) and not x.dim():
                raise ValueError(
                    f"{type(self).__name__}: in step_mode 's' {label} has shape [N, *]; this one "
                    "is a single number"
                )
        steps = tuple(x.unsqueeze(0) if isinstance(x, Tensor) else x for x in inputs)
        return self._advance(steps, (), t).squeeze(0)

    def _advance(
        self, inputs: tuple[Tensor, ...], sequences: tuple[str, ...], t: int | None = None
    ) -> Tensor:
        outputs, following = self._pass(inputs, self._present(), sequences, t, True)
        self._remember(following)
        return outputs

    def lasting(self) -> State:
        """The states as they are; those at rest are left out."""
        return {n: self._memories[n] for n in self.states if n not in self._resting}

    def _present(self) -> State:
        """What the next forward goes on from."""
        return self.lasting()

    def _remember(self, following: State) -> None:
        self._memories.update(following)
        self._resting.clear()

    def extra_repr(self) -> str:
        """Threshold, reset, mode, backend and the neuron's own parameters."""
        shown: dict[str, Any] = {}
        for name in (*self.parameter_names, *self.learnable):
            value = self._current(name)
            if value is not None or name not in self.learnable:
                shown[name] = f"tensor{list(value.shape)}" if isinstance(value, Tensor) else value
        shown |= {flag: getattr(self, flag) for flag in self.flags if flag != "hard_reset"}
        shown |= {
            "detach_reset": self.detach_reset,
            "step_mode": self.step_mode,
            "backend": self.backend,
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def _broadcasts(shape: torch.Size, step: torch.Size) -> bool:
    """Whether a tensor of `shape` can be read as one of shape `step`."""
    pairs = zip(reversed(shape), reversed(step), strict=False)
    return len(shape) <= len(step) and all(size in (1, wanted) for size, wanted in pairs)
