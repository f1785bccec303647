"""Who may import whom: the rooms of the package, walked by their import statements.

An import under TYPE_CHECKING counts: what a room may not know, it may not name either, except what
``NAMED`` lists.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kmem_harness

ROOT = Path(kmem_harness.__file__).parent
HERE = "kmem_harness"

#: Room or module: what it may import of the package, besides itself. Below first.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "costs": {"core"},
    "interposer": {"core"},
    "procfs": {"core", "interposer.syscalls"},
    "faults": {"core", "costs"},
    "controller": {"core", "costs", "interposer", "procfs", "faults"},
    "hookspecs": {"core"},
    "hooks": {"core", "hookspecs"},
    "logs": {"core"},
    "logged": {"logs"},
    "runtimes": {
        *("core", "interposer", "procfs", "controller.owner.client", "controller.door.protocol"),
        *("hookspecs", "hooks", "logs"),
    },
    "handles": {"core", "controller.owner.client"},
    "ended": set(),
    "box": {"core", "controller.owner.client", "runtimes", "handles", "hooks", "ended", "logged"},
    "harness": {
        *("core", "costs", "interposer", "procfs", "controller.owner.client", "runtimes"),
        *("handles", "box", "faults", "hooks", "logged"),
    },
}
#: What a room is handed from above, and so may name for the type checker alone.
NAMED: dict[str, set[str]] = {
    "hookspecs": {"runtimes.spec", "box", "harness"},
    "runtimes": {"box", "harness"},
}
_JOINED = {*ROOMS, "__init__"}
TOP: dict[str, set[str]] = {
    "__init__": _JOINED,
    "docker": _JOINED,
    "doctor": _JOINED,
    "report": {"core"},
    "limits": set(),
    "sigterm": set(),
    "early": {"core", "controller.owner.start", "controller.owner.client"},
    "run_command": {*_JOINED, "early", "report"},
    "demos": {*_JOINED, "run_command"},
    "pytest_plugin": {*_JOINED, "experiments", "docker", "report"},
    "replay": _JOINED,
    "calibrate": {*_JOINED, "sigterm"},
    "experiments": {*_JOINED, "report", "services", "limits"},
    "top": {"core", "controller.owner.client"},
    "terms": {"core", "costs", "faults", "handles"},
    "serve": {*_JOINED, "terms"},
    "proxy": {*_JOINED, "terms", "serve"},
    "services": {*_JOINED, "report", "limits"},
    "__main__": {"early", "cli"},
    "cli": {
        *(*_JOINED, "doctor", "run_command", "demos", "replay", "experiments", "top", "services"),
        *("calibrate", "sigterm", "serve", "proxy"),
    },
}
ALLOWED = ROOMS | TOP

#: Installed packages, by who may import them. The build hook runs where hatchling is.
FOREIGN: dict[str, set[str]] = {
    "core": set(),
    "costs": {"tomli"},
    "interposer": set(),
    "procfs": set(),
    "interposer.build_native": {"hatchling"},
    "faults": set(),
    "controller": set(),
    "hookspecs": {"pluggy"},
    "hooks": {"pluggy"},
    "logs": {"click", "structlog"},
    "runtimes": {"docker", "requests", "tenacity"},
    "runtimes.followed": {"docker", "typing_extensions"},
    **{f"runtimes.{name}": set() for name in ("backstop", "command", "local", "spec")},
    "handles": set(),
    "ended": set(),
    "logged": set(),
    "box": {"typing_extensions"},
    "harness": {"typing_extensions"},
    "__init__": set(),
    "docker": {"docker", "typing_extensions"},
    "doctor": {"rich", "docker"},
    "report": {"jinja2", "matplotlib", "plotly"},
    "sigterm": set(),
    "early": set(),
    "__main__": set(),
    "run_command": set(),
    "demos": {"rich"},
    "pytest_plugin": {"pytest", "tenacity"},
    "replay": {"click"},
    "calibrate": {"typing_extensions"},
    "calibrate.command": {"click", "rich"},
    "experiments": {"click", "rich", "tenacity", "typing_extensions"},
    "experiments.on_dask": {"distributed"},
    "top": {"click", "rich"},
    "limits": set(),
    "services": {"typing_extensions"},
    "services.engine.inside": set(),
    "services.door.command": {"click", "rich"},
    "services.door.view": {"rich"},
    "terms": set(),
    "serve": set(),
    "serve.profiles": {"docker"},
    "serve.command": {"click"},
    "proxy": set(),
    "proxy.framing": {"h11"},
    "proxy.steps": {"docker"},
    "proxy.command": {"click"},
    "cli": {"click"},
}


def module_of(path: Path) -> str:
    """Name a source file from the package on, such as ``core.counter`` or ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str) -> list[tuple[int, str]]:
    """List (line, dotted name) of all that *source* imports, wherever it does so."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = [HERE, *module.split(".")][: -node.level]
                base = ".".join([*above, base]).rstrip(".")
            is_ours = base.split(".")[0] == HERE
            found += [(node.lineno, f"{base}.{a.name}" if is_ours else base) for a in node.names]
    return found


def offences(source: str, module: str) -> list[str]:
    """List the imports that *module* may not have, each with its line."""
    room = module.partition(".")[0]
    foreign = FOREIGN.get(module, FOREIGN.get(room, set()))
    found = []
    typing = lines_for_the_type_checker(source)
    for line, name in imports_of(source, module):
        first, _, rest = name.partition(".")
        if first != HERE:
            if first not in sys.stdlib_module_names and first not in foreign:
                found.append(f"{line}: {module} imports {first}")
        elif rest.split(".")[0] != room and not (
            _may(ALLOWED.get(room, set()), rest)
            or (line in typing and _may(NAMED.get(room, set()), rest))
        ):
            found.append(f"{line}: {module} imports {name}")
    return found


def lines_for_the_type_checker(source: str) -> set[int]:
    """List the lines of ``if TYPE_CHECKING:``."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found |= {line for one in node.body for line in range(one.lineno, one.end_lineno + 1)}
    return found


