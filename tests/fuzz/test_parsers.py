"""Whatever text a parser is given, it gives a value or an error of ours, and soon."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from kmem_harness.core.errors import KmemHarnessError
from tests.fuzz.parsers import PARSERS

PATIENCE_SECONDS = 5.0
BOX_SECONDS = 60.0  # of the long form, for each parser
_CALM = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


def feed(name: str, text: str, directory: Path) -> None:
    """Have a parser read *text*; an error of ours, with something to say, is as good as a value."""
    parser = PARSERS[name]
    began = time.monotonic()
    given_ = text
    if parser.as_file:
        file = directory / "fuzz.toml"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        given_ = str(file)
    with suppress(KmemHarnessError):
        parser.parse(given_)
    assert time.monotonic() - began < PATIENCE_SECONDS


@pytest.mark.parametrize("name", PARSERS)
def test_parser_when_given_anything_then_gives_a_value_or_an_error_of_ours(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:

        @settings(max_examples=50, derandomize=True, **_CALM)
        @given(text=PARSERS[name].texts)
        def fuzz(text: str) -> None:
            feed(name, text, Path(directory))

        fuzz()


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_parser_when_given_anything_for_a_minute_then_never_breaks(name: str) -> None:
    end = time.monotonic() + BOX_SECONDS
    with tempfile.TemporaryDirectory() as directory:

        @settings(max_examples=20_000, **_CALM)
        @given(text=PARSERS[name].texts)
        def fuzz(text: str) -> None:
            feed(name, text, Path(directory))

        while time.monotonic() < end:
            fuzz()
