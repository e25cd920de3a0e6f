"""How to train a classifier whose output is a firing rate: one epoch, one test, checkpoints.

In: a network that maps images `[N, 28, 28]` to spikes `[T, N, classes]`, and images. Out: a trained
network and checkpoints. Separate from the examples, which differ in their network only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from neurogen.examples.mnist import CLASSES, Digits
from neurogen.nn import functional


@dataclass(frozen=True, slots=True)
class Score:
    """What a pass over a data set gave: means over its samples, and how long it took."""

    loss: float
    accuracy: float
    seconds: float
    samples: int

    def __str__(self) -> str:
        return f"loss {self.loss:.4f} accuracy {self.accuracy:.4f}"


@dataclass(frozen=True, slots=True)
class Data:
    """Images (bytes, so that all fit the device) and labels, in memory."""

    images: Tensor
    labels: Tensor

    @classmethod
    def on(cls, device: torch.device, digits: Digits) -> Data:
        """NumPy arrays as tensors on a device."""
        return cls(*(torch.tensor(array, device=device) for array in digits))

    def batches(self, size: int, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """(images in [0, 1], labels), `size` at a time; the last batch may be smaller."""
        samples = len(self.labels)
        order = torch.randperm(samples) if shuffle else torch.arange(samples)
        for rows in order.to(self.labels.device).split(size):
            yield self.images[rows].float() / 255, self.labels[rows]


class Trainer:
    """A network, its optimizer, and all that a run needs to go on where it stopped.

    Args:
        net: Images `[N, 28, 28]` in [0, 1] to spikes `[T, N, classes]`.
        optimizer: Of the network's parameters.
        device: Where the network is.
        batch: Samples of a batch.
        amp: Mixed precision: float16 with a scaled loss on CUDA, bfloat16 without on the CPU.
        settings: What else determines the run; a checkpoint of other settings is refused.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        batch: int,
        amp: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.net, self.optimizer, self.device = net, optimizer, device
        self.batch, self.amp, self.settings = batch, amp, dict(settings or {})
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
        self.epoch = 0
        self.max_test_acc = -1.0

    def loss_and_hits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and how many of its samples are classified correctly.

        The loss is the mean squared error between firing rates and one-hot labels: the neuron of
        the right class shall fire at every step, the others never.
        """
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.amp):
            spikes = self.net(images)
        rate = spikes.mean(0, dtype=torch.float32)
        target = F.one_hot(labels, CLASSES).to(rate.dtype)
        return F.mse_loss(rate, target), (rate.argmax(1) == labels).sum()

    def train(self, data: Data, advance: Callable[[], object] = lambda: None) -> Score:
        """One epoch; `advance` is called after each batch."""
        self.net.train()

        def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            self.optimizer.zero_grad()
            loss, hits = self.loss_and_hits(images, labels)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            advance()
            return loss.detach(), hits

        return self._pass(step, data, shuffle=True)

    @torch.no_grad()
    def test(self, data: Data) -> Score:
        """Score of the network as it is."""
        self.net.eval()
        return self._pass(self.loss_and_hits, data, shuffle=False)

    def _pass(
        self, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], data: Data, shuffle: bool
    ) -> Score:
        start = time.perf_counter()
        loss_sum, hit_sum, samples = (torch.zeros((), device=self.device) for _ in range(3))
        for images, labels in data.batches(self.batch, shuffle):
            loss, hits = step(images, labels)
            functional.reset_net(self.net)  # the next batch starts from resting potentials
            loss_sum += loss * len(labels)  # summed on the device: reading them back would wait
            hit_sum += hits
            samples += len(labels)
        n = len(data.labels)
        loss_mean, accuracy = loss_sum.item() / n, hit_sum.item() / n
        return Score(loss_mean, accuracy, time.perf_counter() - start, n)

    def save(self, path: Path) -> None:
        """Write a checkpoint; an interrupted write leaves the old one."""
        cuda = self.device.type == "cuda"
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "max_test_acc": self.max_test_acc,
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            "settings": self.settings,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, to the numbers of a run that was never interrupted.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is of a run with other settings; the text says which.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs: dict[str, Any] = state["settings"]
        differing = [name for name, value in self.settings.items() if theirs.get(name) != value]
        if differing:
            was = ", ".join(f"-{name} {theirs.get(name)}" for name in differing)
            raise ValueError(f"{path} is of a run with {was}; give the same to resume it")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.max_test_acc = state["epoch"], state["max_test_acc"]
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)
