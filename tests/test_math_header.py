"""The header of transcendental functions: accurate to 2 ulp, and the same bits in every build."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import neurogen.runtime

INCLUDE = Path(neurogen.runtime.__file__).parent / "include"
HEADER = INCLUDE / "neurogen" / "math.h"
MAX_ULP = 2.0
TRIG_RANGE = 1e6  # what the header promises for sin and cos

Array = NDArray[Any]
INF, NAN = math.inf, math.nan


# ---- The functions and what they should be ------------------------------------------------------


class Function(NamedTuple):
    """A transcendental function: to any precision, in float64, and where it is special."""

    exact: Callable[[Any], Any]
    float64: Callable[[torch.Tensor], torch.Tensor]
    special: dict[float, float]
    odd: bool = False


mp = mpmath.mp.clone()
mp.dps = 60  # sin(x) next to a multiple of pi loses 35 of them


FUNCTIONS = {
    "exp": Function(mp.exp, torch.exp, {-INF: 0, INF: INF, 0: 1}),
    "expm1": Function(mp.expm1, torch.expm1, {-INF: -1, INF: INF}, odd=True),
    "log": Function(mp.log, torch.log, {-INF: NAN, -1: NAN, 0: -INF, 1: 0, INF: INF}),
    "log1p": Function(mp.log1p, torch.log1p, {-INF: NAN, -2: NAN, -1: -INF, INF: INF}, odd=True),
    "tanh": Function(mp.tanh, torch.tanh, {-INF: -1, INF: 1}, odd=True),
    "sigmoid": Function(
        lambda x: 1 / (1 + mp.exp(-x)),
        lambda x: torch.where(x < 0, x.exp() / (1 + x.exp()), 1 / (1 + torch.exp(-x))),
        {-INF: 0, INF: 1, 0: 0.5},
    ),
    "softplus": Function(
        lambda x: max(x, 0) + mp.log1p(mp.exp(-abs(x))),
        lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())),
        {-INF: 0, INF: INF},
    ),
    "sin": Function(mp.sin, torch.sin, {-INF: NAN, INF: NAN}, odd=True),
    "cos": Function(mp.cos, torch.cos, {-INF: NAN, INF: NAN, 0: 1}),
    "erf": Function(mp.erf, torch.erf, {-INF: -1, INF: 1}, odd=True),
    "atan": Function(mp.atan, torch.atan, {-INF: -math.pi / 2, INF: math.pi / 2}, odd=True),
    "gaussian": Function(
        lambda x: mp.exp(-x * x), lambda x: torch.exp(-x * x), {-INF: 0, INF: 0, 0: 1}
    ),
}


def ieee_sqrt(x: torch.Tensor) -> torch.Tensor:
    """Rounded correctly, which `torch.sqrt` is not where MKL computes it."""
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.sqrt(x.numpy()))


EXACT: dict[str, Callable[..., torch.Tensor]] = {
    "sqrt": ieee_sqrt,
    "abs": torch.abs,
    "sign": lambda x: torch.where(x.isnan(), x, torch.sign(x)),  # torch.sign(nan) is 0
    "floor": torch.floor,
    "round": torch.round,
    "relu": torch.relu,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "clip": lambda x, lo, hi: torch.minimum(torch.maximum(x, lo), hi),
}
#: Of an exponential integrator; accurate as far as exp is finite.
INTEGRATOR: dict[str, tuple[Callable[[Any], Any], float]] = {
    "phi": (lambda x: mp.expm1(x) / x if x else mp.mpf(1), MAX_ULP),
    "phi_slope": (lambda x: mp.hyp1f1(2, 3, x) / 2, 8.0),
}
ARITY = dict.fromkeys((*FUNCTIONS, *EXACT, *INTEGRATOR), 1) | {
    "minimum": 2,
    "maximum": 2,
    "clip": 3,
}
CTYPES: dict[str, Any] = {"float": np.float32, "double": np.float64}
everything = pytest.mark.parametrize("name", ARITY)
transcendental = pytest.mark.parametrize("name", FUNCTIONS)
both = pytest.mark.parametrize("ctype", CTYPES)


# ---- Builds of it -------------------------------------------------------------------------------

# The CUDA half of the header, with the intrinsics it uses.
CUDA_SHIM = """
#define __CUDACC__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define SHIM(NAME, FROM, TO) inline TO NAME(FROM x) { return __builtin_bit_cast(TO, x); }
SHIM(__float_as_uint, float, unsigned) SHIM(__uint_as_float, unsigned, float)
SHIM(__double_as_longlong, double, long long) SHIM(__longlong_as_double, long long, double)
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }
"""
FLAGS = ["-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
BUILDS = {
    "vector": ["-O3", "-march=native", "-fopenmp-simd"],
    "narrow": ["-O3", "-fopenmp-simd"],  # the oldest processor of this family
    "scalar": ["-O1", "-fno-tree-vectorize", "-Wno-unknown-pragmas"],
    "cuda": ["-O1", "-Wno-unknown-pragmas"],
}


def loops() -> Iterator[str]:
    """One line of C++ each: a function applied to arrays."""
    for name, arity in ARITY.items():
        for ctype in CTYPES:
            arguments = ["a", "b", "c"][:arity]
            parameters = "".join(f"const {ctype}* {a}, " for a in arguments)
            call = f"neurogen::{name}({', '.join(f'{a}[i]' for a in arguments)})"
            yield (
                f'extern "C" void {name}_{ctype}({parameters}{ctype}* y, long n) '
                f'{{ _Pragma("omp simd") for (long i = 0; i < n; ++i) y[i] = {call}; }}'
            )


class Library:
    """The loops, compiled; `library("exp", x)` applies one of them."""

    def __init__(self, build: str, folder: Path) -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("g++ is not installed")
        shim = CUDA_SHIM if build == "cuda" else ""
        text = f'{shim}#include "neurogen/math.h"\n' + "\n".join(loops())
        source, binary = folder / f"{build}.cpp", folder / f"{build}.so"
        source.write_text(text)
        report = [f"-fopt-info-vec-optimized={folder / build}.txt"]
        command = [compiler, *FLAGS, *BUILDS[build], *report, f"-I{INCLUDE}", str(source)]
        command += ["-o", str(binary)]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        self.lines = text.splitlines()
        self.report = (folder / f"{build}.txt").read_text()
        self.functions = ctypes.CDLL(str(binary))

    def __call__(self, name: str, *inputs: Array) -> Array:
        """The function of that name, element by element."""
        inputs = tuple(np.ascontiguousarray(x) for x in inputs)
        output = np.empty_like(inputs[0])
        ctype = "float" if output.dtype == np.float32 else "double"
        arrays = (ctypes.c_void_p(x.ctypes.data) for x in (*inputs, output))
        getattr(self.functions, f"{name}_{ctype}")(*arrays, ctypes.c_long(output.size))
        return output


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    folder = tmp_path_factory.mktemp("math_header")
    return {build: Library(build, folder) for build in BUILDS}


# ---- Points and distances -----------------------------------------------------------------------


@cache
def patterns(ctype: str, stride: int = 4097) -> Array:
    """Numbers of every exponent, evenly over all bit patterns: NaN, infinite, subnormal, ..."""
    if ctype == "float":
        return np.arange(0, 2**32, stride, dtype=np.uint32).view(np.float32)
    step = stride * 2**32 + 0x9E3779B9
    return np.arange(0, 2**64 - step, step, dtype=np.uint64).view(np.float64)


def around(x: float) -> list[float]:
    """The double x and two neighbours on either side."""
    below, above = math.nextafter(x, -INF), math.nextafter(x, INF)
    return [math.nextafter(below, -INF), below, x, above, math.nextafter(above, INF)]


@cache
def doubles() -> Array:
    """Doubles of all magnitudes, many of ordinary size, and those next to every threshold."""
    random = np.random.default_rng(1)
    mantissas = random.uniform(1, 2, (2, 250)) * [[1], [-1]]
    points = [np.ldexp(mantissas, np.linspace(-1074, 1023, 250).astype(int)).ravel()]
    points += [random.uniform(-scale, scale, 250) for scale in (0.5, 1, 4, 40, 750)]
    points += [1 + random.uniform(-1, 1, 50) * scale for scale in (1e-2, 1e-6, 1e-14)]
    thresholds = [0.55, 0.66, 1 + math.sqrt(2), 1, 64 * math.log(2), 19, 20, 38.5, 40, 27.375]
    thresholds += [(k + 0.5) * math.log(2) for k in (0, 1, 2, 20, 52, 53, 1023)]
    thresholds += [math.log(2.0**1023) + math.log(2), 1074 * math.log(2), 1075 * math.log(2)]
    thresholds += [math.sqrt(k * math.log(2)) for k in (1022, 1074, 1075)]
    thresholds += [2.0**-1022, 1 / math.sqrt(2), math.sqrt(2), 1 / math.sqrt(2) - 1, 5.92]
    points += [[s * x for x in around(t) for s in (1, -1)] for t in thresholds]
    return np.concatenate(points)


def ordinary(ctype: str) -> Array:
    """These points in the given format, without those it cannot hold."""
    dtype = CTYPES[ctype]
    x = doubles()
    return np.asarray(x[np.abs(x) <= np.finfo(dtype).max], dtype=dtype)


@cache
def near_multiples() -> Array:
    """Doubles next to multiples of pi/2, where sin or cos shows each error of the reduction."""
    multiples = [*range(1, 50), *np.random.default_rng(2).integers(50, 636_619, 500)]
    return np.asarray([float(mp.pi / 2 * int(k)) for k in multiples])


def float_error(got: Array, exact: Array) -> Array:
    """The error of float32 results in ulp of the exact ones; an overflow counts as 2^128."""
    assert np.array_equal(np.isnan(got), np.isnan(exact))
    assert np.array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(exact) & ~np.isnan(exact))
    got, exact = (
        np.clip(np.nan_to_num(v.astype(float)), -(2.0**128), 2.0**128) for v in (got, exact)
    )
    spacing = np.ldexp(1.0, np.maximum(np.frexp(exact)[1] - 24, -149))
    return np.asarray(np.abs(got - exact) / spacing)


def double_error(got: float, exact: Any) -> float:
    """The same for one float64 result and a number of any precision."""
    top = mp.ldexp(1, 1024)
    value = mp.mpf(got) if math.isfinite(got) else mp.sign(mp.mpf(got)) * top
    exact = min(max(exact, -top), top)
    spacing = mp.ldexp(1, max(mp.mag(exact) - 53, -1074) if exact else -1074)
    return float(abs(value - exact) / spacing)


def assert_same(a: Array, b: Array, x: Array) -> None:
    """The same bits, any NaN being like any other."""
    unsigned = np.uint32 if a.dtype == np.float32 else np.uint64
    different = (a.view(unsigned) != b.view(unsigned)) & ~(np.isnan(a) & np.isnan(b))
    assert not different.any(), (x[different][:5], a[different][:5], b[different][:5])


# ---- Accuracy -----------------------------------------------------------------------------------


@transcendental
def test_float_is_accurate(name: str, library: dict[str, Library]) -> None:
    random = np.random.default_rng(3)
    points = [patterns("float"), ordinary("float"), near_multiples()]
    points += [random.uniform(-scale, scale, 2**17) for scale in (1, 4, 20, 100)]
    x = np.concatenate([part.astype(np.float32) for part in points])
    if name in ("sin", "cos"):
        x = x[~(np.abs(x) > TRIG_RANGE) | np.isinf(x)]
    exact = FUNCTIONS[name].float64(torch.from_numpy(x).double()).numpy()
    error = float_error(library["vector"](name, x), exact)
    worst = int(error.argmax())
    assert error[worst] <= MAX_ULP, (x[worst], exact[worst])


@transcendental
def test_double_is_accurate(name: str, library: dict[str, Library]) -> None:
    x = np.concatenate([doubles(), near_multiples()])
    if name in ("sin", "cos"):
        x = x[np.abs(x) <= TRIG_RANGE]
    if name in ("log", "log1p"):
        x = x[x > (0 if name == "log" else -1)]
    for point, got in zip(x.tolist(), library["vector"](name, x).tolist(), strict=True):
        exact = FUNCTIONS[name].exact(mp.mpf(point))
        assert double_error(got, exact) <= MAX_ULP, (point, got, exact)


@both
@pytest.mark.parametrize("name", INTEGRATOR)
def test_integrators_are_accurate(name: str, ctype: str, library: dict[str, Library]) -> None:
    exact, most = INTEGRATOR[name]
    random = np.random.default_rng(5)
    scales = (1e-30, 1e-7, 1e-3, 0.5, 1.1, 20, 80)
    points = [random.uniform(-scale, scale, 200) for scale in scales]
    points += [[0.0, -0.0, 1e-40, -300.0, *around(1.0), *around(-1.0)]]
    x = np.concatenate(points).astype(CTYPES[ctype])
    for point, got in zip(x.tolist(), library["vector"](name, x).tolist(), strict=True):
        value = exact(mp.mpf(point))
        spacing = mp.ldexp(1, mp.mag(value) - (24 if ctype == "float" else 53))
        assert abs(mp.mpf(got) - value) <= most * spacing, (point, got, value)


@both
@transcendental
def test_special_values(name: str, ctype: str, library: dict[str, Library]) -> None:
    function = FUNCTIONS[name]
    special = [*function.special.items(), (NAN, NAN)]
    if function.odd:
        tiny = float(np.finfo(CTYPES[ctype]).smallest_subnormal)
        special += [(0.0, 0.0), (-0.0, -0.0)]
        special += [
            (tiny, tiny),
            (-tiny, -tiny),
        ]  # not flushed, and right for slopes from 0.8 to 1.4
    x, expected = np.array(special, dtype=CTYPES[ctype]).T
    assert_same(library["vector"](name, x), np.ascontiguousarray(expected), x)


@both
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_circular_functions_stay_bounded(
    name: str, ctype: str, library: dict[str, Library]
) -> None:
    x = patterns(ctype)
    x = x[np.isfinite(x)]
    assert np.all(np.abs(library["vector"](name, x)) <= 1)


@both
@pytest.mark.parametrize("name", EXACT)
def test_exact_functions_are_torchs(name: str, ctype: str, library: dict[str, Library]) -> None:
    x = np.concatenate([patterns(ctype), np.arange(-9, 9, 0.25, dtype=CTYPES[ctype])])
    inputs = [np.roll(x, 12_345 * i) for i in range(ARITY[name])]
    expected = EXACT[name](*map(torch.from_numpy, inputs)).numpy()
    got = library["vector"](name, *inputs)
    np.testing.assert_array_equal(got, expected)
    if name in ("floor", "round", "sqrt"):
        number = ~np.isnan(got)
        assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))


@both
def test_extremes_propagate_nan(ctype: str, library: dict[str, Library]) -> None:
    nan, one = np.array([[NAN], [1]], dtype=CTYPES[ctype])
    for name in ("minimum", "maximum"):
        assert np.isnan(library["vector"](name, nan, one))
        assert np.isnan(library["vector"](name, one, nan))
    for inputs in ((nan, one, one), (one, nan, one), (one, one, nan)):
        assert np.isnan(library["vector"]("clip", *inputs))


# ---- The same bits everywhere -------------------------------------------------------------------


@both
@everything
def test_builds_agree(name: str, ctype: str, library: dict[str, Library]) -> None:
    x = np.concatenate([patterns(ctype, 16_385), ordinary(ctype)])
    inputs = [np.roll(x, 123 * i) for i in range(ARITY[name])]
    expected = library["scalar"](name, *inputs)
    for build in BUILDS:
        assert_same(library[build](name, *inputs), expected, x)


@both
@everything
def test_tails_agree_with_lanes(name: str, ctype: str, library: dict[str, Library]) -> None:
    x = ordinary(ctype)[-64:]
    inputs = [np.roll(x, 5 * i) for i in range(ARITY[name])]
    expected = library["scalar"](name, *inputs)
    for size in range(1, 40):
        for start in (0, 1, 7):
            part = slice(start, start + size)
            got = library["vector"](name, *(v[part].copy() for v in inputs))
            assert_same(got, expected[part], x[part])


def test_every_loop_is_vectorised(library: dict[str, Library]) -> None:
    compiled = library["vector"]
    found = set(map(int, re.findall(r":(\d+):\d+: optimized: loop vectorized", compiled.report)))
    for number, line in enumerate(compiled.lines, 1):
        assert "omp simd" not in line or number in found, line
    assert "loop vectorized" not in library["scalar"].report


# ---- CUDA ---------------------------------------------------------------------------------------


def nvrtc() -> ctypes.CDLL:
    spec = (
        importlib.util.find_spec("nvidia.cuda_nvrtc")
        if importlib.util.find_spec("nvidia")
        else None
    )
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed")
    return ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "lib" / "libnvrtc.so.12"))


def compile_cuda(source: str, arch: str) -> str:
    """The PTX of a source that may include the header, and nothing else."""
    lib, program = nvrtc(), ctypes.c_void_p()
    headers = (ctypes.c_char_p * 1)(HEADER.read_bytes())
    names = (ctypes.c_char_p * 1)(b"neurogen/math.h")
    options = [f"--gpu-architecture={arch}".encode(), b"--fmad=false", b"--std=c++17"]

    def text(kind: str) -> str:
        size = ctypes.c_size_t()
        assert getattr(lib, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)) == 0
        buffer = ctypes.create_string_buffer(size.value)
        assert getattr(lib, f"nvrtcGet{kind}")(program, buffer) == 0
        return buffer.value.decode()

    lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 1, headers, names)
    try:
        array = (ctypes.c_char_p * len(options))(*options)
        failed = lib.nvrtcCompileProgram(program, len(options), array)
        assert not failed, text("ProgramLog")
        return text("PTX")
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


@pytest.mark.parametrize("arch", ["sm_70", "sm_80", "sm_90"])
def test_cuda_compiles_to_the_same_arithmetic(arch: str) -> None:
    kernels = [
        f'extern "C" __global__ void {name}_{ctype}(const {ctype}* x, {ctype}* y) '
        f"{{ y[threadIdx.x] = neurogen::{name}({', '.join(['x[threadIdx.x]'] * arity)}); }}"
        for name, arity in ARITY.items()
        for ctype in CTYPES
    ]
    ptx = compile_cuda("\n".join(['#include "neurogen/math.h"', *kernels]), arch)
    assert ptx.count(".entry") == len(kernels)
    operations = set(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.]+)", ptx, re.MULTILINE))
    assert {"add.rn.f32", "mul.rn.f64", "div.rn.f32", "sqrt.rn.f64"} <= operations
    inexact = {op for op in operations if re.search(r"^(fma|mad)\..*f(32|64)|approx|ftz|full", op)}
    assert not inexact
    assert not [op for op in operations if op.startswith("call")]
