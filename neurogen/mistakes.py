"""The stable codes of mistakes in a spec, one line each; `Mistake.code` is a key of this table."""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, str] = {
    "NG001": "the file cannot be read as text",
    "NG002": "the text is not YAML of the form a spec takes",
    "NG003": "unknown key",
    "NG004": "missing key",
    "NG005": "a value has the wrong form",
    "NG006": "duplicate key",
    "NG008": "the spec is too large",
    "NG010": "a name is not an identifier, or is reserved",
    "NG011": "a name is declared twice",
    "NG012": "unknown name",
    "NG013": "a declared name is never used",
    "NG020": "an equation is too large or nested too deep",
    "NG021": "an equation has wrong syntax",
    "NG022": "an exponent is not a small whole number",
    "NG023": "a function has the wrong number of arguments",
    "NG024": "a condition stands where a number is expected, or the reverse",
    "NG025": "an expression may name parameters only",
    "NG026": "a number is infinite or undefined",
    "NG027": "a condition never changes",
    "NG030": "the fire condition is not a threshold",
    "NG031": "reset assigns something that is no state",
    "NG032": "spike is used before the neuron fires",
    "NG033": "a default lies outside its bounds",
    "NG034": "a state is never charged",
    "NG035": "prev() takes the name of a state, or spike",
    "NG036": "a reset has nothing to do",
    "NG037": "a surrogate has no slope",
    "NG038": "noise is used where none is drawn",
    "NG039": "a value per time step is used where there is no time step",
    "NG040": "the scheme does not apply to the dynamics",
    "NG041": "an expression is no response kernel",
}
