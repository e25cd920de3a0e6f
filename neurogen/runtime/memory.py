"""Modules with memory: state that lives between forwards, and goes back to its start on `reset`.

Separate from neurons because layers and containers have memory too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

STEP_MODES = ("s", "m")


class StepModule:
    """Mixin of modules with a step mode.

    Attributes:
        step_modes: The modes that the class takes.
    """

    step_modes: ClassVar[tuple[str, ...]] = STEP_MODES

    @property
    def step_mode(self) -> str:
        """'s': one time step a call, `[N, *]`; 'm': all time steps, `[T, N, *]`."""
        return str(self.__dict__["_step_mode"])

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        if value not in self.step_modes:
            choices = " or ".join(repr(mode) for mode in self.step_modes)
            raise ValueError(f"step_mode of {type(self).__name__} is {choices}, not {value!r}")
        self.__dict__["_step_mode"] = value


class MemoryModule(StepModule, nn.Module):
    """A module that remembers: single-step `[N, *]` in mode 's', multi-step `[T, N, *]` in 'm'.

    Memories are attributes registered with a start value; they are no parameters or buffers, so
    `state_dict` does not hold them unless `persistent` is set, but `.to()` moves them.

    Attributes:
        persistent: Whether `state_dict` holds the memories that are not at their start, under their
            names; loading one takes them over, and the others back to their start.
    """

    persistent: bool = False

    def __init__(self, step_mode: str = "s", **keywords: Any) -> None:
        super().__init__(**keywords)
        self.__dict__["_memories"] = {}
        self.__dict__["_starts"] = {}
        self.step_mode = step_mode

    def register_memory(self, name: str, value: Any) -> None:
        """Add a memory that `reset` takes back to `value`."""
        if hasattr(self, name) and name not in self._memories:
            raise ValueError(f"{type(self).__name__} has an attribute '{name}' already")
        self._memories[name] = value
        self._starts[name] = copy.deepcopy(value)

    def reset(self) -> None:
        """Every memory back to its start value."""
        for name, value in self._starts.items():
            self._memories[name] = copy.deepcopy(value)

    def detach(self) -> None:
        """Cut the graph behind every memory (truncated backpropagation through time)."""
        self._memories.update(_detached(self._memories))

    def memories(self) -> Iterator[Any]:
        """The memories' values."""
        yield from self._memories.values()

    def named_memories(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of every memory."""
        yield from self._memories.items()

    def lasting(self) -> dict[str, Any]:
        """The memories that the next forward depends on, where they are not at their start."""
        kept = self._memories.items()
        return {name: value for name, value in kept if value is not self._starts[name]}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.persistent:
            return
        for name, value in self.lasting().items():
            if not isinstance(value, Tensor | float | int):
                raise TypeError(
                    f"{type(self).__name__}: memory '{name}' is a {type(value).__name__}; "
                    "persistent memories are tensors or numbers"
                )
            tensor = torch.as_tensor(value)
            destination[prefix + name] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        names = {prefix + name: name for name in self._memories} if self.persistent else {}
        known = {key: value for key, value in state_dict.items() if key not in names}
        super()._load_from_state_dict(known, prefix, *others)
        if self.persistent:
            self.reset()
        for key, name in names.items():
            if key in state_dict:
                value = state_dict[key]
                setattr(self, name, value.detach().clone() if value.dim() else value.item())

    def __getattr__(self, name: str) -> Any:
        memories = self.__dict__.get("_memories")
        if memories is not None and name in memories:
            return memories[name]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        memories = self.__dict__.get("_memories")
        if memories is not None and name in memories:
            memories[name] = value
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_memories", ()):
            del self._memories[name], self._starts[name]
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._memories]  # type: ignore[no-untyped-call]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Memories follow `.to()`, `.double()`, `.cuda()`, but never fall below float32."""
        lost = any(isinstance(value, Tensor) and value.is_meta for value in self.memories())
        for store in (self._memories, self._starts):
            for name, value in store.items():
                if isinstance(value, Tensor) and not value.is_meta:
                    store[name] = _moved(value, fn)
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if lost:  # a tensor on the meta device has no values to move
            self.reset()
        return moved

    def _replicate_for_data_parallel(self) -> Any:
        """A replica of `nn.DataParallel` remembers for itself."""
        replica = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.__dict__["_memories"] = dict(self._memories)
        return replica

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        for key, value in self.__getstate__().items():
            clone.__dict__[key] = copy.deepcopy(value, memo)
        return clone

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: memories without the graph of a forward."""
        return self.__dict__ | {"_memories": _detached(self._memories)}

    def single_step_forward(self, *inputs: Tensor) -> Any:
        """One time step; subclasses define it."""
        raise TypeError(f"{type(self).__name__} does not define single_step_forward")

    def multi_step_forward(self, *inputs: Tensor) -> Any:
        """All time steps: by default `single_step_forward` of each."""
        steps = [self.single_step_forward(*step) for step in zip(*inputs, strict=True)]
        if not steps:
            raise ValueError(f"{type(self).__name__}: the input has no time steps (T = 0)")
        return torch.stack(steps)

    def forward(self, *inputs: Tensor, **keywords: Any) -> Any:
        """Dispatch on `step_mode`."""
        if len(self._memories):  # its truth would make Dynamo look at every value
            self._check_once()
        if self._step_mode == "m":
            return self.multi_step_forward(*inputs, **keywords)
        return self.single_step_forward(*inputs, **keywords)

    def _check_once(self) -> None:
        """Refuse to remember where a forward is recorded, or run a second time."""
        if not torch.compiler.is_compiling():
            check_not_repeated(type(self).__name__)
        elif exporting():
            raise RuntimeError(
                f"{type(self).__name__} remembers its state, and torch.export would freeze the "
                "present one into the graph; export a module that calls node.functional(x, "
                "state=state) and returns the new state"
            )

    def extra_repr(self) -> str:
        """The step mode."""
        return f"step_mode={self.step_mode}"


def check_not_repeated(name: str) -> None:
    """Raise where this is called within a backward pass: activation checkpointing does so.

    The second forward would start from the state that the first one left: wrong gradients.
    """
    if torch._C._current_graph_task_id() != -1:  # torch.utils.checkpoint asks the same way
        raise RuntimeError(
            f"{name} remembers its state, and its forward runs a second time within a backward "
            "pass (activation checkpointing); there, call node.functional(x, state=state), which "
            "remembers nothing, and carry the state yourself"
        )


def exporting() -> bool:
    """Whether torch.export is at work."""
    asked = getattr(torch.compiler, "is_exporting", None)  # torch >= 2.7
    if asked is not None:
        return bool(asked())
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def _moved(value: Tensor, fn: Any) -> Tensor:
    """`fn(value)`; asked of an empty tensor, because `to_empty` would forget the values."""
    target = fn(value.new_empty(0))
    narrow = target.is_floating_point() and target.itemsize < 4 <= value.itemsize
    return value.to(target.device, torch.float32 if narrow else target.dtype)


def _detached(value: Any) -> Any:
    """Tensors without their graph, also inside lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_detached(item) for item in value)
    return value
