"""Describe what shall run in a box and how it ended. Data shared by every runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmem_harness.box import Box
    from kmem_harness.harness import Harness

    #: Makes a runtime for a harness, once, when it is first asked for.
    RuntimeFactory = Callable[[Harness], "Runtime"]

__all__ = ["BoxSpec", "ContainerSpec", "ExecSpec", "ExitStatus", "Running", "Runtime"]


class ExitStatus(int):
    """How a target ended, as a shell would say it: its exit code, or 128 + signal.

    ``exit_code`` is that number; ``signal`` is the signal that ended the target, or ``None``.
    """

    signal: int | None

    @classmethod
    def exited(cls, code: int) -> ExitStatus:
        """Make the status of a target that returned *code*."""
        status = cls(code)
        status.signal = None
        return status

    @classmethod
    def killed(cls, signal: int) -> ExitStatus:
        """Make the status of a target that *signal* ended."""
        status = cls(128 + signal)
        status.signal = signal
        return status

    @property
    def exit_code(self) -> int:
        """The exit status as a shell shows it."""
        return int(self)

    def __repr__(self) -> str:
        """Show the signal, too."""
        return f"ExitStatus({int(self)}, signal={self.signal})"


class BoxSpec(NamedTuple):
    """What to run. ``None`` for a stream means: ours.

    ``pids_max`` is a second, hard bound that the kernel itself enforces, in tasks. ``pass_fds``
    are descriptors that it inherits, and without ``own_session`` it is in our session and process
    group, as what a shell runs in its place would be: it has our terminal then.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: Any = None
    stdout: Any = None
    stderr: Any = None
    pids_max: int | None = None
    image: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    pass_fds: tuple[int, ...] = ()
    own_session: bool = True
    #: What still runs when the first process has ended may take so long to end. Local boxes alone.
    grace_seconds: float = 0.0


@dataclass
class ContainerSpec:
    """What is about to be created, for hooks to look at and change.

    ``runtime``, ``image`` and ``memcg`` are for reading. ``config`` is the create request of the
    engine's API, empty for local boxes; there, ``command`` and ``env`` are what is run.
    """

    runtime: str
    image: str | None
    memcg: str
    command: list[str]
    env: dict[str, str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExecSpec:
    """A command about to be run inside a container, for hooks to look at and change."""

    command: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    #: The engine's name for it, once it has one.
    exec_id: str | None = None


class Running(Protocol):
    """A started box."""

    @property
    def init_pid(self) -> int:
        """The pid of the box's first process."""

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until nothing of the box is left. Raises: TimeoutError."""

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read the target's output to its end."""

    def fileno(self) -> int:
        """Give a descriptor that is readable once the target has ended, -1 if it has."""

    def signal(self, number: int) -> None:
        """Send a signal to the target."""

    def kill(self) -> None:
        """End the box and everything in it, and wait for that."""

    def stop(self, grace: float) -> ExitStatus:
        """Ask the target to end with SIGTERM; end it after *grace* seconds."""

    def remove(self) -> None:
        """End the box if it still runs, and take away what it leaves."""

    def discard(self) -> None:
        """Do the same when something has failed: no hooks, no errors about what is gone."""

    def describe(self) -> dict[str, Any]:
        """Give what this runtime adds to the report."""


class Runtime(Protocol):
    """A way to run boxes."""

    name: str
    #: "user", "pid" or "container" where boxes have a pid namespace, else "none".
    isolation: str
    #: Whether boxes can be started again and entered from outside.
    lasting: bool
    #: Whether it calls the hooks of the steps itself, however those were asked for.
    fires_own_hooks: bool

    def check(self, spec: BoxSpec) -> BoxSpec:
        """See that *spec* can be run, before anything is made. Raises: ConfigurationError."""

    def run(self, box: Box) -> None:
        """Create and start *box*, through its steps; it is bound by its limits then."""

    def close(self) -> None:
        """Let go of what the runtime holds; its boxes are gone."""
