"""What ``import kmem_harness`` gives: the documented names, and nothing before it is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kmem_harness
from kmem_harness.cli import main

#: The Python door, as documented. A name more or less is a change that users must be told of.
DOCUMENTED = [
    "AccountingError",
    "Box",
    "ConfigurationError",
    "Harness",
    "KmemHarnessError",
    "MemcgHandle",
    "RefusalCard",
    "ShimError",
    "UnsupportedHostError",
]


def test_package_when_listed_then_has_the_documented_names():
    assert kmem_harness.__all__ == DOCUMENTED


@pytest.mark.parametrize("name", DOCUMENTED)
def test_package_when_a_name_is_asked_for_then_gives_that_class(name):
    given = getattr(kmem_harness, name)
    assert inspect.isclass(given)
    assert given.__name__ == name
    assert given.__doc__


def test_package_when_asked_for_its_version_then_is_that_of_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert kmem_harness.__version__ in capsys.readouterr().out


def test_package_when_an_unknown_name_is_asked_for_then_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Harnes'"):
        _ = kmem_harness.Harnes
    with pytest.raises(ImportError):
        from kmem_harness import Harnes  # noqa: F401


def test_errors_when_caught_broadly_then_follow_the_documented_tree():
    for name in ("AccountingError", "ConfigurationError", "ShimError", "UnsupportedHostError"):
        assert issubclass(getattr(kmem_harness, name), kmem_harness.KmemHarnessError)
    assert issubclass(kmem_harness.ConfigurationError, ValueError)
    assert not issubclass(kmem_harness.UnsupportedHostError, ValueError)


def test_package_when_imported_then_loads_none_of_its_modules():
    code = (
        "import sys, kmem_harness; "
        "print(sorted(name for name in sys.modules if name.startswith('kmem_harness')))"
    )
    root = Path(kmem_harness.__file__).parent.parent
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert outcome.stdout == "['kmem_harness']\n"


def test_package_when_checked_by_users_then_is_typed():
    assert (Path(kmem_harness.__file__).parent / "py.typed").exists()
