"""Whatever a reader is given, it gives a value or the error it promises, soon, and grows no further."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.campaign import PATIENCE_SECONDS, feed
from tests.fuzz.mutator import Mutator
from tests.fuzz.reader import Reader, of_bytes
from tests.fuzz.readers import READERS

BOX_SECONDS = 60.0  # of the long form, for each reader


def inputs_of(reader: Reader) -> st.SearchStrategy[bytes]:
    """Let hypothesis choose, and make small what it finds: anything, words, examples with a piece of it."""
    anything = st.binary(max_size=200)
    words = st.lists(
        st.sampled_from((*reader.words, b"1", b"-", b"\n")) | st.binary(max_size=5), max_size=12
    )
    changed = st.builds(
        lambda example, at, length, new: example[:at] + new + example[at + length :],
        st.sampled_from(reader.examples),
        st.integers(0, 2000),
        st.integers(0, 40),
        anything | words.map(b"".join),
    )
    return anything | words.map(b"".join) | changed


@pytest.mark.parametrize("name", READERS)
def test_reader_when_given_anything_then_gives_a_value_or_an_error_it_promises(name: str) -> None:
    reader = READERS[name]
    with reader.open() as read:

        @settings(
            max_examples=50,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(data=inputs_of(reader))
        def fuzz(data: bytes) -> None:
            began = time.monotonic()
            try:
                read(data)
            except reader.errors as error:
                assert str(error)  # noqa: PT017 - it has to say something, whichever it is
            assert time.monotonic() - began < PATIENCE_SECONDS

        fuzz()


@pytest.mark.parametrize("name", READERS)
def test_reader_when_given_many_inputs_for_a_moment_then_has_no_finding(name: str) -> None:
    result = feed(name, READERS[name], 1, seconds=0.1)
    assert not result.findings, "\n".join(map(str, result.findings))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_reader_when_given_inputs_for_a_minute_then_never_breaks_and_never_grows(name: str) -> None:
    seed = time.time_ns()  # another one each time; a finding says which
    result = feed(name, READERS[name], seed, seconds=BOX_SECONDS)
    assert not result.findings, f"seed {seed}: " + "\n".join(map(str, result.findings))


def test_mutator_when_a_part_is_sought_again_then_gives_the_same_inputs() -> None:
    mutator = Mutator(READERS["control protocol"], "1")
    mutator.seek(7)
    first = [mutator() for _ in range(500)]
    mutator.seek(3)
    assert [mutator() for _ in range(500)] != first
    mutator.seek(7)
    assert [mutator() for _ in range(500)] == first
    assert len(set(first)) > 400


def fed(read: object, inputs: int = 1000) -> list[str]:
    reader = Reader(of_bytes(read), (b"12",))
    return [finding.what for finding in feed("mine", reader, 0, inputs=inputs).findings]


def test_feed_when_a_reader_breaks_its_promise_then_tells_each_way_once() -> None:
    def read(data: bytes) -> None:
        if len(data) > 2:
            raise KeyError(data)

    (what,) = fed(read)
    assert what.startswith("KeyError: ")


def test_feed_when_a_reader_grows_then_tells(monkeypatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign._WARM_PARTS", 2)
    kept = []
    # Not bytes(10_000): the kernel need not have given anything yet for zeros.
    (what,) = fed(lambda _: kept.append(b"x" * (10_000 + len(kept) % 2)), 4000)
    assert what.startswith("grew by ")


def test_feed_when_a_reader_hangs_then_breaks_it_off_and_tells(monkeypatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.PATIENCE_SECONDS", 0.1)
    hung = []

    def read(data: bytes) -> None:
        if not hung:
            hung.append(data)
            time.sleep(60)

    assert fed(read) == ["_TooLongError: "]
