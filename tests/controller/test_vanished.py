"""Looks at a box that is going, or goes again and again: nothing fails, grows or meets a stranger."""

from __future__ import annotations

import errno
import subprocess
from types import SimpleNamespace

import pytest

from kmem_harness.controller.account.books import Books, Charge, Kind
from kmem_harness.controller.account.box import Box
from kmem_harness.controller.admission.gate import Gate
from kmem_harness.controller.audit.looks import Looks
from kmem_harness.controller.audit.names import NamePart
from kmem_harness.controller.audit.rounds import Rounds
from kmem_harness.controller.audit.user_memory import UserPart
from kmem_harness.controller.loop import Loop
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.procfs.names import Seen
from kmem_harness.procfs.steps import result_of


def steps(give):
    """Make a look of one step of what *give* gives."""

    def look():
        yield
        return give()

    return look


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def memcg():
    tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
    tree.make("/box")
    tree.write("/box", "memory.kmem.limit_in_bytes", str(1 << 20))
    tree.write("/box", "memory.limit_in_bytes", str(1 << 20))
    return tree.find("/box")


def test_names_when_the_process_that_sees_them_is_gone_then_nothing_is_concluded(sleeper, memcg):
    kinds = {name: Kind(name, 1000, errno.ENOMEM, "ENOMEM") for name in ("a", "b")}
    books = Books(memcg, kinds)
    families = {"directory": {"disk": kinds["a"], "tmpfs": kinds["b"]}}
    looks = Looks(Loop())
    processes = SimpleNamespace(list=steps(list))
    part = NamePart(sleeper.pid, families, processes, looks, looks.enter(lambda: None))
    part._watch.close()
    part._watch = SimpleNamespace(
        settle=lambda: Seen(1, 0, 0), give_back=lambda _: None, close=lambda: None
    )
    memcg.charge(1000)
    books.enter(Charge("mkdir", 1, ((kinds["a"], 1),)))
    sleeper.kill()
    sleeper.wait()
    result_of(part.count(books))
    part.close()
    looks.close()
    assert kinds["a"].live == 1


@pytest.mark.parametrize("is_stranger", [False, True])
def test_victim_when_its_number_may_be_a_strangers_by_now_then_is_not_killed(
    is_stranger, sleeper, memcg
):
    lists = iter([[sleeper.pid], [] if is_stranger else [sleeper.pid]])
    killed = []
    part = UserPart(
        memcg, SimpleNamespace(list=steps(lambda: next(lists))), lambda *one: killed.append(one)
    )
    assert result_of(part.make_room(memcg.memory))
    if is_stranger:
        assert sleeper.poll() is None
    else:
        assert sleeper.wait(timeout=10) == -9
    assert [pid for pid, *_ in killed] == ([] if is_stranger else [sleeper.pid])
    assert memcg.oom_kills == len(killed)


def test_faults_when_a_container_starts_again_and_again_then_are_followed_by_one_timer(memcg):
    loop = Loop()
    rounds = Rounds(loop, Gate(list, loop, lambda *_: None).censuses, list)
    box = Box("box", memcg, {}, observe=False)
    box.user = SimpleNamespace(count=lambda _: None)
    for _ in range(20):
        rounds.follow_faults(box)
    waiting = [timer for _, _, timer in loop._timers if timer._action is not None]
    assert len(waiting) == 1
    rounds.forget(box)
    assert waiting[0]._action is None
