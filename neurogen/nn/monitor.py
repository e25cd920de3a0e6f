"""Looking inside a network while it runs: outputs, inputs, attributes and gradients of its layers.

    spikes = OutputMonitor(net, LIFNode)
    net(x)
    spikes["1"]  # a list: what layer '1' gave at each call

A monitor is a context manager, and lets go of the network when it is deleted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Self, SupportsIndex, TypeAlias

import torch
from torch import Tensor, nn

Classes: TypeAlias = type[Any] | tuple[type[Any], ...]


def unchanged(value: Any) -> Any:
    """The value itself: records keep the graph and the memory of what they hold."""
    return value


class _Records(list[Any]):
    """Recorded values that know their layers, also when some of them are taken out.

    Attributes:
        layers: The layer of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[str] = []

    def record(self, layer: str, value: Any) -> None:
        """Append a value of a layer."""
        self.append(value)
        self.layers.append(layer)

    def of(self, layer: str) -> list[Any]:
        """The values of a layer."""
        pairs = zip(self.layers, self, strict=True)
        return [value for name, value in pairs if name == layer]

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        del self.layers[index]
        super().__delitem__(index)

    def pop(self, index: SupportsIndex = -1) -> Any:
        """Take one out, the newest by default."""
        value = super().pop(index)
        self.layers.pop(index)
        return value

    def clear(self) -> None:
        """Take all out."""
        super().clear()
        self.layers.clear()


