"""How time and memory are measured: contenders in turn, medians with their spread.

In: functions that run a contender once. Out: seconds and bytes. Contenders take turns within one
process, so that each finds the caches as the others left them: a hot loop flatters.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from neurogen.backends.cpp import launch

#: Rounds that are not counted.
WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a call: the median, and the quartiles around it."""

    median: float
    low: float
    high: float


def take_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu",
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:  # fmt: skip
    """Time contenders in turn; the first rounds warm up and are not counted.

    Args:
        contenders: What runs each of them once.
        rounds: How often; at least 2.
        device: Where they run; a GPU is waited for before each clock reading.
        after_round: Called when all had their turn.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + WARM_UP):
        for name, run in contenders.items():
            times[name].append(seconds(run, device))
        after_round()
    timings = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values[WARM_UP:], n=4, method="inclusive")
        timings[name] = Timing(median, low, high)
    return timings


def medians(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of a call, contenders in turn."""
    return {name: timing.median for name, timing in take_turns(contenders, rounds).items()}


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """How long one call takes, a GPU's work included."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that a call holds beyond what was held before, by torch's allocators."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler greets on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    recorder: Any = found.profiler
    events = [e for e in recorder.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def training(forward: Callable[..., Tensor], g: Tensor, *inputs: Tensor) -> Callable[[], None]:
    """Forward and backward, a fresh graph each time.

    Args:
        forward: A contender.
        g: The gradient of its output.
        *inputs: Leaves that require gradients.
    """

    def run() -> None:
        for x in inputs:
            x.grad = None
        torch.autograd.backward(forward(*inputs), g)

    return run


@contextmanager
def kernel_times() -> Iterator[dict[str, list[float]]]:
    """Seconds that the C++ kernels themselves take, within this context."""
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


@contextmanager
def empty_caches() -> Iterator[None]:
    """Within this context kernels are compiled anew, ours and torch.compile's."""
    names = ("NEUROGEN_CACHE", "TORCHINDUCTOR_CACHE_DIR", "CUPY_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.environ[name] = str(Path(folder, name.lower()))
            Path(os.environ[name]).mkdir(mode=0o700)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def machine(device: str = "cpu") -> dict[str, Any]:
    """What figures depend on: processor or GPU, threads, versions."""
    names = {"device": _processor()}
    if device.startswith("cuda"):
        names["device"] = torch.cuda.get_device_name(device)
    return {
        **names, "threads": torch.get_num_threads(), "system": platform.system(),
        "python": f"Python {platform.python_version()}", "torch": f"torch {torch.__version__}",
    }  # fmt: skip


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
