"""Carry out what concerns us: creations under a limit, and the steps of containers that have one.

Joins requests of the engine's API to the Docker runtime, which docker-py's clients use, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import docker.errors

from kmem_harness.core.errors import ConfigurationError, KmemHarnessError
from kmem_harness.proxy.engine import Answer, RefusedError, ask, json_answer
from kmem_harness.runtimes.engine import EngineError
from kmem_harness.runtimes.labels import OURS
from kmem_harness.runtimes.spec import ExecSpec
from kmem_harness.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.proxy.framing import Head
    from kmem_harness.proxy.routes import Route
    from kmem_harness.runtimes.docker import DockerRuntime

__all__ = ["Steps"]


class Steps:
    """What the proxy does itself, before one engine."""

    def __init__(
        self, runtime: DockerRuntime, engine: str, default: Terms | None, api: str | None
    ) -> None:
        """Ask the engine at the socket *engine*; *default* are the terms of who says none.

        *api* is the version that clients are told to speak, at most.
        """
        self._runtime = runtime
        self._engine = engine
        self._default = default
        self._api = api
        self._steps: dict[str, Callable[[Route, Head, bytes], Answer]] = {
            "ping": self._ping,
            "create": self._create,
            "libpod-create": self._refuse_libpod,
            "commit": self._commit,
            "exec": self._exec,
            "update": self._update,
        }

    def concerns(self, route: Route, head: Head) -> bool:
        """Say whether a request is for us: any creation, and what is done to containers of ours."""
        if route.what == "ping":
            return self._api is not None
        if route.what in ("create", "libpod-create"):
            return True
        return self._runtime.find(route.name or _asked(head).get("container", "")) is not None or (
            route.what == "update"
        )

    def carry_out(self, route: Route, head: Head, body: bytes) -> Answer:
        """Carry out a request that concerns us."""
        try:
            return self._steps.get(route.what, self._step)(route, head, body)
        except RefusedError as refused:
            return refused.answer
        except docker.errors.APIError as error:
            return json_answer(error.status_code or 500, {"message": str(error.explanation)})
        except ConfigurationError as error:
            return json_answer(400, {"message": _sentence(error)})
        except (KmemHarnessError, OSError) as error:
            return json_answer(500, {"message": _sentence(error)})

    # -- each of them ----------------------------------------------------------------------

    def _ping(self, _: Route, head: Head, body: bytes) -> Answer:
        answer = self._ask(head, body)
        headers = tuple(
            (name, self._api or value if name.lower() == "api-version" else value)
            for name, value in answer.headers
        )
        return answer._replace(headers=headers)

    def _create(self, _: Route, head: Head, body: bytes) -> Answer:
        config = _object(body)
        terms = self._terms(config)
        if terms is None:
            return self._ask(head, body)
        config["HostConfig"] = host = dict(_within(config, "HostConfig"))
        host.pop("KernelMemory", None)
        if not isinstance(config.get("Image"), str):
            raise ConfigurationError(f"the request's Image is {config.get('Image')!r}, and no name")
        answers: list[Answer] = []

        def original(ours: dict[str, Any]) -> dict[str, Any]:
            answers.append(self._ask(head, json.dumps(ours).encode()))
            return answers[0].json()

        self._runtime.create(
            config,
            original,
            {
                "kmem_limit": terms.limit or None,
                "below": terms.memcg or None,
                "kinds": terms.kinds or None,
                "mode": terms.mode,
                "faults": terms.inject,
            },
        )
        return answers[0]

    def _terms(self, config: dict[str, Any]) -> Terms | None:
        host = _within(config, "HostConfig")
        terms = Terms.of_labels(_within(config, "Labels"), _within(host, "Annotations"))
        limit = host.get("KernelMemory") or 0
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise ConfigurationError(
                f"HostConfig.KernelMemory is {limit!r}, and no number of bytes"
            )
        if limit > 0:
            terms = (terms or Terms())._replace(limit=str(limit))
            terms.check()
        return terms or self._default

    def _refuse_libpod(self, _: Route, head: Head, body: bytes) -> Answer:
        spec = _object(body)
        memory = _within(_within(spec, "resource_limits"), "memory")
        said = Terms.of_labels(_within(spec, "labels"), _within(spec, "annotations"))
        if said is None and not memory.get("kernel") and self._default is None:
            return self._ask(head, body)
        raise ConfigurationError(
            "podman's own API (libpod) cannot give a container a kernel-memory limit through this "
            "proxy: use the Docker API (docker, or podman's compatible one), or a profile "
            "(kmem-harness profile) with podman run --security-opt seccomp=FILE"
        )

    def _exec(self, route: Route, head: Head, body: bytes) -> Answer:
        running = self._runtime.find(route.name)
        config = _object(body)
        if running is None or not isinstance(
            config.get("Cmd"), list
        ):  # the engine says what is wrong with it
            return self._ask(head, body)
        spec = ExecSpec(list(config["Cmd"]), {})
        with running.box.step("exec", spec=spec):
            config["Cmd"] = spec.command
            answer = self._ask(head, json.dumps(config).encode())
            spec.exec_id = answer.json().get("Id")
        return answer

    def _update(self, route: Route, head: Head, body: bytes) -> Answer:
        running = self._runtime.find(route.name)
        config = _object(body)
        limit = config.pop("KernelMemory", 0)
        if not limit:
            return self._ask(head, body)
        if running is None:
            raise ConfigurationError(
                f"container {route.name!r} was made without a kernel-memory limit, so that nothing of "
                "it is charged; make it anew with one"
            )
        running.box.memcg.kmem.limit = limit
        if not any(config.values()):
            return json_answer(200, {"Warnings": []})
        return self._ask(head, json.dumps(config).encode())

    def _commit(self, _: Route, head: Head, body: bytes) -> Answer:
        running = self._runtime.find(_asked(head).get("container", ""))
        if running is None:
            return self._ask(head, body)
        conf = _object(body)
        # Labels of a container cannot be taken off its image, but emptied: then it is nobody's.
        labels = {**dict.fromkeys(OURS, ""), **(conf.get("Labels") or {})}
        ours = {**running.asked, **{k: v for k, v in conf.items() if v}, "Labels": labels}
        return self._ask(_with_json(head), json.dumps(ours).encode())

    def _step(self, route: Route, head: Head, body: bytes) -> Answer:
        running = self._runtime.find(route.name)
        if running is None:
            return self._ask(head, body)
        answer: Answer = running.take(route.what, lambda: self._ask(head, body))
        return answer

    def _ask(self, head: Head, body: bytes) -> Answer:
        try:
            return ask(self._engine, head, body)
        except OSError as error:
            raise EngineError(f"the engine at {self._engine} does not answer: {error}") from error


def _asked(head: Head) -> dict[str, str]:
    query = parse_qs(head.target.partition("?")[2])
    return {name: values[-1] for name, values in query.items()}


def _with_json(head: Head) -> Head:
    others = tuple((name, value) for name, value in head.headers if name != "content-type")
    return head._replace(headers=(*others, ("content-type", "application/json")))


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request's body is no JSON: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigurationError("the request's body is no JSON object")
    return found


def _within(outer: dict[str, Any], name: str) -> dict[str, Any]:
    inner = outer.get(name) or {}
    if not isinstance(inner, dict):
        raise ConfigurationError(f"the request's {name} is {inner!r}, and no JSON object")
    return inner


def _sentence(error: Exception) -> str:
    remedy = getattr(error, "remedy", "")
    return f"kmem-harness: {error}" + (f"; {remedy}" if remedy else "")
