"""Who installs a container's filter: what engines can do, and the profiles they are given."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.harness import Harness
from kmem_harness.interposer.filter import WAIT_KILLABLE_RECV
from kmem_harness.interposer.profile import ALLOW_ALL, WAIT_KILLABLE
from kmem_harness.runtimes.default_profiles import default_profile
from kmem_harness.runtimes.native import NativeListener, check_listener


class Client:
    """An engine that says where its default profile is."""

    def __init__(self, options: tuple[str, ...] = ()) -> None:
        self.options = options

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": list(self.options)}


def docker(version: str, runc: str) -> dict[str, Any]:
    components = [{"Name": "Engine", "Version": version}, {"Name": "runc", "Version": runc}]
    return {"Version": version, "Components": components}


@pytest.mark.parametrize(
    ("version", "auto"),
    [
        (docker("20.10.24+dfsg1", "1.1.5+ds1"), False),
        (docker("24.0.7", "1.1.12"), False),  # signals would interrupt what waits
        (docker("28.5.2", "1.5.0"), True),
        (docker("29.1.0", "1.5.0"), False),  # its default profile is not known
    ],
    ids=["too-old", "interruptible", "able", "too-new"],
)
def test_chosen_when_left_to_us_then_is_native_where_that_has_no_drawback(
    version: dict[str, Any], auto: Any
) -> None:
    listener = NativeListener(Client(), version)
    assert listener.chosen("auto", {}) is auto
    assert listener.chosen("shim", {}) is False
    for name in ("Init", "Privileged", "Runtime"):
        assert not listener.chosen("auto", {"HostConfig": {name: True}})


def test_chosen_when_the_kernel_lets_signals_interrupt_then_is_the_shim() -> None:
    """A new runtime on an old kernel asks for a flag in vain, and its containers do not start."""
    able = docker("28.5.2", "1.5.0")
    for release, auto in (("5.10.0-33-amd64", False), ("5.15.0-91-generic", False), ("7.0", True)):
        listener = NativeListener(Client(), {**able, "KernelVersion": release})
        assert listener.chosen("auto", {}) is auto
        assert bool(listener.flags) is auto
    here = {**able, "KernelVersion": os.uname().release}
    assert NativeListener(Client(), here).chosen("auto", {}) is is_wait_killable()


def is_wait_killable() -> bool:
    """See whether a box of ours has the flag in its filter."""
    with Harness() as harness, harness.run(["sleep", "9"], kmem_limit="8M") as box:
        return bool(box.filter_flags & WAIT_KILLABLE_RECV)


def test_put_into_when_the_default_profile_is_not_known_then_asks_for_one() -> None:
    listener = NativeListener(Client(("name=seccomp,profile=builtin",)), docker("29.1", "1.5"))
    with pytest.raises(ConfigurationError, match=r"default seccomp profile of docker 29\.1 is not"):
        listener.put_into({}, lambda *_: ({}, ""))


def test_chosen_when_the_engine_cannot_then_says_so() -> None:
    listener = NativeListener(Client(), docker("20.10.24", "1.1.5"))
    with pytest.raises(UnsupportedHostError, match=r"Docker 20\.10\.24 drops") as caught:
        listener.chosen("native", {})
    assert "--docker-listener shim" in caught.value.remedy


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ([], default_profile("docker", "28.5.2")),
        (["seccomp=unconfined"], ALLOW_ALL),
        (['seccomp={"defaultAction": "SCMP_ACT_LOG"}'], {"defaultAction": "SCMP_ACT_LOG"}),
    ],
    ids=["default", "unconfined", "given"],
)
def test_put_into_then_the_profile_that_there_would_be_is_extended(
    options: list[str], base: dict[str, Any]
) -> None:
    asked = []

    def listen(base: dict[str, Any], flags: list[str]) -> tuple[dict[str, Any], str]:
        asked.append((base, flags))
        return {"extended": True}, "/unused"

    config = {"HostConfig": {"SecurityOpt": ["no-new-privileges", *options]}}
    NativeListener(Client(), docker("28.5.2", "1.5")).put_into(config, listen)
    assert asked == [(base, [WAIT_KILLABLE])]
    assert config["HostConfig"]["SecurityOpt"] == [
        "no-new-privileges",
        'seccomp={"extended":true}',
    ]


def test_put_into_when_the_engine_has_a_profile_of_its_own_then_that_is_extended(
    tmp_path: Any,
) -> None:
    (tmp_path / "own.json").write_text('{"defaultAction": "own"}')
    client = Client((f"name=seccomp,profile={tmp_path}/own.json",))
    asked: list[Any] = []
    NativeListener(client, docker("28.5.2", "1.5")).put_into(
        {}, lambda base, _: asked.append(base) or ({}, "")
    )
    assert asked == [{"defaultAction": "own"}]


def test_put_into_when_the_engine_confines_nobody_then_neither_do_we() -> None:
    client = Client(("name=seccomp,profile=unconfined",))
    asked: list[Any] = []
    NativeListener(client, docker("28.5.2", "1.5")).put_into(
        {}, lambda base, _: asked.append(base) or ({}, "")
    )
    assert asked == [ALLOW_ALL]


@pytest.mark.parametrize(
    ("given", "named"),
    [("/no/such/file", "No such file"), ("{}", "no JSON object"), ("{", "no JSON object")],
)
def test_put_into_when_a_profile_is_unusable_then_names_it(given: str, named: str) -> None:
    config = {"HostConfig": {"SecurityOpt": [f"seccomp={given}"]}}
    with pytest.raises(ConfigurationError, match=named):
        NativeListener(Client(), docker("28.5.2", "1.5")).put_into(config, lambda *_: ({}, ""))


def test_see_no_other_when_a_profile_has_a_listener_then_says_that_there_can_be_but_one() -> None:
    """Two doors for one container: the shim's filter would fail with EBUSY at its start."""
    listener = NativeListener(Client(), docker("20.10.24", "1.1.5"))
    text = '{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/kmem-harness/serve.sock"}'
    config = {"HostConfig": {"SecurityOpt": ["no-new-privileges", f"seccomp={text}"]}}
    with pytest.raises(ConfigurationError, match="a container can have but one"):
        listener.see_no_other(config)
    for usual in ([], ["seccomp=unconfined"], ["seccomp=default"], ["apparmor=unconfined"]):
        listener.see_no_other({"HostConfig": {"SecurityOpt": usual}})


def test_check_listener_when_it_is_none_then_names_those_there_are() -> None:
    assert check_listener("native") == "native"
    with pytest.raises(ConfigurationError, match=r"'ptrace' is not known.*'auto'.*'native'"):
        check_listener("ptrace")
