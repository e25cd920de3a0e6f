"""`neurogen bench`: figures of kernels held to the goals, the counting itself, and the command."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from neurogen.cli import main
from neurogen.errors import BackendError
from neurogen.loading import load
from neurogen.tools.bench import compare, contenders, measure, report, static
from neurogen.tools.bench import ptx as bench_ptx
from neurogen.tools.bench.ptx import Kernel, Traffic

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "generated" / "REPORT.md"


def invoke(*arguments: object) -> Result:
    """`neurogen bench` with some arguments; stdout and stderr apart."""
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def nvrtc() -> str:
    """The version of NVRTC."""
    pytest.importorskip("cupy_backends.cuda.libs.nvrtc")
    try:
        return static.version()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def rows(nvrtc: str) -> dict[tuple[str, str], static.Row]:
    """LIF's kernels, by direction and storage type."""
    return {(row.direction, row.dtype): row for row in static.report("lif", load("lif"))}


# -- counting --------------------------------------------------------------------------------------

#: By hand: 8 B loaded and 4 B stored a step, 12 B loaded and 8 B stored once, 16 B marked.
KNOWN = """
struct Arguments { long long steps; const float* x; const double* y; float* out; float* none; };
extern "C" __global__ void known(const Arguments a) {
  const int n = threadIdx.x;
  double sum = a.y[n] + a.x[n];
  for (long long t = 0; t < a.steps; ++t) {
    if (t % 5 == 4) a.out[t] = a.x[t * 7 + n];
    sum = sum * a.y[t * 7 + n];
    if (a.none) a.none[n] = 1.0f;
    if (sum > 3) sum = sum * 0.5; else sum = sum + 1;
    a.out[t * 7 + n] = float(sum);
  }
  reinterpret_cast<double*>(a.out)[n] = sum;
}
"""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("steps", [0, 1, 4, 5, 23])
def test_traffic_of_a_kernel_whose_traffic_is_known(
    nvrtc: str, architecture: str, steps: int
) -> None:
    _, ptx = static.compiled_text(KNOWN, (), architecture)
    arguments = struct.pack("<5q", steps, 1 << 20, 1 << 24, 1 << 28, 0)
    marked = range((1 << 24) + 7 * 8, (1 << 24) + 7 * 8 * 3)  # steps 1 and 2 of y
    seldom = steps // 5
    assert Kernel(ptx, "known").traffic(arguments, 128, marked) == Traffic(
        loads=12 + 8 * steps + 4 * seldom,
        stores=8 + 4 * steps + 4 * seldom,
        marked=8 * len([t for t in (1, 2) if t < steps]),
    )


def test_a_load_that_depends_on_numbers_counts(nvrtc: str) -> None:
    """The larger of both ways; asm keeps the compiler from loading in any case."""
    text = """extern "C" __global__ void maybe(const float* x, float* y) {
      float value = x[0];
      if (value > 2) asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(y) : "memory");
      y[1] = value;
    }"""
    _, ptx = static.compiled_text(text, (), "sm_80")
    found = Kernel(ptx, "maybe").traffic(struct.pack("<2q", 64, 128), 32)
    assert found == Traffic(loads=8, stores=4, marked=0)


def test_a_loop_that_waits_for_a_number_is_left(nvrtc: str) -> None:
    """Nobody knows how often it runs: it counts once."""
    text = """extern "C" __global__ void waits(volatile float* x) {
      do x[1] = 1; while (x[0] < 2);
    }"""
    _, ptx = static.compiled_text(text, (), "sm_80")
    found = Kernel(ptx, "waits").traffic(struct.pack("<q", 64), 32)
    assert found == Traffic(loads=4, stores=4, marked=0)


@pytest.mark.parametrize("begin", [-3, 0, 2])
def test_signed_numbers_are_signed(nvrtc: str, begin: int) -> None:
    """Five steps with a stride of 2 from `begin`; quotients are rounded to 0, shifts down."""
    text = """extern "C" __global__ void counts(int begin, long long end, int two, float* y) {
      for (int k = begin; k < end; k += two) y[k] = 1;
      if (begin / two == -1 && begin % two == -1) y[99] = 1;
      if (min(begin, 0) < 0 && (begin >> 1) == -2 && (long long)begin < 0) y[98] = 1;
    }"""
    _, ptx = static.compiled_text(text, (), "sm_80")
    arguments = struct.pack("<i4xqi4xq", begin, begin + 10, 2, 1 << 20)
    found = Kernel(ptx, "counts").traffic(arguments, 32)
    assert found == Traffic(loads=0, stores=4 * (5 + 2 * (begin == -3)), marked=0)


