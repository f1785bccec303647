"""Follow what an engine does with our containers when nobody asked us. Knows engines' events.

Two threads: one reads the engine's events, the other waits for the controller's death, after
which no container may go on.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors
import requests.exceptions

from kmem_harness.hooks import PluginError
from kmem_harness.runtimes.labels import SESSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.runtimes.docker import DockerRuntime
    from kmem_harness.runtimes.docker_box import DockerBox

__all__ = ["Watcher"]


class Watcher:
    """Tell the boxes of one runtime what happened to their containers."""

    def __init__(self, runtime: DockerRuntime, session: str, controller_pidfd: int) -> None:
        """Start watching the containers of *session*."""
        self._runtime = runtime
        self._closed = False
        self._stopping, self._stop = os.pipe()
        self._handlers: dict[str, Callable[[DockerBox, dict[str, str]], None]] = {
            "start": lambda running, _: running.started_by_engine(),
            "die": lambda running, facts: running.died(int(facts.get("exitCode") or 0)),
            "oom": lambda running, _: running.ran_out_of_memory(),
            "destroy": lambda running, _: running.removed_by_engine(),
            "exec_start": lambda running, facts: running.entered(facts.get("execID", "")),
        }
        # Asked for here, so that nothing which happens from now on is missed.
        self._events = runtime.client.api.events(
            decode=True, filters={"type": "container", "label": f"{SESSION}={session}"}
        )
        self._threads = [
            threading.Thread(target=work, args=arguments, name=f"kmem-harness-{name}", daemon=True)
            for name, work, arguments in (
                ("events", self._follow_events, ()),
                ("tie", self._await_death, (controller_pidfd,)),
            )
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop watching."""
        if self._closed:
            return
        self._closed = True
        os.close(self._stop)
        with suppress(OSError, docker.errors.DockerException):
            self._events.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    def _follow_events(self) -> None:
        try:
            for event in self._events:
                self._handle(event)
        except Exception as error:  # noqa: BLE001 - whatever docker-py raises at the end of a stream
            if not self._closed:
                self._runtime.log.error("events.lost", error=str(error))  # noqa: TRY400 - facts
                self._runtime.lose_sight()

    def _handle(self, event: dict[str, Any]) -> None:
        action = str(event.get("Action") or event.get("status") or "").partition(":")[0]
        # What podman calls them.
        action = {"died": "die", "remove": "destroy", "exec": "exec_start"}.get(action, action)
        handler = self._handlers.get(action)
        actor = event.get("Actor") or {}
        running = self._runtime.find(actor.get("ID") or event.get("id") or "")
        if handler is None or running is None:
            return
        try:
            handler(running, actor.get("Attributes") or {})
        except PluginError as error:
            self._runtime.log.exception("hook.failed", plugin=error.plugin, hook=error.hook)
            running.box.fail(error)
        except requests.exceptions.ConnectionError:  # the engine is gone, and its events with it
            raise
        except Exception:  # one container's trouble is not the others'
            self._runtime.log.exception("container.lost", container=running.container_id)
            running.box.discard()

    def _await_death(self, controller_pidfd: int) -> None:
        poll = select.poll()
        poll.register(controller_pidfd, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        os.close(self._stopping)
        if controller_pidfd in ready and not self._closed:
            self._runtime.log.error("controller.died")
            self._runtime.end_all()
