"""The pytest door: fixtures, the ``limit_kmem`` marker, options. Imports nothing heavy by itself.

Settings are read once, in ``pytest_configure``, from ini, environment and command line, each
beating the one before; a marker beats them all.
"""

from __future__ import annotations

import inspect
import os
import shlex
import textwrap
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from typing import NoReturn

    from kmem_harness.core.errors import UnsupportedHostError
    from kmem_harness.harness import Box, Harness, MemcgHandle

__all__ = ["ContainerFactory", "Settings"]

_FACTORY: pytest.StashKey[ContainerFactory] = pytest.StashKey()
_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
_SHOWN_CARDS = 5
_SHOWN_COMMAND = 60
_DEFAULT_KERNEL = "5.10"
_DEFAULT_RUNTIME = "local"
_RUNTIMES = ("local", "docker")

# What a marker may say. Its text stands in messages, so it is written as a user writes it.
_LIMIT_KMEM = inspect.signature(lambda size, kinds=None, mode="enforce": None)  # noqa: ARG005
# name, default, help: ini kmem_NAME, environment KMEM_HARNESS_NAME, option --kmem-NAME
_OPTIONS = (
    ("limit", "", "kernel-memory limit of each test's memcg, such as 8M (default: none)"),
    ("kernel", _DEFAULT_KERNEL, "kernel to emulate: v4, 3.8, 3.12 or 5.10"),
    (
        "runtime",
        _DEFAULT_RUNTIME,
        "where containers without an image of their own run: local or docker",
    ),
    ("image", "", "image of docker containers that name none (default: none)"),
)


@dataclass(frozen=True)
class Settings:
    """What the user asked for, once and for the whole run."""

    limit: str | None
    kernel: str
    runtime: str
    image: str | None
    require: bool


@dataclass(frozen=True)
class _Limit:
    """What one test's memcg is limited to."""

    size: str | int | None
    mode: str


