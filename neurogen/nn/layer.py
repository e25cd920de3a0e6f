"""Layers for one time step or all of them, and containers that make such layers of any module.

In mode 's' a layer is the layer of `torch.nn` that it is named after; in mode 'm' it takes a
sequence `[T, N, *]`. Parameters, buffers and their names in `state_dict` are those of `torch.nn`.
All are derived from the table at the end.

Modules of `torch.nn` without batch statistics or a fixed number of dimensions (`ReLU`, `GELU`,
`LayerNorm`, …) take both forms as they are.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurogen.nn import sequence
from neurogen.runtime.memory import MemoryModule, StepModule

__all__ = ["MultiStepContainer", "SeqToANNContainer", "StepModeContainer"]


# -- containers ------------------------------------------------------------------------------------


class _Container(StepModule, nn.Sequential):
    """A sequence of single-step modules, which it keeps single-step."""

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        for name, module in self._inside():
            if module.step_mode != "s":
                raise ValueError(
                    f"{type(self).__name__} takes single-step modules, and ({name}) "
                    f"{type(module).__name__} has step_mode {module.step_mode!r}"
                )

    def _inside(self) -> Iterator[tuple[str, Any]]:
        """Modules inside that have a step mode; not those inside of containers inside."""
        for name, child in self.named_children():
            for module in sequence.outside(child):
                if hasattr(module, "step_mode"):
                    yield name, module

    def _chain(self) -> list[nn.Module]:
        """The modules to run, single-step again where another library's set_step_mode was here."""
        for _, module in self._inside():
            if module.step_mode != "s":
                module.step_mode = "s"
        return list(self)

    def extra_repr(self) -> str:
        """The step mode."""
        return f"step_mode={self.step_mode}"


class MultiStepContainer(_Container):
    """Single-step modules, run on each step of a sequence in turn: `[T, N, *]` to `[T, N, *]`.

    The slow way that always works. A neuron of this library in mode 'm' is faster.

    Args:
        modules: As of `torch.nn.Sequential`.

    Raises:
        ValueError: A module has step mode 'm', or the container is to have step mode 's'.
    """

    step_modes = ("m",)

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        self.step_mode = "m"

    def forward(self, x_seq: sequence.Sequences) -> Any:
        """All time steps, one after the other."""
        return sequence.each_step(x_seq, self._chain())


class SeqToANNContainer(_Container):
    """Stateless modules, run on all steps of a sequence at once, as one batch of T·N samples.

    Args:
        modules: As of `torch.nn.Sequential`.

    Raises:
        ValueError: A module has step mode 'm' or a state, or the container is to have step mode
            's'.
    """

    step_modes = ("m",)

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        sequence.check_stateless(type(self).__name__, self)
        self.step_mode = "m"

    def forward(self, x_seq: sequence.Sequences) -> Any:
        """`[T, N, *]` as `[T*N, *]`, and back."""
        return sequence.as_batch(x_seq, self._chain())


class StepModeContainer(_Container):
    """Single-step modules with a step mode around them; `set_step_mode` changes only the latter.

    Args:
        stateful: Whether the modules remember: then mode 'm' runs one step after the other, else
            all at once, as one batch of T·N samples.
        modules: As of `torch.nn.Sequential`. A step mode may stand before them.
        step_mode: 's' for `[N, *]`, 'm' for `[T, N, *]`.

    Raises:
        TypeError: `stateful` is not True or False.
        ValueError: A module has step mode 'm', or has a state and `stateful` is False.
    """

    def __init__(self, stateful: bool, *modules: Any, step_mode: str = "s") -> None:
        if not isinstance(stateful, bool):
            raise TypeError(
                "StepModeContainer(stateful, module, …): stateful is True or False, not "
                f"{type(stateful).__name__}"
            )
        if modules and isinstance(modules[0], str):
            step_mode, modules = modules[0], modules[1:]
        super().__init__(*modules)
        if not stateful:
            sequence.check_stateless("StepModeContainer(stateful=False)", self)
        self.stateful = stateful
        self.step_mode = step_mode

    def __getitem__(self, index: slice | int) -> Any:
        """A module, or a container of the same kind with some of them."""
        if isinstance(index, slice):
            chosen = OrderedDict(list(self._modules.items())[index])
            return type(self)(self.stateful, chosen, step_mode=self.step_mode)
        return super().__getitem__(index)

    def forward(self, x: sequence.Sequences) -> Any:
        """One time step or all of them, by `step_mode`."""
        chain = self._chain()
        if self.step_mode == "s":
            return sequence.one_step(x, chain)
        run = sequence.each_step if self.stateful else sequence.as_batch
        return run(x, chain)

    def extra_repr(self) -> str:
        """The step mode, and what mode 'm' does."""
        return f"stateful={self.stateful}, step_mode={self.step_mode}"


