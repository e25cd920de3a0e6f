"""Every kernel of every spec under AddressSanitizer and UndefinedBehaviorSanitizer.

The C++ kernels and the CUDA text on the CPU, forward and backward; `sanitized.py` is what runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neurogen.backends import toolchain

ROOT = Path(__file__).parents[1]
SPECS = sorted(path.stem for path in (ROOT / "specs").glob("*.yaml"))
PARTS = 4
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"


def runtime(name: str) -> str:
    """The path of a sanitizer's library, empty where the compiler has none."""
    command = toolchain.compiler() or ("false",)
    run = subprocess.run([*command, f"-print-file-name={name}"], capture_output=True, text=True,
                         check=False)  # fmt: skip
    return run.stdout.strip() if Path(run.stdout.strip()).is_absolute() else ""


LIBRARIES = [runtime("libasan.so"), runtime("libubsan.so")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or not all(LIBRARIES),
        reason="the compiler comes without the sanitizers' libraries",
    ),
]


def sanitized(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`sanitized.py` in a process whose memory is watched from the start."""
    command = toolchain.compiler()
    assert command is not None
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "sanitized.py"), *arguments],
        env={
            **os.environ,
            "CXX": f"{' '.join(command)} {FLAGS}",
            "LD_PRELOAD": ":".join(LIBRARIES),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at its end
            "PYTHONMALLOC": "malloc",
            "NEUROGEN_CACHE": str(folder),
            "OMP_WAIT_POLICY": "passive",
        },
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("part", range(PARTS))
def test_no_kernel_leaves_its_memory_or_the_language(part: int, tmp_path: Path) -> None:
    stems = SPECS[part::PARTS]
    run = sanitized(tmp_path, *stems)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.split() == stems


MEMORY, LANGUAGE = "ERROR: AddressSanitizer", "runtime error: signed integer overflow"
FAULTS = {
    "no tail": (("neurogen::least(a_->neurons_ - first_, LANES)", "LANES"), MEMORY),
    "one step too many": (("t_ < a_.steps_; ++t_", "t_ <= a_.steps_; ++t_"), MEMORY),
    "scratch too short": (("(a_->every_ + 1) * LANES)", "a_->every_ * LANES - 1)"), MEMORY),
    "an index beyond 64 bits": (
        ("t_ * a_.x_stride_", "t_ * (a_.x_stride_ + (1LL << 62))"),
        LANGUAGE,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_would_be_seen(fault: str, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    run = sanitized(tmp_path, "--change", *change, "lif")
    assert run.returncode != 0
    assert said in run.stderr, run.stderr[-4000:]
