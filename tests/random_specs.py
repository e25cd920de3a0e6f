"""Whole specs at random, by Hypothesis: valid by construction, so each of them must build.

In: what Hypothesis draws. Out: the text of a spec and a variant of it to run. States contract
(`decay * state + bounded`), so that numbers stay where comparing them means something; everything
that the language has occurs: several states and inputs, temporaries, flags, learnables, conditions,
response kernels, every scheme, guards, ternary spikes and levels, noise, values of a channel, a
neuron or a step, equations that are a name, names that targets reserve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

#: Names that a reader expects, that a target reserves, and that the compiler itself hands out.
NAMES = (
    "a", "w", "q", "u", "n", "beta", "E", "I", "N", "S", "int", "register", "new", "torch", "fn",
    "h_v", "next_v", "d_v", "d_h_v", "lam_v", "lam_a", "shared", "exponential", "quotient", "level",
    "reset_spike", "d_spike", "grad_output_1", "row", "surrogate", "i_1", "real", "slope_1", "k1_v",
    "v_stage2", "flow", "drive_v", "constant", "t_1", "h", "d_u", "u_1", "spike_1", "one_minus_w",
)  # fmt: skip
SCHEMES = ("euler", "exponential_euler", "exact", "rk2", "rk4")
SURROGATES = (
    "sigmoid", "atan", "piecewise_exp", "soft_sign", "super_spike", "erf", "fast_sigmoid",
    "{name: s2nn, alpha: 3.0, beta: 0.5}", "{name: leaky_k_relu, leak: 0.1, k: 0.5}",
    "{primitive: 1 / (1 + exp(-k * u)), parameters: {k: 3.0}}",
    "{primitive: '0.5 + 0.5 * tanh(k * u) if u < c else 0.5 + u / (1 + abs(u))', "
    "parameters: {k: 1.5, c: 0.1}}",
)  # fmt: skip
KERNELS = (
    "exp(-s / 3)", "s * exp(-0.5 * s)", "exp(-s / {p})", "{p} * exp(-0.7 * s)",
    "exp(-s / 4) - exp(-s / 2)", "exp(-0.3 * s) * cos(0.9 * s)", "exp(-0.4 * s) * sin({p} * s)",
    "(1 - s / 3) * exp(-s / 3)",
)  # fmt: skip
#: Bounded, or at least no faster than their argument; `{0}` is any expression.
SMOOTH = (
    "tanh({0})", "sigmoid({0})", "sin({0})", "cos({0})", "erf({0})", "atan({0})",
    "softplus(min({0}, 3))", "exp(-abs({0}))", "exp(min({0}, 1))", "expm1(-({0})**2)",
    "log(1 + ({0})**2)", "log1p(abs({0}))", "(log({0}) if {0} > 0.5 else {1})",
    "(exp({0}) if {0} < 1 else {1})",
)  # fmt: skip
ARITHMETIC = (
    "({0} + {1})", "({0} - {1})", "{0} * {1}", "-({0})", "({0}) / (1.5 + ({1})**2)",
    "({0})**2", "clip({0}, -1, 1)**3", "(0.5 + abs({0}))**-1", "({0}) / 3", "abs({0})", "sign({0})",
    "relu({0})", "max({0}, {1})", "min({0}, {1})", "max({0}, {1}, 0.25)", "clip({0}, {1}, 2)",
    "floor({0})", "round({0})", "heaviside({0})", "step({0})", "detach({0})", "sqrt(1 + ({0})**2)",
    "({0} if {c} else {1})", "where({c}, {0}, {1})", "(1 / {0} if abs({0}) > 0.5 else {1})",
)  # fmt: skip
BOUNDED = ("clip({0}, -3, 3)", "({0}) / (1 + abs({0}))", "clip({0}, -2, 2)")
NUMBERS = ("0.5", "1.25", "2", "0.1", "-0.75", "1e-3", "3")
COMPARISONS = ("<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A spec and the variant of it that is run."""

    text: str
    flags: tuple[tuple[str, bool], ...] = ()
    reset: str = "hard"
    detach_reset: bool = False

    def __repr__(self) -> str:
        return f"{self.text}# {self.flags} {self.reset} detach_reset={self.detach_reset}"


