"""Many clients that connect and say nothing: each that is hung up on connects again.

Run by tests/controller/test_flood.py with DIRECTORY and COUNT; they knock at every socket in
DIRECTORY, that of a box about to start too. Writes how many are connected, once they first all
were, and ends with its standard input.
"""

from __future__ import annotations

import errno
import resource
import select
import socket
import sys
from contextlib import suppress
from pathlib import Path

NAP_MS = 1


class Flood:
    """COUNT clients, of which some wait to be let in."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.outside = count
        self.inside: dict[int, socket.socket] = {}
        self.hung_up = select.epoll()

    def knock(self) -> None:
        """Connect as many as are let in, turn by turn at each socket there is."""
        doors = [str(path) for path in self.directory.rglob("*.sock")]
        while doors and self.outside:
            for door in list(doors):
                client = socket.socket(socket.AF_UNIX, _kind(door) | socket.SOCK_NONBLOCK)
                if error := client.connect_ex(door):
                    client.close()
                    doors.remove(door)
                    if error not in (errno.EAGAIN, errno.ENOENT, errno.ECONNREFUSED):
                        raise OSError(error, door)
                else:
                    self.inside[client.fileno()] = client
                    self.hung_up.register(client, select.EPOLLRDHUP | select.EPOLLHUP)
                    self.outside -= 1

    def let_go(self, patience: float) -> None:
        """Close those that were hung up on."""
        for fd, _ in self.hung_up.poll(patience, 512):
            self.inside.pop(fd).close()
            self.outside += 1


def _kind(door: str) -> int:
    return socket.SOCK_SEQPACKET if door.endswith("control.sock") else socket.SOCK_STREAM


def main() -> None:
    directory, count = Path(sys.argv[1]), int(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flood = Flood(directory, count)
    dialled = count
    end = select.poll()
    end.register(0, select.POLLIN | select.POLLHUP)
    told = False
    nr_gone = 0
    while not end.poll(0):
        flood.knock()
        before = flood.outside
        flood.let_go(NAP_MS / 1000)
        nr_gone += flood.outside - before
        if not told and nr_gone + len(flood.inside) >= dialled:
            told = True
            with suppress(BrokenPipeError):
                sys.stdout.write("all\n")
                sys.stdout.flush()
    sys.stdout.write(f"hung up on {nr_gone} times\n")


if __name__ == "__main__":
    main()
