from __future__ import annotations

import subprocess

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.unitfile.names import escape, parse_name, slice_path, unescape
from tests.services.oracle import needs_systemd


def test_name_when_it_is_an_instance_then_its_parts_are_told_apart():
    name = parse_name("get-ty@tty-1@x.service")
    assert (name.prefix, name.instance, name.type) == ("get-ty", "tty-1@x", "service")
    assert name.template == "get-ty@.service"
    assert parse_name("a@.service").is_template
    assert parse_name("a.service").template is None


@pytest.mark.parametrize(
    "text", ["", "a", "a.exe", "a b.service", "ä.service", ".service", "a/b.slice"]
)
def test_name_when_it_is_none_then_the_error_shows_it(text):
    with pytest.raises(ConfigurationError, match="is not a unit name"):
        parse_name(text)


def test_drop_in_folders_when_a_name_has_dashes_then_every_prefix_has_one():
    assert parse_name("foo-bar-baz.service").drop_in_folders() == [
        "foo-bar-baz.service.d",
        "foo-bar-.service.d",
        "foo-.service.d",
        "service.d",
    ]
    assert parse_name("a-b@i.service").drop_in_folders() == [
        "a-b@i.service.d",
        "a-b@.service.d",
        "a-@i.service.d",
        "a-@.service.d",
        "service.d",
    ]


def test_slice_when_its_name_has_dashes_then_it_stands_below_others():
    assert slice_path("-.slice") == "/"
    assert slice_path("a.slice") == "/a.slice"
    assert slice_path("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"


@pytest.mark.parametrize("name", ["a--b.slice", "-a.slice", "a@b.slice", "a.service"])
def test_slice_when_a_part_of_its_name_is_empty_then_that_is_an_error(name):
    with pytest.raises(ConfigurationError, match="is not a slice's name"):
        slice_path(name)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("srv-caf\\xc3\\xa9", "/srv/café"),
        ("\\xe2\\x82\\xac", "/€"),
        ("a\\x2db-c", "/a-b/c"),
        ("-", "/"),
    ],
)
def test_path_when_its_name_is_no_ascii_then_it_is_whole(text, path):
    assert unescape(text, path=True) == path


@needs_systemd
@pytest.mark.parametrize(
    "text", ["a/b", "plain", ".hidden", "with space-and:dash", "ünïcode", "x@y"]
)
def test_text_when_escaped_then_as_systemd_escape_does(text):
    said = subprocess.run(
        ["systemd-escape", "--", text], capture_output=True, text=True, check=True
    ).stdout.removesuffix("\n")
    assert escape(text) == said
    assert unescape(said) == text
