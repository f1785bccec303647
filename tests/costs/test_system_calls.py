"""Every system call that the kernel's headers know is classified, under the right number."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import pytest

from kmem_harness.costs.kinds import BOUNDED, SYSCALL_KINDS
from kmem_harness.costs.system_calls import AT_A_CENSUS, DENIED, NOTHING, class_of
from kmem_harness.interposer.syscalls import ARCHITECTURES

#: They count calls, or open gaps for an architecture's own.
_NO_CALLS = frozenset({"syscalls", "arch_specific_syscall"})


@cache
def headers_of(machine):
    """Read the numbers of a machine's calls as a compiler for it sees them."""
    compiler = shutil.which(f"{machine}-linux-gnu-gcc")
    if compiler is None:
        pytest.skip(f"no headers of {machine}: install gcc-{machine.replace('_', '-')}-linux-gnu")
    source = "#include <asm/unistd.h>\n"
    command = [compiler, "-E", "-dM", "-"]
    text = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    named = dict(re.findall(r"^#define (__NR\w+) (\w+)$", text, re.MULTILINE))
    numbers = {}
    for name, value in named.items():
        while not value.isdigit():
            value = named[value]  # noqa: PLW2901 - a name for the same number
        if name.startswith("__NR_"):
            numbers[name.removeprefix("__NR_")] = int(value)
    assert len(numbers) > 300
    return {name: number for name, number in numbers.items() if name not in _NO_CALLS}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_of_the_headers_when_looked_up_then_each_has_a_class(machine):
    unknown = sorted(name for name in headers_of(machine) if class_of(name) is None)
    assert not unknown, f"say in costs/system_calls.py or kinds.py what becomes of {unknown}"


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_when_compared_with_the_headers_then_are_the_same(machine):
    theirs = headers_of(machine)
    ours = ARCHITECTURES[machine].numbers
    assert {name: theirs[name] for name in ours if name in theirs} == {
        name: number for name, number in ours.items() if name in theirs
    }


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_that_are_charged_when_a_machine_has_them_then_their_numbers_are_known(machine):
    missing = {
        name
        for name in headers_of(machine)
        if name in SYSCALL_KINDS and name not in ARCHITECTURES[machine].numbers
    }
    assert not missing


def test_classes_when_compared_then_no_call_is_in_two():
    tables = [SYSCALL_KINDS.keys(), BOUNDED.keys(), AT_A_CENSUS, DENIED, NOTHING]
    names = [name for table in tables for name in table]
    assert sorted(names) == sorted(set(names))


def test_calls_that_are_not_charged_when_listed_then_each_says_what_it_may_take():
    for name, entry in BOUNDED.items():
        assert entry.reason, name
        assert class_of(name) == "passed through"
    assert class_of("mkdir") == "modelled"
    assert class_of("io_uring_setup") == "denied"
    assert class_of("read") == "makes nothing that lasts"
    assert class_of("of_the_year_2100") is None
