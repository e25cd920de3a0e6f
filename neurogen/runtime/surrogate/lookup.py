"""Surrogates by what people call them: an object, a name in any spelling, or a historical index."""

from __future__ import annotations

import difflib

from neurogen.runtime.surrogate import table
from neurogen.runtime.surrogate.base import Surrogate

#: `grad_surrogate_function_index` of the C++/CUDA extensions that preceded this package.
INDICES: tuple[type[Surrogate], ...] = (table.ATan, table.Sigmoid)
NAMES: dict[str, type[Surrogate]] = {
    name.lower(): cls
    for name in table.__all__
    if isinstance(cls := getattr(table, name), type) and issubclass(cls, Surrogate)
}


def find(surrogate: Surrogate | str | int, alpha: float | None = None) -> Surrogate:
    """A surrogate module.

    Args:
        surrogate: The module itself, a name ("ATan", "atan", "soft_sign"), or an index: 0 is ATan,
            1 Sigmoid.
        alpha: Its shape parameter; None for the default one.

    Raises:
        ValueError: There is no such surrogate, or it has no alpha.
        TypeError: It is none of the three; or a module and an alpha, which the module has already.
    """
    if isinstance(surrogate, Surrogate):
        if alpha is not None and ("alpha" not in surrogate.shape or surrogate.alpha != alpha):
            raise TypeError(
                f"alpha={alpha} and the surrogate {surrogate!r}: give the module its own shape "
                "parameters and leave alpha out"
            )
        return surrogate
    if isinstance(surrogate, bool) or not isinstance(surrogate, str | int):
        raise TypeError(
            f"surrogate is a module, a name or an index, not {type(surrogate).__name__}"
        )
    return _made(surrogate, None if alpha is None else float(alpha))


def _made(surrogate: str | int, alpha: float | None) -> Surrogate:
    if isinstance(surrogate, int):
        if not 0 <= surrogate < len(INDICES):
            known = ", ".join(f"{i} is {cls.__name__}" for i, cls in enumerate(INDICES))
            raise ValueError(f"unknown surrogate index {surrogate}: {known}; others have names")
        cls = INDICES[surrogate]
    else:
        plain = surrogate.lower().replace("_", "")
        if plain not in NAMES:
            near = difflib.get_close_matches(plain, NAMES, n=1)
            hint = f"did you mean {NAMES[near[0]].__name__!r}? " if near else ""
            known = ", ".join(sorted(cls.__name__ for cls in NAMES.values()))
            raise ValueError(f"unknown surrogate {surrogate!r}; {hint}There are {known}")
        cls = NAMES[plain]
    if alpha is None:
        return cls()
    if "alpha" not in cls.shape:
        raise ValueError(f"{cls.__name__} has no alpha; its shape parameters are {cls.shape}")
    return cls(alpha=alpha)
