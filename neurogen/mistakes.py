"""The mistakes a spec can hold, as data: stable codes, and what `neurogen explain` says of each.

`Mistake.code` is a key of `MISTAKES`. Codes below NG100 are errors: the spec is refused. From
NG100 on they are warnings: the neuron is built, and `neurogen check` says what may surprise its
user. The page `docs/mistakes.md` is printed from this table, and every example in it is
compiled by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Codes from here on are warnings.
FIRST_WARNING = "NG100"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One kind of mistake.

    Attributes:
        title: What is wrong, in one line.
        text: Why that matters and what to do, a paragraph.
        bad: A spec with this mistake, empty where none can show it.
        good: The spec, mended.
    """

    title: str
    text: str
    bad: str = ""
    good: str = ""


def _neuron(body: str) -> str:
    return f"name: A\n{body.strip()}\n"


def _entry(title: str, text: str, bad: str = "", good: str = "") -> Explanation:
    return Explanation(title, text, _neuron(bad) if bad else "", _neuron(good) if good else "")


MISTAKES: Mapping[str, Explanation] = {
    "NG001": Explanation(
        "the file cannot be read as text",
        "There is no such file, it may not be read, it is a folder, or its bytes are not UTF-8 text"
        " of at most 1 MiB. Save the file as UTF-8; name the files of a folder: `folder/*.yaml`.",
    ),
    "NG002": _entry(
        "the text is not YAML of the form a spec takes",
        "A spec is one YAML mapping of keys. Anchors, aliases, tags, a second document and"
        " characters that cannot be seen are refused, for a spec is data and says what it shows."
        " Text with ': ' or ' #' in it, or that starts with a sign of YAML, needs quotes.",
        "summary: Leaky: it forgets\ncharge: v + x",
        'summary: "Leaky: it forgets"\ncharge: v + x',
    ),
    "NG003": _entry(
        "unknown key",
        "A key is misspelt, or stands at the wrong level. Nothing is ignored silently: a key that"
        " does nothing would look as if it did. A slip that is plain to see is read as what was"
        " meant, so that mistakes below it are found in the same run. Inside { } a comma ends a"
        " value unless it is quoted.",
        "parametres: {tau: 2.0}\ncharge: v + x / tau",
        "parameters: {tau: 2.0}\ncharge: v + x / tau",
    ),
    "NG004": _entry(
        "missing key",
        "`name` and one of `charge` and `dynamics` are needed; `dynamics` needs a `scheme`, a"
        " neuron that never fires an `output`, `transform: clamp` its `bounds`, `kind: multilevel`"
        " its `levels`. Everything else has a default.",
        "charge: v + x\nfire: none",
        "charge: v + x\nfire: none\noutput: v",
    ),
    "NG005": _entry(
        "a value has the wrong form",
        "The value is not of the kind that its key takes: a number, true or false, a word of a"
        " short list, a list, a mapping. Scalars are read as written: 1e-3 is a number, `on` is a"
        " word. Defaults are plain numbers; what follows from other parameters belongs into `let`.",
        "parameters: {tau: two}\ncharge: v + x / tau",
        "parameters: {tau: 2.0}\ncharge: v + x / tau",
    ),
    "NG006": _entry(
        "duplicate key",
        "A key stands twice in the same mapping. YAML would keep the last one silently, so that"
        " half of what is written would not count.",
        "parameters: {tau: 2.0, tau: 3.0}\ncharge: v + x / tau",
        "parameters: {tau: 3.0}\ncharge: v + x / tau",
    ),
    "NG008": _entry(
        "the spec is too large",
        "A spec is a few lines. Limits on characters, names, flags, depth and on the work that its"
        " derivatives need keep every file, also a hostile one, within seconds and megabytes.",
        "flags: {a: true, b: true, c: true, d: true, e: true, f: true, g: true}\ncharge: v + x",
        "flags: {a: true}\ncharge: v + x if a else v - x",
    ),
    "NG010": _entry(
        "a name is not an identifier, or is reserved",
        "Names become attributes of a Python class and variables of kernels. A name is a letter,"
        " then letters, digits and single underscores between them. Words of Python, functions of"
        " the equation language, and attributes that every neuron has are taken.",
        "parameters: {training: 2.0}\ncharge: v + x / training",
        "parameters: {tau_training: 2.0}\ncharge: v + x / tau_training",
    ),
    "NG011": _entry(
        "a name is declared twice",
        "Every name has one meaning in a spec. A temporary, an input, a parameter or a kernel that"
        " is called like something else would shadow it, and the equations would read as if they"
        " used the other one. A step of `charge` assigns a state, or is a new name.",
        "parameters: {tau: 2.0}\ncharge:\n  tau: v / 2\n  v: v + x / tau",
        "parameters: {tau: 2.0}\ncharge:\n  leak: v / 2\n  v: v + x / tau - leak",
    ),
    "NG012": _entry(
        "unknown name",
        "An equation names something that is not declared, not a function, or has no value at that"
        " place yet: `let` and `charge` run in the order written. The hint names what is near.",
        "parameters: {tau: 2.0}\ncharge: v + (x - v) / ta",
        "parameters: {tau: 2.0}\ncharge: v + (x - v) / tau",
    ),
    "NG013": _entry(
        "a declared name is never used",
        "A parameter, learnable, flag, input, temporary or state that no equation names is either a"
        " slip in an equation or a left-over. It would become a constructor argument without"
        " effect, or a learnable without gradient.",
        "parameters: {tau: 2.0, gain: 1.0}\ncharge: v + x / tau",
        "parameters: {tau: 2.0, gain: 1.0}\ncharge: v + gain * x / tau",
    ),
    "NG020": _entry(
        "an equation is too large or nested too deep",
        "An equation has at most 2000 characters and 60 operators in depth, also where temporaries"
        " that build on one another are written out. Split it with `let`, or with named steps of"
        " `charge`.",
        "let: {a: x * x * x}\ncharge: " + "max(" * 61 + "v" + ", a)" * 61,
        "let: {a: x * x * x}\ncharge: max(v, a)",
    ),
    "NG021": _entry(
        "an equation has wrong syntax",
        "Equations use numbers, names, `+ - * / **`, comparisons, and/or/not, `a if c else b` and"
        " calls of functions, with Python's precedence. Only the right-hand side is written.",
        "charge: v = v + x^2",
        "charge: v + x**2",
    ),
    "NG022": _entry(
        "an exponent is not a small whole number",
        "A power is a product from left to right, the same bits on every backend, so its exponent"
        " is a whole number up to 32. Any other power is `exp(b * log(a))`; a root is `sqrt(a)`.",
        "charge: v + x**0.5",
        "charge: v + sqrt(abs(x))",
    ),
    "NG023": _entry(
        "a function has the wrong number of arguments",
        "`min` and `max` take two or more arguments, `clip` and `where` three, `log` one: there is"
        " no base, log(a) / log(2) is the logarithm to base 2.",
        "charge: v + clip(x, 1)",
        'charge: "v + clip(x, -1, 1)"',
    ),
    "NG024": _entry(
        "a condition stands where a number is expected, or the reverse",
        "Numbers and conditions are different things. A flag is a condition; `x > 0` is one, too."
        " `where(x > 0, 1, 0)` makes a number of a condition, `a > 0` a condition of a number.",
        "charge: v + (x > 0)",
        'charge: "v + where(x > 0, 1, 0)"',
    ),
    "NG025": _entry(
        "an expression may name parameters only",
        "Initial values, `where`, `init` and `kernels` are computed before there is a step: states,"
        " inputs and the spike have no values there, and kernels and prev() no meaning.",
        "states: {v: x}\ncharge: v + x",
        "parameters: {start: 0.5}\nstates: {v: start}\ncharge: v + x",
    ),
    "NG026": _entry(
        "a number is infinite or undefined",
        "A part of an equation that holds literals only, or what follows from it, has no finite"
        " value: 1 / 0, log(-1), a number beyond float64.",
        "charge: v + x * log(0)",
        "charge: v + x * log(2)",
    ),
    "NG027": _entry(
        "a condition never changes",
        "A comparison of literals is always true or always false, so that one of its branches is"
        " dead. Name a state, an input or a parameter; a choice at compile time is a flag.",
        "charge: v + x if 1 > 0 else v",
        "flags: {integrate: true}\ncharge: v + x if integrate else v",
    ),
    "NG030": _entry(
        "the fire condition is not a threshold",
        "A neuron fires where `a >= b` or `a > b`: the surrogate's slope is taken at a - b."
        " Conditions beside the threshold, such as a refractory period, are the guard `if`. A"
        " threshold over parameters only would fire always, or never.",
        "states: {v: 0.0, ref: 0.0}\ncharge: {v: v + x, ref: ref * 0.5}\n"
        "fire: v >= 1 and ref <= 0.1\nreset: {ref: ref + spike}",
        "states: {v: 0.0, ref: 0.0}\ncharge: {v: v + x, ref: ref * 0.5}\n"
        "fire: {when: v >= 1, if: ref <= 0.1}\nreset: {ref: ref + spike}",
    ),
    "NG031": _entry(
        "reset assigns something that is no state",
        "`reset` and `dynamics` change states. A temporary belongs into `let` or `charge`.",
        "charge: v + x\nreset: {V: 0}",
        "charge: v + x\nreset: {v: v * (1 - spike)}",
    ),
    "NG032": _entry(
        "spike is used before the neuron fires",
        "`spike` is this step's, known in `reset` and `output`. Before that only the last step's"
        " exists: prev(spike). A response kernel may be called on `spike`; it acts from the next"
        " step on.",
        "charge: v + x - spike",
        "charge: v + x - prev(spike)",
    ),
    "NG033": _entry(
        "a default lies outside its bounds",
        "A parameter's default does not satisfy its own `where`, a learnable's `init` lies outside"
        " the range of its transform (`init` is what the equations see at first), or a shape"
        " parameter of a surrogate is one with which it has no slope.",
        "learnable: {rho: {init: 2.0, transform: sigmoid}}\ncharge: rho * v + x",
        "learnable: {rho: {init: 0.9, transform: sigmoid}}\ncharge: rho * v + x",
    ),
    "NG034": _entry(
        "a state is never charged",
        "No equation ever changes this state, so that it keeps its initial value for good. Give it"
        " an equation, or make it a parameter.",
        "states: {v: 0.0, a: 1.0}\ncharge: v + a * x",
        "parameters: {a: 1.0}\ncharge: v + a * x",
    ),
    "NG035": _entry(
        "prev() takes the name of a state, or spike",
        "prev(name) is a state's value at the start of the step, prev(spike) the last spike. Other"
        " values are not kept from one step to the next: make a state of what must be remembered.",
        "charge: v + x - prev(x)",
        "states: {v: 0.0, last: 0.0}\ncharge: {v: v + x - prev(last), last: x}",
    ),
    "NG036": _entry(
        "a reset has nothing to do",
        "`reset: hard` and `reset: soft` reset v after a spike. Here there is no state v, or the"
        " neuron never fires.",
        "states: {a: 0.0}\ncharge: {a: a + x}\nfire: a >= 1\nreset: hard",
        "states: {a: 0.0}\ncharge: {a: a + x}\nfire: a >= 1\nreset: {a: a * (1 - spike)}",
    ),
    "NG037": _entry(
        "a surrogate has no slope",
        "The gradient of a spike is the slope of its primitive. A primitive that is constant"
        " almost everywhere would let no gradient pass: give a smooth step of u.",
        "charge: v + x\nsurrogate: {primitive: floor(u)}",
        "charge: v + x\nsurrogate: {primitive: sigmoid(4 * u)}",
    ),
    "NG038": _entry(
        "noise is used where none is drawn",
        "Noise is drawn once for each neuron and step, for `charge` and `dynamics`. A step of"
        " `charge` carries it to the threshold, the reset or the output.",
        "noise: {xi: normal}\ncharge: v + x + 0.1 * xi\nfire: v + xi >= v_threshold",
        "noise: {xi: normal}\ncharge: {jitter: 0.1 * xi, v: v + x + jitter}\n"
        "fire: v + jitter >= v_threshold",
    ),
    "NG039": _entry(
        "a value per time step is used where there is no time step",
        "Initial values and response kernels are made before the first step; they have no value to"
        " take from what differs from one step to the next.",
        "parameters: {start: {default: 0.5, per: step}}\nstates: {v: start}\ncharge: v + x * start",
        "parameters: {start: {default: 0.5, per: neuron}}\nstates: {v: start}\n"
        "charge: v + x * start",
    ),
    "NG040": _entry(
        "the scheme does not apply to the dynamics",
        "`exact` needs dynamics that are proved linear in the states: a matrix exponential of any"
        " other would be silently wrong. Noise needs `euler`. The hint lists the schemes that do"
        " apply.",
        "dynamics: {v: v**2 - v + x}\nscheme: exact",
        "dynamics: {v: v**2 - v + x}\nscheme: rk2",
    ),
    "NG041": _entry(
        "an expression is no response kernel",
        "A kernel becomes an exact recursion, which exists for sums of `s**n exp(-a*s)`,"
        " `exp(-a*s) sin(b*s)` and `exp(-a*s) cos(b*s)` that do not grow. Anything else would need"
        " the whole past.",
        "kernels: {epsilon: 1 / (1 + s)}\ncharge: v_rest + epsilon(x)",
        "kernels: {epsilon: s * exp(-s / 2)}\ncharge: v_rest + epsilon(x)",
    ),
    "NG042": _entry(
        "the default hard reset is for spikes of 0 and 1",
        "The hard reset is `spike*v_reset + (1 - spike)*v`. With a ternary spike of -1 it would"
        " double v, with a multilevel spike of 3 turn it to -2 v; `reset: auto` may choose it."
        " Write `reset: soft`, which subtracts `spike*v_threshold`, or what v becomes.",
        "charge: v + x\nfire: {when: v >= v_threshold, kind: ternary}",
        "charge: v + x\nfire: {when: v >= v_threshold, kind: ternary}\nreset: soft",
    ),
    "NG101": _entry(
        "something is divided by what can be 0",
        "Within the declared bounds, or for some input, the divisor becomes 0, and the neuron's"
        " state infinite or NaN for good. Declare the bounds under which the equation makes sense"
        " (`where`, a transform of a learnable), or keep the divisor away from 0. A parameter"
        " without `where` is taken at its default.",
        "parameters: {tau: {default: 2.0, where: tau >= 0}}\ncharge: v + (x - v) / tau",
        "parameters: {tau: {default: 2.0, where: tau > 0}}\ncharge: v + (x - v) / tau",
    ),
    "NG102": _entry(
        "sqrt or log of what can leave its domain",
        "Within the declared bounds, or for some input, sqrt sees a negative number, or log one"
        " that is not above 0, and gives NaN or -inf. Declare bounds, or write sqrt(relu(a)),"
        " log(max(a, 1e-6)), log1p(relu(a)).",
        "charge: v + sqrt(x)",
        "charge: v + sqrt(relu(x))",
    ),
    "NG103": _entry(
        "exp of an unbounded argument",
        "For inputs of moderate size the argument exceeds 88, where exp overflows float32. Clamp it"
        " (`exp(min(a, 20))`), as the zoo's EIF does at the threshold, or use sigmoid, softplus or"
        " tanh, which do not overflow.",
        "charge: v + x + exp(v - 1)",
        'charge: "v + x + exp(min(v, 2) - 1)"',
    ),
    "NG104": _entry(
        "a learnable gets no gradient",
        "Every path from this learnable to the output and the states goes through something without"
        " a derivative: detach, a comparison, floor, round, heaviside, sign, an integer state."
        " Training would leave it as it is; make it a parameter, or use step() or sigmoid().",
        "learnable: {w: 0.5}\ncharge: v + x * heaviside(v - w)",
        "learnable: {w: 0.5}\ncharge: v + x * step(v - w)",
    ),
    "NG105": _entry(
        "the fire condition depends on no state",
        "Both sides of the threshold are made of inputs and parameters only: the neuron has no"
        " memory, and what `charge` computes does not matter for its spikes.",
        "charge: v + x\nfire: x >= v_threshold",
        "charge: v + x\nfire: v >= v_threshold",
    ),
    "NG106": _entry(
        "a state is forgotten at each step",
        "What the state becomes is made of inputs and parameters only, so that it carries nothing"
        " from step to step. A slip often looks like this: `w * x` for `v + w * x`. What is meant"
        " as an intermediate value is a temporary of `charge` or `let`, not a state.",
        "parameters: {w: 0.5}\ncharge: w * x",
        "parameters: {w: 0.5}\ncharge: v + w * x",
    ),
}

#: Code -> what is wrong, in one line.
CODES: Mapping[str, str] = {code: entry.title for code, entry in MISTAKES.items()}