class ContainerFactory:
    """Start containers under one test's memcg; all of them end with the test."""

    def __init__(self, harness: Harness, memcg: MemcgHandle, mode: str, settings: Settings) -> None:
        """Start them in *harness*, below *memcg*, where *settings* say and the call does not."""
        self.boxes: list[Box] = []
        self.memcg = memcg
        self._harness = harness
        self._mode = mode
        self._settings = settings

    def __call__(
        self,
        command: Sequence[str] = (),
        image: str | None = None,
        kmem_limit: str | int | None = None,
        **options: Any,
    ) -> Box:
        """Start *command*; *kmem_limit* is this container's own, below the test's.

        With *image*, or where ``--kmem-runtime`` says so, it is a Docker container, whose image may
        have a command of its own.
        Further options are those of ``Harness.run``. Raises: what that raises; the test is skipped
        (with ``--kmem-require``, failed) where this host cannot enforce the limit.
        """
        from kmem_harness.core.errors import UnsupportedHostError

        options.setdefault("mode", self._mode)
        options.setdefault("runtime", "docker" if image else self._settings.runtime)
        if options["runtime"] == "docker":
            image = image or self._settings.image
        child = self.memcg.child(f"c{len(self.boxes) + 1}", kmem_limit)
        try:
            box = self._harness.run(command, image=image, memcg=child, **options)
        except UnsupportedHostError as error:
            _cannot_enforce(error, require=self._settings.require)
        self.boxes.append(box)
        return box


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options and ini values."""
    group = parser.getgroup("kmem", "kernel-memory limits (kmem-harness)")
    for name, default, text in _OPTIONS:
        group.addoption(f"--kmem-{name}", default=None, metavar=name.upper(), help=text)
        parser.addini(f"kmem_{name}", text, default=default)
    group.addoption(
        "--kmem-require",
        action="store_true",
        default=None,
        help="fail tests whose limit this host cannot enforce, instead of skipping them",
    )
    group.addoption(
        "--kmem-docker-patch",
        action="store_true",
        default=None,
        help="give docker-py's kernel_memory= its meaning in code that calls docker-py itself; "
        "--kmem-limit is the limit of containers that have none of their own",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings once; register the marker."""
    config.addinivalue_line(
        "markers",
        'limit_kmem(size, kinds=None, mode="enforce"): limit the kernel memory of all containers '
        'of the test together to SIZE, such as "8M"; mode "observe" counts and refuses nothing.',
    )
    limit = _setting(config, "limit", "")
    settings = Settings(
        limit=limit or None,
        kernel=_setting(config, "kernel", _DEFAULT_KERNEL),
        runtime=_setting(config, "runtime", _DEFAULT_RUNTIME),
        image=_setting(config, "image", "") or None,
        require=bool(config.getoption("--kmem-require"))
        or os.environ.get("KMEM_HARNESS_REQUIRE", "0") not in {"", "0"},
    )
    if settings.runtime not in _RUNTIMES:
        known = "'local' and 'docker'"
        message = f"{_sources('runtime')}: {settings.runtime!r} is not known; known are {known}"
        raise pytest.UsageError(message)
    if limit:
        _check_size(limit, _sources("limit"))
    if settings.kernel != _DEFAULT_KERNEL:
        _check_kernel(settings.kernel, _sources("kernel"))
    config.stash[_SETTINGS] = settings


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which settings are in force, where they are not the defaults."""
    settings = config.stash[_SETTINGS]
    default = Settings(None, _DEFAULT_KERNEL, _DEFAULT_RUNTIME, None, settings.require)
    if settings == default:
        return None
    limit = settings.limit or "none"
    return f"kmem: limit {limit}, kernel {settings.kernel}, runtime {settings.runtime}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Judge every marker before the first test runs."""
    for item in items:
        _limit_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Keep docker-py patched while tests run, if that was asked for."""
    if not session.config.getoption("--kmem-docker-patch"):
        return (yield)
    from kmem_harness.docker import patch
    from kmem_harness.harness import Harness

    settings = session.config.stash[_SETTINGS]
    with ExitStack() as stack:
        # Made when a container first asks for kernel memory: a run may have none.
        started: list[Harness] = []

        def harness() -> Harness:
            if not started:
                started.append(stack.enter_context(Harness(settings.kernel)))
            return started[0]

        with patch(harness, settings.limit):
            return (yield)


@pytest.fixture(scope="session")
def kmem_harness(pytestconfig: pytest.Config) -> Iterator[Harness]:
    """Give the session's harness: one controller for all tests of this process."""
    from kmem_harness.core.errors import UnsupportedHostError
    from kmem_harness.harness import Harness

    settings = pytestconfig.stash[_SETTINGS]
    try:
        harness = Harness(settings.kernel)
    except UnsupportedHostError as error:
        _cannot_enforce(error, require=settings.require)
    with harness:
        yield harness


@pytest.fixture
def kmem_memcg(request: pytest.FixtureRequest, kmem_harness: Harness) -> Iterator[MemcgHandle]:
    """Give this test's memcg, limited by its ``limit_kmem`` marker or the settings."""
    limit = _limit_of(request.node)
    memcg = kmem_harness.memcg(f"/pytest/{_memcg_name(request.node.nodeid)}", limit.size)
    yield memcg
    for child in memcg.children():
        child.remove()
    memcg.remove()


