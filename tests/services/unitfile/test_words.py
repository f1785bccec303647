from __future__ import annotations

import pytest

from kmem_harness.services.unitfile.words import (
    QuotingError,
    expand_arguments,
    parse_environment_file,
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
