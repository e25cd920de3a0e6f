"""The same neurons elsewhere: spikes agree exactly, states and gradients to 1e-5.

SpikingJelly and snnTorch are optional; what is not installed is skipped. Where a peer departs from
the paper that a zoo spec follows, or the zoo has no such neuron, the peer's equations are written
out here as a spec. The traces of the NIR paper's LIF come with the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurogen import load, load_text
from neurogen.nn import surrogate

ROOT = Path(__file__).parents[1]
#: That the backends agree with each other in every dtype is shown elsewhere.
CELLS = (("torch", torch.float64), ("cpp", torch.float32))
TOLERANCE = 1e-5  # of the largest element


# -- what the zoo does not have, or writes otherwise ---------------------------------------------

#: SpikingJelly's Izhikevich neuron is the quadratic integrate-and-fire with a slow recovery.
RECOVERY = """
name: Recovery
states: {v: v_reset, w: 0.0}
parameters: {tau: 2.0, v_leak: -0.1, v_c: 0.8, a_0: 1.0, tau_w: 2.0, a: 0.0, b: 0.0, v_reset: 0.0}
charge:
  v: v + (x + a_0 * (v - v_leak) * (v - v_c) - w) / tau
reset:
  v: spike * v_reset + (1 - spike) * v
  w: w + (a * (v - v_leak) - w) / tau_w + b * spike
"""

CURRENT = """
name: Current
states: {v: v_rest, c: 0.0}
parameters: {c_decay: 0.5, v_decay: 0.75, v_threshold: 0.5}
charge:
  c: c * c_decay + x
  v: v * v_decay + c
surrogate: rect
"""

#: Resonate-and-fire whose input is added after the rotation, and whose spike leaves U alone.
ROTATION = """
name: Rotation
states: {u: 0.0, v: v_rest}
parameters: {b: -0.2, omega: 1.0}
let: {decay: exp(b * dt), c: cos(omega * dt), s: sin(omega * dt)}
charge:
  u: decay * (u * c - v * s) + x
  v: decay * (prev(u) * s + v * c)
"""

#: The hard reset of SpikingJelly's ternary neurons sees both spikes apart, at 0 too.
TERNARY = """
name: Ternary
parameters: {tau: 2.0, v_reset: 0.0}
flags: {decay_input: true}
states: {v: v_reset}
charge:
  v: v + (x - (v - v_reset)) / tau if decay_input else v - (v - v_reset) / tau + x
  event: step(v - v_threshold) + step(-v - v_threshold)
fire: {when: v >= v_threshold, kind: ternary}
reset:
  v: event * v_reset + (1 - event) * v
"""

TERNARY_SOFT = """
name: TernarySoft
parameters: {tau: 2.0}
states: {v: 0.0}
charge: v + (x - v) / tau
fire: {when: v >= v_threshold, kind: ternary}
reset:
  v: v - spike * v_threshold
"""

#: Leaky integrate and analog fire: what leaves is an activation of the charged membrane.
ANALOG = """
name: Analog
parameters: {tau: 2.0}
charge:
  h: v + (x - (v - v_rest)) / tau
  v: h
output: relu(h - v_threshold)
"""

KLIF_SCALED = """
name: KLIFScaled
parameters: {tau: 2.0, v_reset: 0.0}
learnable: {k: 1.0}
states: {v: v_reset}
charge:
  h: relu(k * (v + (x - (v - v_reset)) / tau))
  v: h / k
fire: h >= v_threshold
reset: hard
"""

LAPICQUE = """
name: Lapicque
parameters: {R: 5.1, C: 1.5}
states: {v: 0.0}
charge: x * R * (1 / (R * C)) * dt + (1 - dt / (R * C)) * v - where(v > v_threshold, v_threshold, 0)
fire: v > v_threshold
reset: none
surrogate: atan
"""

SYNAPTIC = """
name: Synaptic
parameters: {alpha: 0.9, beta: 0.8}
states: {i: 0.0, v: 0.0}
flags: {reset_to_zero: false}
charge:
  i: alpha * i + x
  total: beta * v + i
  v: "where(v > v_threshold, 0, total) if reset_to_zero
      else total - where(v > v_threshold, v_threshold, 0)"
