"""The table of surrogates: name -> smooth step S(u) as text; the slope is its SymPy derivative.

In: the name of a surrogate. Out: its primitive and its slope as expressions over u and the shape
parameters. A new surrogate is one entry here. Primitives are written one-sided (`where(u < 0, …)`)
so that their derivatives do not cancel for large |u|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neurogen.compiler.calculus import differentiate
from neurogen.compiler.expression import Apply, Expression, Number
from neurogen.compiler.parsing import parse


@dataclass(frozen=True, slots=True)
class SurrogateFunction:
    """A smooth step: class name, primitive S(u), shape parameters with defaults, and its source.

    Attributes:
        class_name: Name of the module form; the function form is the table's key.
        primitive: S(u) as equation text.
        parameters: Shape parameters and their defaults.
        slope: dS/du as people write it, for documentation only.
        doc: Where it comes from, and what is special about its defaults.
        positive: Shape parameters that must be above 0: else the slope is 0, negative or NaN.
    """

    class_name: str
    primitive: str
    parameters: tuple[tuple[str, float], ...]
    slope: str
    doc: str = ""
    positive: tuple[str, ...] = ("alpha",)


#: Default shape parameters give a largest slope of 1, except Erf and PiecewiseExp, which keep the
#: values people know.
TABLE: Mapping[str, SurrogateFunction] = {
    "sigmoid": SurrogateFunction(
        "Sigmoid",
        "sigmoid(alpha * u)",
        (("alpha", 4.0),),
        "alpha s (1 - s), s = sigmoid(alpha u)",
    ),
    "atan": SurrogateFunction(
        "ATan",
        "atan(1.5707963267948966 * alpha * u) / 3.141592653589793 + 0.5",
        (("alpha", 2.0),),
        "(alpha / 2) / (1 + (pi alpha u / 2)^2)",
        "Fang et al. (2021), Incorporating learnable membrane time constant.",
    ),
    "piecewise_quadratic": SurrogateFunction(
        "PiecewiseQuadratic",
        "where(u < -1 / alpha, 0, where(u > 1 / alpha, 1,"
        " where(u < 0, 0.5 * (1 + alpha * u)**2, 1 - 0.5 * (1 - alpha * u)**2)))",
        (("alpha", 1.0),),
        "max(0, alpha - alpha^2 |u|)",
        "Esser et al. (2016), Convolutional networks for fast, energy-efficient computing.",
    ),
    "piecewise_exp": SurrogateFunction(
        "PiecewiseExp",
        "where(u < 0, 0.5 * exp(alpha * u), 1 - 0.5 * exp(-(alpha * u)))",
        (("alpha", 1.0),),
        "(alpha / 2) exp(-alpha |u|)",
        "Neftci et al. (2019), Surrogate gradient learning. Largest slope alpha / 2.",
    ),
    "soft_sign": SurrogateFunction(
        "SoftSign",
        "where(u < 0, 0.5 / (1 - alpha * u), 1 - 0.5 / (1 + alpha * u))",
        (("alpha", 2.0),),
        "1 / (2 alpha (1 / alpha + |u|)^2)",
    ),
    "super_spike": SurrogateFunction(
        "SuperSpike",
        "where(u < 0, alpha / (1 - u) - alpha, alpha - alpha / (1 + u))",
        (("alpha", 1.0),),
        "alpha / (1 + |u|)^2",
        "Zenke & Ganguli (2018), SuperSpike.",
    ),
    "erf": SurrogateFunction(
        "Erf",
        "0.5 + 0.5 * erf(alpha * u)",
        (("alpha", 2.0),),
        "alpha / sqrt(pi) exp(-(alpha u)^2)",
        "Esser et al. (2015), Backpropagation for energy-efficient neuromorphic computing. "
        "Largest slope alpha / sqrt(pi), 1.13 by default.",
    ),
    "rect": SurrogateFunction(
        "Rect",
        "where(abs(u) < 0.5 / alpha, alpha * u + 0.5, heaviside(u))",
        (("alpha", 1.0),),
        "alpha where |u| < 1 / (2 alpha), else 0",
        "Wu et al. (2018), Spatio-temporal backpropagation.",
    ),
    "leaky_k_relu": SurrogateFunction(
        "LeakyKReLU",
        "where(u < 0, leak * u, k * u)",
        (("leak", 0.0), ("k", 1.0)),
        "leak where u < 0, else k",
        positive=(),
    ),
    "fast_sigmoid": SurrogateFunction(
        "FastSigmoid",
        "where(u < 0, 1 / (1 - alpha * u) - 1, 1 - 1 / (1 + alpha * u)) / alpha",
        (("alpha", 25.0),),
        "1 / (1 + alpha |u|)^2",
        "Zenke & Ganguli (2018) as snnTorch scales it.",
    ),
    "s2nn": SurrogateFunction(
        "S2NN",
        "where(u < 0, sigmoid(alpha * u), beta * log1p(u) + 0.5)",
        (("alpha", 4.0), ("beta", 1.0)),
        "alpha s (1 - s) where u < 0, else beta / (1 + u)",
        "Suetake et al. (2022), S2NN.",
        positive=("alpha", "beta"),
    ),
    "log_tailed_relu": SurrogateFunction(
        "LogTailedReLU",
        "where(u <= 0, alpha * u, where(u <= 1, u, 1 + log(u)))",
        (("alpha", 0.0),),
        "alpha where u <= 0, 1 where u <= 1, else 1 / u",
        "Cai et al. (2017), Deep learning with low precision by half-wave Gaussian quantization.",
        positive=(),
    ),
    "nonzero_sign_log_abs": SurrogateFunction(
        "NonzeroSignLogAbs",
        "where(u < 0, -log1p(-(alpha * u)), log1p(alpha * u))",
        (("alpha", 1.0),),
        "1 / (1 / alpha + |u|)",
    ),
}


def compiled(primitive: Expression) -> tuple[Expression, Expression]:
    """The primitive with its `heaviside` written out, and its slope dS/du."""
    value = _plain(primitive)
    return value, differentiate(value, "u")


def table_entry(entry: SurrogateFunction) -> tuple[Expression, Expression]:
    """Primitive and slope of an entry of the table."""
    return compiled(parse(entry.primitive))


def _plain(node: Expression) -> Expression:
    if not isinstance(node, Apply):
        return node
    inner = tuple(_plain(argument) for argument in node.arguments)
    if node.operator == "heaviside":
        zero = Number(0.0)
        return Apply("where", (Apply(">=", (inner[0], zero)), Number(1.0), zero))
    if node.operator == "detach":
        return inner[0]
    return node.of(inner)
