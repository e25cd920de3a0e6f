"""Speed and memory beside the peers: every row of the table in docs/performance.md.

    python benchmarks/speed.py [row …] [--rounds 15]

Contenders take turns within one process, on inputs that are not zeros, after their spikes were
found equal; what is printed are medians, in nanoseconds per element of x, and ratios. The traffic
of memory stands beside: y.copy_(x) and torch.add(x, g, out=y).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import neurogen
from neurogen.backends.cpp import launch
from neurogen.nn import surrogate

SHAPES = ((4, 2**20), (16, 2**18), (64, 2**16), (256, 2**14))
ROOT = Path(__file__).parents[1]
Contenders = dict[str, Callable[[], object]]


# -- contenders ------------------------------------------------------------------------------------


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


def generated(stem: str = "lif", backend: str = "auto", **keywords: Any) -> Callable[..., Tensor]:
    """A generated neuron that forgets between calls."""
    node = neurogen.load(stem)(
        surrogate_function=surrogate.ATan(), step_mode="m", backend=backend, **keywords
    )

    def forward(*inputs: Tensor) -> Tensor:
        node.reset()
        spikes: Tensor = node(*inputs)
        return spikes

    return forward


def spikingjelly() -> Callable[[Tensor], Tensor] | None:
    """SpikingJelly's LIF, where it is installed."""
    try:
        from spikingjelly.activation_based import neuron  # type: ignore[import-untyped]  # noqa: PLC0415
        from spikingjelly.activation_based import surrogate as slopes  # noqa: PLC0415
    except ImportError:
        return None
    node = neuron.LIFNode(surrogate_function=slopes.ATan(), step_mode="m")

    def forward(x: Tensor) -> Tensor:
        node.reset()
        spikes: Tensor = node(x)
        return spikes

    return forward


def compiled() -> Callable[[Tensor], Tensor]:
    """The loop through torch.compile, static shapes."""
    alpha = 2.0  # as surrogate.ATan()

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u: Tensor) -> Tensor:
            ctx.save_for_backward(u)
            return (u >= 0).to(u)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            u: Tensor = ctx.saved_tensors[0]
            half = torch.pi / 2 * alpha * u
            return g * (alpha / 2) / (1 + half * half)

    @torch.compile(dynamic=False)
    def forward(x: Tensor) -> Tensor:
        v = torch.zeros_like(x[0])
        spikes = []
        for step in x.unbind(0):
            h = v + (step - v) / 2.0
            s = Fire.apply(h - 1.0)  # type: ignore[no-untyped-call]
            v = (1.0 - s) * h
            spikes.append(s)
        return torch.stack(spikes)

    return forward


# -- measuring -------------------------------------------------------------------------------------


