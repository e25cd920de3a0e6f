"""Neurons with chance in them: noise, and initial states that are drawn.

In: what a generated module declares (`noises`, `random_starts`). Out: a `Neuron` that knows where
in its stream of random numbers it stands. Separate from `neuron.py`: most neurons have none.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neurogen.runtime import noise
from neurogen.runtime.neuron import Neuron, State
from neurogen.runtime.parameters import Shape
from neurogen.runtime.surrogate import Surrogate


class StochasticNeuron(Neuron):
    """A neuron with noise or random initial states; a run is a function of its seed.

    Every number is that of (seed, neuron, time step, stream), whatever the backend, the device, the
    dtype or the memory order. `reset()` zeroes the count of time steps and, unless the neuron was
    given a seed, takes a new one from torch's default generator, so that `torch.manual_seed`
    reproduces what follows. Copies and `state_dict` hold seed and count.
    """

    _noise: Tensor  # int64 `[2]` on the CPU: the seed, and the time steps drawn

    def __init__(
        self,
        own: Mapping[str, Any],
        surrogate_function: Surrogate | None,
        detach_reset: bool,
        step_mode: str,
        backend: str,
        store_v_seq: bool,
        shape: Shape | None = None,
        seed: int | None = None,
    ) -> None:
        self.__dict__["_fixed"] = None if seed is None else _checked(seed)
        super().__init__(
            own, surrogate_function, detach_reset, step_mode, backend, store_v_seq, shape
        )

    @property
    def seed(self) -> int:
        """The seed in use; setting one keeps it for all runs, None lets `reset()` take new ones."""
        return int(self._noise[0]) % 2**64

    @seed.setter
    def seed(self, value: int | None) -> None:
        self.__dict__["_fixed"] = None if value is None else _checked(value)
        self._reseed()

    @property
    def noise_state(self) -> Tensor:
        """int64 `[2]`: seed, and time steps drawn since `reset()`; `functional` takes it."""
        return self._noise

    def _reseed(self) -> None:
        fixed = self.__dict__["_fixed"]
        self.__dict__["_noise"] = _state(noise.fresh_seed() if fixed is None else fixed)

    def reset(self) -> None:
        """States to their initial values, the count to 0; a new seed where none was given."""
        super().reset()
        self._reseed()

    def get_extra_state(self) -> dict[str, Any]:
        """Seed and count, for `state_dict`."""
        return {"seed": self.__dict__["_fixed"], "noise_state": self._noise}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Seed and count, from a `state_dict`."""
        self.__dict__.update(_fixed=state["seed"], _noise=state["noise_state"].cpu().clone())

    # -- what Neuron.functional asks -----------------------------------------------------------

    def _present(self) -> State:
        return super()._present() | {"noise_state": self._noise}

    def _remember(self, following: State) -> None:
        self.__dict__["_noise"] = following.pop("noise_state")
        super()._remember(following)

    def _chance(self, state: State) -> Tensor:
        given = state.get("noise_state")
        return _state(self.seed) if given is None else given

    def _initial(
        self, name: str, step: torch.Size, compute: torch.dtype, device: torch.device,
        chance: Tensor | None,
    ) -> Tensor:  # fmt: skip
        if name not in self.random_starts or chance is None:
            return super()._initial(name, step, compute, device, chance)
        low, high = self.random_starts[name]
        stream = len(self.noises) + list(self.random_starts).index(name)
        unit = noise.uniform(chance, stream, step, device).to(compute)
        value = low + (high - low) * unit
        counts = not self.differentiable[self.states.index(name)]
        return torch.floor(value) if counts else value

    def _drawn(self) -> int:
        """Bit k: noise k is not 0."""
        return sum(
            1 << k for k, in_eval in enumerate(self.noises.values()) if in_eval or self.training
        )

    def _draw(self, chance: Tensor | None, first: Tensor, compute: torch.dtype) -> list[Tensor]:
        if chance is None:
            return []
        steps, shape, on = first.shape[0], first.shape[1:], self._drawn()
        return [
            noise.normal(chance, k, steps, shape, first.device).to(compute)
            if on >> k & 1
            else torch.zeros(first.shape, dtype=compute, device=first.device)
            for k in range(len(self.noises))
        ]


def _state(seed: int) -> Tensor:
    with torch.inference_mode(False):  # it outlives the call, and is counted up in place
        return torch.tensor([seed - (seed >> 63 << 64), 0], dtype=torch.int64, device="cpu")


def _checked(seed: int) -> int:
    number = -1 if isinstance(seed, bool) else operator.index(seed)
    if not 0 <= number < 2**64:
        raise ValueError(f"a seed is a whole number from 0 to 2**64 - 1, or None; not {seed!r}")
    return number
