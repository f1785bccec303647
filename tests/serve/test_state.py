"""What a standing controller keeps over its own end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.serve import state as states
from kmem_harness.serve.state import State, find_report, is_id

if TYPE_CHECKING:
    from pathlib import Path


def test_state_when_another_has_it_then_names_that_process(tmp_path: Path) -> None:
    first = State(tmp_path)
    with pytest.raises(ConfigurationError, match=r"belongs to .* process \d+.*--state"):
        State(tmp_path)
    first.close()
    State(tmp_path).close()


def test_state_when_it_was_not_closed_then_tells_what_was_open_once(tmp_path: Path) -> None:
    first = State(tmp_path)
    first.opened("aa", {"since": 1})
    first.opened("bb", {"since": 2})
    first.closed("bb", {"of": "bb"})
    first.close()
    (tmp_path / "open" / "cc.json").write_text("{")  # cut off by a crash
    second = State(tmp_path)
    assert second.left_open() == [("aa", {"since": 1})]
    assert second.left_open() == []
    second.close()


def test_report_when_an_id_is_short_then_is_found_if_it_is_one(tmp_path: Path) -> None:
    state = State(tmp_path)
    for ident in ("ab12", "ab34", "ab"):
        state.closed(ident, {"of": ident})
    assert find_report(tmp_path, "ab1") == {"of": "ab12"}
    assert find_report(tmp_path, "ab") == {"of": "ab"}
    assert find_report(tmp_path, "x") is None
    with pytest.raises(ConfigurationError, match="'a' is several"):
        find_report(tmp_path, "a")
    state.close()


def test_reports_when_there_are_many_then_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "_MOST_REPORTS", 3)
    state = State(tmp_path)
    for number in range(6):
        state.closed(f"c{number}", {})
    assert len(list((tmp_path / "reports").iterdir())) == 3
    state.close()


@pytest.mark.parametrize("text", ["", "a/b", "..", ".", "-a", "a" * 200, "a\0", "a b"])
def test_id_when_no_file_can_be_named_after_it_then_is_none(text: str) -> None:
    assert not is_id(text)
