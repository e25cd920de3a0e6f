"""A tempotron learns to tell random spike patterns apart, as Gütig & Sompolinsky (2006) did.

    python -m neurogen.examples.tempotron --afferents 100 --load 1

Every afferent fires once, at a random time. Half of the patterns belong to each of two classes, and
for each class there is a neuron that has to fire for its patterns and to keep silent for the
others. The load is the number of patterns for each afferent; the capacity is about 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from neurogen.nn.event import Tempotron

CLASSES = 2
MARGIN = 0.1  # by which potentials should pass, or stay below, the threshold while learning


def patterns(afferents: int, count: int, T: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Spike times `[count, afferents]`, integers below T, and labels `[count]`."""
    times = torch.randint(T, (count, afferents), generator=generator).float()
    return times, torch.arange(count) % CLASSES


def correct(model: Tempotron, times: Tensor, labels: Tensor) -> float:
    """The share of patterns for which each neuron decides rightly."""
    with torch.no_grad():
        fires = model(times, "v_max") >= model.v_threshold
    return float((fires == torch.nn.functional.one_hot(labels, CLASSES)).all(1).float().mean())


def learn(
    afferents: int, load: float, T: int = 100, epochs: int = 1000, lr: float = 0.01, seed: int = 0
) -> tuple[float, int]:
    """Train on `load * afferents` patterns until all are right; (share right, epochs taken)."""
    generator = torch.Generator().manual_seed(seed)
    times, labels = patterns(afferents, round(load * afferents), T, generator)
    model = Tempotron(afferents, CLASSES, T)
    with torch.no_grad():
        model.fc.weight.copy_(
            torch.rand(model.fc.weight.shape, generator=generator) / afferents**0.5
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    target = torch.nn.functional.one_hot(labels, CLASSES)
    threshold = model.v_threshold + MARGIN * (2 * target - 1)
    for epoch in range(epochs):
        score = correct(model, times, labels)
        if score == 1:
            return score, epoch
        loss = Tempotron.mse_loss(model(times, "v_max"), threshold, labels, CLASSES)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return correct(model, times, labels), epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--afferents", type=int, default=100)
    parser.add_argument("--load", type=float, default=1.0, help="patterns for each afferent")
    parser.add_argument("-T", type=int, default=100, help="time steps")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    share, epochs = learn(**vars(given))
    print(f"{100 * share:.1f} % of {round(given.load * given.afferents)} patterns of "
          f"{given.afferents} afferents right after {epochs} epochs")  # fmt: skip


if __name__ == "__main__":
    main()