@dataclass(slots=True)
class _Writer:
    """Draws expressions over names, and remembers which names have been used."""

    draw: Any
    arithmetic: bool
    flags: tuple[str, ...] = ()
    used: set[str] = field(default_factory=set)

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def chance(self) -> bool:
        return bool(self.draw(st.booleans()))

    def leaf(self, names: Sequence[str]) -> str:
        """A name, more often than a number."""
        name = str(self.pick([*names, *names, self.pick(NUMBERS)]))
        self.used.add(name)
        return name

    def condition(self, names: Sequence[str], depth: int) -> str:
        """A comparison with a number, maybe joined to another or to a flag."""
        left = self.expression(names, depth - 1, named=True)
        text = f"{left} {self.pick(COMPARISONS)} {self.pick(('0.25', '0.8', '-0.5'))}"
        if depth > 0 and self.chance():
            other = self.pick(self.flags) if self.flags and self.chance() else (
                self.condition(names, 0))  # fmt: skip
            self.used.add(other)
            text = f"{text} {self.pick(('and', 'or'))} {self.pick(('', 'not '))}({other})"
        return text

    def expression(self, names: Sequence[str], depth: int, named: bool = False) -> str:
        """Any expression over some names; `named`: with a name in it for certain."""
        if depth <= 0:
            if named:
                name = str(self.pick(names))
                self.used.add(name)
                return name
            return self.leaf(names)
        forms = ARITHMETIC if self.arithmetic else ARITHMETIC + SMOOTH
        form = str(self.pick(forms))
        parts = [self.expression(names, depth - 1, named=True) if f"{{{k}}}" in form else ""
                 for k in (0, 1)]  # fmt: skip
        condition = ""
        if "{c}" in form and self.flags and self.chance():
            condition = str(self.pick(self.flags))
            self.used.add(condition)
        elif "{c}" in form:
            condition = self.condition(names, depth - 1)
        return form.format(*parts, c=condition)

    def bounded(self, names: Sequence[str], depth: int) -> str:
        return str(self.pick(BOUNDED)).format(self.expression(names, depth, named=True))

    def bare(self, names: Sequence[str]) -> str:
        """A name alone, with its gradient or without: nothing is computed."""
        name = str(self.pick(names))
        self.used.add(name)
        return str(self.pick(("{0}", "{0}", "detach({0})"))).format(name)

    def unused(self, declared: Sequence[str]) -> list[str]:
        """What no equation has named yet."""
        return [name for name in declared if name not in self.used]