def test_vectors_and_half_words_are_as_wide_as_they_are(nvrtc: str) -> None:
    text = """extern "C" __global__ void wide(const float4* x, float2* y, unsigned short* z) {
      const float4 a = x[threadIdx.x];
      y[threadIdx.x] = {a.x, a.w};
      z[threadIdx.x] = 3;
    }"""
    _, ptx = static.compiled_text(text, (), "sm_80")
    found = Kernel(ptx, "wide").traffic(struct.pack("<3q", 64, 128, 256), 32)
    assert found == Traffic(loads=16, stores=8 + 2, marked=0)


def test_a_kernel_that_is_not_there(nvrtc: str) -> None:
    _, ptx = static.compiled_text(KNOWN, (), "sm_80")
    with pytest.raises(ValueError, match="no kernel 'unknown'"):
        Kernel(ptx, "unknown")


def test_a_kernel_that_never_ends_is_refused(nvrtc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_ptx, "LIMIT", 1000)
    text = """extern "C" __global__ void ever(int* y) { for (;;) atomicAdd(y, 1); }"""
    _, ptx = static.compiled_text(text, (), "sm_80")
    with pytest.raises(ValueError, match="did not end"):
        Kernel(ptx, "ever").traffic(struct.pack("<q", 64), 32)


# -- resources -------------------------------------------------------------------------------------


def test_spills_local_and_shared_memory_are_seen(nvrtc: str) -> None:
    """An array that is indexed by a number lies in local memory; one that is shared, in shared."""
    text = """extern "C" __global__ void big(int* y, int n) {
      __shared__ int all[1000];
      int own[100];
      for (int k = 0; k < 100; ++k) own[k] = y[k];
      all[threadIdx.x] = own[n];
      __syncthreads();
      y[threadIdx.x] = all[threadIdx.x ^ 1];
    }"""
    log, _ = static.compiled_text(text, (), "sm_80")
    found = static.resources(log)
    assert (found.local, found.shared, found.spills) == (400, 4000, 0)
    spilling = """extern "C" __global__ void __launch_bounds__(1024, 2) many(float* y) {
      float v[90];
      #pragma unroll
      for (int k = 0; k < 90; ++k) v[k] = y[k * 99];
      __syncthreads();
      #pragma unroll
      for (int k = 0; k < 90; ++k) y[k] = v[k] * v[(k * 7 + 1) % 90];
    }"""
    log, _ = static.compiled_text(spilling, (), "sm_80")
    found = static.resources(log)
    assert found.registers == 32, "65536 registers for 2048 threads"
    assert found.spills > 0


@pytest.mark.parametrize(
    ("registers", "architecture", "expected"),
    [  # NVIDIA's occupancy calculator, blocks of 128 threads
        (32, "sm_80", 1.0), (38, "sm_80", 0.75), (56, "sm_80", 0.5625), (64, "sm_90", 0.5),
        (40, "sm_89", 1.0), (128, "sm_89", 1 / 3), (255, "sm_90", 0.125),
    ],
)  # fmt: skip
def test_occupancy(registers: int, architecture: str, expected: float) -> None:
    limits = next(a for a in static.ARCHITECTURES if a.name == architecture)
    found = static.Resources(registers, 0, 0, 0).occupancy(limits, 128)
    assert found == pytest.approx(expected)


def test_shared_memory_limits_occupancy() -> None:
    """48 KiB and the system's 1 KiB fit three times into 164 KiB: 12 of 64 warps."""
    found = static.Resources(16, 0, 0, 48 * 1024).occupancy(static.ARCHITECTURES[0], 128)
    assert found == 3 * 4 / 64


# -- the goals -------------------------------------------------------------------------------------


def test_lif_moves_no_more_than_it_must(rows: dict[tuple[str, str], static.Row]) -> None:
    """X and S; X, dL/dS and dL/dx; and at most one byte for checkpoints."""
    for dtype, size in (("float32", 4), ("float16", 2)):
        forward, backward = (rows[way, dtype].bytes for way in ("forward", "backward"))
        assert forward.total - forward.checkpoints == 2 * size
        assert backward.total - backward.checkpoints == 3 * size
        assert forward.checkpoints + backward.checkpoints <= 1


def test_lif_keeps_its_state_in_registers(rows: dict[tuple[str, str], static.Row]) -> None:
    for row in rows.values():
        assert len(row.resources) == len(static.ARCHITECTURES)
        for found in row.resources.values():
            assert (found.spills, found.local, found.shared) == (0, 0, 0)
            assert 16 <= found.registers <= 64


