"""Speed and memory beside the peers: every row of the table in docs/performance.md.

    python benchmarks/speed.py [row …] [--rounds 15]

Contenders take turns within one process, on inputs that are not zeros, after their spikes were
found equal; what is printed are medians, in nanoseconds per element of x, and ratios. The traffic
of memory stands beside: y.copy_(x) and torch.add(x, g, out=y).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import neurogen
from neurogen.backends.cpp import launch
from neurogen.examples import conv_mnist
from neurogen.nn import convert, functional, surrogate
from neurogen.tools.bench.contenders import (
    AbsentError,
    Forward,
    compiled_loop,
    generated,
    loop,
    make,
)
from neurogen.tools.bench.measure import empty_caches, kernel_times, machine, medians, training
from neurogen.tools.bench.report import machine_line

SHAPES = ((4, 2**20), (16, 2**18), (64, 2**16), (256, 2**14))
#: As little arithmetic as a neuron can have that reads x in both directions.
SUM = "name: Sum\nsummary: The sum of squares.\ncharge: v + x * x\nfire: none\noutput: v\n"
ROOT = Path(__file__).parents[1]


# -- measuring -------------------------------------------------------------------------------------


def forgetful(stem: str = "lif", **keywords: Any) -> Forward:
    """A neuron of the zoo that forgets between calls, its slope that of `ATan`."""
    return generated(
        neurogen.load(stem), (1, 1), surrogate_function=surrogate.ATan(), **keywords
    )  # fmt: skip


def peer_lif(shape: tuple[int, int]) -> Forward | None:
    """SpikingJelly's LIF, where it is installed."""
    try:
        return make("spikingjelly", neurogen.load("lif"), shape)
    except AbsentError:
        return None


def check_equal(x: Tensor, *contenders: Callable[[Tensor], Tensor]) -> None:
    """Nothing is timed unless all give the same spikes."""
    first, *others = (contender(x) for contender in contenders)
    if not first.any() or not all(torch.equal(first, other) for other in others):
        raise SystemExit("the contenders' spikes differ; nothing was timed")


def table(title: str, *columns: str) -> Table:
    """A table whose numbers stand to the right, as Markdown."""
    result = Table(title=title, box=MARKDOWN)
    for column in columns:
        result.add_column(column, justify="right", no_wrap=True)
    return result


# -- rows ------------------------------------------------------------------------------------------


