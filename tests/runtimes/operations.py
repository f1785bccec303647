"""What a program sees and may do, as JSON on standard output: run natively and in a box, to compare.

Each operation is tried in a child of its own, so that none spoils another. Imports nothing of ours.
"""

# What programs do, and not what would be nicest:
# ruff: noqa: PTH101, PTH109, PTH110, PTH115, PTH116, PTH208

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
OPERATIONS = {}
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER = 0x20000, 0x4000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000


def operation(function):
    OPERATIONS[function.__name__] = function
    return function


def checked(outcome):
    if outcome < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return "done"


def status_of(*names):
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: rows[name].strip() for name in names if name in rows}


def outcome_of(*command):
    if shutil.which(command[0]) is None:
        return "not installed"
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody learns the status
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
    )
    return [done.returncode, done.stdout.decode()]


# -- what it may do ----------------------------------------------------------------------------


@operation
def bind_below_1024():
    for port in range(1000, 1024):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return "bound"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 1023))
    return "bound"


@operation
def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@operation
def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


@operation
def ping_socket():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()


@operation
def negative_nice():
    return os.nice(-5)


@operation
def positive_nice():
    return os.nice(3)


@operation
def setpriority_of_the_parent():
    os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, 0))


@operation
def real_time_scheduling():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@operation
def mlock_beyond_the_limit():
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    return checked(LIBC.mlockall(1))


@operation
def make_device():
    with tempfile.TemporaryDirectory() as directory:
        os.mknod(f"{directory}/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        return Path(f"{directory}/null").read_bytes().decode()


@operation
def make_fifo():
    with tempfile.TemporaryDirectory() as directory:
        os.mkfifo(f"{directory}/fifo")


@operation
def chroot():
    os.chroot("/")


@operation
def lower_a_limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


@operation
def raise_a_hard_limit():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))


@operation
def mount():
    with tempfile.TemporaryDirectory() as directory:
        checked(LIBC.mount(b"none", directory.encode(), b"tmpfs", 0, None))
        Path(directory, "file").touch()
        checked(LIBC.umount2(directory.encode(), 2))


@operation
def unshare_mounts():
    return checked(LIBC.unshare(CLONE_NEWNS))


@operation
def unshare_pids():
    return checked(LIBC.unshare(CLONE_NEWPID))


@operation
def unshare_network():
    return checked(LIBC.unshare(CLONE_NEWNET))


@operation
def unshare_users():
    return checked(LIBC.unshare(CLONE_NEWUSER))


@operation
def set_hostname():
    checked(LIBC.unshare(CLONE_NEWUTS))
    return checked(LIBC.sethostname(b"other", 5))


@operation
def become_another_user():
    os.setgroups([65534])
    os.setgid(65534)
    os.setuid(65534)
    return os.getresuid()


@operation
def give_a_file_away():
    with tempfile.NamedTemporaryFile() as file:
        os.chown(file.name, 65534, 65534)
        return os.stat(file.name).st_uid


@operation
def give_a_file_to_a_group_of_ours():
    with tempfile.NamedTemporaryFile() as file:
        os.chown(file.name, -1, max(os.getgroups(), default=os.getegid()))


@operation
def setuid_bit():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4700)
        return oct(os.stat(file.name).st_mode)


@operation
def keys():
    key = LIBC.syscall(248, b"user", b"kmem-test", b"x", 1, -1)  # add_key, to our thread's ring
    return "added" if key > 0 else errno.errorcode[ctypes.get_errno()]


@operation
def read_another_users_file():
    Path("/etc/shadow").read_bytes()


@operation
def write_a_sysctl():
    os.close(os.open("/proc/sys/kernel/hostname", os.O_WRONLY))


@operation
def oom_score_lower():
    Path("/proc/self/oom_score_adj").write_text("-1000")


@operation
def su_to_nobody():
    return outcome_of("su", "-s", "/bin/sh", "-c", "id -u", "nobody")


@operation
def sudo():
    return outcome_of("sudo", "-n", "id", "-u")


