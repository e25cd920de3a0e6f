"""The system's C++ compiler, and the user's own cache of what it built.

In: source text and flags. Out: the path of a shared library that is whole. The cache is private to
the user, keyed by everything that matters (text, headers, flags, compiler, processor), and can be
deleted at any time; two processes that need the same library compile it once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from pathlib import Path

from neurogen.errors import BackendError
from neurogen.runtime.abi import ABI

#: No fast-math, no contraction: the step is evaluated as written. (No operation of a kernel reads
#: the floating-point exception flags or errno, so those need not be kept.)
FLAGS = (
    "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared",
    "-march=native", "-Wall", "-Wextra",
)  # fmt: skip
INCLUDE = Path(__file__).parents[1] / "runtime" / "include"
INSTALL = (
    "no C++ compiler was found (set CXX, or install one: `apt install g++`, `dnf install gcc-c++`, "
    "`xcode-select --install`)."
)

#: The administrator; the second number is that of owners whom a sandbox does not know.
ROOT = (0, 65534)

#: What `unusable` compiles.
PROBE = '#include "neurogen/cpu.h"\nextern "C" int64_t probe() { return neurogen::LANES; }\n'


def shared_library(text: str, surrogate: str, flags: tuple[str, ...]) -> Path:
    """Compile C++ text, or find it compiled.

    Args:
        text: The translation unit; it may include `neurogen/*.h`.
        surrogate: Text of `primitive` and `slope`, included as `neurogen/surrogate.h`.
        flags: Flags and macros besides `FLAGS`.

    Raises:
        BackendError: No compiler, no usable cache folder, or the compiler refused.
    """
    command = compiler()
    if command is None:
        raise BackendError(INSTALL)
    flags = (*FLAGS, *flags)
    digest = hashlib.sha256()
    place = os.getcwd() if any(word.startswith(("-", "@")) for word in command) else ""
    key = (str(ABI), text, surrogate, headers(), *flags, *command, identity(command), processor(),
           place)  # options of CXX may name files relative to it  # fmt: skip
    for part in key:
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    folder = cache_folder()
    target = folder / f"{digest.hexdigest()[:32]}.so"
    if _is_intact(target):
        return target
    from filelock import FileLock  # noqa: PLC0415 - only when something is compiled

    lock = Path(f"{target}.lock")
    try:
        for path in (target, target.with_suffix(".sha256"), lock):
            if path.is_dir():
                _remove(path)
        with FileLock(lock):
            if not _is_intact(target):
                _compile([*command, *flags], text, surrogate, target)
    except OSError as error:
        raise BackendError(
            f"the compile cache {folder} cannot be written ({error}); set NEUROGEN_CACHE to a "
            "folder of your own."
        ) from error
    return target


@cache
def unusable() -> str:
    """Why kernels cannot be compiled here, empty if they can; found out on a small program."""
    try:
        path = shared_library(PROBE, "", ("-O0", "-fopenmp"))
        ctypes.CDLL(str(path))
    except (BackendError, OSError) as error:
        return str(error)
    return ""


def _compile(command: list[str], text: str, surrogate: str, target: Path) -> None:
    work = target.with_suffix(".work")  # its lock is held: what is there was left by a killed one
    _remove(work)
    try:
        (work / "neurogen").mkdir(parents=True, mode=0o700)
        source, built, checksum = (work / f"kernels.{end}" for end in ("cpp", "so", "sha256"))
        source.write_text(text, encoding="utf-8")
        (work / "neurogen" / "surrogate.h").write_text(
            f'#pragma once\n#include "neurogen/kernel.h"\n{surrogate}', encoding="utf-8"
        )
        run = subprocess.run(
            [*command, f"-I{work}", f"-I{INCLUDE}", str(source), "-o", str(built)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if run.returncode:
            raise BackendError(
                f"{command[0]} could not compile a kernel (exit {run.returncode}):\n"
                f"{run.stderr[-4000:]}"
            )
        if not built.is_file():
            raise BackendError(
                f"{command[0]} ended well and wrote no library; set CXX to a C++ compiler."
            )
        built.chmod(0o700)
        checksum.write_text(hashlib.sha256(built.read_bytes()).hexdigest(), encoding="ascii")
        os.replace(checksum, target.with_suffix(".sha256"))
        os.replace(built, target)
    finally:
        _remove(work)


def _remove(path: Path) -> None:
    """Remove what is in a place of the cache's, be it a file or a folder."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # a folder that cannot be removed is complained of where it matters
        path.unlink()