fire: v > v_threshold
reset: none
surrogate: atan
"""

#: snnTorch's Alpha, as it is: the difference of two decaying currents, and its peculiar reset.
ALPHA = """
name: Alpha
parameters: {alpha: 0.9, beta: 0.8}
states: {e: 0.0, i: 0.0, v: 0.0}
let: {scale: log(alpha) / (log(beta) - log(alpha)) + 1}
charge:
  over: where(v > v_threshold, 1, 0)
  above: alpha * e + x
  below: beta * i - x
  e: above - over * v_threshold
  i: below - over * below
  v: scale * (above + below) + over * prev(i)
fire: v > v_threshold
reset: none
surrogate: atan
"""

RECURRENT = """
name: Recurrent
parameters: {beta: 0.9, weight: 0.5}
states: {v: 0.0}
charge: beta * v + x + prev(spike) * weight - where(v > v_threshold, v_threshold, 0)
fire: v > v_threshold
reset: none
surrogate: atan
"""

#: snnTorch's Leaky with reset_delay=False: a spike is paid for at once, but only once.
PROMPT = """
name: Prompt
parameters: {beta: 0.9}
states: {v: 0.0}
charge:
  over: where(v > v_threshold, 1, 0)
  v: beta * v + x - over * v_threshold
fire: v > v_threshold
reset:
  v: v - (spike - over) * v_threshold
surrogate: atan
"""


# -- how the two are held against each other -----------------------------------------------------


@dataclass
class Trace:
    """What a run leaves: outputs, and every state after the last step (or all of them)."""

    outputs: Tensor
    states: dict[str, Tensor]


@dataclass
class Pair:
    """A neuron of ours and the peer's.

    Attributes:
        ours: The node, multi-step.
        theirs: Runs the peer on [T, N, *].
        states: Our states that the peer has too.
        parameters: Name -> our nn.Parameter and theirs.
        spread, shift: The input is normal with this spread and mean.
        ndim: Dimensions of one time step.
    """

    ours: Any
    theirs: Callable[[Tensor], Trace]
    states: tuple[str, ...] = ("v",)
    parameters: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    spread: float = 1.0
    shift: float = 0.5
    ndim: int = 2


def agree(pair: Pair, dtype: torch.dtype, steps: int = 24, *, binary: bool = True) -> None:
    generator = torch.Generator().manual_seed(20)
    shape = (steps, 3, 29) if pair.ndim == 2 else (steps, 2, 3, 4, 5)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * pair.spread + pair.shift
    inputs = [x.to(dtype).requires_grad_() for _ in range(2)]
    outputs = pair.ours(inputs[0])
    ours = Trace(outputs, {name: getattr(pair.ours, name) for name in pair.states})
    theirs = pair.theirs(inputs[1])
    if binary:
        assert torch.equal(ours.outputs.to(dtype), theirs.outputs.to(dtype)), "spikes differ"
        rate = float(ours.outputs.detach().abs().mean())
        assert 0.02 < rate < 0.9 or ours.outputs.unique().numel() > 2, f"a rate of {rate}"
    else:
        close("outputs", ours.outputs, theirs.outputs)
    weights = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, value in {"output": outputs, **ours.states}.items()
    }
    gradients = []
    for k, trace in enumerate((ours, theirs)):
        loss = (trace.outputs * weights["output"]).sum()
        for name in pair.states:
            close(f"state {name}", ours.states[name], theirs.states[name])
            loss = loss + (trace.states[name] * weights[name]).sum()
        leaves = [inputs[k], *(both[k] for both in pair.parameters.values())]
        gradients.append(torch.autograd.grad(loss, leaves))
    for name, a, b in zip(("x", *pair.parameters), *gradients, strict=True):
        assert float(b.abs().max()) > 0, f"the peer's gradient of {name} is 0: nothing is compared"
        close(f"gradient of {name}", a.reshape(-1), b.reshape(-1))


def close(what: str, ours: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.detach().abs().max())
    error = float((ours.detach() - theirs.detach()).abs().max())
    assert error <= TOLERANCE * scale, f"{what} differs by {error:.3g} of {scale:.3g}"


def learnt(value: float, dtype: torch.dtype) -> tuple[nn.Parameter, nn.Parameter]:
    """The same parameter twice, for us and for the peer."""
    one, other = (nn.Parameter(torch.tensor(value, dtype=dtype)) for _ in range(2))
    return one, other


@pytest.fixture(params=CELLS, ids=lambda cell: f"{cell[0]}-{str(cell[1])[6:]}")
def cell(request: pytest.FixtureRequest) -> tuple[str, torch.dtype]:
    return request.param


@pytest.fixture
def backend(cell: tuple[str, torch.dtype]) -> str:
    return cell[0]


@pytest.fixture
def dtype(cell: tuple[str, torch.dtype]) -> torch.dtype:
    return cell[1]


# -- SpikingJelly --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jelly() -> Any:
    pytest.importorskip("loguru")  # spikingjelly installed without its dependencies
    return pytest.importorskip("spikingjelly.activation_based.neuron")


def of_jelly(node: Any, states: tuple[str, ...] = ("v",)) -> Callable[[Tensor], Trace]:
    """Run a SpikingJelly node over all steps."""

    def run(x: Tensor) -> Trace:
        node.to(x.dtype)
        node.step_mode = "m"
        node.reset()
        outputs = node(x)
        return Trace(outputs, {name: getattr(node, name) for name in states})

    return run


def zoo(stem: str, backend: str, **keywords: Any) -> Any:
    """A neuron of the zoo, multi-step, with SpikingJelly's default surrogate."""
    keywords.setdefault("surrogate_function", surrogate.Sigmoid())
    return load(ROOT / "specs" / f"{stem}.yaml")(step_mode="m", backend=backend, **keywords)


