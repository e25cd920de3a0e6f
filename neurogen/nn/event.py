"""The tempotron: a decision by the times of single spikes, learnt by gradient descent.

In: for each afferent the time of its spike. Out: the membrane potential, its maximum, or the time
of the maximum, differentiable by weights and by times, so that layers stack. The membrane is the
neuron of `specs/tempotron.yaml`, fused over time; its compiler runs when the first one is made.

Gütig & Sompolinsky (2006), The tempotron: a neuron that learns spike timing-based decisions,
Nature Neuroscience 9(3):420-428.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import neurogen

_RETURNS = ("v", "v_max", "spikes")


class Tempotron(nn.Module):
    """V(t) = sum_i w_i v0 K(t - t_i) with K(s) = (exp(-s/tau) - exp(-s/tau_s)) [s >= 0].

    The maximum of v0 K, at t_max = tau tau_s ln(tau/tau_s) / (tau - tau_s), where dK/ds = 0, is
    `v_threshold`: there exp(-t_max/tau_s) = tau_s/tau exp(-t_max/tau), so that

        v0 = v_threshold / K(t_max) = v_threshold exp(t_max/tau) tau / (tau - tau_s).

    At tau = tau_s v0 is infinite and K is 0; v0 K is the alpha function, and works.

    Memory is O(batch (in + out T)), also where times are no integers: V is a recursion over time,
    and a spike between two steps enters it as two spikes, on the step before and on the one after,
    that together leave the same potential at every step (exact, not an interpolation).

    Args:
        in_features: Number of afferents.
        out_features: Number of neurons.
        T: Number of time steps; times lie in [0, T).
        tau: Membrane time constant, in steps.
        tau_s: Synaptic time constant, in steps.
        v_threshold: Maximum of the potential of a spike of weight 1, and threshold.
        backend: 'auto' (fused where possible), 'torch', 'cpp' or 'cupy'.

    Raises:
        ValueError: A size or a time constant is not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        T: int,
        tau: float = 15.0,
        tau_s: float = 15.0 / 4,
        v_threshold: float = 1.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "out_features": out_features, "T": T}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"Tempotron: {name} is a positive integer, not {size!r}")
        for name, constant in (("tau", tau), ("tau_s", tau_s), ("v_threshold", v_threshold)):
            if not 0 < constant < math.inf:
                raise ValueError(f"Tempotron: {name} is positive and finite, not {constant!r}")
        self.in_features, self.out_features, self.T = in_features, out_features, T
        self.tau, self.tau_s, self.v_threshold = float(tau), float(tau_s), float(v_threshold)
        self.fc = nn.Linear(in_features, out_features, bias=False)
        membrane: Any = neurogen.load("tempotron")
        self.membrane = membrane(tau=self.tau, tau_s=self.tau_s, step_mode="m", backend=backend)

    @property
    def t_max(self) -> float:
        """When the potential of a spike is largest: tau tau_s ln(tau/tau_s) / (tau - tau_s)."""
        excess = self.tau / self.tau_s - 1
        return self.tau * (math.log1p(excess) / excess if excess else 1.0)

    @property
    def v0(self) -> float:
        """The factor that makes `v_threshold` the maximum of v0 K; infinite at tau = tau_s."""
        difference = self.tau - self.tau_s
        return self._gain / difference if difference else math.inf

    @property
    def _gain(self) -> float:
        """v0 (tau - tau_s), the factor of the membrane's kernel, which has area 1."""
        return self.v_threshold * self.tau * math.exp(self.t_max / self.tau)

    @staticmethod
    def psp_kernel(t: Tensor, tau: float, tau_s: float) -> Tensor:
        """K(t) = (exp(-t/tau) - exp(-t/tau_s)) [t >= 0] of any floating tensor."""
        late = t.clamp(min=0)  # K(0) = 0, and exp of a large negative time would overflow
        return torch.exp(-late / tau) - torch.exp(-late / tau_s)

    @staticmethod
    def mse_loss(
        v_max: Tensor, v_threshold: float | Tensor, label: Tensor, num_classes: int
    ) -> Tensor:
        """Sum over wrong decisions of (v_max - v_threshold)**2, a batch's mean.

        Args:
            v_max: Largest potentials, `[batch, num_classes]`.
            v_threshold: A number, or a tensor of that shape.
            label: The neuron that should fire, `[batch]`, integers below `num_classes`.
            num_classes: Number of neurons.

        Raises:
            ValueError: Shapes do not fit.
        """
        if v_max.dim() != 2 or v_max.shape[1] != num_classes:
            raise ValueError(
                f"mse_loss: v_max has shape [batch, {num_classes}]; this one {list(v_max.shape)}"
            )
        if label.shape != v_max.shape[:1]:
            raise ValueError(
                f"mse_loss: label has shape [{len(v_max)}], one a row of v_max; this one "
                f"{list(label.shape)}"
            )
        shape = v_threshold.shape if isinstance(v_threshold, Tensor) else ()
        if shape and shape != v_max.shape:
            raise ValueError(
                f"mse_loss: v_threshold is a number or has v_max's shape {list(v_max.shape)}; "
                f"this one {list(shape)}"
            )
        target = nn.functional.one_hot(label.long(), num_classes).bool()
        wrong = (v_max >= v_threshold) != target
        return ((v_max - v_threshold) * wrong).square().sum() / len(v_max)

    def forward(self, in_spikes: Tensor, ret_type: str = "v") -> Tensor:
        """Potentials, their maxima, or the times of the maxima.

        Args:
            in_spikes: Spike times in [0, T), `[batch, in_features]`; negative is no spike.
            ret_type: 'v': `[batch, out, T]`. 'v_max': `[batch, out]`. 'spikes': `[batch, out]`,
                the time of the maximum, negative (-t, and -1 for 0) where it is below threshold;
                forwards the hard argmax, backwards the soft one, softmax(v T) over time.

        Raises:
            ValueError: Wrong shape, a time of T or later, or an unknown `ret_type`.
        """
        if ret_type not in _RETURNS:
            raise ValueError(
                f"Tempotron: ret_type is {', '.join(map(repr, _RETURNS))}; not {ret_type!r}"
            )
        self._check(in_spikes)
        v = self._potential(in_spikes)
        if ret_type == "v":
            return v
        v_max, hard = v.max(dim=-1)
        if ret_type == "v_max":
            return v_max
        times = torch.arange(self.T, dtype=v.dtype, device=v.device)
        soft = (torch.softmax(v * self.T, dim=-1) * times).sum(dim=-1)
        # As soft + (hard - soft).detach(), but exactly `hard` in floating point.
        time = hard.to(v.dtype) + (soft - soft.detach())
        silent = -time - (hard == 0).to(v.dtype)
        return torch.where(v_max >= self.v_threshold, time, silent)

    def _check(self, in_spikes: Tensor) -> None:
        if in_spikes.dim() != 2 or in_spikes.shape[1] != self.in_features:
            raise ValueError(
                f"Tempotron: in_spikes has shape [batch, {self.in_features}]; this one "
                f"{list(in_spikes.shape)}"
            )
        if in_spikes.is_complex() or in_spikes.dtype == torch.bool:
            raise TypeError(f"Tempotron: in_spikes are times, not {in_spikes.dtype}")
        if in_spikes.numel() and not bool((in_spikes < self.T).all()):  # NaN is not, either
            raise ValueError(
                f"Tempotron: spike times lie in [0, T = {self.T}), negative for none; the largest "
                f"is {float(in_spikes.max())}"
            )

    def _potential(self, in_spikes: Tensor) -> Tensor:
        """V, `[batch, out, T]`."""
        weight = self.fc.weight
        batch, steps = len(in_spikes), self.T + 1  # a step before 0: of a spike at 0, see _events
        index, bag, share = self._events(in_spikes.double())
        order = torch.argsort(bag, stable=True)
        count = torch.bincount(bag, minlength=steps * batch)
        current = nn.functional.embedding_bag(
            index[order], weight.t(), torch.cumsum(count, 0) - count, mode="sum",
            per_sample_weights=(self._gain * share[order]).to(weight.dtype),
        )  # fmt: skip
        # In float64: a recursion over T steps adds up the rounding of its constants.
        current = current.view(steps, batch, self.out_features).double()
        _, state = self.membrane.functional(current, sequences=("v",))
        v: Tensor = state["v_seq"][1:].permute(1, 2, 0).to(weight.dtype)
        return v

    def _events(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes as (afferent, step * batch + row, share) of events on steps.

        A spike at n - d, 0 <= d < 1, has from step n on the potential of c_0 spikes at n and c_1 at
        n - 1, because K solves a differential equation of second order: with
        r(d) = expm1(d q) / expm1(q), q = 1/tau_s - 1/tau,

            c_0 = exp(-d/tau) r(1 - d),    c_1 = exp((1 - d)/tau_s) r(d).

        At n - 1 itself the latter's potential is K(0) = 0. With d = 0 it has no share, but still a
        slope: by it gradients reach the times.
        """
        batch = len(times)
        row, index = torch.nonzero(times.detach() >= 0, as_tuple=True)
        time = times[row, index]
        step = torch.ceil(time.detach())
        early = step - time
        bag = (step.long() + 1) * batch + row
        q = 1 / self.tau_s - 1 / self.tau

        def ratio(d: Tensor) -> Tensor:
            return torch.expm1(d * q) / math.expm1(q) if q else d

        if not times.requires_grad and not bool(early.any()):
            return index, bag, torch.ones_like(time)
        on = torch.exp(-early / self.tau) * ratio(1 - early)
        before = torch.exp((1 - early) / self.tau_s) * ratio(early)
        inside = step < self.T  # a spike in the last interval acts after the last step
        return (
            torch.cat([index[inside], index]),
            torch.cat([bag[inside], bag - batch]),
            torch.cat([on[inside], before]),
        )

    def extra_repr(self) -> str:
        """Sizes and constants."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, T={self.T}, "
            f"tau={self.tau}, tau_s={self.tau_s}, v_threshold={self.v_threshold}"
        )
