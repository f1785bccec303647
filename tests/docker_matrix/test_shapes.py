"""A limit holds in containers of every shape, to the task; counted by the kernel from outside."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker_matrix.fixtures import STACK
from tests.docker_matrix.images import BUSYBOX, SCRATCH, SHELL_FORM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docker_matrix.fixtures import Started

_TASKS = 20
#: Children until ENOMEM, kept until SIGTERM so that they can be counted.
_FORK = ["fork_pause", "200", "20"]


@dataclass(frozen=True)
class Shape:
    """One way to make a container."""

    options: dict[str, Any] = field(default_factory=dict)
    image: str = BUSYBOX
    command: list[str] | None = field(default_factory=lambda: _FORK)
    #: Tasks beside those that are charged.
    around: int = 1
    #: Lines printed before the one that counts.
    before: list[str] = field(default_factory=list)


_NAMES = ["sh", "-c", "id -u; pwd; exec fork_pause 200 20"]
_SHAPES = {
    "plain": Shape(),
    "user-1000": Shape({"user": "1000:1000"}, command=_NAMES, before=["1000", "/"]),
    "workdir": Shape({"working_dir": "/etc"}, command=_NAMES, before=["0", "/etc"]),
    "shell-form-cmd": Shape({}, SHELL_FORM, None, before=["/tmp", "1000"]),
    # Nobody tells fork_pause to end: the shell, as pid 1, takes no SIGTERM.
    "shell-around-it": Shape(command=["sh", "-c", "fork_pause 200 1; echo over"]),
    "scratch": Shape({}, SCRATCH, None),
    "scratch-with-arguments": Shape({}, SCRATCH, ["200", "20"]),
    "entrypoint": Shape({"entrypoint": ["fork_pause"]}, command=["200", "20"]),
    "read-only": Shape({"read_only": True}),
    "cap-drop-all": Shape({"cap_drop": ["ALL"]}),
    "no-new-privileges": Shape({"security_opt": ["no-new-privileges"]}),
    "tty": Shape({"tty": True}),
    "init": Shape({"init": True}, around=2),
    "unconfined": Shape({"security_opt": ["seccomp=unconfined"]}),
    "all-at-once": Shape(
        {
            "user": "1000:1000",
            "working_dir": "/tmp",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "tty": True,
            "init": True,
        },
        command=_NAMES,
        around=2,
        before=["1000", "/tmp"],
    ),
}


#: Each of the others says more than these.
_SLOW = {"entrypoint", "plain", "read-only", "scratch-with-arguments", "shell-around-it", "tty"}
_PARAMETERS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in _SHAPES
]


@pytest.mark.parametrize("name", _PARAMETERS)
def test_limit_in_a_container_of_this_shape_then_exactly_its_tasks_and_enomem(
    name: str, start: Callable[..., Started]
) -> None:
    shape = _SHAPES[name]
    started = start(shape.image, shape.command, tasks=_TASKS, **shape.options)
    charged = _TASKS - (name == "shell-around-it")
    expected = [*shape.before, f"children={charged} errno=ENOMEM"]
    assert started.until_lines(len(expected))[: len(expected)] == expected
    assert started.read("pids.current") == started.read("pids.peak") == shape.around + _TASKS
    started.box.signal(signal.SIGTERM)
    assert started.box.wait(timeout=30) == 0
    report = started.box.report()
    kmem = report["memcg"]["kmem"]
    assert kmem["max_usage"] == kmem["limit"] == _TASKS * STACK
    assert kmem["usage"] == 0
    assert report["refusals"]["total"] == 1
    assert report["refusals"]["first"]["errno"] == "ENOMEM"
    assert report["runtime"] == "docker"
    assert report["exit_code"] == 0


def test_exit_status_then_is_the_containers(start: Callable[..., Started]) -> None:
    assert start(BUSYBOX, ["sh", "-c", "exit 7"]).box.wait(timeout=30) == 7
    killed = start(BUSYBOX, ["sh", "-c", "kill -9 $$; sleep 5"], init=True).box.wait(timeout=30)
    assert killed == 137
