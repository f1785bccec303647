"""A FUSE file system that never answers: who looks at it cannot even be killed. Knows /dev/fuse."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["silent_file_system", "why_no_fuse"]

_FUSE_INIT = 26
_REQUEST = struct.Struct("=IIQ")  # the beginning of struct fuse_in_header
_ANSWER = struct.Struct("=IiQ")  # struct fuse_out_header
_INIT_ANSWER = struct.Struct("=IIIIHHIIHH32x")  # struct fuse_init_out
_MNT_DETACH = 2


def why_no_fuse() -> str:
    """Say why none can be had here; nothing if it can."""
    if os.geteuid() != 0:
        return "only root may mount a FUSE file system without help"
    return "" if os.path.exists("/dev/fuse") else "there is no /dev/fuse"  # noqa: PTH110


@contextmanager
def silent_file_system(directory: Path) -> Iterator[threading.Event]:
    """Mount one there; the event says that somebody waits for an answer. At the end all may go on."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"silent", str(directory).encode(), b"fuse", 0, options.encode()) < 0:
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, os.strerror(number), "mount")
    asked = threading.Event()
    thread = threading.Thread(target=_serve, args=(device, asked), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        # What waits is let go on by the end of the connection, which a forced unmount brings.
        libc.umount2(str(directory).encode(), 1)
        libc.umount2(str(directory).encode(), _MNT_DETACH)
        thread.join(5)
        os.close(device)


def _serve(device: int, asked: threading.Event) -> None:
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:
            return
        _, operation, unique = _REQUEST.unpack_from(request)
        if operation == _FUSE_INIT:
            body = _INIT_ANSWER.pack(7, 31, 65536, 0, 16, 12, 65536, 1, 1, 0)
            os.write(device, _ANSWER.pack(_ANSWER.size + len(body), 0, unique) + body)
        else:
            asked.set()
