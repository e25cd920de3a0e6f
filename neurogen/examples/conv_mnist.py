"""A small convolutional network of LIF neurons learns handwritten digits.

    python -m neurogen.examples.conv_mnist

The same image is shown at each of T time steps. `-step-mode m` takes all steps through one layer
before the next (layer by layer, fused), `-step-mode s` one step through all layers (step by step):
the same network, the same results. At the end the trained network is tested in both. The first
layers see the image once, so that batch normalization takes its statistics over the same samples in
both modes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neurogen.examples import command

if TYPE_CHECKING:
    from torch import nn

    from neurogen.examples.training import Data, Score, Trainer

SETTINGS = (*command.SETTINGS, "step_mode")


def network(options: argparse.Namespace) -> nn.Module:
    """Images `[N, 28, 28]` in [0, 1] to output spikes `[T, N, 10]`."""
    import torch
    from torch import Tensor, nn

    import neurogen
    from neurogen.nn import functional, layer, surrogate

    LIFNode: Any = neurogen.load("lif")  # noqa: N806

    def lif() -> nn.Module:
        node: nn.Module = LIFNode(
            tau=options.tau, decay_input=False, detach_reset=True,
            surrogate_function=surrogate.ATan(), backend=options.backend,
        )  # fmt: skip
        return node

    class ConvSNN(nn.Module):
        """Currents from the image, once; spikes from the currents, T times."""

        def __init__(self) -> None:
            super().__init__()
            self.currents = nn.Sequential(
                nn.Unflatten(1, (1, 28)),  # [N, 1, 28, 28]
                nn.Conv2d(1, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
            )
            self.spikes = nn.Sequential(
                lif(),  # [N, 16, 28, 28], with a leading T in step mode 'm'
                layer.MaxPool2d(2),
                layer.Conv2d(16, 32, 3, padding=1),
                lif(),
                layer.MaxPool2d(2),
                layer.Flatten(),
                layer.Linear(32 * 7 * 7, 10),
                lif(),
            )
            functional.set_step_mode(self.spikes, options.step_mode)

        def forward(self, images: Tensor) -> Tensor:
            x = self.currents(images)
            if self.spikes[0].step_mode == "m":
                spikes: Tensor = self.spikes(x.expand(options.T, *x.shape))
                return spikes
            return torch.stack([self.spikes(x) for _ in range(options.T)])

    return ConvSNN()


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = command.parser(
        "conv_mnist", "Train a small convolutional network of LIF neurons on handwritten digits."
    )
    p.add_argument("-step-mode", choices=("m", "s"), default="m",
                   help="layer by layer (m) or step by step (s)")  # fmt: skip
    p.set_defaults(T=4, b=32, epochs=10)
    return p


def compare_step_modes(trainer: Trainer, test: Data) -> None:
    """Test the trained network in both step modes."""
    from rich.console import Console

    from neurogen.examples.training import log
    from neurogen.nn import functional

    before = trainer.settings["step_mode"]
    for mode, words in (("m", "layer by layer"), ("s", "step by step")):
        functional.set_step_mode(trainer.net, mode)
        score = trainer.test(test)
        log(f"{words}: test {score}, {score.seconds:.2f} s", Console())
    functional.set_step_mode(trainer.net, before)


def main(arguments: Sequence[str] | None = None) -> list[tuple[Score, Score]]:
    """The command: (training, test) score of each epoch that it ran."""
    return command.run(parser(), network, arguments, SETTINGS, compare_step_modes)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see lif_fc_mnist
    main()
