"""Pictures of what neurons do, as Matplotlib figures: potentials, spikes, rates, surrogates.

    plot_1d_spikes(spikes).savefig("spikes.png")

Figures belong to whoever made them: no window opens, and none is kept in Matplotlib's own list.
Needs the extra `plot` (`pip install 'neurogen[plot]'`); it is loaded at the first picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from neurogen.runtime.surrogate import Surrogate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "plot_1d_spikes",
    "plot_2d_bar_in_3d",
    "plot_2d_heatmap",
    "plot_one_neuron_v_s",
    "surrogate",
]

Size = tuple[float, float]


def plot_2d_heatmap(
    array: Tensor | ArrayLike,
    title: str = "Membrane potentials",
    xlabel: str = "Time step",
    ylabel: str = "Neuron",
    *,
    plot_colorbar: bool = True,
    colorbar_y_label: str = "V",
    x_max: float | None = None,
    figsize: Size = (8, 5),
    dpi: float = 100,
) -> Figure:
    """Colours of a value of each neuron at each step, e.g. of `node.v_seq`.

    Args:
        array: `[T, N]`.
        title: Above the picture.
        xlabel: Of the time axis.
        ylabel: Of the axis of neurons.
        plot_colorbar: Whether the colours are explained at the side.
        colorbar_y_label: What they mean.
        x_max: Right end of the time axis, where a step is not one unit long; default T.
        figsize: Width and height in inches.
        dpi: Dots an inch.

    Raises:
        ValueError: `array` has not two dimensions, or is empty.
        ImportError: Matplotlib is not installed.
    """
    values = _matrix(array)
    figure = _figure(figsize, dpi)
    axes = _axes(figure, title, xlabel, ylabel)
    right = values.shape[0] if x_max is None else x_max
    image = axes.imshow(
        values.T, aspect="auto", interpolation="nearest",
        extent=(-0.5 * right / values.shape[0], right * (1 - 0.5 / values.shape[0]),
                values.shape[1] - 0.5, -0.5),
    )  # fmt: skip
    _count(axes.yaxis, *([axes.xaxis] if x_max is None else []))
    if plot_colorbar:
        figure.colorbar(image, label=colorbar_y_label)
    return figure


def plot_1d_spikes(
    spikes: Tensor | ArrayLike,
    title: str = "Spikes",
    xlabel: str = "Time step",
    ylabel: str = "Neuron",
    *,
    plot_firing_rate: bool = True,
    firing_rate_map_title: str = "Firing rate",
    figsize: Size = (8, 5),
    dpi: float = 100,
) -> Figure:
    """A raster: a mark for each spike, and a bar for each neuron's firing rate beside it.

    Args:
        spikes: `[T, N]`; every value other than 0 is a spike.
        title: Above the raster.
        xlabel: Of the time axis.
        ylabel: Of the axis of neurons.
        plot_firing_rate: Whether the bars are drawn.
        firing_rate_map_title: Above the bars.
        figsize: Width and height in inches.
        dpi: Dots an inch.

    Raises:
        ValueError: `spikes` has not two dimensions, or is empty.
        ImportError: Matplotlib is not installed.
    """
    fired = _matrix(spikes) != 0
    steps, neurons = fired.shape
    figure = _figure(figsize, dpi)
    grid = figure.add_gridspec(1, 5) if plot_firing_rate else figure.add_gridspec(1, 1)
    raster = _axes(figure, title, xlabel, ylabel, grid[0, :4] if plot_firing_rate else grid[0, 0])
    raster.eventplot(
        [np.flatnonzero(fired[:, i]) for i in range(neurons)],
        colors=[f"C{i % 10}" for i in range(neurons)],
        linelengths=0.8,
    )
    _count(raster.xaxis, raster.yaxis)
    raster.set(xlim=(-0.5, steps - 0.5), ylim=(neurons - 0.5, -0.5))
    if plot_firing_rate:
        rates = figure.add_subplot(grid[0, 4], sharey=raster)
        rates.set(title=firing_rate_map_title, xlim=(0, 1))
        rates.barh(np.arange(neurons), fired.mean(0), color=[f"C{i % 10}" for i in range(neurons)])
        rates.tick_params(labelleft=False)
    return figure


def plot_2d_bar_in_3d(
    array: Tensor | ArrayLike,
    title: str = "Firing rates",
    xlabel: str = "Neuron",
    ylabel: str = "Step",
    zlabel: str = "Rate",
    *,
    figsize: Size = (8, 6),
    dpi: float = 100,
) -> Figure:
    """Bars of a value of each neuron at each step or epoch, e.g. of firing rates.

    Args:
        array: `[T, N]`.
        title: Above the picture.
        xlabel: Of the axis of neurons.
        ylabel: Of the axis of steps.
        zlabel: Of the height.
        figsize: Width and height in inches.
        dpi: Dots an inch.

    Raises:
        ValueError: `array` has not two dimensions, or is empty.
        ImportError: Matplotlib is not installed.
    """
    values = _matrix(array)
    figure = _figure(figsize, dpi)
    axes: Any = figure.add_subplot(projection="3d")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, zlabel=zlabel)
    for neuron, column in enumerate(values.T):
        axes.bar(np.arange(len(column)), column, zs=neuron, zdir="x", color=f"C{neuron % 10}")
    _count(axes.xaxis, axes.yaxis)
    return figure


def plot_one_neuron_v_s(
    v: Tensor | ArrayLike,
    s: Tensor | ArrayLike,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    title: str = "Potential and spikes of a neuron",
    *,
    figsize: Size = (8, 5),
    dpi: float = 100,
) -> Figure:
    """The potential of one neuron over time, its threshold and reset, and its spikes below.

    Args:
        v: Potentials, `[T]`.
        s: Spikes, `[T]`; every value other than 0 is a spike.
        v_threshold: Threshold of the potential.
        v_reset: Potential after a spike; None for a soft reset.
        title: Above the picture.
        figsize: Width and height in inches.
        dpi: Dots an inch.

    Raises:
        ValueError: `v` and `s` are not of one length, or are empty.
        ImportError: Matplotlib is not installed.
    """
    potentials, spikes = _array(v), _array(s)
    if potentials.ndim != 1 or potentials.shape != spikes.shape or not potentials.size:
        raise ValueError(
            "v and s have shape [T], one number a time step; these have "
            f"{list(potentials.shape)} and {list(spikes.shape)}"
        )
    figure = _figure(figsize, dpi)
    grid = figure.add_gridspec(4, 1)
    above = _axes(figure, title, "", "V", grid[:3, 0])
    above.plot(potentials, color="C0")
    above.axhline(v_threshold, color="C3", linestyle="--", label="threshold")
    if v_reset is not None:
        above.axhline(v_reset, color="C2", linestyle=":", label="reset")
    above.legend(loc="upper right")
    below = _axes(figure, "", "Time step", "S", grid[3, 0], sharex=above)
    below.eventplot(np.flatnonzero(spikes), lineoffsets=0.5, colors="C1")
    _count(below.xaxis)
    below.set(ylim=(0, 1), yticks=[], xlim=(-0.5, len(spikes) - 0.5))
    return figure


def surrogate(
    surrogate_function: Surrogate,
    u_min: float = -2.0,
    u_max: float = 2.0,
    points: int = 801,
    *,
    figsize: Size = (6, 4),
    dpi: float = 100,
) -> Figure:
    """The step of a surrogate, its smooth primitive and the gradient, over u = H - v_threshold.

    Args:
        surrogate_function: Of `neurogen.nn.surrogate`, or of a spec.
        u_min: Left end.
        u_max: Right end.
        points: Points of each line.
        figsize: Width and height in inches.
        dpi: Dots an inch.

    Raises:
        TypeError: It is no such surrogate.
        ImportError: Matplotlib is not installed.
    """
    if not isinstance(surrogate_function, Surrogate):
        raise TypeError(
            "surrogate_function is a neurogen.nn.surrogate module, not "
            f"{type(surrogate_function).__name__}"
        )
    u = torch.linspace(u_min, u_max, points, dtype=torch.float64)
    kind, shape = type(surrogate_function), surrogate_function.arguments
    tensors = tuple(torch.tensor(value, dtype=u.dtype) for value in shape)
    lines: dict[str, Tensor] = {
        "Heaviside": (u >= 0).to(u.dtype),
        "primitive": kind.primitive(u, *tensors),
        "gradient": kind.slope(u, *tensors),
    }
    names = ", ".join(f"{n}={v:g}" for n, v in zip(kind.shape, shape, strict=True))
    figure = _figure(figsize, dpi)
    axes = _axes(figure, f"{kind.__name__}({names})", "u", "")
    for (label, line), style in zip(lines.items(), ("-", "-.", "--"), strict=True):
        axes.plot(u.numpy(), line.numpy(), style, label=label)
    axes.legend()
    axes.grid(visible=True, linestyle=":")
    return figure


def _figure(figsize: Size, dpi: float) -> Figure:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and optional
    except ImportError as error:
        raise ImportError(
            "pictures are drawn by Matplotlib, which is not installed: pip install 'neurogen[plot]'"
        ) from error
    return Figure(figsize=figsize, dpi=dpi, layout="constrained")


def _axes(
    figure: Figure, title: str, xlabel: str, ylabel: str, where: Any = 111, **keywords: Any
) -> Any:
    axes = figure.add_subplot(where, **keywords)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return axes


def _count(*axes: Any) -> None:
    """Whole numbers at the ticks of steps and neurons."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as above

    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True))


def _array(values: Tensor | ArrayLike) -> Any:
    """Numbers in float64, wherever they are."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def _matrix(values: Tensor | ArrayLike) -> Any:
    array = _array(values)
    if array.ndim != 2:
        raise ValueError(
            f"a 2D array [T, N] is drawn; this one is {array.ndim}D, {list(array.shape)}. Choose "
            "a sample and flatten its neurons, e.g. x_seq[:, 0].flatten(1)"
        )
    if not array.size:
        raise ValueError(f"there is nothing to draw in an array of shape {list(array.shape)}")
    return array
