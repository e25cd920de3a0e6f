"""How to train a classifier whose output is a firing rate: epochs, tests, checkpoints.

In: a network that maps images `[N, 28, 28]` to spikes `[T, N, classes]`, and images. Out: a trained
network and checkpoints. Separate from the examples, which differ in their network only.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.tensorboard import SummaryWriter

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
        for rows in torch.split(order.to(self.labels.device), size):
            yield self.images[rows].float() / 255, self.labels[rows]


def choose_device(name: str | None = None) -> torch.device:
    """The device of that name; without a name cuda:0 where there is one, else the CPU.

    Raises:
        ValueError: No such device here.
    """
    there = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda:0" if there else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use cpu or cuda:0") from error
    if device.type == "cuda" and not there:
        raise ValueError(f"torch sees no CUDA device here, so not {name}; use cpu")
    return device


def log(line: str, console: Console) -> None:
    """Print one line, however narrow the terminal, as it is written."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


class Trainer:
    """A network, its optimizer, and all that a run needs to go on where it stopped.

    Args:
        net: Images `[N, 28, 28]` in [0, 1] to spikes `[T, N, classes]`.
        optimizer: Of the network's parameters.
        device: Where the network is.
        batch: Samples of a batch.
        amp: Mixed precision: float16 with a scaled loss on CUDA, bfloat16 without on the CPU.

    Attributes:
        settings: What else the numbers depend on; a checkpoint of other settings is refused.
        backend: What runs the neurons, for the log.
        epoch: Epochs done.
        max_test_acc: Best test accuracy so far.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        batch: int,
        amp: bool = False,
    ) -> None:
        self.net, self.optimizer, self.device = net, optimizer, device
        self.batch, self.amp = batch, amp
        self.settings: dict[str, Any] = {}
        self.backend = "auto"
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
        self.epoch = 0
        self.max_test_acc = -1.0

    def fit(self, train: Data, test: Data, epochs: int, folder: Path) -> list[tuple[Score, Score]]:
        """Train up to an epoch; log and save each.

        Args:
            train: Training images.
            test: Test images.
            epochs: Epochs altogether, with those that a resumed run had done.
            folder: Where `checkpoint_latest.pth` and `checkpoint_max.pth` (the best one) go, and
                the curves of loss and accuracy for TensorBoard.

        Returns:
            (training, test) score of each epoch that was run.
        """
        scores = []
        batches = math.ceil(len(train.labels) / self.batch)
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        curves = SummaryWriter(folder, purge_step=self.epoch)
        with curves, Progress(*columns) as progress:
            bar = progress.add_task("batches", total=epochs * batches)
            progress.advance(bar, self.epoch * batches)
            while self.epoch < epochs:
                learnt = self.train(train, lambda: progress.advance(bar))
                tested = self.test(test)
                scores.append((learnt, tested))
                for part, score in (("train", learnt), ("test", tested)):
                    curves.add_scalar(f"{part}/loss", score.loss, self.epoch)
                    curves.add_scalar(f"{part}/accuracy", score.accuracy, self.epoch)
                self._finish_epoch(tested.accuracy, folder)
                log(
                    f"epoch {self.epoch}/{epochs}: train {learnt}, test {tested}, "
                    f"{learnt.seconds:.2f} s, {learnt.samples / learnt.seconds:.0f} samples/s, "
                    f"backend {self.backend}",
                    progress.console,
                )
        seconds = sum(learnt.seconds for learnt, _ in scores)
        log(
            f"best test accuracy {self.max_test_acc:.4f}; trained {seconds:.2f} s on "
            f"{self.device}, backend {self.backend}; checkpoints in {folder}",
            progress.console,
        )
        return scores

    def _finish_epoch(self, accuracy: float, folder: Path) -> None:
        best = accuracy > self.max_test_acc
        self.max_test_acc = max(accuracy, self.max_test_acc)
        self.epoch += 1
        self.save(folder / "checkpoint_latest.pth")
        if best:
            self.save(folder / "checkpoint_max.pth")

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
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
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
        loss_sum, hit_sum = torch.zeros(2, dtype=torch.float64, device=self.device)
        for images, labels in data.batches(self.batch, shuffle):
            loss, hits = step(images, labels)
            functional.reset_net(self.net)  # the next batch starts from resting potentials
            loss_sum += loss * len(labels)  # summed on the device: reading each back would wait
            hit_sum += hits
        samples = len(data.labels)
        loss_mean, accuracy = loss_sum.item() / samples, hit_sum.item() / samples
        return Score(loss_mean, accuracy, time.perf_counter() - start, samples)

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
            ValueError: It is no checkpoint, or of a run with other settings; the text says which.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            theirs: dict[str, Any] = state["settings"]
        except (EOFError, LookupError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is no checkpoint of this example") from error
        differing = [name for name, value in self.settings.items() if theirs.get(name) != value]
        if differing:
            was = ", ".join(f"-{name} {theirs.get(name)}" for name in differing)
            raise ValueError(f"{path} is of a run with {was}; give the same to resume it")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.max_test_acc = state["epoch"], state["max_test_acc"]
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)