def local(text: str, backend: str, **keywords: Any) -> Any:
    """A neuron written out in this file, multi-step."""
    return load_text(text)(step_mode="m", backend=backend, **keywords)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.2])
def test_if(
    jelly: Any, backend: str, dtype: torch.dtype, v_reset: float | None, detach: bool
) -> None:
    both = {"v_threshold": 1.0, "v_reset": v_reset, "detach_reset": detach}
    agree(Pair(zoo("if", backend, **both), of_jelly(jelly.IFNode(**both))), dtype)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.2])
@pytest.mark.parametrize("decay_input", [True, False])
def test_lif(
    jelly: Any,
    backend: str,
    dtype: torch.dtype,
    v_reset: float | None,
    decay_input: bool,
    detach: bool,
) -> None:
    both = {"tau": 3.0, "decay_input": decay_input, "v_reset": v_reset, "detach_reset": detach}
    pair = Pair(zoo("lif", backend, **both), of_jelly(jelly.LIFNode(**both)), spread=2.0)
    agree(pair, dtype)


def test_potentials_of_all_steps(jelly: Any, backend: str) -> None:
    ours = zoo("lif", backend, store_v_seq=True)
    theirs = jelly.LIFNode(store_v_seq=True, step_mode="m")
    x = torch.randn(30, 4, 33, generator=torch.Generator().manual_seed(3)) + 0.8
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.v_seq, theirs.v_seq)


@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("decay_input", [True, False])
def test_plif(
    jelly: Any, backend: str, dtype: torch.dtype, v_reset: float | None, decay_input: bool
) -> None:
    both = {"init_tau": 3.0, "decay_input": decay_input, "v_reset": v_reset}
    ours, theirs = zoo("plif", backend, **both).to(dtype), jelly.ParametricLIFNode(**both).to(dtype)
    with torch.no_grad():
        ours.w.fill_(float(theirs.w))
    agree(Pair(ours, of_jelly(theirs), parameters={"w": (ours.w, theirs.w)}, spread=2.0), dtype)


