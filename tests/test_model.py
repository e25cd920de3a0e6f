"""What a spec means: the statements of one step, run by hand with plain numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from neurogen.compiler.expression import Apply, Expression, Number, infix
from neurogen.compiler.model import Model, build_model
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.pipeline import compile_text
from neurogen.compiler.reader import parse_spec
from neurogen.errors import SpecError


def model(body: str) -> Model:
    return build_model(parse_spec(f"name: Test\n{body}", "test.yaml"))


def spikes(node: Expression) -> Expression:
    """The step of the surrogate as the step it is."""
    if not isinstance(node, Apply):
        return node
    inner = tuple(spikes(argument) for argument in node.arguments)
    if node.operator == "fire":
        return Apply("where", (inner[0], Number(1.0), Number(0.0)))
    return Apply(node.operator, inner)


def run(neuron: Model, **values: float) -> dict[str, float]:
    """One step: the value of every statement, of every state after it (V[t]), and the output."""
    known: dict[str, float] = {p.name: p.default for p in neuron.parameters}
    known |= {f.name: f.default for f in neuron.spec.flags}
    known |= {"hard_reset": True, "detach_reset": False, **values}
    for constant in neuron.constants:
        known[constant.name] = evaluate(constant.expression, known)
    for state in neuron.states:
        known.setdefault(state.name, evaluate(state.initial, known))
    for statement in neuron.statements:
        known[statement.name] = evaluate(spikes(statement.expression), known)
    after = {f"V_{s.name}": known[s.following] for s in neuron.states}
    charged = {f"H_{s.name}": known[s.charged] for s in neuron.states}
    return known | after | charged | {"output": known[neuron.output]}


def statements(neuron: Model) -> dict[str, str]:
    return {statement.name: infix(statement.expression) for statement in neuron.statements}


# -- the base neuron -------------------------------------------------------------------------------


def test_two_lines_are_a_neuron() -> None:
    neuron = model("charge: v + x**2")
    assert [(p.name, p.default) for p in neuron.parameters] == [("v_threshold", 1), ("v_reset", 0)]
    assert neuron.flags == ("hard_reset",)
    assert [s.name for s in neuron.states] == ["v"]
    below, above = run(neuron, v=0.5, x=0.5), run(neuron, v=0.5, x=1.0)
    assert (below["H_v"], below["output"], below["V_v"]) == (0.75, 0, 0.75)
    assert (above["H_v"], above["output"], above["V_v"]) == (1.5, 1, 0)
    assert run(neuron, v=0.5, x=1.0, hard_reset=False)["V_v"] == 0.5
    assert run(neuron, v=1.0, x=0.0)["output"] == 1, "fires at v >= v_threshold"


def test_defaults_of_the_base_neuron_can_be_given() -> None:
    neuron = model("parameters: {v_threshold: 0.5, v_reset: -0.25}\ncharge: v + x")
    assert [(p.name, p.default) for p in neuron.parameters] == [
        ("v_threshold", 0.5),
        ("v_reset", -0.25),
    ]
    assert run(neuron, x=1.0)["H_v"] == 0.75, "v starts at v_rest = v_reset"
    assert run(neuron, x=1.0)["V_v"] == -0.25


@pytest.mark.parametrize(
    ("reset", "names", "flags", "after"),
    [
        ("", ["v_threshold", "v_reset"], ("hard_reset",), 0.0),
        ("reset: auto", ["v_threshold", "v_reset"], ("hard_reset",), 0.0),
        ("reset: hard", ["v_threshold", "v_reset"], (), 0.0),
        ("reset: soft", ["v_threshold"], (), 0.5),
        ("reset: none", ["v_threshold", "v_reset"], ("hard_reset",), 1.5),
        ("reset: {v: v - 2 * spike}", ["v_threshold", "v_reset"], ("hard_reset",), -0.5),
        ("reset: {v: v - 2 * spike}\nstates: {v: 0}", ["v_threshold"], (), -0.5),
        ("reset: {v: v_rest * spike}", ["v_threshold", "v_reset"], ("hard_reset",), 0.0),
        ("reset: {v: v_reset * spike}", ["v_threshold", "v_reset"], (), 0.0),
    ],
)
def test_resets(reset: str, names: list[str], flags: tuple[str, ...], after: float) -> None:
    neuron = model(f"charge: v + x\n{reset}")
    assert [p.name for p in neuron.parameters] == names
    assert neuron.flags == flags
    assert neuron.v_reset_may_be_none == bool(flags)
    assert run(neuron, v=0.5, x=1.0)["V_v"] == after


def test_v_rest_is_v_reset_under_hard_reset_and_0_under_soft() -> None:
    body = "parameters: {v_reset: -1.0, tau: 2.0}\ncharge: v - (v - v_rest) / tau + x"
    assert run(model(body), v=0.5, x=0.0)["H_v"] == -0.25
    assert run(model(body), v=0.5, x=0.0, hard_reset=False)["H_v"] == 0.25
    soft = body.replace("v_reset: -1.0, ", "") + "\nreset: soft"
    assert run(model(soft), v=0.5, x=0.0)["H_v"] == 0.25
    assert [p.name for p in model(soft).parameters] == ["tau", "v_threshold"]


# -- what a name means where it stands -------------------------------------------------------------


def test_let_sees_the_states_before_the_step() -> None:
    neuron = model("let: {half: v / 2}\ncharge: {v: v + x}\noutput: half")
    assert run(neuron, v=4.0, x=1.0)["output"] == 2.0


def test_charge_goes_in_order_and_prev_looks_back() -> None:
    neuron = model(
        "states: {a: 0.0, v: 0.0}\ncharge:\n  a: a + x\n  jump: a - prev(a)\n  v: v + a + jump\n"
        "fire: v > 100"
    )
    result = run(neuron, v=10.0, a=1.0, x=2.0)
    assert (result["H_a"], result["jump"], result["H_v"]) == (3.0, 2.0, 15.0)


def test_a_step_of_charge_sees_the_states_above_it_changed() -> None:
    neuron = model("states: {v: 0.0, a: 0.0}\ncharge: {v: v + x, a: v, w: 2 * a, sum: v + w}\n"
                   "output: sum\nfire: none")  # fmt: skip
    assert run(neuron, v=1.0, x=2.0)["output"] == 9.0


def test_fire_sees_charged_values_and_its_comparison_is_strict_as_written() -> None:
    body = "states: {v: 0.0, a: 1.0}\ncharge: {v: v + x, a: 2 * a}\nreset: none\nfire: v >= a"
    strict = body.replace(">=", ">")
    assert run(model(body), v=1.0, x=1.0)["output"] == 1.0
    assert run(model(strict), v=1.0, x=1.0)["output"] == 0.0
    assert statements(model(strict))["u"] == "h_v - h_a", "the surrogate's argument"


def test_reset_is_simultaneous() -> None:
    neuron = model(
        "states: {v: 0.0, a: 0.0}\ncharge: {v: v + x, a: a + 1}\nreset: {v: a, a: v + 10 * spike}"
    )
    result = run(neuron, v=0.5, a=1.0, x=1.0)
    assert (result["V_v"], result["V_a"]) == (2.0, 11.5)


def test_output_sees_what_the_step_leaves_behind() -> None:
    neuron = model("charge: v + x\noutput: v + 10 * spike")
    assert run(neuron, v=0.5, x=1.0)["output"] == 10.0
    assert run(neuron, v=0.5, x=0.25)["output"] == 0.75


def test_a_guard_multiplies_the_spike() -> None:
    neuron = model(
        "states: {v: 0.0, rest: {init: 0, integer: true}}\n"
        "charge:\n  v: v + x\n  rest: max(rest - 1, 0)\n"
        "fire: {when: v >= 1, if: rest <= 0}\nreset: {rest: rest + 3 * spike}"
    )
    fires, waits = run(neuron, v=0.5, rest=0.0, x=1.0), run(neuron, v=0.5, rest=2.0, x=1.0)
    assert (fires["output"], fires["V_rest"], fires["V_v"]) == (1.0, 3.0, 0.0)
    assert (waits["output"], waits["V_rest"], waits["V_v"]) == (0.0, 1.0, 1.5)
    assert [s.differentiable for s in neuron.states] == [True, False]


def test_the_last_spike_is_a_state_of_its_own() -> None:
    neuron = model("charge: v * (1 - prev(spike)) + x\nreset: none")
    assert [s.name for s in neuron.states] == ["v", "prev_spike"]
    assert run(neuron, v=2.0, x=0.5)["H_v"] == 2.5, "it starts at 0"
    result = run(neuron, v=2.0, prev_spike=1.0, x=0.5)
    assert (result["H_v"], result["V_prev_spike"]) == (0.5, 0.0)


def test_a_condition_on_spike_is_arithmetic() -> None:
    chosen = model("parameters: {keep: 0.5}\ncharge: v + x\nreset: {v: keep * v if spike else v}")
    text = statements(chosen)["next_v"]
    assert text == "reset_spike * (keep * h_v) + (1 - reset_spike) * h_v"
    called = model("parameters: {keep: 0.5}\ncharge: v + x\nreset: {v: 'where(spike, keep*v, v)'}")
    assert statements(called)["next_v"] == text


def test_detach_reset_is_nowhere_but_in_reset() -> None:
    neuron = model("states: {v: 0.0, a: 0.0}\ncharge: {v: v + x, a: 0.5 * a}\nreset: {a: a + spike}"
                   "\noutput: spike * v")  # fmt: skip
    text = statements(neuron)
    assert text["reset_spike"] == "detach(spike) if detach_reset else spike"
    assert "reset_spike" in text["next_v"] and "reset_spike" in text["next_a"]
    assert text["output"] == "spike * next_v"


def test_a_silent_neuron_has_no_spike() -> None:
    neuron = model("states: {v: 0}\ncharge: 0.5 * v + x\nfire: none\noutput: v")
    assert list(statements(neuron)) == ["h_v", "output"]
    assert [p.name for p in neuron.parameters] == []


def test_step_and_heaviside() -> None:
    neuron = model("charge: v + heaviside(x) + step(x - 1)\nreset: none")
    for x, jump in ((-1.0, 0.0), (0.0, 1.0), (1.0, 2.0)):
        assert run(neuron, v=0.0, x=x)["H_v"] == jump
    assert "fire(x - 1 >= 0, x - 1)" in statements(neuron)["h_v"], "step has the surrogate's slope"


def test_names_of_the_step_give_way_to_those_of_the_spec() -> None:
    neuron = model(
        "states: {v: 0.0, u: 0.0}\nlet: {h_v: x / 2, output_1: x}\n"
        "charge: {u: u + h_v, v: v + u + output_1}\nreset: {u: u - spike}"
    )
    names = [statement.name for statement in neuron.statements]
    names += [name for s in neuron.states for name in (s.name, s.adjoint)]
    assert len(set(names)) == len(names)
    result = run(neuron, u=1.0, v=0.0, x=2.0)
    assert (result["H_u"], result["H_v"], result["V_u"], result["output"]) == (2.0, 4.0, 1.0, 1.0)


# -- the prelude -----------------------------------------------------------------------------------


def constants(neuron: Model) -> dict[str, str]:
    return {c.name: infix(c.expression) for c in neuron.constants}


def test_parameter_only_subexpressions_are_constants_as_written() -> None:
    neuron = model(
        "parameters: {tau: 2.0, alpha: 0.9}\nlet: {decay: exp(-1 / tau)}\n"
        "charge: decay * v + (1 - alpha) * x + x / tau\nreset: none\nfire: v >= 1"
    )
    assert constants(neuron) == {
        "decay": "exp((-1) / tau)",
        "one_minus_alpha": "1 - alpha",
        "tau": "tau",
    }
    assert statements(neuron)["h_v"] == "decay * v + one_minus_alpha * x + x / tau"


def test_nothing_is_reassociated() -> None:
    neuron = model("parameters: {a: 1.0, b: 2.0}\ncharge: v + a + b + x * a * b\nreset: none")
    assert statements(neuron)["h_v"] == "v + a + b + x * a * b"
    grouped = model("parameters: {a: 1.0, b: 2.0}\ncharge: v + (a + b) + x * (a * b)\nreset: none")
    assert statements(grouped)["h_v"] == "v + a_plus_b + x * a_times_b"


def test_literals_are_folded_in_float64() -> None:
    assert statements(model("charge: v + x * (1 / 3)"))["h_v"] == f"v + x * {1 / 3!r}"
    assert statements(model("charge: v + x * sqrt(2)"))["h_v"] == f"v + x * {2**0.5!r}"


def test_constants_of_one_flag_are_needed_under_that_flag_only() -> None:
    neuron = model(
        "parameters: {a: 1.0, b: 2.0}\nflags: {f: true}\n"
        "charge: v + x / a if f else v + x / b\nreset: none\nfire: v >= 1"
    )
    when = {c.name: None if c.when is None else infix(c.when) for c in neuron.constants}
    assert when == {"a": "f", "b": "not f"}


def test_learnables_of_one_flag_exist_under_that_flag_only() -> None:
    neuron = model(
        "learnable: {a: 0.5, b: 0.5, c: 0.5}\nflags: {f: true}\n"
        "charge: (v + x * a if f else v + x * b) + c"
    )
    assert {name: infix(when) for name, when in neuron.learnable_when} == {"a": "f", "b": "not f"}


def test_initial_values_are_over_parameters() -> None:
    neuron = model(
        "parameters: {v0: 0.25}\nstates: {v: 2 * v0, a: v_rest, k: {init: 3, integer: true}}\n"
        "charge: {v: v + x + a, a: a + v, k: k + 1}\nfire: v >= k"
    )
    initial: Mapping[str, Expression] = {s.name: s.initial for s in neuron.states}
    assert infix(initial["v"]) == "2 * v0" and initial["k"] == Number(3.0)
    assert infix(initial["a"]) == "v_reset if hard_reset else 0"


# -- mistakes --------------------------------------------------------------------------------------


def codes(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        compile_text(text)
    return [mistake.code for mistake in caught.value.mistakes]


def test_mistakes_of_reading_and_of_meaning_come_together() -> None:
    text = """
