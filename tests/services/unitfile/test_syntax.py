from __future__ import annotations

import pytest

from kmem_harness.services.unitfile.syntax import UnitFileError, parse_unit_text, read_unit_file


def pairs(text: str) -> list[tuple[str, str, str]]:
    return [(one.section, one.key, one.value) for one in parse_unit_text(text, "x.service")]


def test_text_when_it_has_sections_then_each_assignment_knows_its_own():
    assert pairs("[Unit]\nA=1\n\n[Service]\nB = two words \n[Unit]\nA=\n") == [
        ("Unit", "A", "1"),
        ("Service", "B", "two words"),
        ("Unit", "A", ""),
    ]


def test_lines_when_they_end_with_a_backslash_then_they_are_joined_past_comments():
    text = "[Service]\nExecStart=/bin/a \\\n  # not this\n; nor this\n  b \\\n\tc\nX=1\n"
    assert pairs(text) == [("Service", "ExecStart", "/bin/a  b  c"), ("Service", "X", "1")]
    assert parse_unit_text(text, "x").pop().place.line == 7


def test_line_when_its_last_backslash_is_escaped_then_it_ends_there():
    assert pairs("[A]\nB=c\\\\\nD=e\n") == [("A", "B", "c\\\\"), ("A", "D", "e")]


def test_line_when_a_blank_one_follows_its_backslash_then_it_ends_there():
    assert pairs("[A]\nB=c \\\n\nD=e") == [("A", "B", "c"), ("A", "D", "e")]


def test_text_when_it_ends_in_a_backslash_then_the_last_line_counts():
    assert pairs("[A]\nB=c \\") == [("A", "B", "c")]


def test_value_when_it_holds_equals_and_hashes_then_they_stay():
    assert pairs("[A]\nB=c=d # e\n") == [("A", "B", "c=d # e")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[Unit\n", 1, "invalid section header"),
        ("[]\n", 1, "invalid section header"),
    ],
)
def test_text_when_it_is_wrong_then_the_error_names_file_and_line(text, line, words):
    with pytest.raises(UnitFileError, match=words) as caught:
        parse_unit_text(text, "dir/x.service")
    assert str(caught.value).startswith(f"dir/x.service:{line}: ")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[Unit]\nno assignment\nB=2\n", 2, "missing '='"),
        ("[Unit]\n\n=x\nB=2\n", 3, "missing key"),
        ("A=1\n[Unit]\nB=2\n", 1, "outside of a section"),
        ("[Unit]\nA=1\\\nb\nnot one\nB=2", 4, "missing '='"),
    ],
)
def test_line_when_it_says_nothing_then_that_is_told_and_the_rest_counts(text, line, words):
    told = []
    found = parse_unit_text(text, "x.service", lambda place, wrong: told.append((place, wrong)))
    ((place, wrong),) = told
    assert place.line == line
    assert words in wrong
    assert (found[-1].key, found[-1].value) == ("B", "2")


def test_file_when_it_is_not_utf8_then_the_error_names_the_line(tmp_path):
    path = tmp_path / "x.service"
    path.write_bytes(b"[Unit]\nA=\xff\n")
    with pytest.raises(UnitFileError, match=":2: not UTF-8"):
        read_unit_file(path)