def replace(target: Path, data: bytes) -> None:
    """Put a file in place atomically."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    os.replace(temporary, target)


def _is_intact(target: Path) -> bool:
    """Whether a cached library is whole: a truncated one would crash the process."""
    try:
        expected = target.with_suffix(".sha256").read_text(encoding="ascii")
        return hashlib.sha256(target.read_bytes()).hexdigest() == expected
    except (OSError, UnicodeDecodeError):
        return False


@cache
def compiler() -> tuple[str, ...] | None:
    """The system's C++ compiler: CXX (`ccache g++`, too), or the first of g++, clang++, c++.

    Raises:
        BackendError: CXX is no list of words.
    """
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BackendError(
            f"CXX={os.environ['CXX']} cannot be read ({error}); set it to a C++ compiler."
        ) from None
    for name, *options in [asked] if asked else [["g++"], ["clang++"], ["c++"]]:
        if found := shutil.which(name):
            return (os.path.abspath(found), *options)
    return None


@cache
def identity(command: tuple[str, ...]) -> str:
    """The compiler's version, part of the cache key."""
    try:
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False,
                             stdin=subprocess.DEVNULL)  # fmt: skip
    except OSError as error:
        raise BackendError(f"{command[0]} cannot be started ({error.strerror}).") from None
    return run.stdout


@cache
def headers() -> str:
    """The text of the headers, part of the cache key."""
    return "".join(p.read_text(encoding="utf-8") for p in sorted(INCLUDE.rglob("*.h")))


@cache
def processor() -> str:
    """What `-march=native` means here, part of the cache key."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kept = sorted(
            {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        )
    except OSError:
        kept = []
    return "\n".join([platform.machine(), platform.processor(), *kept])


def cache_folder() -> Path:
    """The user's own folder for compiled kernels, made if need be: it may be deleted at any time.

    Raises:
        BackendError: The folder cannot be made, or others can write to it.
    """
    from platformdirs import user_cache_path  # noqa: PLC0415

    asked = os.environ.get("NEUROGEN_CACHE")
    folder = (Path(asked) if asked else user_cache_path("neurogen")) / "cpp"
    try:
        folder = folder.expanduser()
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        exposed = _exposed(folder) if hasattr(os, "getuid") else None
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder of nobody
        reason = "a file is in its place" if isinstance(error, FileExistsError) else (
            getattr(error, "strerror", error)
        )  # fmt: skip
        raise BackendError(
            f"the compile cache {folder} cannot be used ({reason}); set NEUROGEN_CACHE to a folder "
            "of your own."
        ) from None
    if exposed is not None:
        raise BackendError(
            f"the compile cache {folder} cannot be trusted, as {exposed} is another's or can be "
            "written by others; set NEUROGEN_CACHE to a folder that only you can write (chmod 700)."
        )
    return folder.resolve()  # links are followed once


def _exposed(folder: Path) -> Path | None:
    """What lets others put files of theirs into the cache: it, a folder above it, a link to it."""
    me, sticky = os.getuid(), stat.S_ISVTX  # where that is set, all rename their own only
    for link in (folder, folder.parent):
        if link.lstat().st_uid not in (me, *ROOT):
            return link
    real = folder.resolve()
    above = 0o002 if _is_private(real.parent.stat().st_gid) else 0o022
    rules: list[tuple[Path, Collection[int] | None, int, int]] = [
        (real, (me,), 0o022, 0),
        (real.parent, (me, *ROOT), above, sticky),
        *((path, None, 0o002, sticky) for path in real.parent.parents),
    ]
    for path, owners, forbidden, pardon in rules:
        status = path.stat()
        written = status.st_mode & forbidden and not status.st_mode & pardon
        if written or (owners is not None and status.st_uid not in owners):
            return path
    return None


def _is_private(group: int) -> bool:
    """Whether a group is its user's own, of the same name, as many systems make for each user."""
    import grp  # noqa: PLC0415 - where there are groups
    import pwd  # noqa: PLC0415

    try:
        name, found = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == name and not {*found.gr_mem} - {name}
