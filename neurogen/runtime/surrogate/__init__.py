"""Surrogate gradients: `Sigmoid(alpha=4.)` is a module, `sigmoid.apply(u, 4.)` a function.

Every one is fused on every backend; the table and its slopes are generated.
"""

from neurogen.runtime.surrogate.base import Surrogate
from neurogen.runtime.surrogate.base import function_form as function_form  # for generated code
from neurogen.runtime.surrogate.table import *  # noqa: F403
from neurogen.runtime.surrogate.table import __all__ as _table

__all__ = ["Surrogate", *_table]  # noqa: PLE0604
