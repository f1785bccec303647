"""What is published: its long description, its metadata, and an installation with nothing else there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling builds the package: pip install hatchling")

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import kmem_harness
from kmem_harness.interposer import build_native

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The real thing, programs and all."""
    if build_native.find_compiler() is None:
        pytest.skip("no system compiler links statically: apt-get install gcc libc6-dev")
    out = tmp_path_factory.mktemp("dist")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(out), versions=["standard"])
    return Path(path)


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_when_installed_alone_then_command_runs_under_a_limit(wheel, tmp_path):
    """In an environment without anything of ours, this checkout's least of all."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--no-index", wheel], check=True, timeout=120
    )
    # What it depends on, from here; .pth files, such as an editable install's, do not count there.
    others = [path for path in sys.path if path.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(others)}

    def run(*command):
        return subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    where = run(python, "-c", "import kmem_harness; print(kmem_harness.__file__)").stdout
    assert where.startswith(str(place)), "not the installed one is imported"
    command = place / "bin" / "kmem-harness"
    assert run(command, "--version").stdout.split()[-1] == kmem_harness.__version__
    script = "for i in 1 2 3 4; do sleep 9 & done; wait"
    outcome = run(
        *(command, "run", "--kernel", "v4", "--kmem-limit", "16k", "--", "sh", "-c", script)
    )
    assert "refused, first clone by sh" in outcome.stderr, outcome.stderr


def test_distributions_when_checked_strictly_then_would_be_taken(wheel, tmp_path):
    pytest.importorskip("twine", reason="twine checks what is published: pip install twine")
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    outcome = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_metadata_when_read_by_an_index_then_version_and_links_are_there(wheel):
    metadata = metadata_of(wheel)
    assert metadata["Version"] == kmem_harness.__version__
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    assert set(urls) >= {"Homepage", "Changes", "Issues", "Source"}


def test_long_description_when_shown_elsewhere_then_has_no_link_into_this_folder(wheel):
    text = re.sub(r"```.*?```", "", metadata_of(wheel).get_payload(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)|^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    links = [inline or definition for inline, definition in links]
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    repository = dict(url.split(", ") for url in metadata_of(wheel).get_all("Project-URL"))[
        "Source"
    ].removeprefix("https://github.com/")
    here = [link for link in links if repository in link]
    assert here
    for link in here:
        path = link.partition(f"{repository}/")[2].partition("#")[0]
        path = re.sub(r"^(blob/)?main/", "", path)
        assert (ROOT / path).exists(), link