def test_the_bound_is_bytes_over_bandwidth() -> None:
    """20 B at 2039 GB/s are 9.8 ps."""
    part = next(part for part in static.PARTS if part.name == "A100 80GB SXM")
    assert static.Bytes(10, 10, 0).picoseconds(part) == pytest.approx(9.809, abs=1e-3)


def test_the_report_is_fresh(nvrtc: str) -> None:
    """Of three neurons; all are compared by `neurogen bench --static --check`."""
    if report.made_with(REPORT.read_text(encoding="utf-8")) != nvrtc:
        pytest.skip(f"the report was made by another NVRTC than {nvrtc}")
    result = invoke("--static", "--check", "lif", "plif", "alif", "-o", REPORT)
    assert result.exit_code == 0, result.output


def test_the_report_is_about_the_whole_zoo() -> None:
    text = REPORT.read_text(encoding="utf-8")
    for path in (ROOT / "specs").glob("*.yaml"):
        assert text.count(f"\n| {path.stem} |") == 2 + 4, "bytes by type, kernels by type"


def test_no_kernel_of_the_zoo_spills() -> None:
    lines = REPORT.read_text(encoding="utf-8").partition("## Registers")[2].splitlines()
    kernels = [line.split(" | ") for line in lines if "ward |" in line]
    assert len(kernels) == 4 * len(list((ROOT / "specs").glob("*.yaml")))
    assert {tuple(kernel[5:]) for kernel in kernels} == {("0", "0", "0 |")}


def test_a_stale_report_is_shown(nvrtc: str, tmp_path: Path) -> None:
    stale = tmp_path / "REPORT.md"
    text = REPORT.read_text(encoding="utf-8").replace("| if | float32 | 4", "| if | float32 | 3")
    stale.write_text(text.replace(report.made_with(text), nvrtc), encoding="utf-8")
    result = invoke("--static", "--check", "if", "-o", stale)
    assert result.exit_code == 1
    assert "-| if | float32 | 3" in result.output
    assert "neurogen bench --static -o" in result.stderr


def test_a_report_of_another_nvrtc_is_not_compared(nvrtc: str, tmp_path: Path) -> None:
    other = tmp_path / "REPORT.md"
    text = REPORT.read_text(encoding="utf-8")
    other.write_text(text.replace(report.made_with(text), "1.2"), encoding="utf-8")
    result = invoke("--static", "--check", "if", "-o", other)
    assert result.exit_code == 1, "what was not compared is not fresh"
    assert "not compared" in result.stderr


