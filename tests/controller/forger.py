"""A process that is announced as a box's init and then misbehaves, or starts a real shim.

Reads words, one a line, and answers each with one: ``closed`` if the controller hung up, ``go`` if
it took what it was given. Run by tests/controller/test_handshake.py with PATH and SHIM.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import subprocess
import sys

MAGIC = 0x4D454D4B
OUTCOME = struct.Struct("=IiI20s")
PATH, SHIM = sys.argv[1:]
KEPT: list[socket.socket] = []


def dial(*, greeted: bool = True) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(PATH)  # without a timeout, which would not wait for room in the queue
    peer.settimeout(20)
    if greeted:
        header = peer.recv(16, socket.MSG_WAITALL)
        peer.recv(8 * struct.unpack("=IIII", header)[1], socket.MSG_WAITALL)
    return peer


def answer(peer: socket.socket) -> str:
    try:
        return {b"": "closed", b"g": "go"}.get(peer.recv(1), "something")
    except TimeoutError:
        return "silence"
    except ConnectionResetError:
        return "closed"


def hand_over(*fds: int, body: bytes | None = None) -> str:
    with dial() as peer:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        peer.sendmsg([OUTCOME.pack(MAGIC, 0, 40, b"") if body is None else body], rights)
        return answer(peer)


def obey(order: str, *words: str) -> str:
    reading, writing = os.pipe()
    try:
        return {
            "pipe": lambda: hand_over(reading),
            "socket": lambda: hand_over(KEPT[0].fileno() if KEPT else sys.stdin.fileno()),
            "none": hand_over,
            "two": lambda: hand_over(reading, writing),
            "ten": lambda: hand_over(*[reading] * 10),
            "garbage": lambda: hand_over(body=os.urandom(OUTCOME.size)),
            "wrong-magic": lambda: hand_over(reading, body=OUTCOME.pack(1, 0, 0, b"")),
            "half": lambda: hand_over(body=OUTCOME.pack(MAGIC, 0, 40, b"")[:-5]),
            "long": lambda: hand_over(body=OUTCOME.pack(MAGIC, 0, 40, b"") + b"more"),
            "failure-with-fd": lambda: hand_over(reading, body=OUTCOME.pack(MAGIC, 1, 0, b"x")),
            "hang-up": hang_up,
            "silent": lambda: keep_silent(int(words[0])),
            "shim": lambda: str(subprocess.run([SHIM, PATH, *words], check=False).returncode),
            "dial": dial_again,
        }[order]()
    finally:
        os.close(reading)
        os.close(writing)


def hang_up() -> str:
    dial().close()
    return "closed"


def keep_silent(count: int) -> str:
    KEPT.extend(dial(greeted=False) for _ in range(count))
    return "kept"


def dial_again() -> str:
    try:
        dial(greeted=False).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(f"{obey(*line.split())}\n")
        sys.stdout.flush()
