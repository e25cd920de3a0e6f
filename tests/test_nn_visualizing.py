"""Pictures: what is drawn, read back from the figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurogen import load
from neurogen.nn import visualizing
from neurogen.nn.surrogate import ATan, LeakyKReLU, Sigmoid

matplotlib = pytest.importorskip("matplotlib")

SPIKES = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])


def saved(figure: Any, folder: Path) -> int:
    figure.savefig(folder / "picture.png")
    return (folder / "picture.png").stat().st_size


def test_heat_map(tmp_path: Path) -> None:
    values = torch.rand(7, 3)
    figure = visualizing.plot_2d_heatmap(values, "potentials", "t", "neuron")
    axes, bar = figure.axes
    image = axes.images[0]
    assert np.allclose(image.get_array(), values.T)
    assert image.get_extent() == [-0.5, 6.5, 2.5, -0.5]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("potentials", "t", "neuron")
    assert bar.get_ylabel() == "V"
    assert saved(figure, tmp_path) > 1000
    assert len(visualizing.plot_2d_heatmap(values, plot_colorbar=False).axes) == 1
    stretched = visualizing.plot_2d_heatmap(values, x_max=70).axes[0].images[0]
    assert stretched.get_extent() == [-5.0, 65.0, 2.5, -0.5]


def test_raster(tmp_path: Path) -> None:
    figure = visualizing.plot_1d_spikes(SPIKES)
    raster, rates = figure.axes
    assert [list(c.get_positions()) for c in raster.collections] == [[1, 3], [0, 1, 2, 3], []]
    assert [bar.get_width() for bar in rates.patches] == [0.5, 1.0, 0.0]
    assert [bar.get_y() + bar.get_height() / 2 for bar in rates.patches] == pytest.approx([0, 1, 2])
    assert raster.get_ylim() == (2.5, -0.5)
    assert saved(figure, tmp_path) > 1000
    assert len(visualizing.plot_1d_spikes(SPIKES, plot_firing_rate=False).axes) == 1
    ternary = visualizing.plot_1d_spikes(-SPIKES)
    assert [bar.get_width() for bar in ternary.axes[1].patches] == [0.5, 1.0, 0.0]


def test_bars(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 3))
    figure = visualizing.plot_2d_bar_in_3d(values, zlabel="rate")
    (axes,) = figure.axes
    assert len(axes.patches) == values.size
    tops = sorted(max(z for _, _, z in patch._segment3d) for patch in axes.patches)
    assert tops == pytest.approx(sorted(values.ravel()))
    assert axes.get_zlabel() == "rate"
    assert saved(figure, tmp_path) > 1000


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_one_neuron(v_reset: float | None, tmp_path: Path) -> None:
    node = load("lif")(step_mode="m", store_v_seq=True, v_threshold=0.5, v_reset=v_reset)
    x = torch.rand(30, 1, requires_grad=True)
    spikes = node(x)
    figure = visualizing.plot_one_neuron_v_s(node.v_seq[:, 0], spikes[:, 0], 0.5, v_reset)
    above, below = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in above.lines}
    assert np.allclose(above.lines[0].get_ydata(), node.v_seq[:, 0].detach())
    assert list(lines["threshold"]) == [0.5, 0.5]
    assert ("reset" in lines) == (v_reset is not None)
    positions = [p for c in below.collections for p in c.get_positions()]
    assert positions == spikes[:, 0].nonzero().flatten().tolist()
    assert positions
    assert saved(figure, tmp_path) > 1000


@pytest.mark.parametrize("function", [Sigmoid(4.0), ATan(3.0), LeakyKReLU()])
def test_surrogate(function: Any, tmp_path: Path) -> None:
    figure = visualizing.surrogate(function, -1.0, 1.0, points=201)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    u = torch.linspace(-1, 1, 201, dtype=torch.float64, requires_grad=True)
    assert list(lines) == ["Heaviside", "primitive", "gradient"]
    assert np.array_equal(lines["Heaviside"], (u >= 0).double())
    smooth = type(function)(*function.arguments, spiking=False)(u)
    (slope,) = torch.autograd.grad(smooth.sum(), u)
    away = u.detach().abs() > 1e-9
    assert np.allclose(lines["primitive"], smooth.detach())
    assert np.allclose(lines["gradient"][away], slope[away])
    assert type(function).__name__ in axes.get_title()
    assert saved(figure, tmp_path) > 1000


def test_what_cannot_be_drawn() -> None:
    for draw in (
        visualizing.plot_2d_heatmap, visualizing.plot_1d_spikes, visualizing.plot_2d_bar_in_3d,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"2D array \[T, N\].* this one is 3D.* flatten"):
            draw(torch.zeros(2, 3, 4))
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"\[T\].*\[3\] and \[4\]"):
        visualizing.plot_one_neuron_v_s([0, 0, 0], [0, 0, 0, 0])
    with pytest.raises(TypeError, match="surrogate module, not builtin"):
        visualizing.surrogate(torch.sigmoid)  # type: ignore[arg-type]


def test_matplotlib_is_loaded_at_the_first_picture_and_keeps_no_figure() -> None:
    code = (
        "import sys, torch\n"
        "from neurogen.nn import visualizing\n"
        "assert 'matplotlib' not in sys.modules\n"
        "visualizing.plot_1d_spikes(torch.ones(2, 2))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'neurogen\[plot\]'"):
        visualizing.plot_1d_spikes(SPIKES)