@st.composite
def drawn_specs(draw: Any) -> Drawn:
    """A whole spec."""
    w = _Writer(draw, arithmetic=draw(st.booleans()))
    names = list(draw(st.permutations(NAMES)))
    has_v = draw(st.integers(0, 4)) > 0
    states = ["v"] * has_v + [names.pop() for _ in range(draw(st.integers(1 - has_v, 3)))]
    inputs = [names.pop() for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        inputs = ["x", *inputs[1:]]
    parameters = [names.pop() for _ in range(draw(st.integers(0, 2)))]
    learnables = [names.pop() for _ in range(draw(st.integers(0, 2)))]
    w.flags = tuple(names.pop() for _ in range(draw(st.integers(0, 2))))
    sharing = {n: w.pick(("layer", "layer", "channel", "neuron", "step")) for n in learnables}
    sharing |= {n: w.pick(("layer", "layer", "channel", "neuron")) for n in parameters[:1]}
    sharing |= {n: w.pick(("layer", "layer", "neuron", "step")) for n in parameters[1:]}
    constants = [*parameters, *learnables]
    lasting = [name for name in constants if sharing.get(name) != "step"]
    lines = ["name: Random"]

    integer = states[-1] if len(states) > 1 and draw(st.integers(0, 3)) == 0 else ""
    lines.append("states:")
    for state in states:
        rest = ("v_rest", *lasting[:1]) if state == "v" else ("0.0", "0.25", *lasting[:1])
        rest = (*rest, "{init: {uniform: [-0.5, 1]}}")
        count = ("{init: 0, integer: true}", "{init: {uniform: [0, 3]}, integer: true}")
        init = w.pick(count if state == integer else rest)
        w.used.add(init)
        lines.append(f"  {state}: {init}")
    lines.append(f"inputs: [{', '.join(inputs)}]")
    chance = [names.pop() for _ in range(max(0, draw(st.integers(-2, 2))))]
    if chance:
        kinds = ("normal", "{kind: normal, eval: false}")
        lines.append("noise: {" + ", ".join(f"{name}: {w.pick(kinds)}" for name in chance) + "}")
    fires = draw(st.integers(0, 5)) > 0
    moved = fires and has_v and draw(st.integers(0, 3)) == 0
    if parameters or moved:
        lines.append("parameters:")
        for p in parameters:
            default = w.pick((0.7, 1.5, 2.0))
            lines.append(f"  {p}: {{default: {default}, where: {p} > 0, per: {sharing[p]}}}")
        per = w.pick(("layer", "neuron", "step"))
        lines += [f"  v_threshold: {{default: 0.8, where: v_threshold > 0, per: {per}}}"] * moved
    if learnables:
        lines.append("learnable:")
        for name in learnables:
            start = f"1 / (1 + {parameters[0]})" if parameters and w.chance() else "0.4"
            form = w.pick((
                f"{{init: {start}}}",
                "{init: 0.3, transform: sigmoid}", "{init: 0.8, transform: exp}",
                "{init: 0.5, transform: softplus}",
                f"{{init: {start}, transform: clamp, bounds: [0.1, 0.9]}}",
                "{init: 0.8, transform: sigmoid, bounds: [0.5, 1.5]}",
            ))  # fmt: skip
            w.used |= set(parameters[:1]) if "1 / (1 +" in form else set()
            lines.append(f"  {name}: {form[:-1]}, per: {sharing[name]}}}")
    if w.flags:
        lines.append("flags: {" + ", ".join(f"{f}: {w.pick(('true', 'false'))}" for f in w.flags)
                     + "}")  # fmt: skip

    kinds = ("binary", "binary", "binary", "ternary", "multilevel")
    kind = w.pick(kinds) if fires else "none"
    remembers = fires and draw(st.integers(0, 3)) == 0
    real = [s for s in states if s != integer]

    # Response kernels: calls are atoms that any equation of the step may name.
    calls = []
    if draw(st.integers(0, 2)) == 0:
        lines.append("kernels:")
        for _ in range(draw(st.integers(1, 2))):
            kernel = names.pop()
            shape = str(w.pick(KERNELS))
            shape = shape.format(p=parameters[0] if parameters else "1.3")
            w.used |= set(parameters[:1]) if parameters and parameters[0] in shape else set()
            source = w.pick([*inputs, "spike"] if fires else inputs)
            w.used.add(source)
            lines.append(f"  {kernel}: {shape}")
            calls.append(f"{kernel}({source})")

    # Continuous time, for some of the states.
    scheme = w.pick(("", "", *SCHEMES))
    moving = real[: draw(st.integers(1, len(real)))] if scheme and real else []
    let: list[str] = []
    if draw(st.booleans()):
        temporary = names.pop()
        around = [*real, *inputs, *constants] if scheme not in ("exact", "exponential_euler") else (
            [*inputs, *constants])  # fmt: skip
        value = w.bounded(around, 1) if w.chance() else w.bare(around)
        lines += ["let:", f"  {temporary}: '{value}'"]
        let.append(temporary)
    held = [*inputs, *let]
    if moving:
        lines.append("dynamics:")
        for state in moving:
            others = [s for s in real if s != state]
            rate = w.pick(("0.5", "0.2", *(f"0.3 * {c}" for c in parameters[:1])))
            w.used |= set(parameters[:1]) if parameters and parameters[0] in rate else set()
            drive = w.pick(held)
            w.used.add(drive)
            match scheme:
                case "exact":
                    terms = [f"({drive} - {state}) * {rate}"]
                    coupled = [s for s in moving if s != state]
                    if coupled and w.chance():
                        terms.append(f"0.3 * {w.pick(coupled)}")
                    if w.chance():
                        terms.append(f"0.2 * {w.bounded(held, 1)}")
                case "exponential_euler":
                    gain = w.bounded([*others, *held, f"prev({state})"], 1)
                    terms = [f"{rate} * ({drive} - {state}) - abs({gain}) * {state} / 2",
                             w.bounded([*others, *held], 1)]  # fmt: skip
                case _:
                    terms = [f"({drive} - {state}) * {rate}",
                             f"0.5 * {w.bounded([*real, *held, *constants], 2)}"]  # fmt: skip
                    if chance and scheme == "euler":
                        terms.append(f"0.2 * {w.pick(chance)}")
            terms += [f"0.2 * prev({w.pick(real)})"] * w.chance()
            lines.append(f"  {state}: '{' + '.join(terms)}'")
        lines.append(f"scheme: {scheme}")
        lines += ["dt: 0.5"] * w.chance()

    # The charge; whatever has not been named by now is named in it.
    atoms = [*real, *held, *constants, *calls, *chance]
    atoms += ["prev(spike)"] * remembers + [f"prev({real[0]})"] * bool(real)
    charge: list[tuple[str, str]] = []
    still = [s for s in real if s not in moving] or real[:1]
    if draw(st.booleans()):
        temporary = names.pop()
        charge.append((temporary, w.bounded(atoms, 2) if w.chance() else w.bare(atoms)))
        atoms.append(temporary)
    declared = [*inputs, *constants, *let, *(name for name, _ in charge), *calls, *chance]
    for place, state in enumerate(still):
        if place < len(still) - 1 and draw(st.integers(0, 3)) == 0:
            charge.append((state, w.bare([name for name in atoms if name != state])))
            declared.append(state)
            continue
        decay = w.pick(("0.9", "0.6", *(f"(1 - 0.2 * {c})" for c in learnables[:1])))
        w.used |= set(learnables[:1]) if learnables and learnables[0] in decay else set()
        text = f"{decay} * {state} + {w.bounded(atoms, 2)}"
        if place == len(still) - 1:
            text += "".join(f" + 0.3 * {name}" for name in w.unused(declared))
            missing = w.unused(w.flags)
            text += "".join(f" + (0.25 if {flag} else -0.25)" for flag in missing)
            w.used |= {*declared, *missing}
        charge.append((state, text))
    if integer:
        charge.append((integer, f"max({integer} - 1, 0)" if fires else f"{integer} + 1"))
    lines.append("charge:")
    lines += [f"  {name}: '{text}'" for name, text in charge]

    # Fire, reset, output.
    after = [*states, *inputs, *constants]
    main = real[0]
    threshold = "v_threshold" if has_v else w.pick(("1", "0.7", *parameters[:1]))
    w.used.add(threshold)
    if fires:
        left = w.pick((main, f"{main} + 0.3 * {w.bounded(after, 1)}"))
        if kind != "multilevel" and draw(st.integers(0, 2)) == 0:
            threshold = f"{threshold} + 0.2 * abs({w.expression(real, 1, named=True)})"
        entry = [f"when: '{left} {w.pick(('>=', '>'))} {threshold}'"]
        if kind == "multilevel":
            entry.append("levels: 3")
        if draw(st.integers(0, 2)) == 0:
            guard = f"{integer} <= 0" if integer else w.condition(after, 1)
            entry.append(f"if: '{guard}'")
        lines.append("fire: {" + ", ".join([*entry, f"kind: {kind}"]) + "}")
    else:
        lines.append("fire: none")
    rule = w.pick(("auto", "explicit", "hard", "soft", "none")) if fires else "none"
    if rule in ("hard", "soft") and not has_v:
        rule = "none"
    resets_v = has_v and kind in ("ternary", "multilevel")  # the hard reset is not for those
    if resets_v and rule in ("auto", "hard"):
        rule = "soft"
    if rule == "explicit" or (integer and fires):
        lines.append("reset:")
        for state in ["v" if resets_v else w.pick(real), *([integer] if integer else [])]:
            jump = f"{state} + 2 * spike" if state == integer else w.pick((
                f"{state} - 0.8 * spike", f"{state} * (1 - spike)",
                f"{state} + 0.5 * spike * {w.bounded(after, 1)}",
                f"({w.bounded(after, 1)} if spike else {state})",
                "spike", "detach(spike)", w.bare(after),
            ))  # fmt: skip
            lines.append(f"  {state}: '{jump}'")
    else:
        lines.append(f"reset: {rule}")
    if not fires or draw(st.integers(0, 3)) == 0:
        what = [*states, *inputs, *(["spike"] if fires else [])]
        lines.append(f"output: '{w.expression(what, 1, named=True)} + {main}'" if w.chance() else
                     f"output: {w.bare(what)}")  # fmt: skip
    lines.append(f"surrogate: {w.pick(SURROGATES)}")
    return Drawn(
        "\n".join(lines) + "\n",
        tuple((flag, draw(st.booleans())) for flag in w.flags),
        w.pick(("hard", "soft")),
        draw(st.booleans()),
    )