@operation
def ping():
    return outcome_of("ping", "-c", "1", "-W", "1", "127.0.0.1")[:1]


@operation
def trace_a_child():
    return outcome_of("strace", "-o", "/dev/null", "true")


@operation
def own_session():
    os.setsid()


@operation
def own_group():
    os.setpgid(0, 0)


@operation
def kill_the_parent_with_0():
    os.kill(os.getppid(), 0)


@operation
def file_lock():
    with tempfile.NamedTemporaryFile() as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@operation
def shared_memory_segment():
    made = LIBC.shmget(0, 4096, 0o600)
    if made < 0 and ctypes.get_errno() == errno.ENOSPC:
        return "done"  # the host's table is full, which is others' doing
    return checked(LIBC.shmctl(made, 0, None)) if made >= 0 else checked(made)


@operation
def write_a_cgroup():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            path = Path(where, "kmem-operations")
            path.mkdir()
            path.rmdir()
            return "made"
    return "none is mounted"


@operation
def io_uring():
    return checked(LIBC.syscall(425, 0, None))


# -- what it sees ------------------------------------------------------------------------------


@operation
def ids():
    return [os.getresuid(), os.getresgid(), sorted(os.getgroups())]


@operation
def owner_of_the_root():
    return os.stat("/").st_uid


@operation
def capabilities():
    return status_of("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@operation
def no_new_privs():
    return status_of("NoNewPrivs")


@operation
def umask():
    return os.umask(0)


@operation
def directory():
    return os.getcwd()


@operation
def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


@operation
def descriptors():
    return {
        fd: stat.S_IFMT(os.fstat(int(fd)).st_mode)
        for fd in sorted(os.listdir("/proc/self/fd"))
        if os.path.exists(f"/dev/fd/{fd}")
    }


@operation
def streams():
    return [os.isatty(fd) for fd in range(3)]


@operation
def terminal():
    os.close(os.open("/dev/tty", os.O_RDWR))


@operation
def leads_its_group():
    return os.getpgid(os.getppid()) == os.getppid()


@operation
def leads_its_session():
    return os.getsid(os.getppid()) == os.getppid()


@operation
def signals():
    return status_of("SigBlk", "SigIgn")


@operation
def limits():
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


@operation
def niceness():
    return [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]


@operation
def io_priority():
    return LIBC.syscall(252, 1, 0)


@operation
def affinity():
    return sorted(os.sched_getaffinity(0))


@operation
def personality():
    return LIBC.personality(0xFFFFFFFF)


@operation
def process_settings():
    slack, subreaper = LIBC.prctl(30), ctypes.c_int()
    LIBC.prctl(37, ctypes.byref(subreaper), 0, 0, 0)
    return [slack, subreaper.value, LIBC.prctl(3)]


@operation
def oom_score():
    return Path("/proc/self/oom_score_adj").read_text()


@operation
def cgroups():
    return Path("/proc/self/cgroup").read_text()


@operation
def proc_options():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[1] == "/proc":
            found = sorted(line.split()[3].split(","))
    return found


@operation
def network():
    return os.readlink("/proc/self/ns/net")


@operation
def host_name():
    return [os.uname().nodename, os.readlink("/proc/self/ns/uts")]


@operation
def user_namespace():
    return os.readlink("/proc/self/ns/user")


@operation
def sees_who_started_it():
    return Path(f"/proc/{sys.argv[1]}/status").exists()


@operation
def input_to_its_end():
    return INPUT.decode()


def tried(function):
    """Try one operation in a child, and give what it said, or the name of the errno it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = function()
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, both sides shall say it
            said = repr(error)
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    said = b""
    while chunk := os.read(reading, 65536):
        said += chunk
    os.close(reading)
    with suppress(ChildProcessError):  # SIGCHLD may be ignored
        os.waitpid(child, 0)
    return json.loads(said)


if __name__ == "__main__":
    INPUT = sys.stdin.buffer.read()
    with suppress(OSError):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    json.dump({name: tried(function) for name, function in OPERATIONS.items()}, sys.stdout)
    sys.stdout.write("\n")
