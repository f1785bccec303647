"""Words that are no address, no descriptor and no flag: whatever a call is given, boxes go on."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from kmem_harness.costs.kinds import SYSCALL_KINDS, Modelled
from kmem_harness.interposer.syscalls import native_architecture

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine

#: Those make processes, or objects that would outlive the box; the rest can do no harm.
LEFT_OUT = frozenset(("clone", "clone3", "fork", "vfork", "semget", "msgget", "shmget"))
CALLS = {
    name: number
    for name, number in native_architecture().numbers.items()
    if isinstance(SYSCALL_KINDS.get(name), Modelled) and name not in LEFT_OUT
}
PROGRAM = """
import ctypes, json, os, sys
os.chdir(sys.argv[2])  # some word may be the address of a name after all
syscall = ctypes.CDLL(None, use_errno=True).syscall
text = ctypes.create_string_buffer(b"/nowhere/at/all")
words = [0, 8, ctypes.addressof(text), 2**31, 2**32 - 100, 2**47 - 1, 2**63 - 1, 2**63, 2**63 + 4096,
         2**64 - 4096, 2**64 - 100, 2**64 - 1]
for number in json.loads(sys.argv[1]):
    for first in words:
        for other in words:
            rest = [ctypes.c_ulong(other)] * 5
            syscall(ctypes.c_long(number), ctypes.c_ulong(first), *rest)
print("all made")
"""


@pytest.mark.parametrize("mode", ["at once", "off"])
@pytest.mark.parametrize(
    "options", [(), ("--inject", "mkdir:error=ENOMEM:path=/x"), ("--observe",)], ids=" ".join
)
def test_calls_when_their_arguments_are_any_words_then_the_controller_answers_them_all(
    options: tuple[str, ...], mode: str, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEM_HARNESS_FAST_PATH", mode)
    assert {"mkdir", "unlinkat", "symlink", "socket", "openat2"} <= CALLS.keys()
    here = command_line.directory / "here"
    here.mkdir()
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, json.dumps([*CALLS.values()]), str(here)]
    outcome = command_line.run(command, "--kmem-limit", "1G", *options)
    assert (outcome.status, outcome.stdout) == (0, "all made\n"), outcome.stderr
    assert not outcome.report["controller_died"]
    assert outcome.report["notifications"] > 100 * len(CALLS)
    assert outcome.kmem["usage"] == 0
