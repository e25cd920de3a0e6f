"""One fully connected layer of LIF neurons learns handwritten digits.

    python -m neurogen.examples.lif_fc_mnist -T 20 -epochs 5

Each image becomes T time steps of Poisson spikes; the class is the neuron that fires most. All T
steps go through the network at once (step mode 'm'), so the neurons run as one fused kernel.
`command.py` beside this file has the options, `training.py` the training loop.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neurogen.examples import command

if TYPE_CHECKING:
    from torch import nn

    from neurogen.examples.training import Score


def network(options: argparse.Namespace) -> nn.Module:
    """Images `[N, 28, 28]` in [0, 1] to output spikes `[T, N, 10]`."""
    from torch import nn

    import neurogen
    from neurogen.nn import encoding, surrogate

    LIFNode: Any = neurogen.load("lif")  # noqa: N806
    return nn.Sequential(
        encoding.PoissonEncoder(step_mode="m", T=options.T),  # [T, N, 28, 28]
        nn.Flatten(start_dim=2),  # [T, N, 784]
        nn.Linear(28 * 28, 10, bias=False),  # [T, N, 10], one matrix product for all steps
        LIFNode(
            tau=options.tau, surrogate_function=surrogate.ATan(), step_mode="m",
            backend=options.backend,
        ),
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options."""
    return command.parser(
        "lif_fc_mnist", "Train one fully connected layer of LIF neurons on handwritten digits."
    )


def main(arguments: Sequence[str] | None = None) -> list[tuple[Score, Score]]:
    """The command: (training, test) score of each epoch that it ran."""
    return command.run(parser(), network, arguments)


if __name__ == "__main__":
    # Threads that wait for one another sleep; spinning, they are several times slower as soon as
    # something else runs on the machine. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