def end_to_end(rounds: int) -> Table:
    """LIF through the module beside SpikingJelly, the loop, and the loop compiled."""
    result = table("LIF forward + backward, ns an element",
                   "T x N", "ours", "our kernels", "loop", "SpikingJelly", "torch.compile",
                   "/ loop", "/ SpikingJelly", "/ compile")  # fmt: skip
    ours = forgetful()
    for steps, neurons in (*SHAPES, (4, 1024)):
        x = torch.randn(steps, neurons).abs_().requires_grad_()
        g = torch.randn(steps, neurons)
        fast, peer = compiled_loop(), peer_lif((steps, neurons))
        forwards = {"ours": ours, "loop": loop, "compile": fast} | ({"peer": peer} if peer else {})
        check_equal(x, *forwards.values())
        small = steps * neurons < 2**16
        contenders = {name: training(f, g, x) for name, f in forwards.items()}
        with kernel_times() as alone:
            times = medians(contenders, rounds * (20 if small else 1))
        times["kernels"] = sum(statistics.median(seconds[2:]) for seconds in alone.values())
        ns = {name: t * 1e9 / (steps * neurons) for name, t in times.items()}
        peer_ns = ns.get("peer", float("nan"))
        result.add_row(
            f"{steps}x{neurons}",
            *(f"{v:.2f}" for v in (ns["ours"], ns["kernels"], ns["loop"], peer_ns, ns["compile"])),
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
    result = table(title, "neuron", "T x N", "copy", "add", "forward", "backward", "forward / copy",
                   "backward / add", "least: forward", "backward")  # fmt: skip
    plain = neurogen.load_text(SUM)
    for stem, shape in cases:
        count = len(neurogen.load(stem).inputs)
        inputs = [torch.randn(shape).abs_().requires_grad_() for _ in range(count)]
        x, g = inputs[0].detach(), torch.randn(shape)
        y = torch.empty_like(x)
        contenders: dict[str, Callable[[], object]] = {
            "copy": partial(y.copy_, x),
            "add": partial(torch.add, x, g, out=y),
            "neuron": training(forgetful(stem), g, *inputs),
            "sum": training(generated(plain, shape), g, inputs[0]),
        }
        with kernel_times() as times:
            traffic = medians(contenders, rounds)
        # Neuron and sum took turns.
        ours, least = (
            [statistics.median(times[way][k::2][2:]) for way in ("forward", "backward")]
            for k in (0, 1)
        )
        beside = traffic["copy"], traffic["add"]
        ns = (f"{t * 1e9 / x.numel():.3f}" for t in (*beside, *ours))
        ratios = (f"{t / b:.2f}" for ts in (ours, least) for t, b in zip(ts, beside, strict=True))
        result.add_row(stem, f"{shape[0]}x{shape[1]}", *ns, *ratios)
    return result


def inference(rounds: int) -> Table:
    """Without gradients, with and without the sequence of potentials."""
    result = table("LIF inference, ns an element", "T x N", "copy", "spikes", "spikes and v_seq",
                   "spikes / copy", "both / 2 copies")  # fmt: skip
    plain, both = forgetful(), forgetful(store_v_seq=True)
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
    forward = forgetful()
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
    result = table("(4, 1024), microseconds a call", "x * 2", "empty Function", "LIF",
                   "empty / (x * 2)", "LIF / (x * 2)")  # fmt: skip
    x = torch.randn(4, 1024).abs_().requires_grad_()
    g = torch.randn(4, 1024)

    def double(x: Tensor) -> Tensor:
        return x * 2.0

    times = medians(
        {
            "mul": training(double, g, x),
            "empty": training(_Empty.apply, g, x),
            "lif": training(forgetful(), g, x),
        },
        rounds * 40,
    )
    ratios = (times[name] / times["mul"] for name in ("empty", "lif"))
    result.add_row(*(f"{t * 1e6:.0f}" for t in times.values()), *(f"{r:.1f}" for r in ratios))
    return result


class _Empty(torch.autograd.Function):
    """What no kernel of one's own can be called without."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.empty_like(x)


def threads(rounds: int) -> Table:
    """What all threads gain over one, beside what a copy gains."""
    count = torch.get_num_threads()
    result = table("LIF kernels, one thread's time by all threads'",
                   "T x N", "copy", "add", "forward", "backward")  # fmt: skip
    forward = forgetful()
    for steps, neurons in SHAPES:
        x, g = torch.randn(steps, neurons).abs_().requires_grad_(), torch.randn(steps, neurons)
        y, z = torch.empty(steps, neurons), x.detach()
        found: dict[int, list[float]] = {}
        for number in (1, count):
            torch.set_num_threads(number)
            with kernel_times() as times:
                contenders: dict[str, Callable[[], object]] = {
                    "ours": training(forward, g, x),
                    "copy": partial(y.copy_, z),
                    "add": partial(torch.add, z, g, out=y),
                }
                traffic = medians(contenders, rounds)
            ours = [statistics.median(times[name][2:]) for name in ("forward", "backward")]
            found[number] = [traffic["copy"], traffic["add"], *ours]
        gains = (one / many for one, many in zip(found[1], found[count], strict=True))
        result.add_row(f"{steps}x{neurons}", *(f"{gain:.2f}" for gain in gains))
    return result


def first_use(rounds: int) -> Table:
    """The first forward and backward in a process: kernels compiled, and found compiled."""
    result = table("First forward + backward of a process, seconds beyond the second",
                   "neuron", "empty cache", "filled cache")  # fmt: skip
    for stem in ("lif", "adex"):
        cold, warm = [], []
        for _ in range(max(3, rounds // 4)):
            with empty_caches():
                cold.append(_first(stem))
                warm.append(_first(stem))
        result.add_row(stem, f"{statistics.median(cold):.3f}", f"{statistics.median(warm):.3f}")
    return result


def _first(stem: str) -> float:
    """Seconds of the first call beyond those of the second, in a process of its own."""
    program = f"""
import importlib, time, torch
module = importlib.import_module("generated.{stem}")
node = getattr(module, {neurogen.load(stem).__name__!r})(step_mode="m")
x = torch.rand(4, 64, requires_grad=True)
def seconds():
    start = time.perf_counter()
    node.reset()
    node(x).sum().backward()
    return time.perf_counter() - start
torch.ones(1, requires_grad=True).sum().backward()
print(seconds() - seconds())
"""
    return float(_output([sys.executable, "-c", program]))


def _output(command: str | list[str]) -> str:
    """What a process prints, which may keep its bytecode as an installed package has it."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(command, shell=isinstance(command, str), cwd=ROOT, check=True, text=True,
                         capture_output=True, env=variables)  # fmt: skip
    return run.stdout


