"""Start a controller process. Imports next to nothing: all that a short run does waits for this."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from kmem_harness.controller.owner.settings import fast_path_setting
from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError

__all__ = ["Started", "base_directories", "prefix", "start", "start_process"]

# A socket address holds 107 bytes, of which our own names take less than 60.
_LONGEST_BASE = 45
#: The directory that the package lies in.
_INSTALLED_IN = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
# -I and -S: no environment, no site-packages. It needs the standard library and this package,
# and so starts in half the time, whatever is installed beside us.
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from kmem_harness.controller.__main__ import main; main()"
)


class Started:
    """A controller process of our own: it ends when we die, or *connection* does."""

    def __init__(
        self,
        kernel: str,
        directory: str,
        connection: socket.socket,
        process: subprocess.Popen[bytes],
    ) -> None:
        """Hold what it emulates, where its sockets are, the way to it, and the process itself."""
        self.kernel = kernel
        self.directory = directory
        self.connection = connection
        self.process = process


def start(kernel: str) -> Started:
    """Start a controller that emulates *kernel*; it is ready when it answers.

    Raises: UnsupportedHostError where the host lacks pidfds; ConfigurationError.
    """
    fast_path_setting()
    bases = base_directories()
    if not bases:
        message = (
            "there is no directory for a controller's sockets: neither XDG_RUNTIME_DIR nor TMPDIR "
            f"nor /tmp can be written to and has a path of at most {_LONGEST_BASE} bytes; set one "
            "that does"
        )
        raise ConfigurationError(message)
    directory = f"{bases[0]}/{prefix()}{os.getpid()}-{os.urandom(4).hex()}"
    os.mkdir(directory, 0o700)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        owner = _own_pidfd()
        with theirs:
            process = start_process(kernel, directory, theirs.fileno(), owner)
        os.close(owner)
    except BaseException:
        ours.close()
        os.rmdir(directory)
        raise
    return Started(kernel, directory, ours, process)


def start_process(
    kernel: str, directory: str, connection: int, owner: int
) -> subprocess.Popen[bytes]:
    """Start a controller that talks over *connection* and ends with *owner*, a pidfd."""
    return subprocess.Popen(
        [
            sys.executable,
            *("-I", "-S", "-c", _START),
            _INSTALLED_IN,
            *(kernel, directory, str(connection), str(owner)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(connection, owner),
    )


def prefix() -> str:
    """Say how the names of our own user's directories of sockets begin."""
    return f"kmem-harness-{os.geteuid()}-"


def base_directories() -> list[str]:
    """List where they may be, the best first; their paths are short enough for a socket address."""
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""), "/tmp"]  # noqa: S108 - a fresh 0700 directory is made in it
    return [
        base
        for base in candidates
        if base and len(base) <= _LONGEST_BASE and os.access(base, os.W_OK | os.X_OK)
    ]


def _own_pidfd() -> int:
    try:
        return os.pidfd_open(os.getpid())
    except OSError as error:
        message = f"pidfd_open: {error.strerror}"
        raise UnsupportedHostError(
            message, missing="pidfd_open", remedy="run on Linux 5.5 or later"
        ) from error