# -- layers ----------------------------------------------------------------------------------------


class _Layer(StepModule):
    """Mixin before a class of `torch.nn`: in mode 'm' it sees T·N samples."""

    #: Shapes of a sequence, as the table writes them; and whether its steps must be joined.
    shape: ClassVar[str]
    joined: ClassVar[bool] = True

    def __init__(self, *arguments: Any, step_mode: str = "s", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.step_mode = step_mode

    def forward(self, x: Tensor, *others: Any, **keywords: Any) -> Any:
        """One time step or all of them, by `step_mode`; other arguments are of `torch.nn`."""
        forward = super().forward  # type: ignore[misc]
        if self.step_mode == "s":
            return forward(x, *others, **keywords)
        _check_sequence(self, x, self.shape)
        if not self.joined:
            return forward(x, *others, **keywords)
        sequences = (x, *(o for o in others if isinstance(o, Tensor)))
        rest = tuple(o for o in others if not isinstance(o, Tensor))
        return sequence.as_batch(sequences, [lambda *flat: forward(*flat, *rest, **keywords)])

    def extra_repr(self) -> str:
        """As of `torch.nn`, and the step mode."""
        return _joined(super().extra_repr(), self)  # type: ignore[misc]


class _Dropout(MemoryModule):
    """Mixin before a dropout of `torch.nn`: one mask for all time steps, until `reset()`."""

    shape: ClassVar[str]
    mask: Tensor | None

    def __init__(self, p: float = 0.5, inplace: bool = False, step_mode: str = "s") -> None:
        if not isinstance(inplace, bool):
            raise TypeError(
                f"{type(self).__name__}: inplace is True or False, not {inplace!r}; a step mode is "
                "given by name, step_mode="
            )
        super().__init__(step_mode, p=p, inplace=inplace)
        self.register_memory("mask", None)

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """One time step, `[N, *]`."""
        return self._drop(x, x) if self.training else x

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:  # type: ignore[override]
        """All time steps, `[T, N, *]`."""
        _check_sequence(self, x_seq, self.shape)
        return self._drop(x_seq, x_seq[0]) if self.training else x_seq

    def _drop(self, x: Tensor, step: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = super(MemoryModule, self).forward(torch.ones_like(step))
        mask: Tensor = self.mask
        if mask.shape != step.shape or mask.device != step.device:
            raise ValueError(
                f"{type(self).__name__}: the input of a time step has shape {list(step.shape)} on "
                f"{step.device}, the mask {list(mask.shape)} on {mask.device}; call reset() before "
                "a new batch, or neurogen.nn.functional.reset_net(net)"
            )
        mask = mask.to(x.dtype)
        return x.mul_(mask) if self.inplace else x * mask

    def extra_repr(self) -> str:
        """As of `torch.nn`, and the step mode."""
        return _joined(super(MemoryModule, self).extra_repr(), self)


def _joined(text: str, module: Any) -> str:
    return ", ".join(part for part in (text, f"step_mode={module.step_mode}") if part)


def _check_sequence(module: Any, x: Tensor, shape: str) -> None:
    """Hold a sequence against the shapes that a layer takes, as the table writes them."""
    name = type(module).__name__
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: x is a tensor, not {type(x).__name__}")
    for one in shape.split(" or "):
        dims = one.count(",") + 1
        if x.dim() == dims or ("*" in one and x.dim() >= dims - 1):
            break
    else:
        raise ValueError(
            f"{name}: in step_mode 'm' x has shape {shape}; this one has {list(x.shape)}. For a "
            "single time step use step_mode 's'"
        )
    if x.shape[0] == 0:
        raise ValueError(f"{name}: the input has no time steps (T = 0)")


def _derive(base: type[nn.Module], mixin: type[Any], shape: str, note: str, **data: Any) -> Any:
    """The class of a line of the table, made to look as if it were written by hand."""
    name = base.__name__
    single = shape.replace("[T, ", "[")
    doc = (
        f"`torch.nn.{name}` for one time step or all of them.\n\n{note}\n\nArgs:\n"
        f"    *args, **kwargs: As of `torch.nn.{name}`.\n"
        f"    step_mode: 's' for `{single}`, 'm' for `{shape}`."
    )
    namespace = {"shape": shape, "__doc__": doc, "__module__": __name__, **data}
    layer: Any = type(name, (mixin, base), namespace)
    own = inspect.signature(base).parameters.values()
    mode = inspect.Parameter("step_mode", inspect.Parameter.KEYWORD_ONLY, default="s")
    layer.__signature__ = inspect.Signature([*(p for p in own if p.name != "step_mode"), mode])
    __all__.append(name)
    return layer


def _layer(base: type[nn.Module], shape: str, **data: Any) -> Any:
    return _derive(base, _Layer, shape, "Steps do not act on one another.", **data)


def _norm(base: type[nn.Module], shape: str) -> Any:
    note = (
        "In `train()` the statistics of a batch are taken over each time step by itself in mode\n"
        "'s', and over all T·N samples in mode 'm'; in `eval()` the modes agree."
    )
    return _derive(base, _Layer, shape, note)


def _dropout(base: type[nn.Module], shape: str = "[T, N, *]") -> Any:
    note = (
        "The mask is drawn at the first step in `train()` and kept until `reset()`, so that all\n"
        "time steps drop the same elements, in both modes. For a mask a step use `torch.nn`."
    )
    return _derive(base, _Dropout, shape, note)


# -- the table -------------------------------------------------------------------------------------

Linear = _layer(nn.Linear, "[T, N, *]", joined=False)
Flatten = _layer(nn.Flatten, "[T, N, *]")

Conv1d = _layer(nn.Conv1d, "[T, N, C, L]")
Conv2d = _layer(nn.Conv2d, "[T, N, C, H, W]")
Conv3d = _layer(nn.Conv3d, "[T, N, C, D, H, W]")
ConvTranspose1d = _layer(nn.ConvTranspose1d, "[T, N, C, L]")
ConvTranspose2d = _layer(nn.ConvTranspose2d, "[T, N, C, H, W]")
ConvTranspose3d = _layer(nn.ConvTranspose3d, "[T, N, C, D, H, W]")
Upsample = _layer(nn.Upsample, "[T, N, C, L] or [T, N, C, H, W] or [T, N, C, D, H, W]")

BatchNorm1d = _norm(nn.BatchNorm1d, "[T, N, C] or [T, N, C, L]")
BatchNorm2d = _norm(nn.BatchNorm2d, "[T, N, C, H, W]")
BatchNorm3d = _norm(nn.BatchNorm3d, "[T, N, C, D, H, W]")
GroupNorm = _layer(nn.GroupNorm, "[T, N, C, *]")

MaxPool1d = _layer(nn.MaxPool1d, "[T, N, C, L]")
MaxPool2d = _layer(nn.MaxPool2d, "[T, N, C, H, W]")
MaxPool3d = _layer(nn.MaxPool3d, "[T, N, C, D, H, W]")
MaxUnpool1d = _layer(nn.MaxUnpool1d, "[T, N, C, L]")
MaxUnpool2d = _layer(nn.MaxUnpool2d, "[T, N, C, H, W]")
MaxUnpool3d = _layer(nn.MaxUnpool3d, "[T, N, C, D, H, W]")
AvgPool1d = _layer(nn.AvgPool1d, "[T, N, C, L]")
AvgPool2d = _layer(nn.AvgPool2d, "[T, N, C, H, W]")
AvgPool3d = _layer(nn.AvgPool3d, "[T, N, C, D, H, W]")
AdaptiveMaxPool1d = _layer(nn.AdaptiveMaxPool1d, "[T, N, C, L]")
AdaptiveMaxPool2d = _layer(nn.AdaptiveMaxPool2d, "[T, N, C, H, W]")
AdaptiveMaxPool3d = _layer(nn.AdaptiveMaxPool3d, "[T, N, C, D, H, W]")
AdaptiveAvgPool1d = _layer(nn.AdaptiveAvgPool1d, "[T, N, C, L]")
AdaptiveAvgPool2d = _layer(nn.AdaptiveAvgPool2d, "[T, N, C, H, W]")
AdaptiveAvgPool3d = _layer(nn.AdaptiveAvgPool3d, "[T, N, C, D, H, W]")

Dropout = _dropout(nn.Dropout)
Dropout1d = _dropout(nn.Dropout1d, "[T, N, C, L]")
Dropout2d = _dropout(nn.Dropout2d, "[T, N, C, H, W]")
Dropout3d = _dropout(nn.Dropout3d, "[T, N, C, D, H, W]")