def test_qif(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    pair = Pair(zoo("qif", backend), of_jelly(jelly.QIFNode()), spread=2.0)
    agree(pair, dtype)


def test_eif(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    agree(Pair(zoo("eif", backend), of_jelly(jelly.EIFNode())), dtype)


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (0.3, 0.4)])
def test_izhikevich(jelly: Any, backend: str, dtype: torch.dtype, a: float, b: float) -> None:
    ours = local(RECOVERY, backend, a=a, b=b, tau_w=5.0)
    theirs = of_jelly(jelly.IzhikevichNode(a=a, b=b, tau_w=5.0), ("v", "w"))
    states = ("v", "w") if a else ("v",)
    agree(Pair(ours, theirs, states, spread=2.0), dtype)


@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("decay_input", [True, False])
def test_klif(
    jelly: Any, backend: str, dtype: torch.dtype, v_reset: float | None, decay_input: bool
) -> None:
    both = {"tau": 3.0, "decay_input": decay_input, "v_reset": v_reset}
    ours, theirs = zoo("klif", backend, **both).to(dtype), jelly.KLIFNode(**both).to(dtype)
    slopes(ours.k, theirs.k)
    agree(Pair(ours, of_jelly(theirs), parameters={"k": (ours.k, theirs.k)}, spread=2.0), dtype)


