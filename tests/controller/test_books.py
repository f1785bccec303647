"""Kinds that a census tells apart are moved, those that grow by themselves are followed."""

from __future__ import annotations

import errno

import pytest

from kmem_harness.controller.account.books import Books, Charge, Kind, Price
from kmem_harness.controller.admission.prices import make_prices
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.costs.live import live_kinds
from kmem_harness.costs.table import load_costs
from kmem_harness.interposer.syscalls import ARCHITECTURES

X86_64 = ARCHITECTURES["x86_64"]


@pytest.fixture
def memcg():
    tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
    tree.make("/box")
    tree.write("/box", "memory.kmem.limit_in_bytes", str(1 << 20))
    return tree.find("/box")


@pytest.fixture
def books(memcg):
    prices = {"dear": 3000, "cheap": 2000, "growing": 4096}
    return Books(
        memcg, {name: Kind(name, nr, errno.ENOMEM, "ENOMEM") for name, nr in prices.items()}
    )


def charge(books, name, count=1):
    one = Charge("call", 1, ((books.kinds[name], count),))
    assert books.memcg.try_charge(one.nbytes) is None
    books.enter(one)
    return one


def live(books):
    return {name: kind.live for name, kind in books.kinds.items() if kind.live}


def test_reconcile_when_found_as_a_cheaper_kind_then_moves_and_gives_the_difference_back(books):
    charge(books, "dear", 2)
    books.reconcile({"dear": 1, "cheap": 1})
    assert live(books) == {"dear": 1, "cheap": 1}
    assert books.memcg.kmem.usage == 5000
    assert books.kinds["cheap"].charged == 1


def test_reconcile_when_more_is_found_than_was_charged_then_nothing_is_raised(books):
    charge(books, "cheap")
    books.reconcile({"dear": 5, "cheap": 5})
    assert live(books) == {"cheap": 1}


def test_reconcile_when_a_call_is_under_way_then_what_it_may_make_stays_charged(books):
    books.tickets[7] = charge(books, "cheap")
    books.reconcile({"cheap": 0})
    assert live(books) == {"cheap": 1}
    del books.tickets[7]
    books.reconcile({"cheap": 0})
    assert live(books) == {}
    assert books.memcg.kmem.usage == 0


def test_observe_when_a_kind_grew_then_follows_it_up_to_the_limit_and_down(books):
    kind = books.kinds["growing"]
    assert books.observe(kind, 100, bounded=True) == 0
    assert books.observe(kind, 300, bounded=True) == 300 - 256
    assert books.memcg.kmem.usage == books.memcg.kmem.limit
    assert books.memcg.kmem.failcnt == 0  # a look is no attempt
    assert books.observe(kind, 300, bounded=False) == 0
    assert books.memcg.kmem.usage == 300 * 4096
    assert books.observe(kind, 0, bounded=True) == 0
    assert books.memcg.kmem.usage == 0


def call(name, *arguments):
    words = [*arguments, *[0] * (6 - len(arguments))]
    return (1, 2, 0, X86_64.numbers[name], 0, 0, *words)


@pytest.mark.parametrize(
    ("name", "arguments", "made"),
    [
        ("socket", (1, 1), {"unix-socket": 1}),
        ("socket", (2, 1), {"tcp-socket": 1}),
        ("socket", (2, 2), {"udp-socket": 1}),
        ("socket", (2, 0o4000001), {"tcp-socket": 1}),
        ("socketpair", (1, 1), {"unix-socket": 2}),
        ("openat", (0, 0, 0), {"file": 1}),
        ("openat", (0, 0, 0o100), {"file": 1, "file-ext4": 1}),
        ("clone", (17,), {"task": 1}),
        ("clone", (0x10000 | 0x100,), {"thread": 1}),
        ("mkdir", (), {"dir-ext4": 1}),
        ("unlink", (), {}),
    ],
)
def test_price_when_arguments_say_what_is_made_then_charges_that(name, arguments, made):
    kinds = {
        kind: Kind(kind, cost.nbytes, cost.errno, cost.errno_name)
        for kind, cost in live_kinds(load_costs("5.10")).items()
    }
    price: Price = make_prices(kinds, {}, X86_64, lambda _: None)[X86_64.numbers[name]]
    charge = price.always or price.choose(call(name, *arguments))
    assert {kind.name: nr for kind, nr in charge.parts} == made
    assert charge.nbytes == sum(kinds[kind].nbytes * nr for kind, nr in made.items())


def test_pricing_when_names_alone_are_charged_then_other_opens_are_not_even_trapped():
    kinds = {
        kind: Kind(kind, cost.nbytes, cost.errno, cost.errno_name)
        for kind, cost in live_kinds(load_costs("5.10")).items()
        if kind.startswith(("dir-", "file-"))
    }
    prices = make_prices(kinds, {}, X86_64, lambda _: None)
    assert not prices.covers(X86_64.numbers["socket"])
    condition = prices.only_if["openat"]
    assert (condition.arg, condition.mask & 0o100) == (2, 0o100)


def test_kinds_when_objects_were_of_another_or_became_it_then_no_more_are_alive_than_were_charged(
    books,
):
    dear, cheap = books.kinds["dear"], books.kinds["cheap"]
    charge(books, "dear", 3)
    books.move(dear, cheap, 2)
    assert (dear.charged, dear.live, dear.live_peak) == (1, 1, 1)
    books.turn(dear, cheap, 1)
    assert (dear.charged, dear.live, dear.live_peak) == (1, 0, 1)
    assert (cheap.charged, cheap.live, cheap.live_peak) == (3, 3, 3)
