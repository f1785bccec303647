"""What CI runs, for a developer to run too: ``nox -s lint types tests shim``, and ``nox -s bench``."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests", "shim"]
nox.options.default_venv_backend = "venv"

SUPPORTED = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PYTHONS = [version for version in SUPPORTED if shutil.which(f"python{version}")]
PROJECT = nox.project.load_toml("pyproject.toml")["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pinned(name: str) -> str:
    """Find the requirement for *name* in the dev extra, so that versions stand in one place."""
    return next(str(text) for text in EXTRAS["dev"] if str(text).startswith(f"{name}=="))


def lowest_of(requirement: str) -> str:
    """Turn ``name>=1.2,<3; marker`` into ``name==1.2; marker``."""
    name, _, rest = requirement.partition(">=")
    version, *markers = rest.split(";")
    return ";".join([f"{name}=={version.split(',')[0].strip()}", *markers])


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout with ruff."""
    session.install(pinned("ruff"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the package's types with mypy, strictly. Tests say what they pass by running."""
    session.install(pinned("mypy"), *PROJECT["dependencies"], *EXTRAS["test"], "nox")
    session.run("mypy")


@nox.session(python=PYTHONS or None)
def tests(session: nox.Session) -> None:
    """Run the tests on each supported Python there is, or on the one nox runs on."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[:1] or None)
def lowest(session: nox.Session) -> None:
    """Run the tests on the oldest Python, with the lowest version of all that pyproject.toml names."""
    pins = Path(session.create_tmp(), "lowest.txt")
    requirements = [str(text) for text in PROJECT["dependencies"] + EXTRAS["test"]]
    pins.write_text("\n".join(map(lowest_of, requirements)), encoding="utf-8")
    session.install("-e", ".[test]", "-c", str(pins))
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[-1:] or None)
def newest(session: nox.Session) -> None:
    """Run the tests on the newest Python, with the newest versions that there are today."""
    session.install("-e", ".[test]", "--upgrade", "--upgrade-strategy", "eager")
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs)


#: The releases of pytest that the plugin is for, and others' plugins that it is run beside.
PYTESTS = ["7.4.4", "8.4.2", "9.0.3"]
BESIDE = [
    *("pytest-bdd==9.0.1", "pytest-cov==7.1.0", "pytest-html==4.2.0"),
    *("pytest-timeout==2.4.0", "pytest-xdist==3.8.0"),
]
#: Those of which each pytest needs another release.
OF_PYTEST = {
    "7.4.4": [
        "pytest-asyncio==0.23.8",
        "pytest-randomly==4.1.0",
        "pytest-rerunfailures==16.1",
        "pytest-subtests==0.15.0",
    ],
    "8.4.2": [
        "pytest-asyncio==1.5.0",
        "pytest-randomly==5.1.0",
        "pytest-rerunfailures==16.7",
        "pytest-subtests==0.15.0",
    ],
    "9.0.3": ["pytest-asyncio==1.5.0", "pytest-randomly==5.1.0", "pytest-rerunfailures==16.7"],
}


@nox.session
@nox.parametrize("pytest", PYTESTS)
def beside(session: nox.Session, pytest: str) -> None:
    """Run the plugin's tests on each pytest it is for, with all of others' plugins loaded in its sample."""
    others = [*BESIDE, *OF_PYTEST[pytest]]
    session.install("-e", ".[test]")
    session.install(f"pytest=={pytest}", *others)
    tests = [f"tests/pytest_plugin/test_{name}.py" for name in ("beside", "sample", "autoload")]
    session.run("python", "-m", "pytest", "-p", "no:randomly", "-m", "slow or not slow", *tests)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the long forms: every bomb ten times, whole recordings, 200,000 cycles. It takes hours."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-m", "slow", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Run one controller for an hour, and see that it neither grows nor slows down."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def ordinary(session: nox.Session) -> None:
    """Run ordinary programs ten times in each way, and print how they fared: ``-- --install`` as root."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.ordinary", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feed every reader, ten million inputs in all unless told otherwise: ``-- --inputs N --seed S``."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.fuzz", *(session.posargs or ["--inputs", "10000000"]))


@nox.session
def shim(session: nox.Session) -> None:
    """Compile the C for both machines with every warning an error, and start what this one can."""
    session.install(*(one for one in EXTRAS["test"] if one.startswith(("hatchling", "ziglang"))))
    into = Path(session.create_tmp(), "shim")
    shutil.rmtree(into, ignore_errors=True)
    script = "kmem_harness/interposer/build_native.py"
    session.run("python", script, "--into", str(into), "x86_64", "aarch64")


@nox.session
def bench(session: nox.Session) -> None:
    """Run each benchmark of tests/benchmarks, and hand it the session's arguments."""
    scripts = sorted(Path("tests/benchmarks").glob("bench_*.py"))
    if not scripts:
        session.skip("there is no tests/benchmarks/bench_*.py")
    session.install("-e", ".[test]")
    for script in scripts:
        module = ".".join(script.with_suffix("").parts)
        session.run("python", "-m", module, *session.posargs)
