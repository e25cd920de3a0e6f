"""The surrogates of `neurogen.runtime.surrogate`, under the name that networks import."""

from neurogen.runtime.surrogate import *  # noqa: F403
from neurogen.runtime.surrogate import __all__ as __all__
