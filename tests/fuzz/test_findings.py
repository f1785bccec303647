"""What was found once: each input that broke a reader's promise, by what it did."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from tests.fuzz.campaign import feed
from tests.fuzz.files import READERS as FILES
from tests.fuzz.readers import READERS

_HEAD, _CHARGE = FILES["recording"].examples[0].splitlines(keepends=True)[:2]
_SWEEP, _RUN = FILES["sweep state"].examples[0].splitlines(keepends=True)
_DEEP = b"[" * 30_000
_NINES = b"9" * 5000


def _changed(reader: str, **more: object) -> bytes:
    return json.dumps({**json.loads(READERS[reader].examples[0]), **more}).encode()


#: By what went wrong: the reader, and what it was given.
FINDINGS: dict[str, tuple[str, bytes]] = {
    "a limit that is no UTF-8": ("control file", b"8\x9f8k"),
    "a pid of thousands of digits": ("control file", _NINES),
    "a descriptor's number of thousands of digits": ("control file", _NINES + b" 1"),
    "an errno in superscript": ("fault rule", b"fork:error=\xc2\xb2"),
    "a seed in superscript": ("fault rule", b"fork:error=ENOMEM:prob=0.5:seed=\xc2\xb2"),
    "a seed of thousands of digits": ("fault rule", b"fork:error=ENOMEM:prob=1:seed=" + _NINES),
    "a count of thousands of digits": ("fault rule", b"fork:error=ENOMEM:when=" + _NINES),
    "a delay of thousands of digits": ("fault rule", b"fork:delay_enter=" + _NINES),
    "a task's name that is no UTF-8": ("fault rule", b"fork:error=ENOMEM:comm=\xf3h"),
    "a size beyond floating point": ("unit value", b"9" * 400),
    "a limit beyond floating point": ("unit file", b"[Service]\nLimitCPU=" + b"9" * 400 + b"h\n"),
    "an object beyond floating point": (
        "cost table",
        FILES["cost table"].examples[0].replace(b"nbytes = 8_192", b"nbytes = 1" + b"0" * 400),
    ),
    "a table nested too deeply": ("cost table", b"a = " + _DEEP),
    "an object of thousands of digits": ("cost table", b"a = " + _NINES),
    "an experiment of thousands of digits": ("experiment", b"a = " + _NINES),
    "an experiment nested too deeply": ("experiment", b"a = " + _DEEP),
    "a trace nested too deeply": ("trace", _DEEP),
    "a recording that is no UTF-8": ("recording", _HEAD + _CHARGE + b"[\xc0]\n"),
    "a recording begun beyond floating point": (
        "recording",
        _HEAD.replace(b"1.5", b"1" + b"0" * 400) + _CHARGE,
    ),
    "a charge at no time": ("recording", _HEAD + _CHARGE.replace(b"0.000001", b'"x"')),
    "a charge beyond floating point": (
        "recording",
        _HEAD + _CHARGE.replace(b"0.000001", _NINES[:400]),
    ),
    "a charge of no bytes": ("recording", _HEAD + _CHARGE.replace(b"17216", b"null")),
    "a recording nested too deeply": ("recording", _HEAD + _DEEP),
    "a recording's end without its count": ("recording", _HEAD + b'{"event":"recording.ended"}\n'),
    "a state nested too deeply": ("sweep state", _DEEP),
    "a run of infinite number": ("sweep state", _SWEEP + _RUN.replace(b": 1,", b": 1e400,")),
    "a run without a number": ("sweep state", _SWEEP + b'{"mode": "recover", "number": "x"}\n'),
    "a usage of infinity": ("baseline", _changed("baseline", tests={"a": {"max_usage": 1e999}})),
    "a baseline nested too deeply": ("baseline", _DEEP),
    "a damaged page of results": (
        "results",
        FILES["results"].examples[0][:5000] + b"\xff" * 400 + FILES["results"].examples[0][5400:],
    ),
    "an error of no type": ("described error", b'{"type": {"": null}}'),
    "a runtime's pid of infinity": ("runtime's handshake", b'{"pid": 1e999, "state": {}}'),
    "a runtime's state nested too deeply": ("runtime's handshake", _DEEP),
    "a profile that can be read and not be written": (
        "control protocol",
        b'{"op": "listen_natively", "box": "l", "flags": [], "profile": {"defaultAction": '
        b'"SCMP_ACT_ALLOW", "x": %s}}' % (b"[" * 950 + b"]" * 950),
    ),
    "a serial that can be read and not be written": (
        "control protocol",
        b'{"op": "hello", "serial": %s}' % (b"[" * 950 + b"]" * 950),
    ),
    "a path of thousands of levels": (
        "control protocol",
        json.dumps({"op": "make", "path": "/a" * 20_000, "parents": True}).encode(),
    ),
    "garbage out of a service's box": ("service's box", b'{"event":\\ "empty"}'),
    "a list out of a service's box": ("service's box", b"[]"),
    "an event without its process": ("service's box", b'{"event": "executed"}'),
    "a process that is an object": ("service's box", b'{"event": "exited", "pid": {}}'),
    "a notification that is a list": ("service's box", b'{"event":"notify","pid":7,"text":[]}'),
    "a main pid in superscript": (
        "service's box",
        json.dumps({"event": "notify", "pid": 7, "text": "MAINPID=\xb2"}).encode(),
    ),
    "a watchdog beyond floating point": (
        "service's box",
        json.dumps({"event": "notify", "pid": 7, "text": f"WATCHDOG_USEC={'9' * 400}"}).encode(),
    ),
    "a name that claims another pid": ("task's name", b"x\rNSpid:\t1"),
    "a name that claims another parent": ("task's name", b"x\x1cPPid:\t1"),
    "a mount point with a line end": ("mountinfo", b"a\rb"),
    "a mount point with a line end in Unicode": ("mountinfo", b"a\xc2\x85b"),
}


@pytest.mark.parametrize("what", FINDINGS)
def test_reader_when_given_what_was_found_once_then_keeps_its_promise(what: str) -> None:
    name, data = FINDINGS[what]
    reader = READERS[name]
    with reader.open() as read:
        for _ in range(60):  # some take turns: every control file is written to
            with suppress(*reader.errors):
                read(data)


def test_control_protocol_when_requests_nest_to_any_depth_then_none_ends_the_controller() -> None:
    """At some depth a request could just be read, and the reply that quotes it not be written."""
    reader = READERS["control protocol"]
    with reader.open() as read:
        for depth in range(900, 1000):
            for opening in (b'{"op": "hello", "serial": ', b'{"op": ', b'{"op": "state", "box": '):
                read(opening + b"[" * depth + b"]" * depth + b"}")


def test_readers_when_all_are_listed_then_each_takes_one_of_its_examples() -> None:
    """Else it would be the examples that are wrong, and what is made of them is refused at once."""
    for name, reader in READERS.items():
        assert feed(name, reader, 2, inputs=1000).taken, name