def test_static_json(nvrtc: str) -> None:
    result = invoke("--static", "if", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["nvrtc"] == nvrtc
    keys = {"spec", "direction", "dtype", "loads", "stores", "checkpoints", "bytes", "bound_ps",
            "architectures"}  # fmt: skip
    assert all(set(kernel) == keys for kernel in found["kernels"])
    assert len(found["kernels"]) == 4
    assert set(found["kernels"][0]["architectures"]) == {"sm_80", "sm_89", "sm_90"}


def test_without_nvrtc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    static._nvrtc.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", None)
    try:
        result = invoke("--static", "lif")
    finally:
        static._nvrtc.cache_clear()
    assert result.exit_code == 1
    assert "pip install 'neurogen[bench]'" in result.stderr


# -- measuring -------------------------------------------------------------------------------------


def test_bench_prints_json() -> None:
    result = invoke("lif", "--shape", "4x64", "--rounds", 2, "--against", "eager", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {"machine", "comparisons"}
    assert found["machine"]["device"]
    (comparison,) = found["comparisons"]
    assert (comparison["spec"], comparison["shape"]) == ("lif", [4, 64])
    assert comparison["least_bytes"] == 8 + 12
    assert 0.1 < comparison["rate"] < 0.9
    for entry, name in zip(comparison["entries"], ("ours", "eager"), strict=True):
        assert (entry["contender"], entry["status"]) == (name, "timed")
        assert 0 < entry["middle"][0] <= entry["ns"] <= entry["middle"][1]
        assert entry["first_call"] > 0
        assert entry["peak"] >= 4 + 4, "outputs and the gradient of x"


def test_bench_prints_a_table() -> None:
    result = invoke("alif", "--shape", "4x64", "--rounds", 2, "--against", "eager,snntorch")
    assert result.exit_code == 0, result.output
    assert "alif, 4x64" in result.stdout
    assert "snntorch: " in result.stdout, "takes part for lif only, or is not installed"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, at their import
@pytest.mark.parametrize("name", ["spikingjelly", "snntorch", "norse"])
def test_libraries_give_the_spikes_of_our_lif(name: str) -> None:
    cls, shape = load("lif"), (16, 4096)
    try:
        forward = contenders.make(name, cls, shape)
    except contenders.AbsentError as reason:
        pytest.skip(f"{name}: {reason}")
    ours = contenders.make("ours", cls, shape)
    inputs, _, expected = compare.inputs_for(ours, 1, shape, "cpu")
    with torch.no_grad():
        assert compare.differing(forward(*inputs), expected, exact=True) == 0


def test_a_contender_with_other_spikes_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(cls: Any, shape: Any, device: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            spikes = contenders.loop(x).clone()
            spikes[-1, 0] = 1 - spikes[-1, 0]
            return spikes

        return forward

    monkeypatch.setitem(contenders.CONTENDERS, "broken", broken)
    result = invoke("--shape", "4x50", "--rounds", 2, "--against", "broken,eager", "--json")
    assert result.exit_code == 0, result.output
    ours, wrong, right = json.loads(result.stdout)["comparisons"][0]["entries"]
    assert (ours["status"], right["status"]) == ("timed", "timed")
    assert wrong["status"] == "different: 0.50% of the outputs, so not timed"
    assert wrong["ns"] is None


def test_a_contender_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith("norse.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "norse", None)
    result = invoke("--shape", "4x50", "--rounds", 2, "--against", "norse")
    assert result.exit_code == 0, result.output
    assert "norse: not installed: pip install norse" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--against", "nobody"), "unknown contender 'nobody'; contenders are eager"),
        (("--shape", "16"), "'16' is no shape"),
        (("--shape", "0x4"), "'0x4' is no shape"),
        (("--shape", f"{'9' * 5000}x4"), "…' is no shape"),
        (("--shape", "4x4", "--shape", "1000x999999999999"), "1000x999999999999 takes at least"),
        (("--rounds", "1"), "x>=2"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--check",), "go with --static"),
        (("--static", "--shape", "4x4"), "nothing is measured"),
        (("--static", "--check", "--json"), "compares the text"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said() -> None:
    result = invoke("--device", "cuda")
    assert (result.exit_code, "torch sees no CUDA device" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "folder/" + "a" * 300 + ".yaml"])
def test_names_that_no_file_can_have(name: str) -> None:
    for arguments in ((name,), ("--static", name)):
        result = invoke(*arguments)
        assert isinstance(result.exception, SystemExit)
        assert result.exit_code == 1
        assert "cannot be read" in result.stderr or "NVRTC" in result.stderr


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    spec = tmp_path / "[b]:100:.yaml"
    spec.write_text("name: A\ncharge: v + x\n", encoding="utf-8")
    result = invoke(spec, "--shape", "4x64", "--rounds", 2, "--against", "eager")
    assert result.exit_code == 0, result.output
    assert "[b]:100:, 4x64" in result.stdout


def test_a_wrong_spec_is_shown(tmp_path: Path) -> None:
    spec = tmp_path / "wrong.yaml"
    spec.write_text("name: Wrong\ncharge: v + y\n", encoding="utf-8")
    result = invoke(spec)
    assert result.exit_code == 1
    assert "wrong.yaml:2:" in result.stderr


def test_turns_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of warming up are run and not counted; quartiles of 1, 2, 3, 4, 5 are 2, 3, 4."""
    order: list[str] = []
    clock = iter([9.0, 9.0, 9.0, 9.0, 1.0, 10.0, 5.0, 50.0, 2.0, 20.0, 4.0, 40.0, 3.0, 30.0])
    runs = {name: lambda name=name: order.append(name) for name in ("a", "b")}

    def seconds(run: Callable[[], object], device: str) -> float:
        run()
        return next(clock)

    monkeypatch.setattr(measure, "seconds", seconds)
    found = measure.take_turns(runs, 5)
    assert order == ["a", "b"] * 7
    assert found == {"a": measure.Timing(3, 2, 4), "b": measure.Timing(30, 20, 40)}


def test_peak_memory_of_a_call() -> None:
    """Two tensors of 4000 B at the same time, then one of 2000 B."""

    def run() -> None:
        a = torch.ones(1000)
        b = torch.ones(1000)
        del a, b
        torch.ones(500)

    assert 8000 <= measure.peak_memory(run) < 8200
