"""The surrogates of `neurogen.runtime.surrogate`, under the name that networks import."""

from neurogen.runtime.surrogate import Surrogate, table
from neurogen.runtime.surrogate.table import *  # noqa: F403

__all__ = ["Surrogate"]
__all__ += table.__all__
