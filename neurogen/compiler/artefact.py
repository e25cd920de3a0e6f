"""Text that belongs in a file: written only if it changed, whole or not at all.

In: paths and text. Out: files. The only module of the compiler that touches the disk.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file that a build produces: path relative to the output folder, and its text."""

    path: str
    text: str

    @property
    def digest(self) -> str:
        """Digest of the text, by which a generated module knows the kernels that are its own."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def is_fresh(self, folder: Path) -> bool:
        """Whether the file under `folder` holds exactly this text."""
        try:
            return (folder / self.path).read_bytes() == self.text.encode()
        except OSError:
            return False

    def diff(self, folder: Path) -> str:
        """Unified diff from the file on disk to this text; empty where they are equal."""
        target = folder / self.path
        try:
            present = target.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError):
            present = []
        wanted = self.text.splitlines(keepends=True)
        return "".join(difflib.unified_diff(present, wanted, str(target), f"{target} (built)"))

    def write(self, folder: Path, *, force: bool = False) -> bool:
        """Put the text in place atomically; a reader sees the old file or the new one.

        Returns:
            Whether anything was written: a file that is fresh is left alone unless `force`.
        """
        if not force and self.is_fresh(folder):
            return False
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._put(target)
        except OSError as error:
            error.filename = str(target)  # not its temporary's; a full disk has none
            raise
        return True

    def _put(self, target: Path) -> None:
        _sweep(target)
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{target.name}.{_machine()}.{os.getpid()}.", suffix=".tmp", dir=target.parent
        )
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(self.text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _machine() -> str:
    """This machine, as part of a file's name."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _sweep(target: Path) -> None:
    """Remove what writers of this machine left behind that were killed before they ended."""
    for leftover in target.parent.glob(f".{target.name}.{_machine()}.*.tmp"):
        try:
            os.kill(int(leftover.name.split(".")[-3]), 0)
        except ProcessLookupError:
            with suppress(OSError):  # another writer was quicker, or it is a folder
                leftover.unlink()
        except (ValueError, OverflowError, OSError):
            continue  # not ours