class Monitor:
    """What all monitors share: records in the order in which they were made, by number and layer.

    Args:
        net: The network.
        instance: Class or classes of the modules to watch; None for the class of `net`.
        function: What to keep of a recorded value.

    Attributes:
        records: The recorded values, a list; any of them may be taken out.
        monitored_layers: Names of the watched modules, as `named_modules` gives them.
        hooks: Handles of the hooks on them; empty after `remove_hooks`.

    Raises:
        TypeError: `net` is not a module.
        ValueError: No module of `net` is an instance of `instance`.
    """

    _awaited = "forward"  # what makes a record

    def __init__(
        self, net: nn.Module, instance: Classes | None, function: Callable[[Any], Any]
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net is a torch.nn.Module, not {type(net).__name__}")
        classes: Classes = type(net) if instance is None else instance
        watched = [(n, m) for n, m in net.named_modules() if isinstance(m, classes)]
        if not watched:
            several = classes if isinstance(classes, tuple) else (classes,)
            wanted = " or ".join(cls.__name__ for cls in several)
            there = ", ".join(sorted({type(module).__name__ for module in net.modules()}))
            raise ValueError(f"no module of the network is an instance of {wanted}; it has {there}")
        self.records = _Records()
        self.monitored_layers = [name for name, _ in watched]
        self.hooks: list[Any] = []
        self._function = function
        self._ran: set[str] = set()
        self._enabled = True
        self.hooks.extend(self._attach(module, _Hook(self, name)) for name, module in watched)
        weakref.finalize(self, _remove, self.hooks).atexit = False

    def _attach(self, module: nn.Module, hook: _Hook) -> Any:
        """Register the hook of one module; gives its handle."""
        raise TypeError("Monitor is abstract; use OutputMonitor or another of its subclasses")

    def _observe(self, name: str, module: nn.Module, *values: Any) -> None:
        """Record what a hook was given."""
        raise TypeError("Monitor is abstract; use OutputMonitor or another of its subclasses")

    def _record(self, name: str, value: Any) -> None:
        if not self._enabled or not self.hooks:
            return
        self.records.record(name, self._function(value))
        self._ran.add(name)

    def __getitem__(self, index: int | slice | str) -> Any:
        """A record by its number, or the list of all records of a layer by its name."""
        if not isinstance(index, str):
            try:
                return self.records[index]
            except IndexError:
                raise IndexError(
                    f"there is no record {index}: {len(self.records)} were made of layers "
                    f"{', '.join(map(repr, self.monitored_layers))}. {self._advice()}"
                ) from None
        if index not in self.monitored_layers:
            raise KeyError(
                f"layer {index!r} is not monitored; these are: "
                f"{', '.join(map(repr, self.monitored_layers))}"
            )
        if index not in self._ran:
            raise LookupError(
                f"no record of layer {index!r} was ever made: its {self._awaited} has not run. "
                f"{self._advice()}"
            )
        return self.records.of(index)

    def _advice(self) -> str:
        if not self.hooks:
            return "Its hooks were removed; make a new monitor"
        return "Run the network" if self._enabled else "It is disabled; call enable()"

    def __len__(self) -> int:
        return len(self.records)

    def enable(self) -> None:
        """Record from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Pause."""
        self._enabled = False

    def is_enable(self) -> bool:
        """Whether it records."""
        return self._enabled

    def clear_recorded_data(self) -> None:
        """Forget all records."""
        self.records.clear()

    def remove_hooks(self) -> None:
        """Let go of the network for good; records stay."""
        _remove(self.hooks)

    close = remove_hooks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_hooks()


class _Hook:
    """What a module calls. Copies of a network, and pickles, do not report to its monitor."""

    def __init__(self, monitor: Monitor | None = None, name: str = "") -> None:
        self._monitor = None if monitor is None else weakref.ref(monitor)
        self._name = name

    def __call__(self, module: nn.Module, *values: Any) -> None:
        monitor = None if self._monitor is None else self._monitor()
        if monitor is not None:
            monitor._observe(self._name, module, *values)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _remove(hooks: list[Any]) -> None:
    for hook in hooks:
        hook.remove()
    hooks.clear()


def _alone(values: Any) -> Any:
    """The value of a tuple of one."""
    return values[0] if isinstance(values, tuple) and len(values) == 1 else values


class OutputMonitor(Monitor):
    """Records what modules return.

    Args:
        net: The network.
        instance: Class or classes of the modules to watch; None for the class of `net`.
        function_on_output: What to keep of an output, e.g. `lambda y: y.mean().item()`.

    Raises:
        ValueError: No module of `net` is an instance of `instance`.
    """

    def __init__(
        self,
        net: nn.Module,
        instance: Classes | None = None,
        function_on_output: Callable[[Any], Any] = unchanged,
    ) -> None:
        super().__init__(net, instance, function_on_output)

    def _attach(self, module: nn.Module, hook: _Hook) -> Any:
        return module.register_forward_hook(hook)

    def _observe(self, name: str, module: nn.Module, *values: Any) -> None:
        self._record(name, _alone(values[-1]))


class InputMonitor(Monitor):
    """Records what modules are given: a tensor, or the tuple of several arguments.

    Args:
        net: The network.
        instance: Class or classes of the modules to watch; None for the class of `net`.
        function_on_input: What to keep of an input.

    Raises:
        ValueError: No module of `net` is an instance of `instance`.
    """

    def __init__(
        self,
        net: nn.Module,
        instance: Classes | None = None,
        function_on_input: Callable[[Any], Any] = unchanged,
    ) -> None:
        super().__init__(net, instance, function_on_input)

    def _attach(self, module: nn.Module, hook: _Hook) -> Any:
        return module.register_forward_pre_hook(hook)

    def _observe(self, name: str, module: nn.Module, *values: Any) -> None:
        self._record(name, _alone(values[0]))


class AttributeMonitor(Monitor):
    """Records an attribute of modules, before or after each forward.

    Args:
        attribute_name: Such as 'v', or 'v_seq' of neurons with `store_v_seq=True`.
        pre_forward: Whether to read it before the forward.
        net: The network.
        instance: Class or classes of the modules to watch; None for the class of `net`.
        function_on_attribute: What to keep of its value.

    Raises:
        ValueError: No module of `net` is an instance of `instance`. In forward: 'v_seq' is asked
            for and not stored.
        AttributeError: In forward: a watched module has no such attribute.
    """

    def __init__(
        self,
        attribute_name: str,
        pre_forward: bool,
        net: nn.Module,
        instance: Classes | None = None,
        function_on_attribute: Callable[[Any], Any] = unchanged,
    ) -> None:
        self.attribute_name, self.pre_forward = attribute_name, bool(pre_forward)
        super().__init__(net, instance, function_on_attribute)

    def _attach(self, module: nn.Module, hook: _Hook) -> Any:
        if self.pre_forward:
            return module.register_forward_pre_hook(hook)
        return module.register_forward_hook(hook)

    def _observe(self, name: str, module: nn.Module, *values: Any) -> None:
        if not self._enabled:
            return
        value = getattr(module, self.attribute_name)
        stores = getattr(module, f"store_{self.attribute_name}", True)
        if value is None and not stores and not self.pre_forward:
            raise ValueError(
                f"'{self.attribute_name}' of layer '{name}' is not stored; set "
                f"store_{self.attribute_name} = True on this {type(module).__name__}"
            )
        self._record(name, value)


class GradOutputMonitor(Monitor):
    """Records dL/dY, the gradients of what modules return, when `backward` gets there.

    Args:
        net: The network.
        instance: Class or classes of the modules to watch; None for the class of `net`.
        function_on_grad_output: What to keep of a gradient.

    Raises:
        ValueError: No module of `net` is an instance of `instance`.
    """

    _awaited = "backward"

    def __init__(
        self,
        net: nn.Module,
        instance: Classes | None = None,
        function_on_grad_output: Callable[[Any], Any] = unchanged,
    ) -> None:
        super().__init__(net, instance, function_on_grad_output)

    def _attach(self, module: nn.Module, hook: _Hook) -> Any:
        return module.register_forward_hook(hook)

    def _observe(self, name: str, module: nn.Module, *values: Any) -> None:
        outputs = values[-1] if isinstance(values[-1], tuple | list) else (values[-1],)
        tensors = [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]
        itself = weakref.ref(self)

        def arrived(gradients: Any) -> None:
            monitor = itself()
            if monitor is not None:
                monitor._record(name, _alone(tuple(gradients)))

        if tensors:
            torch.autograd.graph.register_multi_grad_hook(tensors, arrived)


class GradInputMonitor(Monitor):
    """Records dL/dX, the gradients that modules pass back to what they were given.

    An input that requires no gradient has none to record; torch warns of it.

    Args:
        net: The network.
        instance: Class or classes of the modules to watch; None for the class of `net`.
        function_on_grad_input: What to keep of a gradient.

    Raises:
        ValueError: No module of `net` is an instance of `instance`.
    """

    _awaited = "backward"

    def __init__(
        self,
        net: nn.Module,
        instance: Classes | None = None,
        function_on_grad_input: Callable[[Any], Any] = unchanged,
    ) -> None:
        super().__init__(net, instance, function_on_grad_input)

    def _attach(self, module: nn.Module, hook: _Hook) -> Any:
        return module.register_full_backward_hook(hook)

    def _observe(self, name: str, module: nn.Module, *values: Any) -> None:
        if any(gradient is not None for gradient in values[0]):
            self._record(name, _alone(values[0]))
