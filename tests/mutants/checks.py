"""What a mutant must get past: short forms of the proofs, each about a second.

In: nothing; whatever `neurogen` is first on the path. Out: an exception if something is wrong.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from together import compiled_together
from torch import nn

from neurogen.backends import toolchain
from neurogen.backends.cpp import launch as cpp
from neurogen.backends.cupy.launch import emulated
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.pipeline import compile_text
from neurogen.compiler.surrogates import TABLE, table_entry
from neurogen.errors import SpecError
from neurogen.loading import compiled_of, load_text
from neurogen.nn import conversion, functional, layer
from neurogen.tools.reference.curves import CURVES
from neurogen.tools.reference.noise import normal
from neurogen.tools.verify import BACKENDS, Case, Problem, compare_all
from neurogen.tools.verify.determinism import threads
from neurogen.tools.verify.example import example
from neurogen.tools.verify.matrix import expectation
from neurogen.tools.verify.smooth import smooth
from neurogen.tools.verify.transpose import transpose

ROOT = Path(__file__).parents[2]
F64, F32 = torch.float64, torch.float32
#: Several blocks, several checkpoints; `test_mutants.py` says whether it is so.
LARGE = Problem(steps=37, shape=(cpp.LANES + 11,), dyadic=True, learnt="neuron")
#: Several blocks, several rows that are aligned as streams want it, a tail.
STREAMED = Problem(steps=9, shape=(cpp.LANES + 267,), learnt="neuron")
SMALL = Problem(steps=12, shape=(3,), dyadic=True)
#: Nothing off the grid: thresholds are hit exactly, and `ties` counts how often.
TIES = Problem(steps=12, shape=(40,), dyadic=True, given_state=False, learnt="none")

TWO_STATES = """
name: A
states: {v: v_rest, a: 0.25, n: {init: 0, integer: true}}
inputs: [x, y]
parameters: {tau: 2.5}
let: {drive: x - 0.5 * y}
charge:
  v: v + (drive - (v - v_rest)) / tau - (a - (x - y)) / 4
  n: max(n - 1, 0)
fire: {when: v >= v_threshold + 0.5 * a, if: n <= 0}
reset: {v: v - spike * a, a: 0.75 * a + spike * v, n: n + 2 * spike}
output: spike + 0.5 * v - n
"""
FUNCTIONS = """
name: A
states: {v: 0.0, a: 0.5}
charge:
  q: 0.25 * x
  e: exp(-abs(v))
  v: >-
    0.5 * v + q * e + tanh(x) + sigmoid(v) + softplus(x) - erf(v) + atan(x) + exp(-abs(v))
    + log1p(x**2)
  a: >-
    sin(v) * cos(x) + log(1 + x**2) + expm1(-v**2) + sqrt(x**2 + 1) - (v - (a - x)) + x**-3 / 9
    + (log(x) if x > 0.25 else 1) + (1 if -1 < a < 0.5 * v else 0)
fire: 0.3 * v - a >= 0
reset: {a: 0.5 * a + step(v - 2)}
"""
PIECES = """
name: A
inputs: [x, y]
charge: >-
  0.5 * v + max(x, y) - 0.5 * min(x, y, 0.25) + relu(x) + abs(y) + clip(x, -1, y) + clip(y, x, 2)
  + floor(x) + round(y) + heaviside(x) + sign(y) + (1 / x if abs(x) > 0.25 else y) + x**3 / 8
fire: none
output: v
"""
FLAGS = """
name: A
parameters: {tau: 2.0, sigma: 3.0}
flags: {fast: true, wide: false}
learnable: {w: {init: 0.8, transform: sigmoid, bounds: [0.5, 2]}}
charge: v + (w * x / tau if fast and not wide else x / sigma) - prev(spike) / 4
"""
NAMES = """
name: A
states: {v: 0.0, d_u: 0.0, d_spike: 0.0}
flags: {fn: true, torch: false}
charge:
  v: 0.5 * v + clip(x, -1, 1) if fn or torch else v - x
  d_u: 0.5 * d_u + v
  d_spike: 0.5 * d_spike + d_u
fire: v >= 1 + 0.1 * d_spike
"""
SINGULAR = """
name: A
states: {v: 0.0}
charge: 0.5 * v + x + (sqrt(v) / v if v > 0 else 1)
"""
REPEATED = """
name: A
parameters: {tau: 3.0}
dt: 0.5
kernels:
  epsilon: exp(-s / tau) + s * exp(-s / tau)
  eta: -(s * exp(-s / tau) + exp(-s / tau)) / 2
