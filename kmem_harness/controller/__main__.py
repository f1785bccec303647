"""Run the controller process. Started by ``client.py``; it ends with its owner.

Arguments: KERNEL DIRECTORY CONNECTION_FD OWNER_PIDFD
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import suppress

from kmem_harness.controller.door.server import Server
from kmem_harness.controller.lifecycle.leftovers import remove_abandoned
from kmem_harness.controller.loop import Loop
from kmem_harness.controller.privileges import harden
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree

__all__ = ["main"]

#: So long after the start nobody waits for us.
_SWEEP_SECONDS = 1.0


def main() -> None:
    """Serve until the owner closes the connection or dies; then end every box and go."""
    kernel, directory, connection_fd, owner_pidfd = sys.argv[1:5]
    # The terminal's signals are for the target and the owner; we go when the owner goes.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    harden()
    loop = Loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    # A loop that waits hears of the signal through this alone.
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())
    loop.watch(told.fileno(), lambda _: None)
    tree = MemcgTree(profile_named(kernel), stock=False, use_hierarchy=True)
    server = Server(loop, tree, directory)
    server.listen()
    server.serve(socket.socket(fileno=int(connection_fd)), ended=loop.stop)
    loop.watch(int(owner_pidfd), lambda _: loop.stop())
    loop.call_later(_SWEEP_SECONDS, lambda: remove_abandoned(directory))
    gc.collect()
    gc.freeze()  # what lives now lives for ever: no collection need look at it again
    status = 0
    try:
        with suppress(InterruptedError):
            loop.run()
    except MemoryError:
        sys.stderr.write("kmem-harness: the controller has no memory left, and ends its boxes\n")
        status = 1
    finally:
        server.end_all()
    sys.stderr.flush()
    os._exit(status)  # somebody may wait for our end, and Python's own takes as long as a box's


if __name__ == "__main__":
    main()
