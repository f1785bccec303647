"""The command ``kmem-harness``: starts what takes long first, and then runs the command line."""

from __future__ import annotations

import os
import sys

from kmem_harness import early

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    _fill_closed_streams()
    early.start_for(sys.argv[1:])
    try:
        from kmem_harness.cli import main as command_line  # noqa: PLC0415 - after the start

        command_line()
    except KeyboardInterrupt:  # before it was there to take it
        sys.exit(130)
    finally:
        early.discard()


def _fill_closed_streams() -> None:
    """Let nothing we open pass for a stream that our caller has closed; a target has it closed, too."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:  # noqa: PLR2004 - standard error
        pass
    os.close(fd)


if __name__ == "__main__":
    main()
