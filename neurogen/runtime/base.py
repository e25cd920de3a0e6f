"""The base neuron in plain torch: charge, fire, reset, each of which a subclass may override.

For example:

    class SquareIFNode(BaseNode):
        def neuronal_charge(self, x):
            self.v = self.v + x**2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurogen.runtime.memory import MemoryModule
from neurogen.runtime.surrogate import Sigmoid


class BaseNode(MemoryModule):
    """A spiking neuron layer: H[t] = charge(V[t-1], X[t]), S[t] = [H[t] >= v_threshold], reset.

    Args:
        v_threshold: Threshold of the membrane potential.
        v_reset: Potential after a spike (hard reset); None subtracts v_threshold (soft reset).
        surrogate_function: Step with a surrogate gradient; default `Sigmoid(alpha=4.)`.
        detach_reset: Whether no gradient flows through the spike inside the reset.
        step_mode: 's' for `[N, *]`, 'm' for `[T, N, *]`.
        backend: 'torch' for neurons written in Python.
        store_v_seq: Whether mode 'm' keeps the potentials after reset as `v_seq`, `[T, N, *]`.
        monitor_state: Whether `monitor` records potentials and spikes; see `set_monitor`.
    """

    v: Any
    v_seq: Any
    #: False, or what `set_monitor` records: 'v' and 's', one NumPy array a time step each.
    monitor: bool | dict[str, list[Any]] = False

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: nn.Module | None = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        backend: str = "torch",
        store_v_seq: bool = False,
        monitor_state: bool = False,
    ) -> None:
        super().__init__(step_mode)
        self.v_threshold = v_threshold
        self.v_reset = v_reset
        self.detach_reset = bool(detach_reset)
        self.surrogate_function = Sigmoid() if surrogate_function is None else surrogate_function
        self.backend = backend
        self.store_v_seq = bool(store_v_seq)
        self.register_memory("v", 0.0 if v_reset is None else v_reset)
        self.register_memory("v_seq", None)
        self.set_monitor(monitor_state)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "v_reset" and "v" in self._starts:
            before, start = self._starts["v"], 0.0 if value is None else value
            self._starts["v"] = start
            if self.v is before or (isinstance(self.v, float | int) and self.v == before):
                self.v = start

    def lasting(self) -> dict[str, Any]:
        """The states that are not at rest; `v_seq` is a record of them."""
        return {name: value for name, value in super().lasting().items() if name != "v_seq"}

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What this step mode and machine can run."""
        return ("torch",)

    @property
    def backend(self) -> str:
        """How the neuron is run."""
        return str(self._backend)

    @backend.setter
    def backend(self, value: str) -> None:
        if value not in (*self.supported_backends, "auto"):
            raise ValueError(
                f"{type(self).__name__} is written in Python and runs on backend "
                f"{', '.join(self.supported_backends)}, not {value!r}; neurons of a spec are fused"
            )
        self.__dict__["_backend"] = value

    def neuronal_charge(self, x: Tensor) -> None:
        """H[t] from V[t-1] and X[t]: sets `self.v`."""
        raise TypeError(f"{type(self).__name__} does not define neuronal_charge")

    def neuronal_fire(self) -> Tensor:
        """S[t] from H[t]."""
        spike: Tensor = self.surrogate_function(self.v - self.v_threshold)
        return spike

    def neuronal_reset(self, spike: Tensor) -> None:
        """V[t] from H[t] and S[t]: sets `self.v`."""
        if self.detach_reset:
            spike = spike.detach()
        if self.v_reset is None:
            self.v = self.v - spike * self.v_threshold
        else:
            self.v = spike * self.v_reset + (1.0 - spike) * self.v

    def v_float_to_tensor(self, x: Tensor) -> None:
        """Before the first input v is a number; give it the shape of one time step."""
        if not isinstance(self.v, Tensor):
            self.v = torch.full_like(x, self.v, requires_grad=False)
        elif self.v.shape != x.shape and self.v.dim():
            raise ValueError(
                f"{type(self).__name__}: the input of a time step has shape {list(x.shape)}, the "
                f"state v {list(self.v.shape)}; call reset() before a new batch or shape"
            )

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """One time step, `[N, *]`; state and arithmetic are at least float32."""
        if not x.is_floating_point():
            raise TypeError(
                f"{type(self).__name__}: x must be a floating-point tensor, not {x.dtype}; convert "
                "it, e.g. x.float()"
            )
        wide = x.float() if x.itemsize < 4 else x
        self.v_float_to_tensor(wide)
        self.neuronal_charge(wide)
        spike = self.neuronal_fire()
        self.neuronal_reset(spike)
        return spike.to(x.dtype)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:  # type: ignore[override]
        """All time steps, `[T, N, *]`."""
        spikes, potentials = [], []
        for x in x_seq.unbind(0):
            spikes.append(self.single_step_forward(x))
            if self.store_v_seq:
                potentials.append(self.v)
        if not spikes:
            raise ValueError(f"{type(self).__name__}: the input has no time steps (T = 0)")
        if self.store_v_seq:
            self.v_seq = torch.stack(potentials)
        return torch.stack(spikes)

    def set_monitor(self, monitor_state: bool = True) -> None:
        """Record potentials after reset, `monitor['v']`, and outputs, `monitor['s']`; or stop.

        Both are lists of NumPy arrays `[N, *]`, one a time step in both step modes; `reset()`
        begins new ones. Every step is read back from the device: for looking, not for training.
        """
        self.monitor = {"v": [], "s": []} if monitor_state else False

    def reset(self) -> None:
        """Every memory back to its start value; a recording begins anew."""
        super().reset()
        if self.monitor is not False:
            self.set_monitor()

    def forward(self, *inputs: Tensor, **keywords: Any) -> Any:
        """Dispatch on `step_mode`; record where `monitor` is on."""
        if isinstance(self.monitor, bool):
            return super().forward(*inputs, **keywords)
        stored, self.store_v_seq = self.store_v_seq, True
        try:
            outputs = super().forward(*inputs, **keywords)
            potentials = self.v_seq if self.step_mode == "m" else getattr(self, "v", None)
        finally:
            self.store_v_seq = stored
            if not stored:
                self.v_seq = None
        for name, value in (("v", potentials), ("s", outputs)):
            if value is not None:  # a neuron may have no v
                wide = value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
                arrays = wide.cpu().numpy()
                self.monitor[name].extend(arrays if self.step_mode == "m" else [arrays])
        return outputs

    def extra_repr(self) -> str:
        """The keywords that differ between neurons of one class."""
        shown: dict[str, Any] = {
            "v_threshold": self.v_threshold,
            "v_reset": self.v_reset,
            "detach_reset": self.detach_reset,
            "step_mode": self.step_mode,
            "backend": self.backend,
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items())
