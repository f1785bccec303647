"""Where a standing controller has its sockets and its state, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["control_of", "default_socket", "default_state", "runtime_of"]


def default_socket() -> Path:
    """Give where runtimes hand over listeners: root's place is the machine's.

    Where nobody listens there, a runtime's error names it: so it is called after what is to be started.
    """
    if os.geteuid() == 0:
        return Path("/run/kmem-harness/serve.sock")
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path(base, "kmem-harness", "serve.sock")


def default_state() -> Path:
    """Give where accounts and reports are kept."""
    if os.geteuid() == 0:
        return Path("/var/lib/kmem-harness")
    base = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(base, "kmem-harness")


def control_of(socket: Path) -> Path:
    """Give where whoever wants to know something asks."""
    return socket.with_name(f"{socket.name}.control")


def runtime_of(socket: Path) -> Path:
    """Give where the OCI wrapper asks."""
    return socket.with_name(f"{socket.name}.runtime")
