"""Whatever is sent to the control socket, the sender gets an answer and the controller lives on."""

from __future__ import annotations

import os
import socket
from array import array
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmem_harness.controller.door.protocol import MAX_PACKET
from tests.controller.raw import Raw
from tests.support.descriptors import nr_descriptors
from tests.support.peak import until

KINDS = {
    "task": {"nbytes": 8192, "errno": 12, "errno_name": "ENOMEM"},
    "thread": {"nbytes": 8192, "errno": 12, "errno_name": "ENOMEM"},
}
ARM = {
    "op": "arm",
    "box": "b",
    "memcg": "/armed",
    "observe": True,
    "isolation": "none",
    "kinds": KINDS,
}

MALFORMED = {
    "no JSON": b"hello",
    "half an object": b'{"op": "hello"',
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "nested too deeply": b"[" * 100_000,
    "nested objects": b'{"op":' * 30_000,
    "oversize": b'{"op": "' + b"x" * MAX_PACKET + b'"}',
    "empty object": {},
    "no operation": {"path": "/"},
    "unknown operation": {"op": "destroy"},
    "operation is a list": {"op": ["hello"]},
    "operation is null": {"op": None},
    "private operation": {"op": "_hello"},
    "read without a path": {"op": "read"},
    "read without a file": {"op": "read", "path": "/"},
    "read of a number": {"op": "read", "path": 5, "file": "tasks"},
    "read of a list": {"op": "read", "path": ["/"], "file": "tasks"},
    "read of no memcg": {"op": "read", "path": "/nobody", "file": "tasks"},
    "file is a number": {"op": "read", "path": "/", "file": 7},
    "value is missing": {"op": "write", "path": "/", "file": "memory.failcnt"},
    "value is huge": {
        "op": "write",
        "path": "/",
        "file": "memory.kmem.limit_in_bytes",
        "value": "9" * 9999,
    },
    "make without parents": {"op": "make", "path": "/a/b/c"},
    "make of the root": {"op": "make", "path": "/"},
    "remove of the root": {"op": "remove", "path": "/"},
    "state of no box": {"op": "state", "box": "nobody"},
    "state of a list": {"op": "state", "box": []},
    "finish of no box": {"op": "finish", "box": "nobody"},
    "finish without a box": {"op": "finish"},
    "expect of no box": {"op": "expect", "box": "nobody", "pid": 1},
    "expect of no pid": {"op": "expect", "box": "nobody"},
    "watch of no memcg": {"op": "watch", "path": "/nobody"},
    "arm without fields": {"op": "arm"},
    "arm in no memcg": {**ARM, "memcg": "/nobody"},
    "arm with a path for a name": {**ARM, "box": "../../escape"},
    "arm with an endless name": {**ARM, "box": "x" * 5000},
    "arm with a name of NUL": {**ARM, "box": "a\0b"},
    "arm without kinds": {**ARM, "kinds": {}},
    "arm with kinds of the wrong type": {**ARM, "kinds": ["task"]},
    "arm with a price that is no number": {
        **ARM,
        "kinds": {**KINDS, "task": {**KINDS["task"], "nbytes": "much"}},
    },
    "arm with an endless price": (
        b'{"op": "arm", "box": "b", "memcg": "/armed", "observe": true, "isolation": "none", "kinds": '
        b'{"task": {"nbytes": 1e999, "errno": 12, "errno_name": "E"}}}'
    ),
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED.keys())
def test_request_when_malformed_then_gets_an_error_and_the_next_is_answered(packet, harness):
    harness.memcg("/armed", "1M")
    with Raw(harness) as control:
        reply = control.ask(packet)
        assert set(reply["error"]) >= {"type", "message"}
        assert reply["error"]["type"] in {"ConfigurationError", "OSError"}
        assert control.ask({"op": "hello"})["ok"]
    assert harness.controller.request("boxes")["boxes"] == []
    assert [p.name for p in Path(harness.controller.directory).iterdir()] == ["control.sock"]


def test_request_when_it_has_a_serial_then_so_has_its_reply(harness):
    with Raw(harness) as control:
        assert control.ask({"op": "hello", "serial": 7})["serial"] == 7
        assert control.ask({"op": "destroy", "serial": "x"})["serial"] == "x"


def test_client_when_a_request_was_broken_off_then_the_next_gets_its_own_reply(harness):
    # As Ctrl-C between asking and hearing does.
    harness.controller._socket.send(b'{"op": "ls", "path": "/", "serial": -1}')
    assert harness.controller.request("hello")["version"] == 1


def test_request_when_descriptors_come_along_unasked_then_they_are_closed(harness):
    controller = harness.controller.pid
    with Raw(harness) as control:
        control.ask({"op": "hello"})
        before = nr_descriptors(controller)
        reading, writing = os.pipe()
        for count, body in [(1, b'{"op": "hello"}'), (4, b"junk"), (60, b'{"op": "hello"}')]:
            rights = array("i", [reading, writing] * 30)[:count]
            control.socket.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            assert "ok" in control.receive() or count > 1
        until(lambda: nr_descriptors(controller) == before, 5, "descriptors are left")
        os.close(reading)
        os.close(writing)


def test_connection_when_it_asks_without_reading_then_is_cut_off_and_others_are_served(harness):
    with Raw(harness) as control:
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100_000):
                control.send({"op": "ls", "path": "/"})
            pytest.fail("it was not cut off")
        assert harness.controller.request("hello")["ok"]


def test_connection_when_it_hangs_up_before_its_reply_then_others_are_served(harness):
    for _ in range(50):
        with Raw(harness) as control:
            control.send({"op": "counters", "path": "/"})
    assert harness.controller.request("hello")["ok"]


OPERATIONS = [
    *("hello", "make", "remove", "read", "write", "ls", "children", "counters", "state", "boxes"),
    *("arm", "finish", "watch", "expect", "nothing"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# No pid that there is: what is announced as a box's init is killed with it.
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXT | st.just(2**70) | st.just(-1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["path", "file", "value", "box", "pid", "kinds", "memcg", "observe", "parents"]
REQUESTS = st.dictionaries(st.sampled_from(FIELDS), VALUES | st.sampled_from(["/", "/a", "tasks"]))


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operation=st.sampled_from(OPERATIONS), fields=REQUESTS)
def test_request_when_of_any_shape_then_is_answered(operation, fields, lasting_harness):
    with Raw(lasting_harness) as control:
        reply = control.ask({"op": operation, **fields})
        assert ("ok" in reply) != ("error" in reply)
    assert lasting_harness.controller.alive
