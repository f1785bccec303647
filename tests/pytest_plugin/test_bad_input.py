"""What cannot be carried out is said at collection, before the first test runs."""

from __future__ import annotations

import pytest

USAGE_ERROR = 4

BAD_MARKERS = [
    ("'64MB?'", ["64MB?", "8MiB"]),
    ("'0'", ["'0'", "below one page"]),
    ("100", ["'100'", "below one page"]),
    ("-5", ["'-5'", "8MiB"]),
    ("8.5", ["'8.5'", "8MiB"]),
    ("None", ["None", "8MiB"]),
    ("'8M', mode='warn'", ["'warn'", "'enforce' and 'observe'"]),
    ("'8M', kinds=('tusk',)", ["kind 'tusk'", "'task'"]),
    ("'8M', kinds='task'", ["kinds='task'", "'task'"]),
    ("'8M')\n@pytest.mark.limit_kmem('9M'", ["is there twice"]),
    ("'8M', sise='9M'", ["'sise'", "(size, kinds=None, mode='enforce')"]),
    ("", ["'size'", "(size, kinds=None, mode='enforce')"]),
    ("'8M', None, 'observe', 1", ["too many positional arguments", "(size, kinds=None"]),
]


@pytest.mark.parametrize(("arguments", "named"), BAD_MARKERS, ids=[a for a, _ in BAD_MARKERS])
def test_marker_when_unusable_then_usage_error_names_test_value_and_rule(arguments, named, project):
    project.tests(f"""
def test_before():
    open("ran", "w")

@pytest.mark.limit_kmem({arguments})
def test_bad():
    pass
""")
    result = project.run_here()
    assert result.ret == USAGE_ERROR
    text = result.stderr.str()
    assert "test_it.py::test_bad" in text
    for part in ["limit_kmem", *named]:
        assert part in text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text + result.stdout.str()
    assert not (project.pytester.path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--kmem-limit=lots"], ["--kmem-limit", "lots", "8MiB"]),
        (["--kmem-limit=1"], ["--kmem-limit", "'1'", "below one page"]),
        (["--kmem-kernel=4.4"], ["--kmem-kernel", "4.4", "3.12"]),
        (["--kmem-limit=2KBjunk"], ["--kmem-limit", "2KBjunk"]),
        (["--kmem-timeout=soon"], ["--kmem-timeout", "'soon'", "seconds"]),
        (["--kmem-top=-1"], ["--kmem-top", "'-1'", "whole number"]),
        (["--kmem-keep=sometimes"], ["--kmem-keep", "'never', 'failed' and 'always'"]),
        (["--kmem-report=k.json"], ["--kmem-report", "'k.json'", "json:PATH"]),
        (["--kmem-report=xml:k"], ["--kmem-report", "'xml:k'", "html:PATH or json:PATH"]),
        (["--kmem-report=json:no/k"], ["--kmem-report", "/no'", "make the folder first"]),
        (["--kmem-report=json:."], ["--kmem-report", "is a folder"]),
        (
            ["--kmem-report=json:k", "--kmem-report=html:k"],
            ["--kmem-report", "'html:k'", "json:k is to be written there already"],
        ),
        (["--kmem-fail-on-increase=ten"], ["--kmem-fail-on-increase", "'ten'", "10%"]),
        (
            ["--kmem-runtime=local", "--kmem-image=alpine"],
            ["--kmem-runtime 'local' contradicts --kmem-image 'alpine'", "have no image"],
        ),
        (["--kmem-runtime=podman"], ["--kmem-runtime", "podman", "local", "docker"]),
        (["--kmem-docker-listener=ptrace"], ["--kmem-docker-listener", "ptrace", "native"]),
    ],
    ids=lambda value: value[-1],
)
def test_option_when_unusable_then_usage_error_names_it_and_the_rule(options, named, project):
    project.tests("def test_before():\n    open('ran', 'w')")
    result = project.run_here(*options)
    assert result.ret == USAGE_ERROR
    for part in named:
        assert part in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert not (project.pytester.path / "ran").exists()


def test_environment_when_unusable_then_usage_error_says_where_it_came_from(project, monkeypatch):
    monkeypatch.setenv("KMEM_HARNESS_LIMIT", "lots")
    project.tests("def test_one(): pass")
    result = project.run_here()
    assert result.ret == USAGE_ERROR
    assert "KMEM_HARNESS_LIMIT" in result.stderr.str()
    assert "lots" in result.stderr.str()


def test_ini_when_unusable_then_usage_error_says_where_it_came_from(project):
    project.ini("kmem_require = perhaps")
    result = project.run_here()
    assert result.ret == USAGE_ERROR
    assert "ini kmem_require: 'perhaps' is neither yes nor no" in result.stderr.str()


def test_container_when_arguments_are_unusable_then_the_test_fails_with_the_reason(project):
    project.tests("""
def test_limit(kmem_container):
    with pytest.raises(ValueError, match="not a size: 'lots'"):
        kmem_container(["true"], kmem_limit="lots")

def test_command(kmem_container):
    with pytest.raises(ValueError, match="no-such-program"):
        kmem_container(["no-such-program"])

def test_after_errors_a_good_one_runs(kmem_container):
    assert kmem_container(["true"], kmem_limit="1M").wait(timeout=30) == 0
""")
    project.run().assert_outcomes(passed=3)
