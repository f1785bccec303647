"""The filter as data: run through an interpreter of classic BPF, and installed for real."""

from __future__ import annotations

import errno
import struct

import pytest

from kmem_harness.interposer.filter import (
    FALLBACK_FLAGS,
    FILTER_FLAGS,
    MAGIC,
    Condition,
    FilterPlan,
    offer,
)
from kmem_harness.interposer.syscalls import ARCHITECTURES, Architecture

NOTIFY, ALLOW = 0x7FC00000, 0x7FFF0000
LOAD, EQUAL, AT_LEAST, IF_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def denied(number: int) -> int:
    return 0x00050000 | number


def verdict(program: bytes, number: int, token: int, args: tuple[int, ...] = ()) -> int:
    """Interpret a filter as the kernel does: struct seccomp_data in, action out."""
    words = [*args, *[0] * (6 - len(args))]
    data = struct.pack("=iIQ6Q", number - (1 << 32) if number >> 31 else number, token, 0, *words)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, jump_true, jump_false, k = code[at]
        at += 1
        if operation == RETURN:
            return k
        if operation == LOAD:
            (accumulator,) = struct.unpack_from("=I", data, k)
            continue
        holds = {
            EQUAL: accumulator == k,
            AT_LEAST: accumulator >= k,
            IF_SET: bool(accumulator & k),
        }[operation]
        at += jump_true if holds else jump_false


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


@pytest.fixture
def program(architecture: Architecture) -> bytes:
    plan = FilterPlan(
        architecture,
        trap=frozenset({"clone", "clone3", "fork", "mmap", "openat"}),
        deny={"io_uring_setup": errno.ENOSYS, "kill": errno.EPERM},
        only_if={
            "openat": Condition(arg=2, mask=0x40),
            "kill": Condition(arg=0, equal=(-1,)),
            "mmap": Condition(arg=3, mask=0x10, unset=True),
        },
    )
    return plan.program()


def test_filter_of_trapped_call_notifies(architecture, program):
    for name in ("clone", "clone3"):
        number = architecture.numbers[name]
        assert verdict(program, number, architecture.audit_token) == NOTIFY


def test_filter_of_any_other_call_allows(architecture, program):
    trapped = {architecture.numbers[n] for n in ("clone", "clone3", "mmap")}
    trapped |= {architecture.numbers.get("fork", -1), architecture.numbers["io_uring_setup"]}
    for number in set(range(500)) - trapped:
        assert verdict(program, number, architecture.audit_token) == ALLOW


def test_filter_of_foreign_architecture_denies_every_call(architecture, program):
    for token in (0x40000003, 0xC00000B7, 0xC000003E, 0):
        if token != architecture.audit_token:
            for number in (0, 1, 56, 57, 120, 220, 435):
                assert verdict(program, number, token) == denied(errno.ENOSYS)


def test_filter_of_x32_call_denies_it():
    x86_64 = ARCHITECTURES["x86_64"]
    program = FilterPlan(x86_64, frozenset({"clone"}), {}, {}).program()
    for number in (0x40000000, 0x40000038, 0x7FFFFFFF, 0xFFFFFFFF):
        assert verdict(program, number, x86_64.audit_token) == denied(errno.ENOSYS)


def test_filter_of_denied_call_answers_its_errno(architecture, program):
    number = architecture.numbers["io_uring_setup"]
    assert verdict(program, number, architecture.audit_token) == denied(errno.ENOSYS)


def test_filter_with_condition_looks_at_the_argument(architecture, program):
    token, openat = architecture.audit_token, architecture.numbers["openat"]
    assert verdict(program, openat, token, (0, 0, 0x41)) == NOTIFY
    assert verdict(program, openat, token, (0, 0, 0x1)) == ALLOW
    assert verdict(program, openat, token, (0x40, 0x40, 0)) == ALLOW


def test_filter_with_bits_that_must_be_unset_looks_at_them(architecture, program):
    token, mmap = architecture.audit_token, architecture.numbers["mmap"]
    assert verdict(program, mmap, token, (0, 0, 0, 0x22)) == NOTIFY
    assert verdict(program, mmap, token, (0, 0, 0, 0x32)) == ALLOW


def test_filter_with_negative_argument_compares_its_low_word(architecture, program):
    token, kill = architecture.audit_token, architecture.numbers["kill"]
    assert verdict(program, kill, token, (0xFFFFFFFFFFFFFFFF,)) == denied(errno.EPERM)
    assert verdict(program, kill, token, (0xFFFFFFFF,)) == denied(errno.EPERM)
    assert verdict(program, kill, token, (1234,)) == ALLOW


def test_offer_frames_the_program_as_the_shim_reads_it():
    plan = FilterPlan(ARCHITECTURES["x86_64"], frozenset({"clone"}), {}, {})
    magic, count, flags, fallback = struct.unpack_from("=IIII", offer(plan))
    assert (magic, flags, fallback) == (MAGIC, FILTER_FLAGS, FALLBACK_FLAGS)
    assert len(offer(plan)) == 16 + 8 * count
    assert count <= 4096