charge: v_rest + epsilon(x) + eta(spike)
reset: none
"""
GAIN = "name: A\nparameters: {gain: 1.0}\ncharge: v + gain * x\nfire: none\noutput: v\n"
STEPPED = GAIN.replace("gain: 1.0", "gain: {default: 1.0, per: step}")
NOISY = """
name: A
states: {v: {init: {uniform: [0, 1]}}}
noise: {xi: normal, eta: {kind: normal, eval: false}}
dt: 0.25
dynamics: {v: xi - v / 2}
scheme: euler
charge: v + x + eta / 4
fire: none
output: v
"""
HELD = """
name: A
states: {v: 0.0, w: 0.0, q: 0.0}
parameters: {tau: 3.0}
dynamics: {w: (v - w) / tau, v: (x - v + prev(v) / 2 - prev(w) / 4 + q) / tau}
scheme: exact
charge: {q: detach(tau) / 8}
"""
PRELUDE = "name: A\nparameters: {rho: 0.9}\ncharge: rho * v + (1 - rho) * x\n"


def hold(
    text: str, problem: Problem, dtype: torch.dtype = F64, backends: tuple[str, ...] = BACKENDS,
    **case: Any,
) -> None:  # fmt: skip
    """Compare all backends with the reference, kernels compiled together."""
    chosen = Case("torch", dtype=dtype, **case)
    with compiled_together(text, chosen, problem):
        for comparison in compare_all(text, chosen, problem, backends).values():
            comparison.require()
            assert comparison.rate > 0 or "fire: none" in text, "silent"


def spec(stem: str) -> str:
    """The text of a spec of the zoo."""
    return (ROOT / "specs" / f"{stem}.yaml").read_text(encoding="utf-8")


def dynamics(scheme: str, linear: bool) -> str:
    """Two coupled states under a scheme."""
    bend = "" if linear else " - 0.1 * v**3"
    return (
        "name: A\nstates: {i: 0.0, v: v_rest}\nparameters: {tau: 5.0}\ndt: 0.5\n"
        f"dynamics: {{i: (x - i) / tau, v: (i - v) / 2 + 0.3 * x{bend}}}\nscheme: {scheme}\n"
    )


def unoptimised() -> None:
    """Compile through the launchers, without optimisation."""
    compile_ = toolchain.shared_library

    def shared_library(text: str, surrogate: str, flags: tuple[str, ...]) -> Path:
        return compile_(text, surrogate, tuple("-O0" if f[:2] == "-O" else f for f in flags))

    toolchain.shared_library = shared_library


def launched() -> None:
    """The launchers' own compilation, for each number of threads."""
    unoptimised()
    for detach in (False, True):
        text, problem = spec("lif"), Problem(steps=5, shape=(3,))
        for comparison in compare_all(
            text, Case("torch", detach_reset=detach, dtype=F64), problem, BACKENDS
        ).values():
            comparison.require()
    assert all(finding.holds for finding in threads(spec("lif"), Case("cpp", dtype=F64)))


def streamed() -> None:
    """Rows of results written past the caches, with a tail."""
    cpp.STREAM_BYTES = 0
    hold(spec("lif"), STREAMED, F32, ("cpp",))


def ties() -> None:
    """Potentials at a threshold exactly, at both of a ternary neuron's."""
    charged = {
        "if": (lambda v, x: v + x, (1,)),
        "ternary_lif": (lambda v, x: 0.25 * v + x, (1, -1)),
    }
    for stem, (charge, signs) in charged.items():
        hold(spec(stem), TIES)
        wanted = expectation(spec(stem), Case("torch", dtype=F64), TIES)
        v = wanted.same.sequences["v"]
        h = charge(torch.cat([torch.zeros_like(v[:1]), v[:-1]]), wanted.inputs[0].detach())
        threshold = wanted.arguments["v_threshold"]
        assert all((h == sign * threshold).sum() > 3 for sign in signs), "no ties"


