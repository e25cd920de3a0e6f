"""LIF forward and backward beside a plain PyTorch loop: ratios of medians, measured side by side.

    python benchmarks/lif.py [--shapes 4x1048576 16x262144 …] [--rounds 15]

Contenders take turns within one process, on inputs that are not zeros, after their spikes were
found equal. The memory traffic of one pass stands beside: y.copy_(x) and torch.add(x, g, out=y).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import neurogen
from neurogen.nn import surrogate


def loop(x: Tensor) -> Tensor:
    """What people write: hard reset, tau = 2, over `x.unbind(0)`."""
    fire = surrogate.ATan()
    v = torch.zeros_like(x[0])
    spikes = []
    for step in x.unbind(0):
        h = v + (step - v) / 2.0
        s = fire(h - 1.0)
        v = (1.0 - s) * h
        spikes.append(s)
    return torch.stack(spikes)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print a table of nanoseconds per element and of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["4x1048576", "16x262144", "256x16384"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    node = neurogen.load("lif")(surrogate_function=surrogate.ATan(), step_mode="m", backend="cpp")

    def fused(x: Tensor) -> Tensor:
        node.reset()
        spikes: Tensor = node(x)
        return spikes

    table = Table(title=f"LIF, float32, forward + backward, {torch.get_num_threads()} threads")
    for column in ("T x N", "loop ns", "fused ns", "copy + add ns", "loop / fused"):
        table.add_column(column, justify="right")
    for shape in options.shapes:
        steps, neurons = map(int, shape.split("x"))
        x = torch.randn(steps, neurons).abs_().requires_grad_()
        g = torch.randn(steps, neurons)
        y = torch.empty(steps, neurons)
        if not torch.equal(loop(x), fused(x)):
            raise SystemExit("the contenders' spikes differ; nothing was timed")

        def step(contender: Callable[[Tensor], Tensor], x: Tensor = x, g: Tensor = g) -> None:
            x.grad = None
            contender(x).backward(g)

        def traffic(x: Tensor = x, g: Tensor = g, y: Tensor = y) -> None:
            with torch.no_grad():
                y.copy_(x)
                torch.add(x, g, out=y)

        contenders: dict[str, Callable[[], None]] = {
            "loop": lambda: step(loop),
            "fused": lambda: step(fused),
            "traffic": traffic,
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in track(range(options.rounds + 2), description=shape, transient=True):
            for name, run in contenders.items():
                times[name].append(seconds(run))
        medians = {name: statistics.median(t[2:]) for name, t in times.items()}
        scale = 1e9 / (steps * neurons)
        table.add_row(
            shape,
            *(f"{medians[name] * scale:.2f}" for name in contenders),
            f"{medians['loop'] / medians['fused']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