def network(rounds: int) -> Table:
    """A training step of the network of `neurogen.examples.conv_mnist`, with either's neurons."""
    result = table("Convolutional network, training step, ms",
                   "T x N", "ours", "SpikingJelly", "/ ours")  # fmt: skip
    try:
        from spikingjelly.activation_based import neuron  # type: ignore[import-untyped]  # noqa: PLC0415
        from spikingjelly.activation_based import surrogate as slopes  # noqa: PLC0415
    except ImportError:
        result.caption = "not installed: pip install spikingjelly"
        return result

    def theirs(ours: Any) -> nn.Module:
        node: nn.Module = neuron.LIFNode(
            tau=ours.tau, decay_input=ours.decay_input, detach_reset=ours.detach_reset,
            step_mode=ours.step_mode, surrogate_function=slopes.ATan(),
        )  # fmt: skip
        return node

    for steps, batch in ((4, 32), (16, 8)):
        torch.manual_seed(0)
        ours: Any = conv_mnist.network(conv_mnist.parser().parse_args([f"-T{steps}"]))
        with torch.no_grad():
            ours.spikes[6].weight.mul_(8)  # not trained yet: without it no output fires
        peer = convert(copy.deepcopy(ours), {neurogen.load("lif"): theirs})
        x, labels = torch.rand(batch, 28, 28), torch.arange(batch) % 10
        check_equal(x, partial(_run, ours), partial(_run, peer))
        times = medians(
            {"ours": partial(_train, ours, x, labels), "peer": partial(_train, peer, x, labels)},
            rounds,
        )
        result.add_row(f"{steps}x{batch}x28x28", *(f"{t * 1e3:.1f}" for t in times.values()),
                       f"{times['peer'] / times['ours']:.2f}")  # fmt: skip
    return result


def _run(net: nn.Module, x: Tensor) -> Tensor:
    """The spikes of a network that forgets."""
    functional.reset_net(net)
    spikes: Tensor = net(x)
    return spikes


def _train(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """One training step without the optimizer's."""
    net.zero_grad()
    nn.functional.cross_entropy(_run(net, x).mean(0), labels).backward()


def commands(rounds: int) -> Table:
    """Whole processes: the command line and imports."""
    result = table("Seconds, least of several", "command", "seconds")
    for command in (
        "neurogen --help", "neurogen build specs/lif.yaml", "neurogen build specs/*.yaml",
        f"{sys.executable} -c 'import neurogen'",
    ):  # fmt: skip
        seconds = []
        for _ in range(max(3, rounds // 4)):
            start = time.perf_counter()
            _output(command)
            seconds.append(time.perf_counter() - start)
        result.add_row(command.replace(sys.executable, "python"), f"{min(seconds):.3f}")
    program = """
import time, torch
start = time.perf_counter()
from generated.lif import LIFNode
print(time.perf_counter() - start)
"""
    beyond = [float(_output([sys.executable, "-c", program])) for _ in range(max(3, rounds // 4))]
    result.add_row("from generated.lif import LIFNode, beyond import torch", f"{min(beyond):.3f}")
    return result


def keep_memory() -> None:
    """Let malloc keep what is freed.

    Else glibc now and then gives memory back to the system, and whoever allocates next pays for
    having it mapped and cleared again, which takes longer than any of these kernels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


ROWS: dict[str, Callable[[int], Table]] = {
    f.__name__: f
    for f in (
        end_to_end, network, kernels, zoo, inference, chain, threads, overhead, first_use, commands
    )
}  # fmt: skip


def main() -> None:
    """Print the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_memory()
    console = Console(width=160, highlight=False)
    console.print(machine_line(machine()))
    for name in options.rows or ROWS:
        result = ROWS[name](options.rounds)
        console.print(f"\n**{result.title}**")
        result.title = None
        console.print(result)


if __name__ == "__main__":
    main()