def _may(allowed: set[str], imported: str) -> bool:
    names = imported.split(".")
    above = {".".join(names[:count]) for count in range(1, len(names) + 1)}
    # A name of the package itself, such as Harness, comes from its __init__.
    if names[0] not in ALLOWED:
        above.add("__init__")
    return bool(above & allowed)


def test_imports_when_walked_then_none_leads_upward():
    sources = sorted(ROOT.rglob("*.py"))
    assert len(sources) > 40
    found = [
        f"{path.relative_to(ROOT.parent)}:{offence}"
        for path in sources
        for offence in offences(path.read_text(), module_of(path))
    ]
    assert not found, "\n".join(found)


def test_rooms_when_one_is_new_then_it_must_be_placed():
    rooms = {module_of(path).split(".")[0] for path in ROOT.rglob("*.py")}
    assert rooms <= ALLOWED.keys()
    assert ALLOWED.keys() == {name for name in FOREIGN if "." not in name}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.counter", "from kmem_harness.controller import box"),
        ("core.counter", "import docker"),
        ("core.counter", "from ..costs import table"),
        ("core.counter", "from .. import costs"),
        ("core.counter", "import kmem_harness.harness"),
        ("core.counter", "from kmem_harness import Harness"),
        ("costs.table", "if TYPE_CHECKING:\n    from kmem_harness.interposer import filter"),
        ("interposer.filter", "def inside():\n    from kmem_harness.costs.table import load_costs"),
        ("controller.gate", "from kmem_harness.runtimes.local import probe"),
        ("controller.gate", "import structlog"),
        ("runtimes.local", "from kmem_harness.controller.account.box import Box"),
        ("runtimes.local", "from kmem_harness.box import Box"),
        ("runtimes.local", "import docker"),
        ("runtimes.local", "from kmem_harness.costs.table import load_costs"),
        ("handles", "from kmem_harness.harness import Harness"),
        ("harness", "from kmem_harness.pytest_plugin import Settings"),
        ("harness", "import rich"),
        ("pytest_plugin", "from kmem_harness.cli import main"),
    ],
)
def test_offences_when_an_import_leads_upward_then_names_its_line(module, source):
    (found,) = offences(source, module)
    last_line = 1 + source.count("\n")
    assert found.startswith(f"{last_line}: {module} imports ")
    assert found.split()[-1].split(".")[-1] in source


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "core.counter",
            "import os\nfrom collections import abc\nfrom kmem_harness.core import gfp",
        ),
        ("core.counter", "from . import gfp\nfrom .gfp import Gfp"),
        ("runtimes.local", "from kmem_harness.controller.owner.client import Connection"),
        ("runtimes.local", "from kmem_harness.controller.owner import client"),
        ("cli", "from kmem_harness.doctor import examine\nfrom kmem_harness import Harness"),
    ],
)
def test_offences_when_imports_lead_down_then_has_none(module, source):
    assert offences(source, module) == []


def modules_after(statement: str, *options: str) -> set[str]:
    """Run *statement* in a fresh interpreter and list the modules that are loaded then."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); {statement}; "
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    outcome = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(outcome.stdout))


def test_controller_process_when_started_bare_then_needs_the_standard_library_alone():
    loaded = modules_after("import kmem_harness.controller.__main__", "-I", "-S")
    others = {name.split(".")[0] for name in loaded} - {HERE, "__main__"}
    assert others <= set(sys.stdlib_module_names)
    rooms = {name.split(".")[1] for name in loaded if name.startswith(f"{HERE}.")}
    assert rooms == {"core", "costs", "interposer", "procfs", "controller"}
    # Everybody waits for it, and these take a fifth of its start.
    assert loaded.isdisjoint({"dataclasses", "inspect"})


def test_early_start_when_imported_then_is_there_before_what_takes_long():
    loaded = modules_after("import kmem_harness.early", "-I", "-S")
    assert "kmem_harness.controller.owner.start" in loaded
    assert loaded.isdisjoint(
        {"typing", "click", "kmem_harness.cli", "kmem_harness.controller.owner.client"}
    )


def test_controller_process_when_packages_are_at_hand_then_imports_none_of_them():
    loaded = modules_after("import kmem_harness.controller.__main__")
    assert "kmem_harness.controller.door.server" in loaded
    assert loaded.isdisjoint({"docker", "rich", "click", "structlog", "pytest", "pluggy"})


def test_harness_when_imported_then_leaves_the_engine_for_whoever_uses_it():
    loaded = modules_after("import kmem_harness.harness")
    assert "kmem_harness.runtimes.local" in loaded
    assert loaded.isdisjoint({"docker", "requests", "rich", "click", "structlog", "pytest"})


def test_pytest_plugin_when_imported_then_is_light_and_starts_no_process():
    watch = (
        "started = []; "
        "sys.addaudithook(lambda event, _: started.append(event) if event in "
        "('subprocess.Popen', 'os.fork', 'os.forkpty', 'os.posix_spawn', 'os.exec', 'os.system', "
        "'socket.connect', 'socket.bind') else None); "
        "import kmem_harness.pytest_plugin; "
        "assert not started, started"
    )
    loaded = modules_after(watch)
    assert "kmem_harness.pytest_plugin" in loaded
    assert loaded.isdisjoint({"docker", "rich", "structlog", "click", "tenacity"})
    rooms = {name.partition(".")[2].partition(".")[0] for name in loaded if name.startswith(HERE)}
    assert rooms == {"", "pytest_plugin"}
