from __future__ import annotations

import errno
import json
import re
import time
from pathlib import Path

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.costs.table import Assumed, Documented, Measured, load_costs

GOOD = """\
kernel = "5.10"

[kinds.task]
nbytes = 4096
errno = "EAGAIN"
source = { assumed = "a test's own" }
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        file = tmp_path / "costs.toml"
        file.write_text(text)
        return load_costs(str(file))

    return load_text


@pytest.mark.parametrize("kernel", PROFILE_NAMES)
def test_table_when_shipped_then_prices_tasks_and_threads_with_sources(kernel):
    table = load_costs(kernel)
    assert table.kernel == kernel
    for name in ("task", "thread"):
        kind = table.kinds[name]
        assert kind.errno == errno.ENOMEM
        assert kind.nbytes >= profile_named(kernel).stack_nbytes
    for kind in table.kinds.values():
        assert isinstance(kind.source, (Measured, Documented, Assumed))
        assert len(kind.source.text) > 10
        assert sum(part.nbytes / part.every for part in kind.parts) == kind.nbytes


def test_table_when_of_v4_then_knows_stacks_only():
    """K86, K89."""
    assert {kind.nbytes for kind in load_costs("v4").kinds.values()} == {8192}


@pytest.mark.parametrize(
    ("kind", "errnos"),
    [
        ("pipe", {"ENFILE", "ENOMEM"}),
        ("tcp-socket", {"ENFILE", "ENOBUFS", "ENOMEM"}),
        ("unix-socket", {"ENFILE", "ENOMEM"}),
        ("dir-tmpfs", {"ENOMEM", "ENOSPC"}),
        ("dir-ext4", {"ENOMEM"}),
        ("file", {"ENOMEM"}),
        ("task", {"ENOMEM", "STUCK"}),
    ],
)
def test_errnos_when_a_part_is_refused_then_are_the_kernels(kind, errnos):
    """K97."""
    parts = load_costs("5.10").kinds[kind].parts
    assert {part.errno_name for part in parts} == errnos


def test_load_when_timed_then_is_cheap():
    started = time.process_time()
    for _ in range(10):
        load_costs("5.10")
    assert (time.process_time() - started) / 10 < 0.05


def test_load_when_a_file_names_a_base_then_adds_to_it(load):
    table = load(GOOD.replace('kernel = "5.10"', 'base = "5.10"'))
    assert table.kinds["task"].nbytes == 4096
    assert table.kinds["task"].errno == errno.EAGAIN
    assert table.kinds["pipe"] == load_costs("5.10").kinds["pipe"]
    assert list(load(GOOD).kinds) == ["task"]


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("nbytes = 4096", "nbytes = -1", 4, "nbytes"),
        ("nbytes = 4096", 'nbytes = "4k"', 4, "nbytes"),
        ("nbytes = 4096", "nbytes = true", 4, "nbytes"),
        ("nbytes = 4096\n", "", 3, "nbytes"),
        ('"EAGAIN"', '"EWHAT"', 5, "errno"),
        ("assumed", "guessed", 6, "source"),
        ("errno =", "errnum =", 5, "errnum"),
        ('kernel = "5.10"', 'kernel = "6.1"', 1, "kernel"),
        ("source = {", "parts = [{ name = 'a', nbytes = 1 }]\nsource = {", 4, "nbytes"),
        ("source = {", 'held_by = "hope"\nsource = {', 6, "held_by"),
    ],
)
def test_load_when_a_value_is_bad_then_names_file_line_and_key(load, old, new, line, key):
    with pytest.raises(ConfigurationError) as caught:
        load(GOOD.replace(old, new))
    assert f"costs.toml:{line}: " in str(caught.value)
    assert f" {key}: " in str(caught.value)


def test_load_when_not_toml_or_absent_then_says_so(load):
    with pytest.raises(ConfigurationError, match=r"costs\.toml: not TOML: .*line 1"):
        load("kinds = =\n")
    with pytest.raises(ConfigurationError, match=r"no cost table 'nowhere\.toml'.*v4"):
        load_costs("nowhere.toml")


SLABS = Path(__file__).parents[2].parent / "shared/oracle/linux-5.10/slab-objects.json"


@pytest.mark.skipif(not SLABS.exists(), reason="no recordings beside the repository")
def test_sizes_when_documented_by_the_kernels_slab_list_then_are_the_ones_listed():
    """Each cache a source names has the size the source gives, and the parts fit those sizes."""
    caches = {each["cache"]: each["objsize"] for each in json.loads(SLABS.read_text())["caches"]}
    sizes = {nbytes + 8 for nbytes in caches.values()}
    checked = 0
    for kind in load_costs("5.10").kinds.values():
        text = kind.source.text
        if not isinstance(kind.source, Documented) or "slab-objects" not in text:
            continue
        for name, nbytes in re.findall(r"([A-Za-z_][A-Za-z_0-9]+) ([0-9]+)\b", text):
            if name in caches:
                assert caches[name] == int(nbytes), (kind.name, name)
                checked += 1
        whole = [part.nbytes for part in kind.parts if not part.pages and part.name != "structures"]
        assert set(whole) <= sizes, kind.name
    assert checked > 30
