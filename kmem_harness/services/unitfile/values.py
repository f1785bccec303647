"""Turn the values of unit files into numbers: time spans, sizes, signals, exit statuses.

Every function raises ValueError with the rule and a remedy; whoever reads files adds the place.
"""

from __future__ import annotations

import math
import os
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "NO_LIMIT",
    "ExitStatuses",
    "parse_boolean",
    "parse_exit_statuses",
    "parse_limit",
    "parse_memory",
    "parse_mode",
    "parse_number",
    "parse_seconds",
    "parse_signal",
    "parse_tasks",
    "parse_timeout",
    "signal_name",
]

#: "infinity" of a limit.
NO_LIMIT = -1

_BOOLEANS = {
    **dict.fromkeys(("1", "yes", "y", "true", "t", "on"), True),
    **dict.fromkeys(("0", "no", "n", "false", "f", "off"), False),
}
_SPAN_UNITS = {
    **dict.fromkeys(("usec", "us", "µs", "μs"), 1e-6),
    **dict.fromkeys(("msec", "ms"), 1e-3),
    **dict.fromkeys(("", "seconds", "second", "sec", "s"), 1.0),
    **dict.fromkeys(("minutes", "minute", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "hr", "h"), 3600.0),
    **dict.fromkeys(("days", "day", "d"), 86400.0),
    **dict.fromkeys(("weeks", "week", "w"), 604800.0),
    **dict.fromkeys(("months", "month", "M"), 2629800.0),  # 30.44 days, as systemd's
    **dict.fromkeys(("years", "year", "y"), 31557600.0),
}
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([^\s\d.]*)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)B?", re.ASCII)
_SIZE_UNITS = {suffix: 1 << (10 * power) for power, suffix in enumerate(("", *"KMGTPE"))}
_PERCENT = re.compile(r"(\d+(?:\.\d{1,2})?)%", re.ASCII)
_HUNDRED = 100
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LARGEST_EXIT = 255
_LARGEST = (1 << 63) - 1
#: Names of exit statuses. Source: exit-status.c of systemd 252.
_EXIT_NAMES = {
    name: int(number)
    for name, _, number in (
        word.partition("=")
        for word in [
            "SUCCESS=0",
            "FAILURE=1",
            "INVALIDARGUMENT=2",
            "NOTIMPLEMENTED=3",
            "NOPERMISSION=4",
            "NOTINSTALLED=5",
            "NOTCONFIGURED=6",
            "NOTRUNNING=7",
            "USAGE=64",
            "DATAERR=65",
            "NOINPUT=66",
            "NOUSER=67",
            "NOHOST=68",
            "UNAVAILABLE=69",
            "SOFTWARE=70",
            "OSERR=71",
            "OSFILE=72",
            "CANTCREAT=73",
            "IOERR=74",
            "TEMPFAIL=75",
            "PROTOCOL=76",
            "NOPERM=77",
            "CONFIG=78",
            "CHDIR=200",
            "NICE=201",
            "FDS=202",
            "EXEC=203",
            "MEMORY=204",
            "LIMITS=205",
            "OOM_ADJUST=206",
            "SIGNAL_MASK=207",
            "STDIN=208",
            "STDOUT=209",
            "CHROOT=210",
            "IOPRIO=211",
            "TIMERSLACK=212",
            "SECUREBITS=213",
            "SETSCHEDULER=214",
            "CPUAFFINITY=215",
            "GROUP=216",
            "USER=217",
            "CAPABILITIES=218",
            "CGROUP=219",
            "SETSID=220",
            "CONFIRM=221",
            "STDERR=222",
            "PAM=224",
            "NETWORK=225",
            "NAMESPACE=226",
            "NO_NEW_PRIVILEGES=227",
            "SECCOMP=228",
            "RUNTIME_DIRECTORY=233",
            "STATE_DIRECTORY=238",
            "CACHE_DIRECTORY=239",
            "LOGS_DIRECTORY=240",
            "CONFIGURATION_DIRECTORY=241",
            "EXCEPTION=255",
        ]
    )
}


