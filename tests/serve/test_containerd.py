"""containerd's own client, ``ctr``: under a static profile, and through the OCI wrapper."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engine import PATIENCE_SECONDS, cannot_run
from tests.support.peak import until
from tests.support.standing import Standing, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORKS = [
    "/bin/sh",
    "-c",
    "i=0; while [ $i -lt 60 ]; do /bin/sleep 1 & i=$((i+1)); done; echo made $i",
]
LIMIT = "io.github.kmem-harness.limit"
TASKS = 20
_CONFIG = """version = 2
root = "{here}/root"
state = "{here}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{here}/c.sock"
"""


@pytest.fixture(scope="module")
def here() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="kmem-ctr-"))
    yield path
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if mount.startswith(f"{path}/"):
            subprocess.run(["umount", "-l", mount], check=False)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def ctr(here: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a containerd of our own; give its client, which runs what it is told in a busybox."""
    if os.geteuid() != 0:
        pytest.skip("only root may start a containerd")
    for program in ("containerd", "ctr", "runc", "busybox"):
        if shutil.which(program) is None:
            cannot_run(f"{program} is missing: install containerd, runc and busybox-static")
    (here / "config.toml").write_text(_CONFIG.format(here=here))
    root = here / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(os.path.realpath(str(shutil.which("busybox"))), root / "bin" / "busybox")
    for applet in ("sh", "sleep", "echo"):
        (root / "bin" / applet).symlink_to("busybox")
    with (here / "containerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["containerd", "-c", str(here / "config.toml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["ctr", "-a", str(here / "c.sock"), *words],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )

        until(lambda: run("version").returncode == 0, PATIENCE_SECONDS, "containerd is silent")
        yield run
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def controller(here: Path) -> Iterator[Standing]:
    with standing(here) as one:
        yield one


@pytest.fixture(scope="module")
def wrapper(here: Path, controller: Standing) -> str:
    """Put the wrapper where its settings are beside it, as ``runtime install`` does."""
    built = Path(__file__).parents[2] / "kmem_harness" / "interposer" / "bin" / "kmem-runtime"
    program = here / "kmem-runtime"
    shutil.copy(built, program)
    settings = f"runtime={shutil.which('runc')}\nsocket={controller.socket}.runtime\n"
    Path(f"{program}.conf").write_text(settings)
    return str(program)


@pytest.mark.parametrize("door", ["profile", "wrapper"])
def test_container_when_run_by_ctr_then_is_bound_and_so_is_what_enters_it(
    ctr: Callable[..., subprocess.CompletedProcess[str]],
    controller: Standing,
    wrapper: str,
    here: Path,
    door: str,
) -> None:
    how = {
        "profile": ["--seccomp-profile", str(controller.profile("160k", "--for", "ctr"))],
        "wrapper": ["--runc-binary", wrapper, "--annotation", f"{LIMIT}=160k"],
    }[door]
    rootfs = ["--rootfs", str(here / "rootfs")]
    said = ctr("run", "--rm", "--seccomp", *how, *rootfs, f"one-{door}-{os.getpid()}", *FORKS)
    assert "can't fork" in said.stderr, said
    assert controller.report(f"one-{door}-{os.getpid()}")["kinds"]["task"]["live_peak"] == TASKS
    name = f"two-{door}-{os.getpid()}"
    assert ctr("run", "-d", "--seccomp", *how, *rootfs, name, "/bin/sleep", "60").returncode == 0
    said = ctr("task", "exec", "--exec-id", "one", name, *FORKS)
    assert "can't fork" in said.stderr, said
    report = controller.report(name)
    assert report["refusals"]["total"] >= 1
    assert report["memcg"]["kmem"]["max_usage"] <= TASKS * 8192
    ctr("task", "kill", "-s", "KILL", name)
    controller.until("container.ended", container=name)
    until(lambda: ctr("task", "rm", name).returncode == 0, PATIENCE_SECONDS, "it stays")
    assert ctr("container", "rm", name).returncode == 0


def test_container_when_its_annotation_is_nonsense_then_is_not_created(
    ctr: Callable[..., subprocess.CompletedProcess[str]], wrapper: str, here: Path
) -> None:
    how = ["--runc-binary", wrapper, "--annotation", f"{LIMIT}=8 apples"]
    said = ctr(
        "run",
        "--rm",
        *how,
        "--rootfs",
        str(here / "rootfs"),
        f"three-{os.getpid()}",
        "echo",
        "it runs",
    )
    assert said.returncode != 0
    assert "kmem-harness: label or annotation" in said.stderr
    assert "8 apples" in said.stderr
    assert "it runs" not in said.stdout
