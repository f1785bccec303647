from __future__ import annotations

import pytest

from kmem_harness.services.unitfile.environment import parse_environment_file
from kmem_harness.services.unitfile.words import (
    QuotingError,
    expand_arguments,
    split_words,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a  b\t", ["a", "b"]),
        ("\"a b\" 'c d'", ["a b", "c d"]),
        ('a"b c"d \'e"f\'', ["ab cd", 'e"f']),
        ('""', [""]),
        (r"a\sb \x41 \101 \u00e9 \t.", ["a b", "A", "A", "é", "\t."]),
        (r"\d+ a\ b", [r"\d+", r"a\ b"]),  # systemd keeps what it does not know
        (r'"say \"hi\""', ['say "hi"']),
    ],
)
def test_words_when_split_then_quotes_and_escapes_are_systemds(text, words):
    assert split_words(text) == words


def test_words_when_a_quote_is_open_then_that_is_an_error():
    with pytest.raises(QuotingError):
        split_words("a 'b c")


def test_word_when_bytes_are_escaped_then_they_make_characters():
    assert split_words(r"\xc3\xa9 \303\244 \u20ac") == ["é", "ä", "€"]


@pytest.mark.parametrize(
    ("arguments", "expanded"),
    [
        (["$ONE"], ["one"]),
        (["$TWO"], ["two", "words"]),
        (["$QUOTED"], ["a b", "c"]),
        (["$NONE", "x"], ["x"]),
        (["${TWO}"], ["two words"]),
        (["-x${ONE}y${NONE}z"], ["-xoneyz"]),
        (["a$ONE"], ["a$ONE"]),
        (["$$ONE", "x$$"], ["$ONE", "x$"]),
        (["$"], ["$"]),
    ],
)
def test_arguments_when_expanded_then_by_word_or_in_braces(arguments, expanded):
    environment = {"ONE": "one", "TWO": " two  words ", "QUOTED": "'a b' c"}
    if arguments == ["${TWO}"]:
        environment["TWO"] = "two words"
    assert expand_arguments(arguments, environment) == expanded


def test_environment_file_when_read_then_quoting_is_a_shells_and_nothing_expands():
    text = (
        "# comment\n; another\nA=1\n  B = two words  \nC='single $x \\n'\n"
        'D="double \\"quoted\\" \\$x \\n"\nE=a\\\nb\nF=\nno assignment\n1X=bad\nG=x # not a comment\n'
    )
    assert dict(parse_environment_file(text)) == {
        "A": "1",
        "B": "two words",
        "C": "single $x \\n",
        "D": 'double "quoted" $x \\n',
        "E": "ab",
        "F": "",
        "G": "x # not a comment",
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("""A="x"'y'""", "xy"),
        ("""A='x'"y"z""", "xyz"),
        ("""A="x" y""", "xy"),
        ("""A='a b' 'c d'""", "a bc d"),
        ("""A=x"y\"""", 'x"y"'),
        ("""A="x\\\ny\"""", "xy"),
        ("""A='x\\\ny'""", "x\\\ny"),
        ("""A="x\ny\"""", "x\ny"),
        ("A=x\\ y\\  ", "x y "),
        ("A=x\\\n  y", "x  y"),
        ("A=  x  ", "x"),
        ("A='  x  '  ", "  x  "),
        ("""A="\\a\\$\\`\\\\\"""", "\\a$`\\"),
        ("""A=\\"x""", '"x'),
        ("A=x # y", "x # y"),
        ("A=", ""),
        ('A="open', "open"),
        ("A = x", "x"),
        ("#\\\nB=1\nA=x", "x"),
        ("A=x\r\nB=y", "x"),
    ],
)
def test_environment_file_when_a_value_has_parts_then_it_is_as_systemd_reads_it(line, value):
    assert dict(parse_environment_file(line))["A"] == value