def test_klif_with_scaled_reset(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    ours = local(KLIF_SCALED, backend).to(dtype)
    theirs = jelly.KLIFNode(scale_reset=True).to(dtype)
    slopes(ours.k, theirs.k)
    agree(Pair(ours, of_jelly(theirs), parameters={"k": (ours.k, theirs.k)}, spread=2.0), dtype)


def slopes(*parameters: Tensor) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(1.25)


def test_clif(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    ours = zoo("clif", backend, tau=3.0, surrogate_function=surrogate.Rect())
    theirs = of_jelly(jelly.ComplementaryLIFNode(tau=3.0), ("v", "m"))
    agree(Pair(ours, theirs, ("v", "m")), dtype)


@pytest.mark.parametrize("channels", [None, 3])
def test_glif(jelly: Any, backend: str, dtype: torch.dtype, channels: int | None) -> None:
    steps = 8
    ours = zoo("glif", backend, shape=(steps,)).to(dtype)
    theirs = jelly.GatedLIFNode(T=steps, inplane=channels, init_linear_decay=1 / 16).to(dtype)
    names = {name: name for name in ("alpha", "beta", "gamma", "tau", "v_threshold", "v_subreset")}
    names |= {"leak": "linear_decay", "conduct": "conduct"}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        theirs.conduct += torch.randn(theirs.conduct.shape, generator=generator)
        for mine, other in names.items():
            value = getattr(theirs, other).detach()
            value = value[..., None, None] if channels else value.reshape(-1)
            setattr(ours, mine, nn.Parameter(value.clone()))
    parameters = {m: (getattr(ours, m), getattr(theirs, o)) for m, o in names.items()}
    agree(Pair(ours, of_jelly(theirs), parameters=parameters, ndim=4), dtype, steps)


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_cuba(jelly: Any, backend: str, dtype: torch.dtype, v_reset: float | None) -> None:
    ours = local(CURRENT, backend, v_reset=v_reset)
    theirs = of_jelly(jelly.CUBALIFNode(v_reset=v_reset), ("v", "c"))
    agree(Pair(ours, theirs, ("v", "c"), shift=0.0), dtype)


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_resonate_and_fire(
    jelly: Any, backend: str, dtype: torch.dtype, v_reset: float | None
) -> None:
    ours = local(ROTATION, backend, v_reset=v_reset)
    theirs = of_jelly(jelly.RAFNode(v_reset=v_reset), ("v", "u"))
    agree(Pair(ours, theirs, ("v", "u")), dtype)


@pytest.mark.parametrize("decay_input", [True, False])
def test_ternary(jelly: Any, backend: str, dtype: torch.dtype, decay_input: bool) -> None:
    both = {"tau": 3.0, "v_threshold": 0.6, "decay_input": decay_input}
    ours = local(TERNARY, backend, **both)
    agree(Pair(ours, of_jelly(jelly.TernaryLIFNode(**both)), shift=0.0), dtype)


def test_ternary_with_soft_reset(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    ours = local(TERNARY_SOFT, backend, v_threshold=0.5)
    theirs = jelly.TernaryLIFNode(v_threshold=0.5, v_reset=None)
    agree(Pair(ours, of_jelly(theirs), shift=0.0), dtype)


@pytest.mark.parametrize("detach", [False, True])
def test_ilif(jelly: Any, backend: str, dtype: torch.dtype, detach: bool) -> None:
    ours = zoo("ilif", backend, detach_reset=detach)
    theirs = jelly.ILIFNode(detach_reset=detach)
    agree(Pair(ours, of_jelly(theirs), spread=2.0, shift=1.0), dtype)


def test_elementwise_recurrence(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    ours = zoo("elementwise_recurrent_lif", backend)
    weights = torch.linspace(-0.6, 0.6, 29, dtype=dtype)  # one for each neuron
    ours.w, w = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    theirs = layer.ElementWiseRecurrentContainer(jelly.LIFNode(), lambda y, x: x + w * y)

    def run(x: Tensor) -> Trace:
        theirs.sub_module.reset()
        theirs.reset()
        return Trace(torch.stack([theirs(step) for step in x]), {"v": theirs.sub_module.v})

    agree(Pair(ours, run, parameters={"w": (ours.w, w)}, spread=2.0), dtype)


def test_analog_output(jelly: Any, backend: str, dtype: torch.dtype) -> None:
    ours = local(ANALOG, backend)
    theirs = jelly.LIAFNode(torch.relu, threshold_related=True)

    def run(x: Tensor) -> Trace:  # step by step: in 'm' mode, 2.0.0 leaves the activation out
        theirs.reset()
        return Trace(torch.stack([theirs(step) for step in x]), {"v": theirs.v})

    agree(Pair(ours, run, spread=2.0), dtype, binary=False)


@pytest.mark.parametrize(
    "name", ["Sigmoid", "ATan", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "Erf", "Rect",
             "SuperSpike", "NonzeroSignLogAbs", "S2NN", "LogTailedReLU"],
)  # fmt: skip
def test_surrogates(jelly: Any, backend: str, dtype: torch.dtype, name: str) -> None:
    their = pytest.importorskip("spikingjelly.activation_based.surrogate")
    ours = zoo("lif", backend, surrogate_function=getattr(surrogate, name)())
    theirs = jelly.LIFNode(surrogate_function=getattr(their, name)())
    agree(Pair(ours, of_jelly(theirs), spread=2.0), dtype)


# -- snnTorch ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snn() -> Iterator[Any]:
    return pytest.importorskip("snntorch")


def of_snn(node: Any, states: tuple[str, ...]) -> Callable[[Tensor], Trace]:
    """Run an snnTorch neuron step by step; `states` are ours, in the order of theirs."""

    def run(x: Tensor) -> Trace:
        values = [torch.zeros_like(x[0]) for _ in states]
        spikes = []
        for step in x.unbind(0):
            spike, *values = node(step, *values)
            spikes.append(spike)
        return Trace(torch.stack(spikes).to(x.dtype), dict(zip(states, values, strict=True)))

    return run


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
def test_leaky(snn: Any, backend: str, dtype: torch.dtype, mechanism: str) -> None:
    beta, threshold = learnt(0.8, dtype), learnt(1.1, dtype)
    ours = zoo("leaky", backend, beta=beta[0], v_threshold=threshold[0],
               reset_to_zero=mechanism == "zero", surrogate_function=surrogate.ATan())  # fmt: skip
    theirs = snn.Leaky(beta[1].detach().clone(), threshold[1].detach().clone(), learn_beta=True,
                       learn_threshold=True, reset_mechanism=mechanism)  # fmt: skip
    parameters = {"beta": (beta[0], theirs.beta), "v_threshold": (threshold[0], theirs.threshold)}
    agree(Pair(ours, of_snn(theirs, ("v",)), parameters=parameters), dtype)


def test_leaky_with_a_prompt_reset(snn: Any, backend: str, dtype: torch.dtype) -> None:
    beta = learnt(0.8, dtype)
    ours = local(PROMPT, backend, beta=beta[0])
    theirs = snn.Leaky(beta[1].detach().clone(), learn_beta=True, reset_delay=False)
    agree(Pair(ours, of_snn(theirs, ("v",)), parameters={"beta": (beta[0], theirs.beta)}), dtype)


def test_lapicque(snn: Any, backend: str, dtype: torch.dtype) -> None:
    ours = local(LAPICQUE, backend, dt=0.5)
    constants = {
        name: torch.tensor(value, dtype=dtype) for name, value in {"R": 5.1, "C": 1.5}.items()
    }
    theirs = snn.Lapicque(**constants, time_step=torch.tensor(0.5, dtype=dtype))
    agree(Pair(ours, of_snn(theirs, ("v",)), spread=3.0, shift=1.0), dtype)


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
def test_synaptic(snn: Any, backend: str, dtype: torch.dtype, mechanism: str) -> None:
    alpha, beta = learnt(0.6, dtype), learnt(0.7, dtype)
    ours = local(SYNAPTIC, backend, alpha=alpha[0], beta=beta[0], reset_to_zero=mechanism == "zero")
    theirs = snn.Synaptic(alpha[1].detach().clone(), beta[1].detach().clone(), learn_alpha=True,
                          learn_beta=True, reset_mechanism=mechanism)  # fmt: skip
    parameters = {"alpha": (alpha[0], theirs.alpha), "beta": (beta[0], theirs.beta)}
    agree(Pair(ours, of_snn(theirs, ("i", "v")), ("i", "v"), parameters, shift=0.2), dtype)


def test_alpha(snn: Any, backend: str, dtype: torch.dtype) -> None:
    ours = local(ALPHA, backend)
    theirs = snn.Alpha(torch.tensor(0.9, dtype=dtype), torch.tensor(0.8, dtype=dtype),
                       reset_mechanism="subtract")  # fmt: skip
    agree(Pair(ours, of_snn(theirs, ("e", "i", "v")), ("e", "i", "v")), dtype)


def test_one_to_one_recurrence(snn: Any, backend: str, dtype: torch.dtype) -> None:
    beta, weight = learnt(0.8, dtype), learnt(-0.4, dtype)
    ours = local(RECURRENT, backend, beta=beta[0], weight=weight[0])
    theirs = snn.RLeaky(beta[1].detach().clone(), V=weight[1].detach().clone(), all_to_all=False,
                        learn_beta=True)  # fmt: skip

    def run(x: Tensor) -> Trace:
        spike, v, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for step in x.unbind(0):
            spike, v = theirs(step, spike, v)
            spikes.append(spike)
        return Trace(torch.stack(spikes), {"v": v})

    parameters = {"beta": (beta[0], theirs.beta), "weight": (weight[0], theirs.recurrent.V)}
    agree(Pair(ours, run, parameters=parameters), dtype)


# -- NIR -----------------------------------------------------------------------------------------

NIR = """
name: NIR
parameters: {{tau: 2.5e-3, v_threshold: 0.1, v_reset: 0.0}}
dt: 1.0e-4
states: {{v: v_reset}}
dynamics: {{v: (-v + x) / tau}}
scheme: {scheme}
fire: v > v_threshold
reset: hard
"""


def trace(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Input, potential and spikes of one neuron, [T, 1] each."""
    columns = np.loadtxt(ROOT / "tests" / "data" / "nir_lif" / f"lif_{name}.csv", delimiter=",")
    x, v, spikes = torch.from_numpy(columns.copy()).unbind(1)
    return x[:, None], v[:, None], spikes[:, None]


def test_nir_norse(backend: str) -> None:
    x, v, spikes = (column.float() for column in trace("norse"))
    node = local(NIR.format(scheme="euler"), backend, store_v_seq=True)
    assert torch.equal(node(x), spikes)
    close("potential", node.v_seq, v)


def test_nir_exact(backend: str) -> None:
    x, v, spikes = trace("exact")
    node = local(NIR.format(scheme="exact"), backend, store_v_seq=True)
    assert torch.equal(node(x), spikes)
    # The trace resets at the very moment of crossing, in the middle of a step; ours at its end.
    first = int(spikes.flatten().argmax())
    close("potential", node.v_seq[:first], v[:first])
