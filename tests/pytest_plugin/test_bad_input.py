"""What cannot be carried out is said before anything of its test, or of the run, begins."""

from __future__ import annotations

import re

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
def test_marker_when_unusable_then_its_test_alone_fails_with_line_value_and_rule(
    arguments, named, project
):
    project.tests(_BAD.replace("ARGUMENTS", arguments))
    result = project.run_here()
    result.assert_outcomes(passed=1, errors=1)
    text = result.stdout.str()
    for part in ["ERROR at setup of test_bad", "test_it.py:", "marker limit_kmem", *named]:
        assert part in text
    assert "Traceback" not in text + result.stderr.str()
    assert not (project.pytester.path / "ran").exists()


_BAD = """
@pytest.fixture
def ran():
    open("ran", "w").close()

def test_good():
    pass

@pytest.mark.limit_kmem(ARGUMENTS)
def test_bad(ran):
    pass
"""


def test_marker_when_unusable_in_a_worker_then_its_test_alone_fails_with_the_reason(project):
    """It was an INTERNALERROR of pytest-xdist, and the reason was lost."""
    project.tests(_BAD.replace("ARGUMENTS", "'2KBjunk'"))
    result = project.run("-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.re_match_lines([r"test_it\.py:\d+: marker limit_kmem.*'2KBjunk'.*8MiB"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    "bad",
    [
        "@pytest.mark.limit_kmem('2KBjunk')\ndef test_bad(): pass",
        "@pytest.mark.kmem_fault('sockt')\nclass TestBad:\n    def test_it(self): pass",
        "pytestmark = pytest.mark.limit_kmem_leaks('junk')\ndef test_bad(): pass",
    ],
    ids=["test", "class", "module"],
)
def test_marker_when_unusable_and_its_test_is_left_out_then_nobody_minds(bad, project):
    project.tests(bad)
    project.pytester.makepyfile(test_more="def test_good(): pass")
    project.run_here("-k", "good").assert_outcomes(passed=1, deselected=1)


NEAR_MISSES = [
    *("limit_kem", "limit_kmen", "kmem_limit", "limitkmem", "Limit_kmem", "limit_mem"),
    *("limit_kmem_leak", "kmem_faults", "kmem_swep"),
]


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_marker_when_nearly_ours_then_its_test_does_not_run_without_it(name, project):
    project.tests(f"@pytest.mark.{name}('8M')\ndef test_it(kmem_container): pass\n")
    project.pytester.makeini("[pytest]")  # not strict: pytest itself would only warn
    result = project.run_here()
    result.assert_outcomes(errors=1)
    assert re.search(
        f"marker {name} is not known: did you mean (limit_kmem|kmem_)", str(result.stdout)
    )


def test_marker_when_nearly_ours_beside_no_fixture_of_ours_then_warns(project):
    project.pytester.makeini("[pytest]\nmarkers = limit_memory: of another plugin\n limit_mem: too")
    project.tests("""
@pytest.mark.limit_kem
def test_nearly(): pass

@pytest.mark.limit_memory
@pytest.mark.limit_mem
@pytest.mark.limit_rate
def test_others(kmem_memcg): pass
""")
    result = project.run_here()
    result.assert_outcomes(passed=2)
    assert str(result.stdout).count("did you mean") == 1


def test_marker_when_nearly_ours_and_strict_then_pytest_s_refusal_says_which_was_meant(project):
    project.tests("@pytest.mark.limit_kem('8M')\ndef test_it(kmem_container): pass\n")
    result = project.run_here()
    result.assert_outcomes(errors=1)
    assert "'limit_kem': did you mean limit_kmem?" in str(result.stdout)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--kmem-limit=lots"], ["--kmem-limit", "lots", "8MiB"]),
        (["--kmem-limit=1"], ["--kmem-limit", "'1'", "below one page"]),
        (["--kmem-kernel=4.4"], ["--kmem-kernel", "4.4", "3.12"]),
        (["--kmem-limit=2KBjunk"], ["--kmem-limit", "2KBjunk"]),
        (["--kmem-timeout=soon"], ["--kmem-timeout", "'soon'", "seconds"]),
        (["--kmem-timeout=3 weeks"], ["--kmem-timeout", "'3 weeks'", "us, ms, s, min"]),
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
