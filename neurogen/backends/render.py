"""Fill a template: every name it uses must be given, and every name given must be used.

In: a template's name and its context. Out: text that ends in one newline. Separate because all
backends render alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_HERE = Path(__file__).parent


@cache
def environment(backend: str) -> Environment:
    """Templates of one backend, and those that backends share."""
    return Environment(
        loader=FileSystemLoader([_HERE / backend / "templates", _HERE / "templates"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(backend: str, template: str, context: Mapping[str, object]) -> str:
    """The text of `templates/<template>` of a backend."""
    return environment(backend).get_template(template).render(context).rstrip("\n") + "\n"
