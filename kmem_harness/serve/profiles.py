"""Static seccomp profiles: an engine's own default, our calls, and where their listener goes.

Any engine that passes ``listenerPath`` on gives such a profile to its runtime unchanged, whichever
client asks for it; each container under it has an account of its own.
"""

from __future__ import annotations

import platform
from contextlib import closing
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.interposer.profile import ALLOW_ALL, WAIT_KILLABLE
from kmem_harness.runtimes.default_profiles import default_profile
from kmem_harness.runtimes.spec import BoxSpec
from kmem_harness.serve.accounts import OciRuntime, digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from kmem_harness.harness import Harness
    from kmem_harness.terms import Terms

__all__ = ["SIZES", "base_of", "static_profile"]

#: What --all makes: every power of two that a container may want.
SIZES = ("1m", "2m", "4m", "8m", "16m", "32m", "64m", "128m", "256m", "512m", "1g")


def static_profile(
    harness: Harness, base: dict[str, Any], terms: Terms, socket: Path
) -> dict[str, Any]:
    """Give *base* with the calls trapped that *terms* charge for, for a listener at *socket*.

    Raises: ConfigurationError for a base that cannot hold it.
    """
    template = BoxSpec(harness.new_name(), ())
    box = harness.open_account(
        template,
        OciRuntime(),
        # A memcg above that limits it is there when the container is.
        kmem_limit=terms.limit or None,
        mode=terms.mode if terms.limit or terms.inject else "observe",
        kinds=terms.kinds or None,
        faults=terms.inject,
    )
    try:
        calls, _ = box.listen_natively(ALLOW_ALL, [])
        profile, _ = box.listen_natively(base, [WAIT_KILLABLE] if terms.killable else [])
    finally:
        box.close_account()
    said = terms._replace(machine=platform.machine(), calls=digest_of(calls))
    profile["listenerPath"] = str(socket.absolute())
    profile["listenerMetadata"] = said.metadata()
    return profile


def base_of(engine: str | None) -> tuple[dict[str, Any], bool]:
    """Give the default profile of *engine*, and whether its runtime keeps signals from interrupting.

    *engine* is ``docker:26.1``, ``podman:5.4``, ``ctr`` (which confines nobody by default), or
    ``None`` for the one that answers at $DOCKER_HOST. Raises: ConfigurationError,
    UnsupportedHostError.
    """
    if engine is None:
        return _base_of_running()
    name, colon, version = engine.partition(":")
    if name == "ctr" and not colon:
        return ALLOW_ALL, False
    if name not in ("docker", "podman") or not version:
        raise ConfigurationError(
            f"engine {engine!r} is not known: write docker:VERSION, podman:VERSION or ctr; or leave it "
            "out, and the engine at $DOCKER_HOST is asked"
        )
    return default_profile(name, version), False


def _base_of_running() -> tuple[dict[str, Any], bool]:
    import docker  # noqa: PLC0415 - heavy: only if an engine is asked

    from kmem_harness.runtimes.engine import local_socket, readable_errors  # noqa: PLC0415
    from kmem_harness.runtimes.native import NativeListener  # noqa: PLC0415

    try:
        socket = local_socket()
        with readable_errors(socket):
            client = docker.DockerClient(base_url=f"unix://{socket}", timeout=10)
            version = client.version(api_version=False)
    except UnsupportedHostError as error:
        raise UnsupportedHostError(
            f"which engine is the profile for? {error}",
            missing=error.missing,
            remedy=f"{error.remedy}; or name it with --for docker:26.1, podman:5.4 or ctr",
        ) from None
    with closing(client):
        listener = NativeListener(client, version)
        if not listener.possible:
            raise UnsupportedHostError(
                f"{listener.name} drops the listenerPath of a seccomp profile",
                missing="an engine that passes listenerPath on",
                remedy="use Docker 23 or later, or podman; or the OCI wrapper (kmem-harness runtime "
                "install), or the proxy (kmem-harness proxy)",
            )
        return listener.default(), bool(listener.flags)
