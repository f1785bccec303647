from __future__ import annotations

import pytest

from kmem_harness.calibrate.check import Outcome
from kmem_harness.calibrate.cost_file import cost_text, scaled_parts
from kmem_harness.calibrate.measure import LOADS, Measurement, slope
from kmem_harness.calibrate.memcg import find_hierarchy, kernel_bytes
from kmem_harness.core.errors import KmemHarnessError, UnsupportedHostError
from kmem_harness.costs.live import live_kinds
from kmem_harness.costs.table import Measured, Part, load_costs


def test_slope_when_one_reading_is_far_off_then_is_that_of_the_others():
    points = [(nr, 5_000 + 264.0 * nr) for nr in range(100, 700, 100)]
    assert slope(points) == (264.0, 0.0)
    points[3] = (points[3][0], points[3][1] + 40_000)
    assert slope(points)[0] == pytest.approx(264, rel=0.001)


def test_slope_when_readings_scatter_then_error_is_as_wide_as_they_do():
    points = [(nr, 264.0 * nr + (2_000 if nr % 200 else -2_000)) for nr in range(100, 700, 100)]
    nbytes, error = slope(points)
    assert abs(nbytes - 264) <= error < 40


def test_slope_when_no_objects_were_made_then_raises():
    for points in ([], [(100, 4096.0)], [(100, 4096.0), (100, 8192.0)]):
        with pytest.raises(KmemHarnessError, match="not known"):
            slope(points)


def test_table_when_every_kind_was_measured_then_loads_and_prices_what_was_measured(tmp_path):
    base = load_costs("5.10")
    # No two alike, and none a multiple of its parts.
    found = {
        load.kind: Measurement(301.4 + 97 * at, 1.5, 400 + at) for at, load in enumerate(LOADS)
    }
    file = tmp_path / "costs.toml"
    file.write_text(cost_text("5.10", base.kinds, found, "Linux 6.1"))
    table = load_costs(str(file))
    assert table.kernel == "5.10"
    priced = live_kinds(table)
    for name, measurement in found.items():
        kind, before = table.kinds[name], base.kinds[name]
        assert priced[name].nbytes == pytest.approx(measurement.nbytes, abs=1)
        assert round(sum(part.nbytes / part.every for part in kind.parts)) == kind.nbytes
        assert isinstance(kind.source, Measured)
        assert f"{measurement.nbytes:.0f} +- 2 bytes" in kind.source.text
        assert (kind.errno_name, kind.held_by) == (before.errno_name, before.held_by)
        assert [part.errno_name for part in kind.parts] == [p.errno_name for p in before.parts]
    assert table.kinds["raw-socket"] == base.kinds["raw-socket"]


def test_prices_when_a_part_is_shared_by_many_then_count_its_share():
    """A page table's upper level serves 512: charged whole, it once doubled the price."""
    assert live_kinds(load_costs("5.10"))["page-table"].nbytes == 4_104


def test_parts_when_some_is_freed_early_then_it_keeps_its_size_and_comes_on_top():
    parts = (
        Part("filp", 264, "ENOMEM", pages=False, freed="early"),
        Part("dentry", 200, "ENOMEM", pages=False, freed="fs"),
        Part("inode", 728, "ENOSPC", pages=False, freed="fs"),
    )
    assert scaled_parts(parts, 928) == [264, 200, 728]
    early, *lasting = scaled_parts(parts, 1_001)
    assert early == 264
    assert sum(lasting) == 1_001
    assert lasting[0] < lasting[1]


def test_memory_stat_when_read_then_gives_the_kernels_part():
    assert kernel_bytes("anon 8192\nkernel 40960\nkernel_stack 16384\nslab 100\n") == 40_960
    old = "anon 8192\nkernel_stack 16384\npagetables 4096\npercpu 8\nsock 4\nslab 1000\n"
    assert kernel_bytes(old) == 16_384 + 4_096 + 8 + 4 + 1_000


def test_kernel_bytes_when_page_tables_are_told_nowhere_then_nothing_is_measured():
    """Linux 5.10 with cgroup v2: a table without them, and an exit status of 0, were the answer."""
    with pytest.raises(UnsupportedHostError, match="neither 'kernel' nor 'pagetables'") as caught:
        kernel_bytes("anon 8192\nkernel_stack 16384\npercpu 8\nsock 4\nslab 1000\n")
    assert "cgroup v1" in caught.value.remedy


@pytest.mark.parametrize(
    "mounts",
    [
        "proc /proc proc rw 0 0\n",
        "cgroup {here} cgroup rw,memory 0 0\n",
        "cgroup2 {here} cgroup2 rw 0 0\n",
    ],
)
def test_hierarchy_when_no_kernel_counts_then_says_what_is_missing_and_how_to_get_it(
    tmp_path, mounts
):
    table = tmp_path / "mounts"
    table.write_text(mounts.format(here=tmp_path))
    with pytest.raises(UnsupportedHostError, match="cannot be measured on this host") as caught:
        find_hierarchy(str(table))
    assert "memory cgroup" in caught.value.missing
    assert "cgroup v1" in caught.value.remedy


def test_outcome_when_any_look_is_over_a_tenth_apart_then_is_not_close():
    assert Outcome("pipe", (100, 195, 310), (100, 200, 300)).is_close
    far = Outcome("pipe", (100, 170, 300), (100, 200, 300))
    assert not far.is_close
    assert far.worst == pytest.approx(-0.15)
    assert not Outcome("pipe", (), ()).is_close
    assert not Outcome("pipe", (100,), (0,)).is_close
