"""Write the seccomp filter as data. Knows BPF; which calls to trap is the caller's business.

Source: include/uapi/linux/seccomp.h, include/uapi/linux/bpf_common.h (v6.6).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kmem_harness.interposer.syscalls import Architecture

__all__ = [
    "FALLBACK_FLAGS",
    "FILTER_FLAGS",
    "MAGIC",
    "Condition",
    "FilterPlan",
    "offer",
]

NEW_LISTENER = 1 << 3
WAIT_KILLABLE_RECV = 1 << 5
#: A signal must not interrupt a call we are pricing; kernels before 5.19 cannot promise that.
FILTER_FLAGS = NEW_LISTENER | WAIT_KILLABLE_RECV
FALLBACK_FLAGS = NEW_LISTENER

MAGIC = 0x4D454D4B  # "KMEM", as in shim.c

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_IF_SET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_RET_USER_NOTIF = 0x7FC00000
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
_OFFSET_NR = 0
_OFFSET_ARCH = 4
_OFFSET_ARGS = 16
_LOW_WORD = 0xFFFFFFFF

_INSTRUCTION = struct.Struct("=HBBI")
_OFFER = struct.Struct("=IIII")


class Condition(NamedTuple):
    """Narrow a rule by argument number *arg*: a bit of *mask* is set, or it is one of *equal*.

    With *unset*, no bit of *mask* is set.

    Only the low 32 bits of the argument are looked at: flags and pids have no others.
    """

    arg: int
    mask: int = 0
    equal: tuple[int, ...] = ()
    unset: bool = False

    def holds(self, word: int) -> bool:
        """Say what the filter would, for an argument's value *word*."""
        word &= _LOW_WORD
        if self.equal:
            return word in {one & _LOW_WORD for one in self.equal}
        return bool(word & self.mask) != self.unset


class FilterPlan(NamedTuple):
    """What a filter shall do; every call in neither table runs untouched.

    ``trap`` maps a call to a notification, ``deny`` to an errno; names the architecture lacks
    are left out. ``only_if`` narrows either.
    """

    architecture: Architecture
    trap: frozenset[str]
    deny: dict[str, int]
    only_if: dict[str, Condition]

    def program(self) -> bytes:
        """Assemble the filter: an array of ``struct sock_filter``.

        The architecture is tested first: under another one the numbers mean other calls.
        """
        code = [
            _ins(_LOAD_WORD, _OFFSET_ARCH),
            _ins(_JUMP_EQUAL, self.architecture.audit_token, jump_true=1),
            _ins(_RETURN, _RET_ERRNO | errno.ENOSYS),
            _ins(_LOAD_WORD, _OFFSET_NR),
        ]
        if self.architecture.x32_bit:
            code += [
                _ins(_JUMP_AT_LEAST, self.architecture.x32_bit, jump_false=1),
                _ins(_RETURN, _RET_ERRNO | errno.ENOSYS),
            ]
        for name in sorted(self.deny):
            code += self._rule(name, _RET_ERRNO | self.deny[name])
        for name in sorted(self.trap):
            code += self._rule(name, _RET_USER_NOTIF)
        code.append(_ins(_RETURN, _RET_ALLOW))
        return b"".join(code)

    def _rule(self, name: str, action: int) -> list[bytes]:
        number = self.architecture.numbers.get(name)
        if number is None:
            return []
        condition = self.only_if.get(name)
        if condition is None:
            return [_ins(_JUMP_EQUAL, number, jump_false=1), _ins(_RETURN, action)]
        *others, last = condition.equal or (None,)
        if last is not None:
            tests = [
                _ins(_JUMP_EQUAL, one & _LOW_WORD, jump_true=len(others) - at)
                for at, one in enumerate(others)
            ]
            tests.append(_ins(_JUMP_EQUAL, last & _LOW_WORD, jump_false=1))
        elif condition.unset:
            tests = [_ins(_JUMP_IF_SET, condition.mask, jump_true=1)]
        else:
            tests = [_ins(_JUMP_IF_SET, condition.mask, jump_false=1)]
        return [
            _ins(_JUMP_EQUAL, number, jump_false=3 + len(tests)),
            _ins(_LOAD_WORD, _OFFSET_ARGS + 8 * condition.arg),
            *tests,
            _ins(_RETURN, action),
            # A number has one rule, so a call whose argument did not match is done with.
            _ins(_RETURN, _RET_ALLOW),
        ]


def offer(plan: FilterPlan) -> bytes:
    """Frame a plan the way the shim reads it: ``struct offer``, then the instructions."""
    program = plan.program()
    count = len(program) // _INSTRUCTION.size
    return _OFFER.pack(MAGIC, count, FILTER_FLAGS, FALLBACK_FLAGS) + program


def _ins(code: int, k: int, *, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, jump_true, jump_false, k)