@pytest.fixture
def kmem_container(
    request: pytest.FixtureRequest, kmem_harness: Harness, kmem_memcg: MemcgHandle
) -> Iterator[ContainerFactory]:
    """Give a factory of containers that live under this test's memcg and end with the test."""
    factory = ContainerFactory(
        kmem_harness,
        kmem_memcg,
        _limit_of(request.node).mode,
        request.config.stash[_SETTINGS],
    )
    request.node.stash[_FACTORY] = factory
    yield factory
    with ExitStack() as each:
        for box in factory.boxes:
            each.callback(box.close)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failing test what its containers were refused."""
    report = yield
    factory = item.stash.get(_FACTORY, None)
    if report.when == "call" and report.failed and factory is not None and factory.boxes:
        from kmem_harness.core.errors import KmemHarnessError

        lines = [line for box in factory.boxes for line in _describe(box)]
        with suppress(KmemHarnessError):  # the controller may be what failed
            lines.insert(0, f"{factory.memcg.path}: {_peak(factory.memcg.counters())}")
        report.sections.append(("kmem", "\n".join(lines)))
    return report


def _peak(counters: dict[str, Any]) -> str:
    kmem = counters["kmem"]
    limit = "" if kmem["limit"] < 0 else f" of {kmem['limit']}"
    return f"at most {kmem['max_usage']}{limit} bytes"


def _describe(box: Box) -> list[str]:
    report = box.report()
    refusals = report["refusals"]
    name = report["memcg"]["path"].rpartition("/")[2]
    command = textwrap.shorten(shlex.join(report["command"]), _SHOWN_COMMAND, placeholder=" ...")
    lines = [f"{name}: {command}: {_peak(report['memcg'])}, {refusals['total']} refused"]
    lines += [
        (
            f"  {card['syscall']} by {card['comm']}[{card['pid']}]: {card['errno']}, "
            f"{card['nbytes']} bytes for a {card['kind']}; {card['counter']} of "
            f"{card['refused_by']} at {card['usage']} of {card['limit']}"
        )
        for card in refusals["cards"][:_SHOWN_CARDS]
    ]
    return lines


def _limit_of(item: pytest.Item) -> _Limit:
    """Read the nearest marker, else the settings. Raises: pytest.UsageError naming the test."""
    marker = item.get_closest_marker("limit_kmem")
    if marker is None:
        return _Limit(item.config.stash[_SETTINGS].limit, "enforce")

    try:
        given = _LIMIT_KMEM.bind(*marker.args, **marker.kwargs)
        given.apply_defaults()
        return _read_limit(**given.arguments)
    except (TypeError, pytest.UsageError) as error:
        message = f"{item.nodeid}: marker limit_kmem{_LIMIT_KMEM}: {error}"
        raise pytest.UsageError(message) from error


def _read_limit(size: Any, kinds: Any, mode: Any) -> _Limit:
    if kinds is not None:
        message = f"kinds={kinds!r} is not built yet; leave it out to limit all kinds together"
        raise pytest.UsageError(message)
    if mode not in ("enforce", "observe"):
        message = f"mode={mode!r} is not known; known are 'enforce' and 'observe'"
        raise pytest.UsageError(message)
    _check_size(size, "size")
    return _Limit(size, mode)


def _check_size(size: Any, what: str) -> None:
    from kmem_harness.handles import limit_text

    try:
        limit_text(str(size))
    except ValueError as error:
        message = f"{what}: {error}"
        raise pytest.UsageError(message) from error


def _check_kernel(kernel: str, what: str) -> None:
    from kmem_harness.core.profiles import profile_named

    try:
        profile_named(kernel)
    except ValueError as error:
        message = f"{what}: {error}"
        raise pytest.UsageError(message) from error


def _cannot_enforce(error: UnsupportedHostError, *, require: bool) -> NoReturn:
    text = f"kmem limits cannot be enforced here: {error}; {error.remedy}"
    if require:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def _sources(name: str) -> str:
    return f"--kmem-{name} (or KMEM_HARNESS_{name.upper()}, or ini kmem_{name})"


def _setting(config: pytest.Config, name: str, default: str) -> str:
    option = config.getoption(f"--kmem-{name}")
    environment = os.environ.get(f"KMEM_HARNESS_{name.upper()}")
    ini = config.getini(f"kmem_{name}")
    return str(option or environment or ini or default)


def _memcg_name(nodeid: str) -> str:
    return nodeid.replace("/", ":").replace("\n", " ")[-200:]