def medians(contenders: Contenders, rounds: int) -> dict[str, float]:
    """Seconds of a call, contenders in turn; two rounds of warming up are not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 2):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def training(forward: Callable[..., Tensor], g: Tensor, *inputs: Tensor) -> Callable[[], None]:
    """Forward and backward."""

    def run() -> None:
        for x in inputs:
            x.grad = None
        torch.autograd.backward(forward(*inputs), g)

    return run


@contextmanager
def kernel_times() -> Iterator[dict[str, list[float]]]:
    """Seconds that the kernels themselves take."""
    times: dict[str, list[float]] = {"forward": [], "backward": []}
    before = {name: getattr(launch, name) for name in times}

    def timed(name: str) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            start = time.perf_counter()
            before[name](*arguments)
            times[name].append(time.perf_counter() - start)

        return run

    for name in times:
        setattr(launch, name, timed(name))
    try:
        yield times
    finally:
        for name, function in before.items():
            setattr(launch, name, function)


def check_equal(x: Tensor, *contenders: Callable[[Tensor], Tensor]) -> None:
    """Nothing is timed unless all give the same spikes."""
    first, *others = (contender(x) for contender in contenders)
    if not first.any() or not all(torch.equal(first, other) for other in others):
        raise SystemExit("the contenders' spikes differ; nothing was timed")


def table(title: str, *columns: str) -> Table:
    """A table whose numbers stand to the right."""
    result = Table(title=f"{title} ({torch.get_num_threads()} threads)")
    for column in columns:
        result.add_column(column, justify="right", no_wrap=True)
    return result


# -- rows ------------------------------------------------------------------------------------------


def end_to_end(rounds: int) -> Table:
    """LIF through the module beside SpikingJelly, the loop, and the loop compiled."""
    result = table("LIF forward + backward, ns an element",
                   "T x N", "ours", "loop", "SpikingJelly", "torch.compile",
                   "/ loop", "/ SpikingJelly", "/ compile")  # fmt: skip
    ours, peer = generated(), spikingjelly()
    for steps, neurons in (*SHAPES, (4, 1024)):
        x = torch.randn(steps, neurons).abs_().requires_grad_()
        g = torch.randn(steps, neurons)
        fast = compiled()
        forwards = {"ours": ours, "loop": loop, "compile": fast} | ({"peer": peer} if peer else {})
        check_equal(x, *forwards.values())
        small = steps * neurons < 2**16
        times = medians(
            {name: training(f, g, x) for name, f in forwards.items()}, rounds * (20 if small else 1)
        )
        ns = {name: t * 1e9 / (steps * neurons) for name, t in times.items()}
        peer_ns = ns.get("peer", float("nan"))
        result.add_row(
            f"{steps}x{neurons}",
            *(f"{v:.2f}" for v in (ns["ours"], ns["loop"], peer_ns, ns["compile"])),
            *(f"{v / ns['ours']:.1f}" for v in (ns["loop"], peer_ns, ns["compile"])),
        )
    return result


def kernels(rounds: int) -> Table:
    """The kernels alone beside the traffic of memory."""
    return _kernels("LIF kernels, ns an element", [("lif", shape) for shape in SHAPES], rounds)


def zoo(rounds: int) -> Table:
    """Several states, functions and a learnable parameter."""
    stems = ("plif", "alif", "izhikevich", "adex", "clif", "cuba_lif", "srm")
    return _kernels("Kernels, ns an element", [(stem, (16, 2**18)) for stem in stems], rounds)


def _kernels(title: str, cases: list[tuple[str, tuple[int, int]]], rounds: int) -> Table:
    result = table(title, "neuron", "T x N", "copy", "add", "forward", "backward",
                   "forward / copy", "backward / add")  # fmt: skip
    for stem, (steps, neurons) in cases:
        forward = generated(stem)
        count = len(neurogen.load(stem).inputs)
        inputs = [torch.randn(steps, neurons).abs_().requires_grad_() for _ in range(count)]
        x, g = inputs[0].detach(), torch.randn(steps, neurons)
        y = torch.empty_like(x)
        with kernel_times() as times:
            traffic = medians(
                {
                    "ours": training(forward, g, *inputs),
                    "copy": partial(y.copy_, x),
                    "add": partial(torch.add, x, g, out=y),
                },
                rounds,
            )
        k = 1e9 / (steps * neurons)
        f, b = (statistics.median(times[name][2:]) * k for name in ("forward", "backward"))
        copy, add = traffic["copy"] * k, traffic["add"] * k
        result.add_row(stem, f"{steps}x{neurons}", *(f"{v:.3f}" for v in (copy, add, f, b)),
                       f"{f / copy:.2f}", f"{b / add:.2f}")  # fmt: skip
    return result


def inference(rounds: int) -> Table:
    """Without gradients, with and without the sequence of potentials."""
    result = table("LIF inference, ns an element", "T x N", "copy", "spikes", "spikes and v_seq",
                   "spikes / copy", "both / 2 copies")  # fmt: skip
    plain, both = generated(), generated(store_v_seq=True)
    for steps, neurons in SHAPES:
        x = torch.randn(steps, neurons).abs_()
        y = torch.empty_like(x)
        with torch.no_grad():
            times = medians(
                {
                    "copy": partial(y.copy_, x),
                    "plain": partial(plain, x),
                    "both": partial(both, x),
                },
                rounds,
            )
        ns = [times[name] * 1e9 / (steps * neurons) for name in ("copy", "plain", "both")]
        result.add_row(f"{steps}x{neurons}", *(f"{v:.3f}" for v in ns),
                       f"{ns[1] / ns[0]:.2f}", f"{ns[2] / ns[0] / 2:.2f}")  # fmt: skip
    return result


def chain(rounds: int) -> Table:
    """A producer before the neuron and a consumer after it; stores past the caches, or not."""
    result = table("mul, LIF, sum: forward + backward, ns an element",
                   "T x N", "plain stores", "as chosen", "plain / chosen")  # fmt: skip
    forward = generated()
    streams = launch.streams

    def train(x: Tensor) -> None:
        x.grad = None
        torch.autograd.backward(forward(x * 1.5).sum())

    def plainly(x: Tensor) -> None:
        launch.streams = lambda size: False
        try:
            train(x)
        finally:
            launch.streams = streams

    for neurons in (2**15, 2**18 - 3, 2**18, 2**20):
        x = torch.randn(4, neurons).abs_().requires_grad_()
        times = medians({"plain": partial(plainly, x), "chosen": partial(train, x)}, rounds)
        ns = [times[name] * 1e9 / (4 * neurons) for name in ("plain", "chosen")]
        result.add_row(f"4x{neurons}", *(f"{v:.3f}" for v in ns), f"{ns[0] / ns[1]:.2f}")
    return result


def overhead(rounds: int) -> Table:
    """A tiny tensor: what a call costs, beside `x * 2.` with its backward."""
    result = table("(4, 1024), microseconds a call", "x * 2", "LIF", "LIF / (x * 2)")
    x = torch.randn(4, 1024).abs_().requires_grad_()
    g = torch.randn(4, 1024)

    def double(x: Tensor) -> Tensor:
        return x * 2.0

    times = medians(
        {"mul": training(double, g, x), "lif": training(generated(), g, x)}, rounds * 40
    )
    result.add_row(*(f"{times[n] * 1e6:.0f}" for n in times), f"{times['lif'] / times['mul']:.1f}")
    return result


def commands(rounds: int) -> Table:
    """Whole processes: the command line and imports."""
    result = table("Seconds, least of several", "command", "seconds")
    import_torch = f"{sys.executable} -c 'import torch'"
    for command in (
        "neurogen --help", "neurogen build specs/lif.yaml", "neurogen build specs/*.yaml",
        f"{sys.executable} -c 'import neurogen'", import_torch,
        f"{sys.executable} -c 'import torch; from generated.lif import LIFNode'",
    ):  # fmt: skip
        seconds = []
        for _ in range(max(3, rounds // 4)):
            start = time.perf_counter()
            subprocess.run(command, shell=True, cwd=ROOT, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        result.add_row(command.replace(sys.executable, "python"), f"{min(seconds):.3f}")
    return result


ROWS: dict[str, Callable[[int], Table]] = {
    f.__name__: f
    for f in (end_to_end, kernels, zoo, inference, chain, overhead, commands)
}  # fmt: skip


def main() -> None:
    """Print the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for name in options.rows or ROWS:
        Console(width=max(Console().width, 120)).print(ROWS[name](options.rounds))


if __name__ == "__main__":
    main()
