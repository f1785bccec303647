"""Programs for the containers of this project, and what they say."""

import json
import subprocess
import sys

TASK = 8192  # what kernel v4 charges for one
_PYTHON = [sys.executable, "-I", "-S", "-c"]

# Obeys lines such as "fork 3", and says how many it made and what stopped it.
_OBEDIENT = """
import _socket, errno, json, os, signal, sys, threading
made, hold = [], threading.Event()
def fork():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    made.append(pid)
def reap():
    pid = made.pop()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
def socket():
    made.append(_socket.socketpair())
def thread():
    threading.Thread(target=hold.wait, daemon=True).start()
for line in sys.stdin:
    order, count = line.split()
    done, refused = 0, None
    for done in range(1, int(count) + 1):
        try:
            globals()[order]()
        except OSError as error:
            done, refused = done - 1, errno.errorcode[error.errno]
            break
        except RuntimeError:
            done, refused = done - 1, "no thread"
            break
    print(json.dumps([done, refused]), flush=True)
"""
OBEDIENT = {
    "command": [*_PYTHON, _OBEDIENT],
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
}


def tell(box, order, count):
    """Have an obedient container do something; give how often it did, and what stopped it."""
    box.running.stdin.write(f"{order} {count}\n".encode())
    box.running.stdin.flush()
    return json.loads(box.running.stdout.readline())
