"""Every hook, in one file: the contract with plugins. No bodies, no imports of ours at run time.

A plugin is a module or object with functions of these names under ``hookimpl``, found through the
entry-point group ``kmem_harness`` or given to ``Harness(plugins=[...])``. What holds for all:

- Order: the plugin registered last is called first, one marked ``tryfirst`` before and one marked
  ``trylast`` after those. Plugins given to a harness come after installed ones, and so are called
  before them. Our own: labels first of all, wiring last before a container is created and first
  after it has started, so that plugins see it under its limit.
- Results are ignored where a hook does not say otherwise.
- Failure: an exception in a lifecycle hook ends that container, takes away what was made for it,
  and leaves the call as ``PluginError``, which names plugin and hook. Other containers go on.
- Threads: a hook is called in the thread of whoever took the step, ``kmem_refused`` in one of its
  own. A hook that blocks holds up that step alone.
- Cost: a hook nobody implements is not called; nothing here runs for each system call.

Local boxes take the steps create, start, stop, kill and remove, containers all of them.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.box import Box
    from kmem_harness.harness import Harness
    from kmem_harness.runtimes.spec import ContainerSpec, ExecSpec, RuntimeFactory

__all__ = ["PROJECT", "hookimpl"]

PROJECT = "kmem_harness"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kmem_before_create(box: Box, spec: ContainerSpec) -> None:
    """Look at, or change, a container about to be made.

    When: its account is open, and nothing of it exists. *spec* may be changed in place: command,
    environment, labels and, for containers, the engine's own create request.
    Failure: the container is never made.
    """


@hookspec
def kmem_after_create(box: Box, spec: ContainerSpec) -> None:
    """Learn of a container that was made and not started; changes of *spec* come too late."""


@hookspec
def kmem_before_start(box: Box) -> None:
    """Learn that a container is about to start; for containers, at every start.

    A start by the engine itself, under a restart policy, has been taken when this is called.
    """


@hookspec
def kmem_after_start(box: Box) -> None:
    """Learn that a container has started and that its limits bind it."""


@hookspec
def kmem_before_exec(box: Box, spec: ExecSpec) -> None:
    """Look at, or change, a command about to be run in a container beside its first one."""


@hookspec
def kmem_after_exec(box: Box, spec: ExecSpec) -> None:
    """Learn that such a command was made known to the engine, which gave it ``spec.exec_id``."""


@hookspec
def kmem_before_pause(box: Box) -> None:
    """Learn that a container is about to be paused."""


@hookspec
def kmem_after_pause(box: Box) -> None:
    """Learn that a container is paused: its calls wait, and so do their answers."""


@hookspec
def kmem_before_unpause(box: Box) -> None:
    """Learn that a paused container is about to go on."""


@hookspec
def kmem_after_unpause(box: Box) -> None:
    """Learn that a paused container goes on."""


@hookspec
def kmem_before_stop(box: Box) -> None:
    """Learn that a container is about to be asked to end."""


@hookspec
def kmem_after_stop(box: Box) -> None:
    """Learn that a container was asked to end, and has ended."""


@hookspec
def kmem_before_kill(box: Box) -> None:
    """Learn that a container is about to be killed, or sent a signal through its engine."""


@hookspec
def kmem_after_kill(box: Box) -> None:
    """Learn that a container was sent its signal; it may still be ending."""


@hookspec
def kmem_before_remove(box: Box) -> None:
    """Learn that a container is about to be taken away; its report still counts.

    When: once for each container, also where its engine removed it behind our back.
    """


@hookspec
def kmem_after_remove(box: Box) -> None:
    """Learn that a container is gone; ``box.report()`` gives its final figures."""


@hookspec
def kmem_runtimes(harness: Harness) -> Mapping[str, RuntimeFactory]:
    """Offer further runtimes: by name, what makes one for *harness* when it is first asked for.

    When: at the first use of a runtime that is not "local". All results count; of two runtimes
    with one name, the one whose plugin is called first. Ours can be replaced, "local" cannot.
    Failure: the run that asked for it fails, and nothing is started.
    """


@hookspec(firstresult=True)
def kmem_price_syscall(syscall: str, kind: str, nbytes: int, kernel: str) -> int | None:
    """Say what one system call charges, where that is not what the cost table says.

    When: once for each modelled call as a container's account is opened, never for each call.
    First result: the first plugin that gives a number wins; ``None`` lets the next one answer.
    A kind's objects have one price: the highest that any call which makes them was given.

    :param kind: what the call makes, such as ``"task"``.
    :param nbytes: its price in the table of *kernel*, the profile emulated.
    :returns: bytes, at least 0. Failure: the container is never made.
    """


@hookspec
def kmem_cost_kinds(kernel: str) -> Mapping[str, Mapping[str, Any]]:
    """Add kinds of objects: ``{"key": {"syscalls": ["add_key"], "nbytes": 256, "errno": "ENOMEM"}}``.

    When: once for each container, before its account is opened. Each of ``syscalls`` is one that
    is not charged so far; it makes one object of this kind, and fails with ``errno`` ("ENOMEM", if
    left out) where a limit refuses that. No census knows such an object: it stays charged until its
    container is over. All results count; of two kinds with one name, the one whose plugin is called
    first. Failure: the container is never made.

    :param kernel: the profile emulated.
    """


@hookspec
def kmem_fault_rules() -> Mapping[str, str]:
    """Offer fault rules by name: ``{"no-sockets": "socket,socketpair:error=ENOBUFS"}``.

    When: once for each container that has fault rules, before its account is opened. A name may
    stand for its rule wherever one may: ``no-sockets``, and with parts that add to the rule's own
    or beat them, ``no-sockets:when=3``. All results count; of two rules with one name, the one
    whose plugin is called first. Names of calls and groups can be replaced so, too.
    Failure: the container is never made.

    :returns: text as ``--inject`` takes it, by a name without ``:``.
    """


@hookspec
def kmem_refused(box: Box, card: Mapping[str, Any]) -> None:
    """Learn of one refused call, soon after it was refused.

    When: for each refusal, in a thread of its own that runs only if some plugin has this hook,
    in their order for each container. A hook too slow for a bomb loses cards, never time: the
    report counts them all. Failure: ends the container, and ``box.wait()`` raises.
    """


@hookspec
def kmem_memcg_offline(path: str, counters: Mapping[str, Any]) -> None:
    """Learn that a memcg was removed.

    When: right after it is gone. Failure: leaves the call that removed it.

    :param counters: its last figures, in the shape of the report's ``memcg``.
    """


@hookspec
def kmem_report(box: Box, report: dict[str, Any]) -> None:
    """Add to a report, in place; the keys that the guide names are to be left as they are.

    When: at every ``box.report()``, of a running container too. Failure: leaves that call.
    """
