"""The command ``kmem-harness``: starts what takes long first, and then runs the command line."""

from __future__ import annotations

import sys

from kmem_harness import early

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    early.start_for(sys.argv[1:])
    try:
        from kmem_harness.cli import main as command_line  # noqa: PLC0415 - after the start

        command_line()
    except KeyboardInterrupt:  # before it was there to take it
        sys.exit(130)
    finally:
        early.discard()


if __name__ == "__main__":
    main()