def sequences() -> None:
    """Gradients of v_seq that lie apart in memory, or are one row for all steps."""
    unoptimised()
    x, found = torch.randn(6, 5, dtype=F64, generator=torch.Generator().manual_seed(2)), []
    for backend in ("torch", "cpp"):
        node = load_text(spec("lif"))(step_mode="m", backend=backend, store_v_seq=True)
        leaf = x.clone().requires_grad_()
        node(leaf)
        wide = torch.cat([node.v_seq, leaf], 1) * torch.cat([x, x], 1)
        losses = (wide.sum(), (node.v_seq.sum(0) * x[0]).sum(), node.v_seq.sum())
        found.append([torch.autograd.grad(loss, leaf, retain_graph=True) for loss in losses])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def sums() -> None:
    """What neurons share has a gradient that is summed in float64: float32 would lose the ones."""
    unoptimised()
    large, cls = 2.0**25, load_text(GAIN)
    weight = torch.ones(1, 2, 3, cpp.LANES // 2)  # [T, N, C, L]
    weight[..., 0], weight[..., 1] = large, -large  # in one block,
    weight[..., 2], weight[..., -1] = large, -large  # and in different ones
    weight[0, 0, ::2, 3] = torch.tensor([large, -large])  # apart in memory
    weight[0, 1, ::2, 3] = torch.tensor([-large, large])
    for backend in BACKENDS:
        for shape in ((1,), (3, 1), (cpp.LANES // 2,), (2, 1, cpp.LANES // 2)):
            gain, start = nn.Parameter(torch.ones(shape)), torch.zeros((), requires_grad=True)
            node = cls(gain=gain, step_mode="m", backend="torch")
            node.v = start
            with emulated():
                node.backend = backend
                (node(torch.ones_like(weight)) * weight).sum().backward()
            exact = weight[0].double().sum_to_size((1,) * (3 - len(shape)) + shape)
            assert gain.grad is not None and start.grad is not None
            assert torch.equal(gain.grad.double(), exact.reshape(shape)), (backend, shape)
            assert start.grad.double() == weight.double().sum(), backend


def transforms() -> None:
    """What equations see of a raw value, whatever it is, and of the one that it starts at."""
    raw = torch.tensor([-3.0, -0.5, 0.0, 0.25, 1.0, 2.0, 7.0], dtype=F64)
    seen: dict[str, Callable[[float], float]] = {
        "identity": lambda r: r,
        "exp": math.exp,
        "softplus": lambda r: math.log1p(math.exp(r)),
        "sigmoid": lambda r: 1 / (1 + math.exp(-r)),
        "sigmoid, bounds: [-1, 3]": lambda r: 4 / (1 + math.exp(-r)) - 1,
        "clamp, bounds: [0, 1]": lambda r: min(max(r, 0.0), 1.0),
    }
    for options, value in seen.items():
        text = GAIN.replace("parameters: {gain: 1.0}", "learnable: {gain: {init: 0.7, per: neuron, "
                            f"transform: {options}}}}}")  # fmt: skip
        node = load_text(text)(shape=(7,), step_mode="m", backend="torch").double()
        first = node.functional(torch.ones(1, 1, 7, dtype=F64))[0]
        torch.testing.assert_close(first, torch.full_like(first, 0.7), rtol=1e-7, atol=0)
        node.gain.data = raw
        found = node.functional(torch.ones(1, 1, 7, dtype=F64))[0].flatten()
        wanted = torch.tensor([value(r) for r in raw.tolist()], dtype=F64)
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)


def wide() -> None:
    """A float64 state beside a float32 input: all arithmetic is float64, outputs are float32."""
    unoptimised()
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(6, 5, generator=generator) + 0.5
    v = torch.rand(5, dtype=F64, generator=generator)
    for backend in ("torch", "cpp"):
        node = load_text(spec("lif"))(tau=3.0, backend=backend)
        spikes, state = node.functional(x, state={"v": v})
        wanted, final = node.functional(x.double(), state={"v": v})
        assert (spikes.dtype, state["v"].dtype) == (F32, F64), backend
        assert torch.equal(spikes.double(), wanted) and torch.equal(state["v"], final["v"]), backend


def channels() -> None:
    """Parameters that are learnt per channel: the kernels against torch."""
    text, found = spec("plif"), []
    x = torch.randn(6, 2, 3, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    unoptimised()
    for backend in ("torch", "cpp"):
        node = load_text(text)(step_mode="m", backend=backend).double()
        node.v_threshold = nn.Parameter(torch.tensor([[0.5], [1.0], [1.5]], dtype=F64))
        y = node(2 * x)
        loss = (y * x).sum() + (node.v * x[0]).sum()
        found.append([y, node.v, *torch.autograd.grad(loss, list(node.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def module() -> None:
    """What a module remembers, forgets and computes again."""
    cls = load_text(spec("lif"))
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)) + 0.5
    node = cls(step_mode="m", backend="torch", store_v_seq=True)
    whole = node(x)
    assert torch.equal(node.v_seq[-1], node.v)
    node.reset()
    assert isinstance(node.v, float) and node.v == 0.0
    halves = torch.cat([node(x[:3]), node(x[3:])])
    assert torch.equal(whole, halves)
    node.reset()
    assert torch.equal(node(x), whole)
    other = copy.deepcopy(node)
    other.reset()
    node.reset()
    node.tau = 8.0
    assert not torch.equal(node(x), whole), "a constant of before"
    assert torch.equal(node.v, cls(tau=8.0, step_mode="m", backend="torch").functional(x)[1]["v"])
    assert torch.equal(other(x), whole)
    own = cls(v_reset=nn.Parameter(torch.full((5,), 0.25)), backend="torch")
    grads = []
    for start in (None, own.v_reset * 1):  # at rest v is v_reset, for gradients too
        if start is not None:
            own.reset()
            own.v = start
        own(x[0])
        grads.append(torch.autograd.grad(own.v.sum(), own.v_reset)[0])
    assert torch.equal(*grads)
    learnt = {name: nn.Parameter(torch.ones(1) * 2) for name in ("tau", "v_threshold", "v_reset")}
    node = cls(**learnt)
    node.tau = nn.Parameter(torch.ones(5) * 3)  # optimizers go by the order
    assert [name for name, _ in node.named_parameters()] == [*learnt]


def cache() -> None:
    """The compile cache notices text, surrogate, flags and damage."""
    text = 'extern "C" int answer() { return ANSWER; }\n'
    paths = {
        toolchain.shared_library(given, surrogate, ("-O0", f"-DANSWER={answer}"))
        for given in (text, text + "// another\n")
        for surrogate in ("", "// another")
        for answer in (1, 2)
    }
    moved = toolchain.shared_library(text, "// another\n", ("-O0", "-DANSWER=1"))
    assert len(paths) == 8 and moved not in paths, "two kernels share a library"
    path = min(paths)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = min(
        toolchain.shared_library(given, surrogate, ("-O0", f"-DANSWER={answer}"))
        for given in (text, text + "// another\n")
        for surrogate in ("", "// another")
        for answer in (1, 2)
    )
    assert len(again.read_bytes()) == len(whole), "half a library was taken for a whole one"
    whole_key = (text, "", ("-O0", "-DANSWER=1"))
    command = toolchain.compiler() or ()
    one, two = [(*command, option) for option in ("-DONE", "-DTWO")]
    others = [
        ("ABI", -1), ("processor", str), ("identity", lambda _: ""),
        ("compiler", lambda: one), ("compiler", lambda: two),
    ]  # fmt: skip
    for part, other in others:
        kept = getattr(toolchain, part)
        setattr(toolchain, part, other)
        found = toolchain.shared_library(*whole_key)
        assert found not in paths, part
        paths.add(found)
        setattr(toolchain, part, kept)
    before = toolchain.headers()
    assert "power" in before
    toolchain.headers = lambda: before + "// another"
    assert toolchain.shared_library(*whole_key) not in paths


def optimised() -> None:
    """The kernels as users have them: no contraction, no fast-math."""
    x = torch.randn(20, 512, generator=torch.Generator().manual_seed(5)) + 0.3
    (y, state), (same, other) = (
        load_text(spec("alif"))(backend=backend).functional(x) for backend in ("torch", "cpp")
    )
    assert torch.equal(y, same) and all(torch.equal(state[name], other[name]) for name in state)


def steps() -> None:
    """Values per time step: all at once, one by one, their gradients."""
    unoptimised()
    generator = torch.Generator().manual_seed(6)
    x, gain = (torch.rand(n, dtype=F64, generator=generator) for n in ((5, cpp.LANES + 3), 5))
    wanted = torch.cumsum(gain.unsqueeze(1) * x, 0)
    slope = (x * torch.arange(5, 0, -1).unsqueeze(1)).sum(1)
    for backend in ("torch", "cpp"):
        node = load_text(STEPPED)(gain=nn.Parameter(gain), step_mode="m", backend=backend)
        y = node(x)
        torch.testing.assert_close(y, wanted, rtol=1e-14, atol=0)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), node.gain)[0], slope)
    single = load_text(STEPPED)(gain=gain, backend="torch")
    assert torch.equal(torch.stack([single(x_t, t=t) for t, x_t in enumerate(x)]), y)


def noise() -> None:
    """Streams, what goes on where a call ended, what is silent in eval()."""
    hold(NOISY, Problem(steps=5, shape=(9,), given_state=False))
    hold(NOISY, Problem(steps=3, shape=(2, 3, 4), layout="channels_last"))
    x = torch.zeros(6, 4)
    node = load_text(NOISY)(seed=3, backend="torch")
    whole = node.functional(x)[0]
    first, state = node.functional(x[:4])
    assert torch.equal(torch.cat([first, node.functional(x[4:], state=state)[0]]), whole)
    node.step_mode = "m"
    node(x[:4])
    again = load_text(NOISY)(step_mode="m", backend="torch")
    again.load_state_dict(node.state_dict())
    again.v = node.v
    assert torch.equal(again(x[4:]), whole[4:])
    quiet = node.eval().functional(x, state={"v": torch.zeros(4)})[0]
    xi = normal(node.seed, 0, 6, (4,), 0).float()
    v = torch.zeros(4)
    for t in range(6):
        v = v + 0.25 * (xi[t] / 0.5 - v / 2)
        torch.testing.assert_close(quiet[t], v, rtol=1e-5, atol=1e-6)


def rounded() -> None:
    """What is made of numbers is float64 until it meets a float32 tensor; so is a propagator."""
    rho, w = 0.9, torch.rand(300, generator=torch.Generator().manual_seed(7))
    text = GAIN.replace("gain: 1.0", "rho: 0.5, w: 1.0").replace("gain", "(1 - rho) * w")
    node = load_text(text)(rho=rho, w=w, backend="torch")
    assert torch.equal(node.functional(torch.ones(1, 300))[0][0], w * torch.tensor(1 - rho))
    tau = torch.linspace(1, 30, 300)
    node = load_text(dynamics("exact", True))(tau=nn.Parameter(tau))
    found = dict(zip((c.name for c in node.constants), node.prelude(F32, tau.device), strict=True))
    exact = torch.exp(-0.5 / tau.double())
    torch.testing.assert_close(found["flow_i_i"].double(), exact, rtol=2**-24, atol=0)


def network() -> None:
    """What acts on all of a network, and what a layer keeps for all time steps."""
    cls = load_text(spec("lif"))
    inner, outer = cls(backend="torch"), cls(backend="torch", step_mode="m")
    drop = layer.Dropout(0.5, step_mode="m")
    net = nn.Sequential(drop, outer, layer.MultiStepContainer(inner))
    x = torch.ones(5, 64)
    kept = [drop(x) for _ in range(2)]
    assert torch.equal(*kept) and (kept[0] == kept[0][0]).all() and 0 < (kept[0] > 0).sum() < 320
    net(x)
    functional.detach_net(net)
    functional.set_step_mode(net, "m")
    assert (inner.step_mode, outer.step_mode) == ("s", "m")
    assert isinstance(inner.v, torch.Tensor) and isinstance(outer.v, torch.Tensor)
    functional.reset_net(net)
    assert inner.v == outer.v == 0.0 and drop.mask is None
    plif = load_text(spec("plif"))
    old = plif(step_mode="m", backend="torch").eval()
    old.w.requires_grad_(False)
    old(x)
    new: Any = conversion.convert(nn.Sequential(old), {plif: plif})[0]  # type: ignore[index]
    assert new is not old and torch.equal(new.v, old.v) and not new.training
    assert torch.equal(new.w, old.w) and not new.w.requires_grad


def mistakes() -> None:
    """Every mistake of a wrong spec is found where it stands."""
    for path in sorted((ROOT / "tests" / "specs" / "invalid").glob("NG*.yaml")):
        text, found = path.read_text(encoding="utf-8"), list[str]()
        try:
            compile_text(text)
        except SpecError as error:
            places = [(m.code, m.location.line, m.location.column) for m in error.mistakes]
            found = [f"{code} {line}:{column}" for code, line, column in places]
        wanted = re.findall(r"^# expect: (NG\d{3} \d+:\d+)", text, re.MULTILINE)
        assert sorted(found) == sorted(wanted), f"{path.name}: {found}"


def surrogates() -> None:
    """Every slope of the table against the reference's own curves."""
    for name, entry in TABLE.items():
        if name not in CURVES or name == "erf":  # its slope is a function of the kernels
            continue
        defaults, curve = CURVES[name]
        given = dict(entry.parameters)
        assert given == defaults, name
        value, slope = table_entry(entry)
        for u in (-3.1, -0.9, -0.3, -0.01, 0.02, 0.4, 1.7, 5.0):
            point = torch.tensor([u], dtype=F64)
            smooth_, slope_ = curve(point, lambda outcome: outcome, **defaults)
            found = [evaluate(e, {"u": u, **given}) for e in (value, slope)]
            wanted = [float(smooth_), float(slope_)]
            shift = found[0] - wanted[0]  # a step is known up to a constant
            at_one = float(curve(torch.ones(1, dtype=F64), lambda o: o, **defaults)[0])
            assert abs(shift - (evaluate(value, {"u": 1.0, **given}) - at_one)) < 1e-9, name
            assert abs(found[1] - wanted[1]) < 1e-9, name


def derivatives() -> None:
    """Finite differences and the transpose identity, where no reference takes part."""
    unoptimised()
    for text in (FUNCTIONS.replace(" + step(v - 2)", ""), spec("cuba_lif")):
        for finding in smooth(text, Case("cpp", dtype=F64)):
            assert finding.holds, finding
    for finding in transpose(spec("plif"), Case("cpp", dtype=F64)):
        assert finding.holds, finding


def expect() -> None:
    """An example that is right holds, one that is wrong does not."""
    text = spec("lif_refractory")
    case = Case("torch", dtype=F64)
    assert all(finding.holds for finding in example(text, case))
    wrong = text.replace("spikes: [0, 3, 7]", "spikes: [0, 3, 6]")
    assert not all(finding.holds for finding in example(wrong, case))
    assert compiled_of(text).model.spec.expect is not None


#: Name -> check. A mutant names the one that is to notice it.
CHECKS: dict[str, Callable[[], None]] = {
    "lif": lambda: hold(spec("lif"), LARGE),
    "ties": ties,
    "lif, soft, float32": lambda: hold(spec("lif"), SMALL, F32, reset="soft"),
    "lif, detached": lambda: hold(spec("lif"), SMALL, detach_reset=True),
    "plif": lambda: hold(spec("plif"), Problem(steps=6, shape=(cpp.LANES + 76,))),
    "alif": lambda: hold(spec("alif"), SMALL),
    "two states": lambda: hold(TWO_STATES, SMALL),
    "functions": lambda: hold(FUNCTIONS, Problem(steps=12, shape=(9,))),
    "pieces": lambda: hold(PIECES, Problem(steps=12, shape=(40,), dyadic=True)),
    "flags": lambda: hold(FLAGS, SMALL, flags=(("fast", False), ("wide", True))),
    "flags, default": lambda: hold(FLAGS, SMALL),
    "names": lambda: hold(NAMES, SMALL, flags=(("fn", False), ("torch", True))),
    "singular": lambda: hold(SINGULAR, SMALL),
    "prelude": lambda: hold(PRELUDE, Problem(steps=9, shape=(3,), learnt="none")),
    "ternary": lambda: hold(spec("ternary_lif"), SMALL),
    "multilevel": lambda: hold(spec("ilif"), SMALL),
    "euler": lambda: hold(dynamics("euler", False), SMALL),
    "rk2": lambda: hold(dynamics("rk2", False), SMALL),
    "rk4": lambda: hold(dynamics("rk4", False), SMALL),
    "exponential_euler": lambda: hold(dynamics("exponential_euler", True), SMALL),
    "exact": lambda: hold(dynamics("exact", True), SMALL),
    "held": lambda: hold(HELD, SMALL),
    "srm": lambda: hold(spec("srm"), Problem(steps=12, shape=(3,))),
    "repeated root": lambda: hold(REPEATED, SMALL),
    "layouts": lambda: [  # type: ignore[dict-item, return-value]
        hold(spec("lif"), Problem(steps=6, shape=(2, 3, 5), layout=layout), F32)
        for layout in ("channels_last", "strided", "expanded")
    ],
    "half": lambda: [  # type: ignore[dict-item, return-value]
        hold(
            "name: A\ncharge: v + (x - v) / 2\nfire: none\noutput: v\n",
            Problem(steps=12, shape=(9,), dyadic=True, given_state=False),
            dtype,
        )
        for dtype in (torch.float16, torch.bfloat16)
    ],
    "launched": launched,
    "streamed": streamed,
    "channels": channels,
    "sequences": sequences,
    "sums": sums,
    "transforms": transforms,
    "optimised": optimised,
    "steps": steps,
    "noise": noise,
    "rounded": rounded,
    "network": network,
    "wide": wide,
    "module": module,
    "cache": cache,
    "mistakes": mistakes,
    "surrogates": surrogates,
    "derivatives": derivatives,
    "expect": expect,
}
