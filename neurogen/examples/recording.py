"""What the output layer does with one image, as arrays and pictures.

In: a trained network and an image. Out: `v_t_array.npy` and `s_t_array.npy` (`[T, neurons]`),
`v_t.png` and `s_t.png` in the folder of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurogen.nn import functional, visualizing
from neurogen.runtime.base import BaseNode

try:
    import matplotlib as mpl  # noqa: F401 - visualizing loads it when it draws, at the end
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the pictures need Matplotlib: pip install 'neurogen[examples]'"
    ) from error


@torch.no_grad()
def save(net: nn.Module, image: Tensor, folder: Path) -> None:
    """Run the network on one image, and keep potentials and spikes of its last neurons.

    Args:
        net: Images `[N, 28, 28]` to spikes `[T, N, neurons]`; its state is reset.
        image: `[1, 28, 28]`.
        folder: Where the four files go.
    """
    neurons = [module for module in net.modules() if isinstance(module, BaseNode)][-1]
    net.eval()
    functional.reset_net(net)
    neurons.set_monitor(True)
    net(image)
    records: Any = neurons.monitor
    v, s = (np.concatenate(records[name]) for name in "vs")  # a row each step
    neurons.set_monitor(False)
    functional.reset_net(net)
    np.save(folder / "v_t_array.npy", v)
    np.save(folder / "s_t_array.npy", s)
    heat = visualizing.plot_2d_heatmap(
        v, "Membrane potentials of the output layer", "Time step", "Neuron"
    )
    heat.savefig(folder / "v_t.png")
    spikes = visualizing.plot_1d_spikes(s, "Spikes of the output layer", "Time step", "Neuron")
    spikes.savefig(folder / "s_t.png")