def parse_boolean(text: str) -> bool:
    """Read yes or no, in systemd's ten spellings."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither yes nor no") from None


def parse_seconds(text: str) -> float:
    """Read a time span such as ``5min 20s``, ``1.5`` or ``infinity``. Units: seconds."""
    if text.strip() == "infinity":
        return math.inf
    total, at = 0.0, 0
    body = text.strip()
    while at < len(body):
        match = _SPAN.match(body, at)
        if match is None or match[2] not in _SPAN_UNITS:
            at = -1
            break
        total += float(match[1]) * _SPAN_UNITS[match[2]]
        at = match.end()
    if at < 1:
        raise ValueError(
            f"{text!r} is not a time span; write seconds, or units as in 1min 30s, or infinity"
        )
    return total


def parse_timeout(text: str) -> float:
    """Read a time span of which 0 means for ever. Units: seconds."""
    return parse_seconds(text) or math.inf


def parse_memory(text: str) -> int:
    """Read a size with base 1024, a percentage of this machine's memory, or infinity.

    Units: bytes; :data:`NO_LIMIT` for infinity (and ``max``).
    """
    if text in ("infinity", "max"):
        return NO_LIMIT
    percent = _PERCENT.fullmatch(text)
    if percent is not None:
        nbytes = int(_share(percent[1], text) * _physical_memory())
        return nbytes // _PAGE * _PAGE
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; write bytes, or with K, M, G or T as in 8M, a percentage, "
            "or infinity"
        )
    return _whole(float(match[1]) * _SIZE_UNITS[match[2]], text)


def _whole(number: float, text: str) -> int:
    if number > _LARGEST:
        raise ValueError(f"{text!r} is over {_LARGEST}; write infinity for no limit")
    return int(number)


def parse_tasks(text: str) -> int:
    """Read a number of tasks, a percentage of the system's, or infinity (:data:`NO_LIMIT`)."""
    if text in ("infinity", "max"):
        return NO_LIMIT
    percent = _PERCENT.fullmatch(text)
    count = (
        int(_share(percent[1], text) * _most_tasks())
        if percent is not None
        else parse_number(text, least=0)
    )
    if count < 1:
        raise ValueError(f"{text!r} lets no task be; write at least 1")
    return count


def _share(digits: str, text: str) -> float:
    share = float(digits) / _HUNDRED
    if share > 1:
        raise ValueError(f"{text!r} is more than all there is; write at most 100%")
    return share


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _most_tasks() -> int:
    """Give the smaller of the two bounds that the kernel has for a system."""
    return min(
        int(Path("/proc/sys/kernel", name).read_text(encoding="ascii"))
        for name in ("pid_max", "threads-max")
    )


def parse_number(text: str, least: int = -(1 << 31), most: int = 1 << 31) -> int:
    """Read a whole number between two bounds."""
    try:
        number = int(text, 10)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if not least <= number <= most:
        raise ValueError(f"{text!r} is not between {least} and {most}")
    return number


def parse_mode(text: str) -> int:
    """Read permission bits, in octal."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:  # noqa: PLR2004 - all permission bits there are
        raise ValueError(f"{text!r} is not a file mode; write octal digits such as 0755")
    return mode


def parse_signal(text: str) -> int:
    """Read a signal: ``SIGTERM``, ``TERM``, ``15``, ``RTMIN+3``."""
    name = text.upper().removeprefix("SIG")
    with_offset = re.fullmatch(r"RT(MIN|MAX)([+-]\d+)?", name)
    if with_offset:
        base = signal.SIGRTMIN if with_offset[1] == "MIN" else signal.SIGRTMAX
        number = int(base) + int(with_offset[2] or 0)
    elif name.isdigit():
        number = int(name)
    else:
        number = int(getattr(signal, f"SIG{name}", 0)) if name.isalnum() else 0
    if not 1 <= number <= signal.SIGRTMAX:
        raise ValueError(f"{text!r} is not a signal; write a name such as SIGTERM, or a number")
    return number


def signal_name(number: int) -> str:
    """Name a signal the way ``$EXIT_STATUS`` does: ``TERM``."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"RTMIN+{number - signal.SIGRTMIN}"


@dataclass
class ExitStatuses:
    """A set of exit codes and of signals."""

    codes: set[int] = field(default_factory=set)
    signals: set[int] = field(default_factory=set)

    def add(self, other: ExitStatuses) -> None:
        """Take in another set."""
        self.codes |= other.codes
        self.signals |= other.signals


def parse_exit_statuses(text: str) -> ExitStatuses:
    """Read codes, their names, and signals, as in ``1 TEMPFAIL SIGKILL``."""
    found = ExitStatuses()
    for word in text.split():
        if word.isdigit() and int(word) <= _LARGEST_EXIT:
            found.codes.add(int(word))
        elif word in _EXIT_NAMES:
            found.codes.add(_EXIT_NAMES[word])
        elif word.isdigit():
            raise ValueError(f"{word!r} is not an exit status; one is at most {_LARGEST_EXIT}")
        else:
            found.signals.add(parse_signal(word))
    return found


def parse_limit(text: str) -> tuple[int, int]:
    """Read a resource limit ``SOFT[:HARD]``, each a number or size, or infinity.

    Time limits (``LimitCPU=``, ``LimitRTTIME=``) have units of their own, which stand for
    seconds here.
    """
    soft, _, hard = text.partition(":")
    numbers = []
    for part in (soft, hard or soft):
        if part == "infinity":
            numbers.append(NO_LIMIT)
            continue
        match = _SIZE.fullmatch(part)
        if match is None:
            numbers.append(_whole(parse_seconds(part), text))
        else:
            numbers.append(_whole(float(match[1]) * _SIZE_UNITS[match[2]], text))
    return numbers[0], numbers[1]
