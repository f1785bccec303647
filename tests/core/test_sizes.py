from __future__ import annotations

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.core.sizes import UNLIMITED, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4096", 4096),
        ("8k", 8192),
        ("8K", 8192),
        ("8KiB", 8192),
        ("8M", 8 << 20),
        ("8MiB", 8 << 20),
        ("8mb", 8 << 20),
        ("1G", 1 << 30),
        ("0", 0),
        ("-1", UNLIMITED),
        ("max", UNLIMITED),
    ],
)
def test_parse_size_when_whole_then_gives_bytes(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    ["", " ", "8 M", "8M ", "64MB?", "-2", "1.5M", "0x10", "M", "٣", "8MiBs", "9" * 19 + "G"],
)
def test_parse_size_when_not_a_size_then_names_the_value_and_a_remedy(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)
    assert "rite" in str(caught.value)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0B"),
        (512, "512B"),
        (8192, "8.0K"),
        (8 << 20, "8.0M"),
        (3 << 29, "1.5G"),
        (1 << 41, "2.0T"),
        (UNLIMITED, "unlimited"),
    ],
)
def test_format_size_when_shown_then_is_short(nbytes, text):
    assert format_size(nbytes) == text


def test_profile_when_unknown_then_error_names_the_known_ones():
    with pytest.raises(ConfigurationError) as caught:
        profile_named("6.1")
    assert all(name in str(caught.value) for name in PROFILE_NAMES)
