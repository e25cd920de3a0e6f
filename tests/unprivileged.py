"""What a process runs first to be bound by the permissions of files, though it be root."""

from __future__ import annotations

#: Gives up root's right to write everywhere (Linux: every capability).
PROGRAM = """
import ctypes, os
if os.geteuid() == 0:
    version, nothing = 0x20080522, (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(version, 0)
    assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0, ctypes.get_errno()
"""
