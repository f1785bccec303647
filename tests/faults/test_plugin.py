"""What a plugin can add: kinds of objects, and fault rules by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import ConfigurationError

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "kmem-harness-keys"))

#: add_key with a type that no kernel has: it fails in the kernel, harmlessly.
KEYS = """
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 248, "aarch64": 217}[platform.machine()]
for _ in range(3):
    libc.syscall(number, b"no-such-type", b"x", None, 0, 0)
    print(errno.errorcode[ctypes.get_errno()], flush=True)
"""


@pytest.fixture(scope="module")
def harness():
    import kmem_harness_keys

    with Harness(plugins=[kmem_harness_keys]) as one:
        yield one


def run(harness, **options):
    command = [sys.executable, "-I", "-S", "-c", KEYS]
    with harness.run(command, stdout=subprocess.PIPE, **options) as box:
        said = box.communicate(timeout=30)[0].decode().split()
        return said, box.report()


def test_rule_when_a_plugin_names_it_then_its_name_stands_for_it(harness):
    said, report = run(harness, faults=["no-keys:when=2"])
    assert [name == "EDQUOT" for name in said] == [False, True, False]
    assert report["faults"]["rules"][0]["rule"] == "add_key:error=EDQUOT:when=2"


def test_kind_when_a_plugin_adds_it_then_is_charged_and_refused(harness):
    _, report = run(harness, kmem_limit="64M")
    assert report["kinds"]["key"] == {
        "charged": 3,
        "uncharged": 3,
        "refused": 0,
        "live": 0,
        "live_peak": 3,
        "bytes_each": 256,
    }
    _, report = run(harness, kmem_limit="64M", kinds=["task"])
    assert "key" not in report["kinds"]


def test_kind_when_chosen_alone_then_its_limit_refuses_with_its_own_errno(harness):
    said, report = run(harness, kmem_limit=4096, kinds=["key"], faults=["add_key:count"])
    assert report["kinds"]["key"]["charged"] == 3
    assert "EDQUOT" not in said
    with Harness(plugins=[_Plugin({"key": {"syscalls": ["add_key"], "nbytes": 2048}})]) as other:
        said, report = run(other, kmem_limit=4096, kinds=["key"])
    assert said[2] == "ENOMEM"
    assert report["kinds"]["key"]["refused"] == 1


class _Plugin:
    def __init__(self, kinds):
        from kmem_harness.hookspecs import hookimpl

        self.kinds = kinds
        type(self).kmem_cost_kinds = hookimpl(lambda self: self.kinds)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"task": {"syscalls": ["add_key"], "nbytes": 1}}, "there is already"),
        ({"key": {"syscalls": ["add_key"], "nbytes": 0}}, "whole bytes"),
        ({"key": {"syscalls": ["socket"], "nbytes": 8}}, "not charged yet"),
        ({"key": {"nbytes": 8}}, "not charged yet"),
        ({"key": {"syscalls": ["add_key"], "nbytes": 8, "errno": "ENO"}}, "ENOMEM"),
    ],
)
def test_kind_when_a_plugin_has_it_wrong_then_no_box_is_made(kinds, said):
    with Harness(plugins=[_Plugin(kinds)]) as harness:
        with pytest.raises(ConfigurationError, match=said):
            harness.run(["true"], kmem_limit="8M")
        assert harness.controller.request("boxes")["boxes"] == []