name: A
parametrs: {tau: {default: 0.5, where: tau > 1}}
states: {v: 0.0, a: 0.0}
charge: {v: v + (x), a: a + vv}
let: {half: x /}
fire: v
reset: {b: 1}
surrogate: atann
"""
    with pytest.raises(SpecError) as caught:
        compile_text(text)
    found = [(m.code, m.location.line) for m in caught.value.mistakes]
    assert found == [("NG003", 3), ("NG033", 3), ("NG012", 5), ("NG021", 6), ("NG024", 7),
                     ("NG031", 8), ("NG012", 9)]  # fmt: skip


def test_nothing_is_called_unused_when_not_all_could_be_read() -> None:
    assert codes("name: A\nparameters: {tau: 2.0}\ncharge: v + x / (tau") == ["NG021"]
    assert codes("name: A\nparameters: {tau: 2.0}\nzzz: {a: x / tau}\ncharge: v + x") == ["NG003"]


def test_a_slip_in_a_name_is_one_mistake() -> None:
    assert codes("name: A\nparameters: {tau: 2.0}\ncharge: v + x / tua") == ["NG012"]


def test_a_temporary_named_like_a_charged_counter_keeps_its_gradient() -> None:
    """Names of statements are told apart by what they are, not by how they are spelt."""
    neuron = model(
        "states: {v: 0.0, k: {init: 0, integer: true}}\nlet: {h_k: x / 2}\n"
        "charge: {k: k + 1, v: v + h_k}\nfire: v >= k"
    )
    assert [s.charged for s in neuron.states] == ["h_v", "h_k_1"]


def test_reading_alone_refuses_too() -> None:
    with pytest.raises(SpecError, match="NG021"):
        parse_spec("name: A\ncharge: v +", "test.yaml")
