"""The guide to networks is a program: its examples run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from neurogen.nn import encoding, functional, layer, monitor, visualizing

GUIDE = (Path(__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) > 5
    for block in blocks:
        line = GUIDE[: GUIDE.index(block)].count("\n")
        exec(compile("\n" * line + block, "docs/networks.md", "exec"), names)
    saved = {path.name for path in tmp_path.iterdir()}
    assert saved == {"v.png", "s.png", "neuron.png", "bars.png", "surrogate.png"}


@pytest.mark.parametrize("module", [encoding, functional, layer, monitor, visualizing])
def test_the_guide_names_what_there_is(module: Any) -> None:
    own = {n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    public = {n for n in own if not n.startswith("_")} & set(getattr(module, "__all__", own))
    for name in public - {"Monitor", "unchanged"}:
        stem = re.sub(r"\dd$", "", name)
        assert stem in GUIDE, f"docs/networks.md does not mention {name}"
