"""Ways to run a command: native, in boxes, under what others offer, and on the bare floor.

Knows how to start each and how to say why it is not to be had here; measures nothing.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness import Harness
from kmem_harness.controller.admission.prices import make_prices, read_kinds
from kmem_harness.costs.kinds import check_kinds
from kmem_harness.costs.live import live_kinds, only_kinds
from kmem_harness.costs.table import load_costs
from kmem_harness.interposer.filter import FilterPlan
from kmem_harness.interposer.listener import Listener
from kmem_harness.interposer.syscalls import native_architecture
from tests.benchmarks.measure import Profile, processor_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["BUSY", "Ways"]

Run = "Callable[[Sequence[str]], str]"
#: Ways that are run while a thread of ours computes.
BUSY = ("native, busy", "limit, busy")
_FAST_PATH = "KMEM_HARNESS_FAST_PATH"
_NEVER = 65_535
_PIDS = Path("/sys/fs/cgroup/pids")
_SANDLOCK = """
import sys, sandlock
box = sandlock.Sandbox(fs_readable=["/"], fs_writable=["/dev", "/tmp", sys.argv[1]], cwd=sys.argv[1], max_processes=1000)
result = box.run(sys.argv[2:])
sys.stdout.buffer.write(result.stdout or b"")
sys.stderr.buffer.write(getattr(result, "stderr", None) or b"")
sys.exit(0 if result.success else 1)
"""


class Ways:
    """Every way there is on this host, by name; ``missing`` says why the others are not.

    :param notified: the compiled program of the floor.
    :param directory: where commands run.
    """

    def __init__(self, harness: Harness, notified: str, directory: str) -> None:
        self._harness = harness
        self._notified = notified
        self._directory = directory
        self._exit = ExitStack()
        self._slow = self._exit.enter_context(_python_alone())
        self._nr_calls = 0  # of the box that ended last
        self.missing: dict[str, str] = {}
        #: What the controller did for each command under a limit, over all its runs.
        self.profiles: dict[tuple[str, ...], Profile] = {}
        self.runs: dict[str, Callable[[Sequence[str]], str]] = {
            "native": self._native,
            "C loop": lambda command: self._native([notified, *command]),
            "C loop, our filter": self._loop_under_our_filter,
            "Python loop": self._python_loop,
            "no limit": self._box,
            "limit": self._profiled,
            "limit, Python": lambda command: self._three_levels(command, harness=self._slow),
            "limit tasks": lambda command: self._three_levels(command, kinds=["task", "thread"]),
            "native, busy": lambda command: self._beside_a_busy_thread(self._native, command),
            "limit, busy": lambda command: self._beside_a_busy_thread(self._three_levels, command),
            "observe": lambda command: self._box(command, mode="observe"),
            "inject": lambda command: self._box(
                command, faults=[f"fork:error=ENOMEM:when={_NEVER}"]
            ),
        }
        self._offer("strace", self._strace())
        self._offer("sandlock", self._sandlock())
        self._offer("docker pids-limit", self._docker())
        self._offer("pids cgroup", self._cgroup())

    def close(self) -> None:
        """Take away what was made for the ways."""
        self._exit.close()

    def _offer(self, name: str, way: Callable[[Sequence[str]], str] | str) -> None:
        if isinstance(way, str):
            self.missing[name] = way
        else:
            self.runs[name] = way

    def _native(self, command: Sequence[str], **options: Any) -> str:
        return subprocess.run(
            command,
            check=True,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            **options,
        ).stdout

    def _box(self, command: Sequence[str], harness: Harness | None = None, **options: Any) -> str:
        reader, writer = os.pipe()
        with os.fdopen(reader) as output:
            with (
                os.fdopen(writer, "w") as sink,
                (harness or self._harness).run(
                    list(command), cwd=self._directory, stdout=sink, **options
                ) as box,
            ):
                status = box.wait(timeout=120)
                self._nr_calls = box.report()["notifications"]
            text = output.read()
        if status:
            message = f"{command}: exit {status}"
            raise RuntimeError(message)
        return text

    def _three_levels(
        self, command: Sequence[str], harness: Harness | None = None, **options: Any
    ) -> str:
        """Charge both counters of three memcgs, all limited and none full."""
        for path in ("/bench", "/bench/middle"):
            (harness or self._harness).memcg(path, kmem_limit="2G", memory_limit="4G")
        limits = {"kmem_limit": "1G", "memory_limit": "2G"}
        return self._box(command, harness, memcg="/bench/middle/box", **limits, **options)

    def _profiled(self, command: Sequence[str]) -> str:
        controller = self._harness.controller.pid
        before = processor_seconds(controller)
        text = self._three_levels(command)
        after = processor_seconds(controller)
        calls, user, system = self.profiles.get(tuple(command), (0, 0.0, 0.0))
        self.profiles[tuple(command)] = Profile(
            calls + self._nr_calls, user + after[0] - before[0], system + after[1] - before[1]
        )
        return text

    @staticmethod
    def _beside_a_busy_thread(run: Callable[[Sequence[str]], str], command: Sequence[str]) -> str:
        """Let another thread of this process compute meanwhile, as a test's may."""
        over = threading.Event()

        def compute() -> None:
            while not over.is_set():
                sum(range(1000))

        thread = threading.Thread(target=compute)
        thread.start()
        try:
            return run(command)
        finally:
            over.set()
            thread.join()

    def _loop_under_our_filter(self, command: Sequence[str]) -> str:
        """Answer what our filter traps with "continue": what the kernel's part of it costs."""
        file = Path(self._directory, "filter.bpf")
        file.write_bytes(_our_filter())
        environment = dict(os.environ, NOTIFIED_FILTER=str(file))
        return self._native([self._notified, *command], env=environment)

    def _python_loop(self, command: Sequence[str]) -> str:
        """Answer each notification with "continue", in the least Python there is."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            child = subprocess.Popen(
                [self._notified, f"-{theirs.fileno()}", *command],
                pass_fds=[theirs.fileno()],
                cwd=self._directory,
                stdout=subprocess.PIPE,
                text=True,
            )
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            ours.send(b"\0")
            listener = Listener(fds[0])
            poll = select.poll()
            poll.register(listener.fd, select.POLLIN)
            while poll.poll()[0][1] & select.POLLIN:
                notification = listener.receive()
                if notification is not None:
                    listener.allow(notification[0])
            listener.close()
            text, _ = child.communicate(timeout=120)
        if child.returncode:
            message = f"{command}: exit {child.returncode}"
            raise RuntimeError(message)
        return text

    # What others offer ----------------------------------------------------------------------

    def _strace(self) -> Callable[[Sequence[str]], str] | str:
        if shutil.which("strace") is None:
            return "strace is not installed"
        rule = f"inject=fork,vfork:error=ENOMEM:when={_NEVER}"
        words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", rule]
        return lambda command: self._native([*words, *command])

    def _sandlock(self) -> Callable[[Sequence[str]], str] | str:
        python = os.environ.get("KMEM_BENCH_SANDLOCK_PYTHON", sys.executable)
        probe = [python, "-c", _SANDLOCK, self._directory, "/bin/true"]
        if subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode:
            return (
                "the package sandlock cannot be used; install it, or name a Python that has it in "
                "KMEM_BENCH_SANDLOCK_PYTHON"
            )
        return lambda command: self._native([python, "-c", _SANDLOCK, self._directory, *command])

    def _docker(self) -> Callable[[Sequence[str]], str] | str:
        asked = ["docker", "images", "-q"]
        for name in ("busybox", "alpine"):
            asked += ["--filter", f"reference={name}"]
        image = ""
        with suppress(OSError, subprocess.SubprocessError):
            found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
            image = (found.stdout.split() or [""])[0]
        if not image:
            return "no Docker engine with an image busybox or alpine"
        words = ["docker", "run", "--rm", "--pids-limit", "1000", "-w", self._directory]
        mounts = [
            f"{place}:{place}" for place in {self._directory, str(Path(self._notified).parents[1])}
        ]
        for mount in mounts:
            words += ["-v", mount]
        return lambda command: self._native([*words, image, *command])

    def _cgroup(self) -> Callable[[Sequence[str]], str] | str:
        place = _PIDS if _PIDS.is_dir() else Path("/sys/fs/cgroup")
        try:
            directory = self._exit.enter_context(_cgroup(place))
        except OSError as error:
            return f"no cgroup can be made in {place}: {error.strerror}"
        entry = f'echo $$ > {directory}/cgroup.procs && exec "$@"'
        return lambda command: self._native(["/bin/sh", "-c", entry, "sh", *command])


def _our_filter() -> bytes:
    """Assemble the filter of a box that is charged for everything there is."""
    architecture = native_architecture()
    chosen = only_kinds(live_kinds(load_costs("5.10")), check_kinds(None))
    request = {name: kind.request() for name, kind in chosen.items()}
    prices = make_prices(read_kinds(request), request, architecture, lambda _: None)
    return FilterPlan(architecture, prices.names, {}, prices.only_if).program()


@contextmanager
def _python_alone() -> Iterator[Harness]:
    """Start a harness whose controller answers every call in Python."""
    os.environ[_FAST_PATH] = "off"
    with Harness("5.10") as harness:
        del os.environ[_FAST_PATH]
        yield harness


@contextmanager
def _cgroup(place: Path) -> Iterator[Path]:
    """Make a cgroup with a limit of tasks that is never reached, and remove it."""
    directory = place / f"kmem-harness-bench-{os.getpid()}"
    directory.mkdir()
    try:
        (directory / "pids.max").write_text("1000")
        yield directory
    finally:
        directory.rmdir()
