"""Processes, threads and signals: kernels are whole, results right; nothing grows or hangs."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import unprivileged
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neurogen import load
from neurogen.backends import toolchain

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SPEC = ROOT / "specs" / "lif.yaml"
TRAIN = """
import sys
import torch
from neurogen import load
torch.manual_seed(0)
x = (torch.rand(16, 999) * 3).requires_grad_()
y = load("lif")(step_mode="m", backend="cpp")(x)
y.sum().backward()
print(float(y.sum()), float(x.grad.double().sum()))
"""


def start(program: str, cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "NEUROGEN_CACHE": str(cache), **environment},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What a process printed that went well."""
    said, complaint = process.communicate(timeout=200)
    assert process.returncode == 0, complaint[-3000:]
    return said


def kinds(cache: Path) -> set[str]:
    """Endings of everything in a cache."""
    return {path.suffix for path in (cache / "cpp").iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `TRAIN` prints where nothing disturbs it."""
    return finish(start(TRAIN, tmp_path_factory.mktemp("cache")))


# -- the compile cache -----------------------------------------------------------------------------


def test_many_processes_use_a_neuron_for_the_first_time(
    tmp_path: Path, trained: str, request: pytest.FixtureRequest
) -> None:
    count = 20 if request.config.getoption("--long") else 4
    running = [start(TRAIN, tmp_path) for _ in range(count)]
    assert {finish(process) for process in running} == {trained}
    assert len(list(tmp_path.glob("cpp/*.so"))) == 3  # a probe, and either direction
    assert kinds(tmp_path) == {".so", ".sha256", ".lock"}


def slow_compiler(folder: Path) -> Path:
    """A compiler that says when it has begun with a kernel, and waits to be told to go on."""
    script = folder / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *BACKWARD*) touch {folder}/begun\n'
        f'for k in "$@"; do case $k in *.so) printf half > "$k";; esac; done\n'
        f"while [ ! -e {folder}/go ]; do sleep 0.05; done;; esac\n"
        'exec g++ "$@"\n'
    )
    script.chmod(0o700)
    return script


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_of_a_first_compile(
    tmp_path: Path, trained: str, how: signal.Signals
) -> None:
    compiler, cache = str(slow_compiler(tmp_path)), tmp_path / "cache"
    process = start(TRAIN, cache, CXX=compiler)
    wait_for(tmp_path / "begun")
    process.send_signal(how)
    time.sleep(0.2)
    (tmp_path / "go").touch()  # the compiler itself was not stopped
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else -signal.SIGINT)
    assert how == signal.SIGKILL or "KeyboardInterrupt" in complaint
    assert finish(start(TRAIN, cache, CXX=compiler)) == trained
    assert kinds(cache) == {".so", ".sha256", ".lock"}


def wait_for(path: Path) -> None:
    """Until a file is there."""
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path.name} never came")


def test_a_disk_that_is_full_at_the_first_compile(tmp_path: Path, trained: str) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
    process = start(limit + TRAIN, tmp_path)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "BackendError" in complaint
    assert not list(tmp_path.glob("cpp/*.so"))
    assert finish(start(TRAIN, tmp_path)) == trained
    assert kinds(tmp_path) == {".so", ".sha256", ".lock"}


@pytest.mark.skipif(sys.platform != "linux", reason="root gives up its rights as Linux has them")
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_a_cache_that_cannot_be_written(tmp_path: Path, trained: str, filled: bool) -> None:
    cache = tmp_path / "cpp"
    cache.mkdir(mode=0o700)
    if filled:
        assert finish(start(TRAIN, tmp_path)) == trained
    before = sorted(cache.iterdir())
    cache.chmod(0o500)
    process = start(unprivileged.PROGRAM + TRAIN, tmp_path)
    said, complaint = process.communicate(timeout=60)
    if filled:  # what is there is used
        assert (process.returncode, said) == (0, trained), complaint
    else:
        assert process.returncode == 1
        assert "BackendError" in complaint and "set NEUROGEN_CACHE" in complaint
        fallback = TRAIN.replace('backend="cpp"', 'backend="auto"')
        on_torch = finish(start(unprivileged.PROGRAM + fallback, tmp_path))
        spikes, _, _ = trained.partition(" ")
        assert on_torch.startswith(spikes + " ")  # gradients round differently there
    assert sorted(cache.iterdir()) == before
    cache.chmod(0o700)
    assert finish(start(TRAIN, tmp_path)) == trained


def test_a_clock_that_was_set_back(tmp_path: Path, trained: str) -> None:
    assert finish(start(TRAIN, tmp_path)) == trained
    ahead = time.time() + 10 * 365 * 86400
    for path in (tmp_path / "cpp").iterdir():
        os.utime(path, (ahead, ahead))
    assert finish(start(TRAIN, tmp_path)) == trained


@pytest.mark.parametrize("what", ["processor", "headers", "identity"])
def test_a_cache_from_elsewhere_is_not_used(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROGEN_CACHE", str(tmp_path))
    text = 'extern "C" int answer() { return 1; }\n'
    here = toolchain.shared_library(text, "", ("-O0",))
    monkeypatch.setattr(toolchain, what, lambda *_: "another")
    assert toolchain.shared_library(text, "", ("-O0",)) != here


# -- signals ---------------------------------------------------------------------------------------

LONG = """
import torch
from neurogen import load
node = load("lif")(step_mode="m", backend="cpp")
x = torch.rand(200, 1_000_000)
node(x[:2])
print("running", flush=True)
while True:
    node.reset()
    node(x)
"""


def test_ctrl_c_in_a_long_kernel(tmp_path: Path) -> None:
    process = start(LONG, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in complaint
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_in_a_build(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neurogen", "build",
               *map(str, sorted(SPEC.parent.glob("*.yaml"))), "-o", str(tmp_path)]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    while process.poll() is None and not any(tmp_path.iterdir()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Traceback" not in complaint
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            committed = ROOT / "generated" / path.relative_to(tmp_path)
            assert path.read_bytes() == committed.read_bytes()


# -- threads and forks -----------------------------------------------------------------------------


def train(node: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    y, _ = node.functional(leaf)
    return y.detach(), torch.autograd.grad(y.sum(), leaf)[0]


def test_two_threads_in_the_same_kernel() -> None:
    node = load("lif")(step_mode="m", backend="cpp")
    xs = [torch.rand(32, 20_000) * (k + 2) for k in range(4)]
    alone = [train(node, x) for x in xs]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(20):
            if not all(map(torch.equal, train(node, xs[k]), alone[k])):
                wrong.append(k)

    torch.set_num_threads(2)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        torch.set_num_threads(1)
    assert not wrong


class Encoded(Dataset[Tensor]):
    """Samples that a neuron makes, in a worker."""

    def __init__(self) -> None:
        self.node = load("lif")(step_mode="m", backend="cpp")

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            return self.node.functional(torch.rand(16, 50_000, generator=generator) * 3)[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method: str) -> None:
    dataset = Encoded()
    torch.set_num_threads(2)
    try:
        alone = [dataset[k] for k in range(len(dataset))]  # here the OpenMP pool comes to life
        loader = DataLoader(
            dataset, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=100
        )
        assert all(map(torch.equal, loader, alone))
    finally:
        torch.set_num_threads(1)


# -- nothing grows ---------------------------------------------------------------------------------

CYCLES = """
import gc, os, resource
from pathlib import Path
import torch
from neurogen import load
LIF, x = load("lif"), torch.rand(4, 100, requires_grad=True)

def cycles(count):
    for _ in range(count):
        node = LIF(step_mode="m", backend="cpp", store_v_seq=True)
        node(x).sum().backward()
        x.grad = None
        del node
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), len(os.listdir("/proc/self/fd")), len(gc.get_objects())

# Allocators take more now and then; what is lost in every cycle is lost in every round.
rounds = [cycles(2_000) for _ in range(6)]
print(*(min(b - a for a, b in zip(found, found[1:])) for found in zip(*rounds)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_ten_thousand_neurons_leave_nothing_behind(tmp_path: Path) -> None:
    grown, handles, objects = map(int, finish(start(CYCLES, tmp_path)).split())
    assert grown < 2**16  # 32 bytes a cycle
    assert handles == 0
    assert objects == 0


def test_the_cache_is_private(tmp_path: Path, trained: str) -> None:
    assert finish(start(TRAIN, tmp_path / "new")) == trained
    for folder in (tmp_path / "new", tmp_path / "new" / "cpp"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (tmp_path / "new" / "cpp").glob("*.so"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077
