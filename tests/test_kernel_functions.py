"""Kernel-level functions: chained, they are the neuron's own backward and the reference's.

Expected values come from the reference stepper's autograd, and for the historical order of
arguments from an LIF step written by hand in plain torch (`by_hand`).
"""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen.loading import load, load_text
from neurogen.nn import surrogate
from neurogen.runtime.kernel_functions import KernelFunctions
from neurogen.tools.verify import Case, Problem, distance, matrix, nodes, runs

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
TABLE = [name for name in surrogate.__all__ if name[0].isupper() and name != "Surrogate"]
SNAKE = dict(zip(TABLE, (n for n in surrogate.__all__ if n[0].islower()), strict=True))
BACKENDS = ("torch", "cpp", "cupy")


def generated(stem: str) -> Any:
    return importlib.import_module(f"generated.{stem}")


def functions(stem: str) -> Any:
    return KernelFunctions(load(stem))


def packed(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def unpacked(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def parameters(node: Any, function: Any) -> dict[str, Any]:
    """What a function takes of a node: its parameters, raw learnables and flags."""
    names = inspect.signature(function).parameters
    seed = {"seed": node.seed} if "seed" in names else {}
    return seed | {
        name: node._current(name) for name in (*node.parameter_names, *node.flags, *node.learnable)
        if name in names and node._current(name) is not None and name != "hard_reset"
    }  # fmt: skip


def chain(node: Any, inputs: list[Tensor], start: list[Any], grads: list[Any]) -> list[Any]:
    """Gradients of inputs and initial states by `*_fptt_with_grad` and `bptt`."""
    f = KernelFunctions(type(node))
    reset = next(r for r in (["hard", "soft"] if node.hard_reset else ["soft", "hard"])
                 if f"{r}_reset_fptt" in dir(f))  # fmt: skip
    forward = getattr(f, f"{reset}_reset_fptt_with_grad")
    spike, after, *blocks = forward(
        packed(inputs), packed(start), surrogate=node.surrogate_function,
        detach_reset=node.detach_reset, backend=node.backend, **parameters(node, forward),
    )  # fmt: skip
    assert len(blocks) == len(f.JACOBIAN)
    plain = getattr(f, f"{reset}_reset_fptt")
    again = plain(packed(inputs), packed(start), backend=node.backend, **parameters(node, plain))
    for a, b in zip(again, (spike, after), strict=True):
        for left, right in zip(unpacked(a), unpacked(b), strict=True):
            assert torch.equal(left, right)
    taken = inspect.signature(f.bptt).parameters
    needed = {
        f"{n}_seq": x for n, x in zip(node.inputs, inputs, strict=True) if f"{n}_seq" in taken
    }
    grad_x, grad_v = f.bptt(
        grads[0], packed(grads[1:]), *blocks, **needed, **parameters(node, f.bptt),
        backend=node.backend,
    )  # fmt: skip
    return [*unpacked(grad_x), *unpacked(grad_v)]


def rows() -> list[tuple[str, Case]]:
    turn = itertools.cycle(SNAKE.values())
    cases = []
    for path in SPECS:
        both = ("hard", "soft") if load(path.stem).v_reset_may_be_none else ("hard",)
        flags = tuple((f, False) for f in load(path.stem).flags if f != "hard_reset")
        for reset, detach in itertools.product(both, (False, True)):
            for backend in BACKENDS:
                chosen = next(turn) if detach else None
                given = flags if reset == "soft" else ()
                cases.append(
                    (path.stem, Case(backend, reset, detach, torch.float64, chosen, given))
                )
        cases.append((path.stem, Case("cpp", "hard", False, torch.float32)))
    cases += [("lif", Case("cpp", r, False, torch.float64, s))
              for s in SNAKE.values() for r in ("hard", "soft")]  # fmt: skip
    return cases


@pytest.mark.parametrize("row", rows(), ids=lambda row: (
    f"{row[0]}-{row[1].backend}-{row[1].reset}-{row[1].surrogate}-{str(row[1].dtype)[6:]}"
    f"{'-detached' * row[1].detach_reset}"))  # fmt: skip
def test_the_chain_is_the_gradient(row: tuple[str, Case]) -> None:
    """*_fptt_with_grad and bptt: what the node's backward gives, and the reference's autograd."""
    stem, case = row
    text = (ROOT / "specs" / f"{stem}.yaml").read_text(encoding="utf-8")
    problem = Problem(steps=13, shape=(3, 7), learnt="none")
    node = nodes.build(text, case, problem)
    node.store_v_seq = False  # the loss weighs the last potentials only, as bptt does
    wanted = matrix.expectation(text, case, problem)
    wanted.weights.pop("v_seq", None)
    tested = runs.on_node(node, wanted, case)
    start = [wanted.state.get(n, None) for n in node.states]
    grads = [wanted.weights["output"], *(wanted.weights.get(n) for n in node.states)]
    for k, flows in enumerate(node.differentiable):
        grads[1 + k] = grads[1 + k] if flows else None
    node.reset()
    with nodes.running(case):
        found = chain(node, [x.detach() for x in wanted.inputs],
                      [s if s is None else s.detach() for s in start], grads)  # fmt: skip
    expected = wanted.gradients(torch.float64)
    limit = matrix.GRADIENT_LIMIT[case.dtype]
    assert max(float(g.abs().max()) for g in expected.values()) > 0
    for name, gradient in zip((*node.inputs, *(f"initial {s}" for s in node.states)), found,
                              strict=True):  # fmt: skip
        if name in expected:
            own = distance(tested.gradients[name], expected[name])
            assert distance(gradient, expected[name]) <= max(limit, 4 * own), name
    for flows, gradient in zip(node.differentiable, found[len(node.inputs) :], strict=True):
        assert (gradient is None) is not flows


@pytest.mark.parametrize("stem", ["lif", "square_if", "alif", "lif_refractory", "clif", "coba_lif"])
def test_single_steps_are_the_multi_step(stem: str) -> None:
    f, cls = functions(stem), load(stem)
    reset = "hard" if "hard_reset_fptt" in dir(f) else "soft"
    shape = (6, 4, 3)
    xs = [torch.randn(shape, dtype=torch.float64) + 1 for _ in cls.inputs]
    scale = 100.0 if stem == "coba_lif" else 1.0
    xs = [x * scale for x in xs]
    node = cls()
    start = [
        torch.full(shape[1:], float(getattr(node, n)), dtype=torch.float64) for n in cls.states
    ]
    forward, many = getattr(f, f"{reset}_reset_forward_with_grad"), getattr(
        f, f"{reset}_reset_fptt_with_grad")  # fmt: skip
    spike_seq, _, *blocks = many(packed(xs), packed(start))
    v, kept = packed(start), []
    for t in range(shape[0]):
        assert all(torch.equal(a, b) for a, b in zip(
            unpacked(getattr(f, f"{reset}_reset_forward")(packed([x[t] for x in xs]), v)[1]),
            unpacked(forward(packed([x[t] for x in xs]), v)[1]), strict=True))  # fmt: skip
        spike, v, *step = forward(packed([x[t] for x in xs]), v)
        assert torch.equal(spike, spike_seq[t])
        for name, one, all_ in zip(f.JACOBIAN, step, blocks, strict=True):
            assert distance(one, all_[t]) < 1e-14, name  # a function's last bit may differ
        kept.append(step)
    grad = torch.randn_like(spike_seq)
    grad_v = [torch.randn_like(s) if d else None
              for s, d in zip(start, cls.differentiable, strict=True)]  # fmt: skip
    node = cls()
    late = {n: x for n, x in zip(cls.inputs, xs, strict=True) if n in cls.blocks.uses}
    whole = f.bptt(grad, packed(grad_v), *blocks, **{f"{n}_seq": x for n, x in late.items()},
                   **parameters(node, f.bptt))  # fmt: skip
    arriving, found = packed(grad_v), []
    for t in reversed(range(shape[0])):
        grad_x, arriving = f.backward(
            grad[t], arriving, *kept[t], **{n: x[t] for n, x in late.items()},
            **parameters(node, f.backward),
        )  # fmt: skip
        found.append(unpacked(grad_x))
    for k, gradient in enumerate(unpacked(whole[0])):
        assert distance(torch.stack([row[k] for row in reversed(found)]), gradient) < 1e-14
    for a, b in zip(unpacked(arriving), unpacked(whole[1]), strict=True):
        assert a is b is None or distance(a, b) < 1e-14


# -- the historical order --------------------------------------------------------------------------


def slope(u: Tensor, alpha: float, index: int) -> Tensor:
    """ATan and Sigmoid by their formulas."""
    if index == 0:
        return alpha / 2 / (1 + (torch.pi / 2 * alpha * u) ** 2)
    s = torch.sigmoid(alpha * u)
    return alpha * s * (1 - s)


def by_hand(
    x_seq: Tensor, v: Tensor, v_threshold: float, v_reset: float | None, alpha: float,
    detach_reset: bool, index: int, reciprocal_tau: Any, detach_input: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """LIF as autograd sees it; the surrogate enters as a linear term without a value."""
    rest = 0.0 if v_reset is None else v_reset
    spikes = []
    for x in x_seq.unbind(0):
        h = v + x - (v - rest) * reciprocal_tau if detach_input else (
            v + (x - (v - rest)) * reciprocal_tau)  # fmt: skip
        u = h - v_threshold
        line = slope(u.detach(), alpha, index) * u
        spike = (u >= 0).to(x.dtype) + (line - line.detach())
        seen = spike.detach() if detach_reset else spike
        v = h - seen * v_threshold if v_reset is None else seen * v_reset + (1 - seen) * h
        spikes.append(spike)
    return torch.stack(spikes), v


HISTORY = list(itertools.product((-0.25, None), (False, True), (0, 1), (False, True)))


@pytest.mark.parametrize(("v_reset", "detach_reset", "index", "detach_input"), HISTORY)
def test_lif_by_position(
    v_reset: float | None, detach_reset: bool, index: int, detach_input: bool
) -> None:
    lif = generated("lif")
    torch.manual_seed(0)
    x = (torch.randn(7, 4, 5, dtype=torch.float64) + 0.8).requires_grad_()
    v = (torch.randn(4, 5, dtype=torch.float64) * 0.3).requires_grad_()
    wanted = by_hand(x, v, 0.9, v_reset, 3.0, detach_reset, index, 0.4, detach_input)
    g = [torch.randn_like(w) for w in wanted]
    gradients = torch.autograd.grad(wanted, (x, v), g)
    mode = "soft" if v_reset is None else "hard"
    frame = (0.9,) if v_reset is None else (0.9, v_reset)
    data = (x.detach(), v.detach())
    own, backwards = (0.4, detach_input), (3.0, detach_reset, index)

    plain = getattr(lif, f"LIF_{mode}_reset_fptt")(*data, *frame, *own)
    spike, after, *blocks = getattr(lif, f"LIF_{mode}_reset_fptt_with_grad")(
        *data, *frame, *backwards, *own
    )
    assert torch.equal(plain[0], spike)
    assert torch.equal(spike, wanted[0].detach())
    assert distance(after, wanted[1]) < 1e-14
    found = lif.LIF_bptt(*g, *blocks, *own)
    one = getattr(lif, f"LIF_{mode}_reset_forward_with_grad")(
        data[0][0], data[1], *frame, *backwards, *own
    )
    assert torch.equal(one[0], spike[0])
    step = getattr(lif, f"LIF_{mode}_reset_forward")(data[0][0], data[1], *frame, *own)
    assert torch.equal(step[1], one[1])
    grad_x, grad_v = lif.LIF_backward(g[0][0], g[1], *one[2:], *own)
    first = by_hand(x[:1], v, 0.9, v_reset, 3.0, detach_reset, index, 0.4, detach_input)
    for a, b in zip((grad_x, grad_v), torch.autograd.grad(first, (x, v), (g[0][:1], g[1])),
                    strict=True):  # fmt: skip
        assert distance(a, b[0] if b.dim() == 3 else b) < 1e-13
    out = lif.LIFMultiStep.apply(x, v, 0.9, v_reset, *backwards, *own)
    assert torch.equal(out[0].detach(), spike)
    applied = torch.autograd.grad(out, (x, v), g)
    for a, b, c in zip(found, applied, gradients, strict=True):
        assert distance(a, c) < 1e-13
        assert distance(b, c) < 1e-13
    stepped, vs = [], v
    for row in x.unbind(0):
        s, vs = lif.LIFStep.apply(row, vs, 0.9, v_reset, *backwards, *own)
        stepped.append(s)
    steps = torch.autograd.grad((torch.stack(stepped), vs), (x, v), g)
    assert max(distance(a, b) for a, b in zip(steps, gradients, strict=True)) < 1e-13


def test_if_by_position() -> None:
    neuron = generated("if")
    x, v = torch.randn(5, 3) + 0.5, torch.zeros(3)
    spike, after, ds, dv = neuron.IF_hard_reset_fptt_with_grad(x, v, 1.0, 0.0, 2.0, False, 0)
    assert torch.equal(neuron.IF_hard_reset_fptt(x, v, 1.0, 0.0)[1], after)
    h = torch.cat([v[None], x[:0]]).expand(1, 3) + x[:1]  # H[0]
    assert distance(ds[0], slope(h[0] - 1, 2.0, 0)) < 1e-6
    assert distance(dv[0], 1 - spike[0] - h[0] * slope(h[0] - 1, 2.0, 0)) < 1e-6
    *_, dv = neuron.IF_soft_reset_fptt_with_grad(x, v, 0.7, 2.0, False, 1)
    assert distance(dv[0], 1 - 0.7 * slope(h[0] - 0.7, 2.0, 1)) < 1e-6
    *_, dv = neuron.IF_hard_reset_fptt_with_grad(x, v, 1.0, 0.0, 2.0, True, 0)
    assert torch.equal(dv, 1 - spike)
    grad_x, grad_v = neuron.IF_bptt(torch.ones(5, 3), torch.ones(3), ds, dv)
    assert torch.equal(grad_x[0], grad_v)


def test_parameters_learn_through_the_functions() -> None:
    plif, coba = generated("plif"), generated("coba_lif")
    x = (torch.randn(9, 4, 3, dtype=torch.float64) + 0.8).requires_grad_()
    w = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    threshold = torch.full((4, 1), 0.8, dtype=torch.float64, requires_grad=True)
    leaves = (x, w, threshold)
    node = load("plif")(v_threshold=threshold, step_mode="m").double()
    node.w = w
    wanted = torch.autograd.grad((node(x).sin() + node.v).sum(), leaves)
    spike, v = plif.PLIFMultiStep.apply(
        x, 0.0, threshold, 0.0, None, False, None, 2.0, True, True, w, None
    )
    found = torch.autograd.grad((spike.sin() + v).sum(), leaves)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
    # Several inputs and states: tuples in and out, every tensor in them takes its gradient.
    xs = [torch.rand(9, 4, dtype=torch.float64).requires_grad_() for _ in range(2)]
    vs = [torch.rand(4, dtype=torch.float64).requires_grad_() for _ in range(3)]
    spike, after = coba.CobaLIFMultiStep.apply(
        tuple(xs), tuple(vs), -50.0, -60.0, None, False, None
    )
    node = load("coba_lif")(v_reset=-60.0, v_threshold=-50.0)
    y, states = node.functional(*xs, state=dict(zip(node.states, vs, strict=True)))
    assert torch.equal(spike, y)
    found = torch.autograd.grad([spike.sum() + sum(a.sum() for a in after)], xs + vs)
    wanted = torch.autograd.grad([y.sum() + sum(states[n].sum() for n in node.states)], xs + vs)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(g.abs().max() > 0 for g in found)


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    spike, _ = generated("lif").LIFMultiStep.apply(x, 0.0, 1.0, 0.0, 2.0, False, 0, 0.5, False)
    with pytest.raises(RuntimeError, match="LIFMultiStep cannot be differentiated twice"):
        torch.autograd.grad(spike.sum(), x, create_graph=True)
    assert type(spike.grad_fn).__name__ == "LIFMultiStepBackward"


# -- names, arguments, errors ----------------------------------------------------------------------


def test_every_module_exports_them() -> None:
    kinds = ("forward", "fptt", "forward_with_grad", "fptt_with_grad")
    for path in SPECS:
        module, name = generated(path.stem), load(path.stem).__name__.removesuffix("Node")
        resets = [r for r in ("hard", "soft") if hasattr(module, f"{r}_reset_fptt")]
        assert resets == ["hard", "soft"] or not load(path.stem).v_reset_may_be_none
        assert resets
        bare = [f"{r}_reset_{k}" for r in resets for k in kinds] + ["backward", "bptt"]
        for each in bare:
            for exported in (each, f"{name}_{each}"):
                function = getattr(module, exported)
                assert function is getattr(module, exported)
                assert function.__name__ == exported
                assert function.__doc__.startswith(name)
                assert exported in dir(module)
                assert "backend" in inspect.signature(function).parameters
        assert module.JACOBIAN
        for block in module.JACOBIAN:
            assert block in inspect.signature(module.bptt).parameters
            assert block in getattr(module, f"{resets[0]}_reset_fptt_with_grad").__doc__
        assert issubclass(getattr(module, f"{name}Step"), torch.autograd.Function)
    assert generated("if").JACOBIAN == ("grad_s_to_h", "grad_v_to_h")
    assert "grad_h_to_v" in generated("qif").JACOBIAN  # dH/dV depends on V


def test_every_argument_has_a_name() -> None:
    f = functions("lif")
    x, v = torch.randn(4, 3), torch.zeros(3)
    named = f.hard_reset_fptt_with_grad(
        surrogate="atan", x_seq=x, detach_reset=True, alpha=3.0, tau=4.0, v=v, v_reset=0.1,
        decay_input=False, v_threshold=0.8, backend="torch",
    )  # fmt: skip
    placed = f.hard_reset_fptt_with_grad(
        x, v, 0.8, 0.1, 4.0, False, 3.0, True, surrogate.ATan(3.0), backend="torch"
    )
    old = f.hard_reset_fptt_with_grad(
        x, v, 0.8, 0.1, reciprocal_tau=0.25, detach_input=True, alpha=3.0, detach_reset=True,
        surrogate=0, backend="torch",
    )  # fmt: skip
    for other in (placed, old):
        assert all(torch.equal(a, b) for a, b in zip(named, other, strict=True))
    g = torch.ones(4, 3)
    named = f.bptt(
        grad_v_next=v, grad_spike_seq=g, grad_v_to_h=old[3], grad_s_to_h=old[2],
        decay_input=False, tau=4.0,
    )  # fmt: skip
    old = f.LIF_bptt(
        grad_spike=g, grad_v_next=v, grad_s_to_h=old[2], grad_v_to_h=old[3], detach_input=True,
        reciprocal_tau=0.25,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(named, old, strict=True))


@pytest.mark.parametrize("name", TABLE)
def test_surrogates_by_object_name_or_index(name: str) -> None:
    f = functions("if")
    x, v = torch.randn(4, 3), torch.zeros(3)
    made = getattr(surrogate, name)()
    wanted = f.hard_reset_fptt_with_grad(x, v, surrogate=made)[2]
    h = x.clone()
    h = x[0]  # at the first step H = X
    assert torch.equal(wanted[0], made.slope(h - 1, *(torch.tensor(a) for a in made.arguments)))
    for spelling in (name, SNAKE[name], name.upper()):
        assert torch.equal(f.hard_reset_fptt_with_grad(x, v, surrogate=spelling)[2], wanted)
    for index, cls in enumerate((surrogate.ATan, surrogate.Sigmoid)):
        if isinstance(made, cls):
            assert torch.equal(f.hard_reset_fptt_with_grad(x, v, surrogate=index)[2], wanted)


def test_a_surrogate_written_in_python() -> None:
    class Box(surrogate.Surrogate):
        def fire(self, u: Tensor, condition: Tensor) -> Tensor:
            line = torch.where(u.abs() < 0.5, u, u.detach())
            return condition.to(u.dtype) + line - line.detach()

    x = torch.linspace(-1, 3, 9)[None]
    blocks = functions("if").hard_reset_fptt_with_grad(
        x, torch.zeros(9), surrogate=Box(), backend="torch"
    )[2]
    assert torch.equal(blocks[0], ((x[0] - 1).abs() < 0.5).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    f = functions("lif")
    x = torch.randn(4, 3).to(dtype)
    spike, v, *blocks = f.hard_reset_fptt_with_grad(x, torch.zeros(3))
    assert spike.dtype == dtype
    assert {t.dtype for t in (v, *blocks)} == {torch.float32}
    grad_x, grad_v = f.bptt(torch.ones_like(spike), None, *blocks, tau=2.0, decay_input=True)
    assert grad_x.dtype == dtype
    assert grad_v.dtype == torch.float32
    wide = f.hard_reset_fptt_with_grad(x.float(), torch.zeros(3))
    exact, _ = f.bptt(torch.ones(4, 3), None, *wide[2:], tau=2.0, decay_input=True)
    assert torch.equal(grad_x, exact.to(dtype))


def test_mistakes_are_told() -> None:
    lif, square, plif, alif = (functions(s) for s in ("lif", "square_if", "plif", "alif"))
    x, v = torch.randn(4, 3), torch.zeros(3)
    with pytest.raises(TypeError, match=r"^bptt: missing .*'tau'.* LIF depend on tau, decay_input"):
        lif.bptt(x, v, x, x)
    with pytest.raises(TypeError, match=r"^bptt: missing .*'x_seq'.* SquareIF depend on x_seq"):
        square.bptt(x, v, x, x)
    with pytest.raises(TypeError, match=r"^SquareIF_backward: missing .*'x'"):
        square.SquareIF_backward(v, v, v, v)
    with pytest.raises(TypeError, match=r"missing 'w' \(or init_tau, where it starts\)"):
        plif.bptt(x, v, x, x, True, True)
    plif.bptt(x, v, x, x, True, True, init_tau=3.0)
    for text, function in (("x_seq", square.bptt), ("tau, decay_input", lif.backward)):
        assert f"depend on {text}" in function.__doc__
    with pytest.raises(AttributeError, match=r"ALIF has no 'hard_reset_fptt': its spec fixes the"):
        _ = alif.hard_reset_fptt
    with pytest.raises(AttributeError, match=r"LIF has no 'LIF_fptt'"):
        _ = generated("lif").LIF_fptt
    with pytest.raises(TypeError, match=r"v is a tuple of 3 \(v, a, prev_spike\)"):
        alif.soft_reset_fptt(x, v)
    with pytest.raises(ValueError, match=r"state v has shape \[4\], one time step .* \[3\]"):
        lif.hard_reset_fptt(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"x_seq has shape \[T, N, \*\]; this one has \[3\]"):
        lif.hard_reset_fptt(v, v)
    with pytest.raises(ValueError, match=r"no time steps \(T = 0\)"):
        lif.bptt(x[:0], v, x[:0], x[:0], 2.0, True)
    with pytest.raises(ValueError, match=r"grad_s_to_h \[4, 2\]"):
        lif.bptt(x, v, x[:, :2], x, 2.0, True)
    with pytest.raises(ValueError, match=r"grad_v_next has shape \[2\]"):
        lif.bptt(x, v[:2], x, x, 2.0, True)
    with pytest.raises(ValueError, match=r"unknown surrogate 'sigmod'; did you mean 'Sigmoid'"):
        lif.hard_reset_fptt_with_grad(x, v, surrogate="sigmod")
    with pytest.raises(ValueError, match=r"unknown surrogate index 2: 0 is ATan, 1 is Sigmoid"):
        lif.LIF_hard_reset_fptt_with_grad(x, v, 1.0, 0.0, 2.0, False, 2, 0.5, False)
    with pytest.raises(TypeError, match=r"surrogate is a module, a name or an index, not function"):
        lif.hard_reset_fptt_with_grad(x, v, surrogate=lambda u: u)
    with pytest.raises(ValueError, match=r"LeakyKReLU has no alpha"):
        lif.hard_reset_fptt_with_grad(x, v, surrogate="LeakyKReLU", alpha=1.0)
    with pytest.raises(TypeError, match=r"leave alpha out"):
        lif.hard_reset_fptt_with_grad(x, v, surrogate=surrogate.ATan(), alpha=1.0)
    with pytest.raises(TypeError, match=r"reciprocal_tau and tau say the same"):
        lif.hard_reset_fptt(x, v, tau=2.0, reciprocal_tau=0.5)
    with pytest.raises(ValueError, match=r"tau=0.5 must satisfy tau > 1"):
        lif.hard_reset_fptt(x, v, reciprocal_tau=2.0)
    with pytest.raises(ValueError, match=r"under hard reset"):
        lif.hard_reset_fptt(x, v, 1.0, None)
    with pytest.raises(TypeError, match=r"^LIFStep.apply: missing .*'alpha'"):
        generated("lif").LIFStep.apply(v, v, 1.0, 0.0)


def test_a_neuron_with_a_parameter_alpha() -> None:
    """Its own alpha keeps the name; the surrogate's takes another."""
    text = "name: A\nparameters: {alpha: 0.5}\ncharge: alpha * v + x\n"
    f = KernelFunctions(load_text(text))
    x = torch.randn(3, 2)
    own = f.hard_reset_fptt_with_grad(x, 0.0, alpha=0.9, surrogate_alpha=2.0, surrogate="atan")
    wanted = f.hard_reset_fptt_with_grad(x, 0.0, alpha=0.9, surrogate=surrogate.ATan(2.0))
    assert all(torch.equal(a, b) for a, b in zip(own, wanted, strict=True))
    _, dv = f.bptt(torch.zeros(3, 2), torch.ones(2), *own[2:], alpha=0.0)
    assert dv.abs().max() == 0


def test_blocks_past_the_charge() -> None:
    """A reset that names an input and a previous potential has blocks of its own."""
    text = (
        "name: Odd\ninputs: [x, gate]\ncharge: v + x\nfire: v >= v_threshold + 0.1 * gate\n"
        "reset: {v: v * (1 - spike) + 0.2 * prev(v) * gate}\n"
    )
    cls = load_text(text)
    f = KernelFunctions(cls)
    assert {"grad_s_to_gate", "grad_v_to_gate", "grad_v_to_v"} <= set(f.JACOBIAN)
    xs = [torch.randn(6, 5, dtype=torch.float64).requires_grad_() for _ in range(2)]
    v = torch.randn(5, dtype=torch.float64).requires_grad_()
    y, after = cls(backend="torch").functional(*xs, state={"v": v})
    g = [torch.randn_like(y), torch.randn_like(v)]
    wanted = torch.autograd.grad((y, after["v"]), [*xs, v], g)
    _, _, *blocks = f.soft_reset_fptt_with_grad(tuple(x.detach() for x in xs), v.detach())
    grad_x, grad_v = f.bptt(*g, *blocks)
    assert max(distance(a, b) for a, b in zip([*grad_x, grad_v], wanted, strict=True)) < 1e-14


# -- nodes and pure steps --------------------------------------------------------------------------


def test_multi_step_nodes() -> None:
    lif, neuron = generated("lif"), generated("if")
    node = lif.MultiStepLIFNode()
    assert (node.tau, node.decay_input, node.v_threshold, node.v_reset) == (100.0, True, 1.0, 0.0)
    assert (node.step_mode, node.detach_reset) == ("m", False)
    assert isinstance(node.surrogate_function, surrogate.ATan)
    assert node.surrogate_function.alpha == 2.0
    node = lif.MultiStepLIFNode(4.0, True, 0.5, None, "Sigmoid", 3.0, True)
    assert (node.tau, node.decay_input, node.v_threshold, node.v_reset) == (4.0, False, 0.5, None)
    assert isinstance(node.surrogate_function, surrogate.Sigmoid)
    assert (node.surrogate_function.alpha, node.detach_reset) == (3.0, True)
    node = neuron.MultiStepIFNode(0.5, None, "Sigmoid", 3.0, True)
    assert (node.v_threshold, node.v_reset, node.detach_reset) == (0.5, None, True)
    assert isinstance(node, neuron.IFNode)
    x = torch.randn(5, 3)
    wanted = lif.LIFMultiStep.apply(x, 0.0, 1.0, 0.0, 2.0, False, 0, 0.01, False)
    node = lif.MultiStepLIFNode()
    assert torch.equal(node(x), wanted[0])
    assert torch.equal(node.v, wanted[1])
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert type(other) is type(node)
    with pytest.raises(ValueError, match="unknown surrogate 'Atann'"):
        lif.MultiStepLIFNode(surrogate_function="Atann")
    with pytest.raises(TypeError, match="MultiStepLIFNode: got an unexpected keyword"):
        lif.MultiStepLIFNode(taus=2.0)


def test_pulse_soft() -> None:
    chosen = surrogate.Erf()
    for cls in (load("lif"), load("alif"), generated("lif").MultiStepLIFNode):
        assert cls(pulse_soft=chosen).surrogate_function is chosen
        with pytest.raises(TypeError, match="pulse_soft and surrogate_function say the same"):
            cls(pulse_soft=chosen, surrogate_function=chosen)


@pytest.mark.parametrize("v_reset", [-0.2, None])
def test_pure_steps(v_reset: float | None) -> None:
    """Against the node; they compile whole, and carry plain gradients of the potential."""
    mode, frame = ("soft", (0.9,)) if v_reset is None else ("hard", (0.9, v_reset))
    x, v = torch.randn(6), torch.rand(6)
    for stem, keywords in (
        ("if", {}),
        ("lif", {"decay_input": True}),
        ("lif", {"decay_input": False}),
    ):
        cls = load(stem)
        ending = "".join("_decay_input" if k else "_no_decay_input" for k in keywords.values())
        function = getattr(cls, f"jit_eval_single_step_forward_{mode}_reset{ending}")
        own = (3.0,) if keywords else ()
        node = cls(*own, **keywords, v_threshold=0.9, v_reset=v_reset)
        node.v = v.clone()
        wanted = node(x), node.v
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        for run in (function, compiled, getattr(node, function.__name__)):
            found = run(x, v, *frame, *own)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        with pytest.raises(TypeError, match="takes"):
            function(x, v)


def test_arguments_can_be_tensors() -> None:
    f = functions("lif")
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    tau = nn.Parameter(torch.tensor([[2.0], [5.0]], dtype=torch.float64))
    spike, v, *blocks = f.hard_reset_fptt_with_grad(x, 0.0, tau=tau)
    assert not spike.requires_grad
    rows = [f.hard_reset_fptt_with_grad(x[:, k], 0.0, tau=t) for k, t in enumerate((2.0, 5.0))]
    for k, whole in enumerate((spike, v, *blocks)):
        stacked = torch.stack([row[k] for row in rows], dim=-2)
        assert distance(whole, stacked) < 1e-15
    grad_x, _ = f.bptt(torch.ones_like(x), None, *blocks, tau=tau, decay_input=True)
    for k, t in enumerate((2.0, 5.0)):
        row, _ = f.bptt(torch.ones(5, 3).double(), None, *rows[k][2:], tau=t, decay_input=True)
        assert distance(grad_x[:, k], row) < 1e-15


def test_the_page_runs() -> None:
    """The first program of docs/kernel_functions.md."""
    page = (ROOT / "docs" / "kernel_functions.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["JACOBIAN"] == ("grad_s_to_h", "grad_v_to_h")
    assert names["grad_x_seq"].abs().max() > 0


def test_noise_that_multiplies_an_input_is_a_block() -> None:
    """`bptt` cannot know the noise; and without a seed each call draws anew."""
    text = (
        "name: Synapse\nnoise: {xi: normal}\nstates: {v: {init: {uniform: [0, 0.5]}}}\n"
        "charge: v + x * (1 + xi)\n"
    )
    cls = load_text(text)
    f = KernelFunctions(cls)
    assert "grad_h_to_x" in f.JACOBIAN
    x = torch.randn(6, 5, dtype=torch.float64).requires_grad_()
    node = cls(seed=3, backend="torch", step_mode="m")
    g = torch.randn(6, 5, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((node(x) * g).sum(), x)
    spike, _, *blocks = f.hard_reset_fptt_with_grad(x.detach(), None, seed=3)
    assert torch.equal(spike, node.functional(x.detach())[0])
    assert distance(f.bptt(g, None, *blocks)[0], wanted) < 1e-14
    first, second = (f.hard_reset_fptt(x.detach(), None)[1] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_value_per_step() -> None:
    glif = load("glif")
    f = KernelFunctions(glif)
    node = glif(step_mode="m", shape={"step": (6,), "channel": (4,)} if len(
        {w.per for w in glif.learnable.values()} - {"layer"}) > 1 else (6,)).double()  # fmt: skip
    torch.nn.init.normal_(node.conduct)
    x = torch.randn(6, 3, 4, dtype=torch.float64).requires_grad_()
    g = torch.randn_like(x)
    (wanted,) = torch.autograd.grad((node(x) * g).sum(), x)
    raw = {name: node._current(name) for name in glif.learnable}
    reset = "hard" if "hard_reset_fptt" in dir(f) else "soft"
    _, _, *blocks = getattr(f, f"{reset}_reset_fptt_with_grad")(x.detach(), (None, None), **raw)
    assert distance(f.bptt(g, (None, None), *blocks, **raw)[0], wanted) < 1e-13


@pytest.mark.parametrize(
    "own", ["x", "x_seq", "surrogate", "grad_spike", "grad_spike_seq", "grad_v_next", "given"]
)
@pytest.mark.parametrize("kind", ["parameters: {{{}: 0.5}}", "flags: {{{}: true}}"])
def test_arguments_that_would_have_one_name_are_told(kind: str, own: str) -> None:
    gain = own if "param" in kind else f"(0.5 if {own} else 0.25)"
    text = f"name: A\ninputs: [i]\n{kind.format(own)}\ncharge: {gain} * v + i\n"
    named, plain = (KernelFunctions(load_text(t)) for t in (text, text.replace(own, "p")))
    i = torch.randn(5, 3, dtype=torch.float64)
    refused = []
    for name in dir(named):
        try:
            getattr(named, name)
        except AttributeError as error:
            assert f"{name!r}: {own!r} would be an argument of it" in str(error)
            refused.append(name)
    assert bool(refused) == (own != "given")
    for name in {"hard_reset_fptt", "A_hard_reset_fptt_with_grad"} - {*refused}:
        found, wanted = (getattr(f, name)(i, 0.0, 1.0, 0.0) for f in (named, plain))
        assert all(map(torch.equal, found, wanted))
