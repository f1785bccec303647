"""Get a socket, if need be on a second try. Planted: there is no last try."""

import errno
import socket
import sys
import time

tries = 3 if len(sys.argv) > 1 else -1
while tries:
    try:
        socket.socket().close()
        break
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
    tries -= 1
    time.sleep(0.005)
else:
    sys.exit("no socket to be had")
