from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.unitfile.load import Library, UnitNotFoundError, read_request
from kmem_harness.services.unitfile.specifiers import Directories
from kmem_harness.services.unitfile.syntax import UnitFileError
from kmem_harness.services.unitfile.unit import Handling, apply_property
from tests.services.oracle import needs_systemd

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORIES = Directories("/run/kmem")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def load(folder: Path, name: str, **options):
    return Library([str(folder)], DIRECTORIES, **options).load(name)


def service(text: str) -> str:
    return f"[Service]\nExecStart=/bin/true\n{text}\n"


def test_unit_when_a_drop_in_resets_a_list_then_it_begins_anew(tmp_path):
    write(
        tmp_path,
        {
            "a.service": service("Environment=A=1 'B=x y'\nEnvironment=C=3"),
            "a.service.d/10.conf": "[Service]\nEnvironment=\nEnvironment=D=4\nExecStart=\n"
            "ExecStart=/bin/false now\nRestartSec=5\n",
            "a.service.d/20.conf": "[Service]\nRestartSec=\n",
        },
    )
    unit = load(tmp_path, "a.service")
    assert unit.service.environment == ["D=4"]
    assert [one.argv for one in unit.service.exec_start] == [("/bin/false", "now")]
    assert unit.service.restart_sec == 0.1
    assert len(unit.files) == 3


def test_dependencies_when_a_drop_in_empties_them_then_they_stay(tmp_path):
    write(
        tmp_path,
        {
            "a.service": service("[Unit]\nAfter=b.service c.target"),
            "a.service.d/x.conf": "[Unit]\nAfter=\nAfter=d.service\n",
        },
    )
    assert load(tmp_path, "a.service").unit.after == ["b.service", "c.target", "d.service"]


def test_drop_ins_when_names_collide_then_the_most_specific_counts(tmp_path):
    write(
        tmp_path,
        {
            "web-a@.service": service(""),
            "service.d/10-x.conf": "[Service]\nEnvironment=TYPE=1\n",
            "web-.service.d/10-x.conf": "[Service]\nEnvironment=PREFIX=1\n",
            "web-.service.d/05-y.conf": "[Service]\nEnvironment=EARLY=1\n",
            "web-a@.service.d/20-z.conf": "[Service]\nEnvironment=TEMPLATE=1\n",
            "web-a@one.service.d/20-z.conf": "[Service]\nEnvironment=INSTANCE=1\n",
            "service.d/30-off.conf": "[Service]\nEnvironment=OFF=1\n",
            "web-a@one.service.d/30-off.conf": "",
        },
    )
    # "web-" is a prefix of the template's name, and an instance keeps its instance in there.
    assert load(tmp_path, "web-a@one.service").service.environment == ["TYPE=1", "INSTANCE=1"]
    write(tmp_path, {"web-b.service": service("")})
    assert load(tmp_path, "web-b.service").service.environment == ["EARLY=1", "PREFIX=1", "OFF=1"]


def test_template_when_loaded_as_an_instance_then_specifiers_are_its_own(tmp_path):
    write(
        tmp_path,
        {
            "pre-get@.service": "[Service]\n"
            "ExecStart=/bin/echo %i %I %n %N %p %P %j %f %% %t %S %Y\n"
        },
    )
    unit = load(tmp_path, "pre-get@a\\x20b-c.service")
    assert list(unit.service.exec_start[0].argv[1:]) == [
        "a\\x20b-c",
        "a b/c",
        "pre-get@a\\x20b-c.service",
        "pre-get@a\\x20b-c",
        "pre-get",
        "pre/get",
        "get",
        "/a b/c",
        "%",
        "/run/kmem/run",
        "/run/kmem/lib",
        str(tmp_path),
    ]
    assert unit.slice == "system-pre\\x2dget.slice"


def test_command_lines_when_read_then_prefixes_and_separators_are_systemds(tmp_path):
    write(
        tmp_path,
        {
            "a.service": "[Service]\nType=oneshot\nExecStart=-@:/bin/sh name '$A' \\; \"b c\" ; +/bin/true\n"
            "ExecStart=!!/bin/false %%x\n"
        },
    )
    first, second, third = load(tmp_path, "a.service").service.exec_start
    assert (first.path, first.argv) == ("/bin/sh", ("name", "$A", ";", "b c"))
    assert first.ignore_failure
    assert not first.expand_environment
    assert second.privileged
    assert (third.path, third.argv) == ("/bin/false", ("/bin/false", "%x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[Service]\nExecStart=/bin/echo %Z\n",
            "x.service:2: ExecStart='%Z': unknown specifier '%Z'",
        ),
        ("[Service]\nExecStart=/bin/echo 'open\n", "x.service:2: ExecStart=a quote"),
        ("[Service]\nExecStart=bin/echo\n", "x.service:2: ExecStart='bin/echo' is neither"),
        ("[Service]\nExecStart=\n", "no ExecStart="),
        ("[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n", "exactly one ExecStart="),
        (service("X-KmemMax=1K"), "x.service:3: X-KmemMax='1K' is below one page"),
        (service("X-KmemMax=8 apples"), "X-KmemMax='8 apples' is not a size"),
        (service("X-KmemMaximum=8M"), "unknown key X-KmemMaximum="),
        (service("X-KmemInject=clone:error=EWHAT"), "x.service:3: X-KmemInject="),
        (service("Type=oneshot\nRestart=always"), "never ends with Type=oneshot"),
        (service("User=a:b"), "User='a:b' is not a user's or group's name"),
        (service("WorkingDirectory=here"), "WorkingDirectory='here' is not an absolute path"),
    ],
)
def test_unit_when_a_value_is_wrong_then_the_error_says_where_and_what(tmp_path, text, words):
    write(tmp_path, {"x.service": text})
    with pytest.raises(UnitFileError) as caught:
        load(tmp_path, "x.service")
    assert words in str(caught.value)


#: What systemd warns of and goes on without, and how we say so.
WARNED = [
    ("Restart=sometimes", "'sometimes' is not known"),
    ("Type=often", "'often' is not known"),
    ("NotifyAccess=everybody", "'everybody' is not known"),
    ("KillMode=gently", "'gently' is not known"),
    ("OOMPolicy=pray", "'pray' is not known"),
    ("RuntimeDirectoryPreserve=maybe", "'maybe' is not known"),
    ("TimeoutStartFailureMode=x", "'x' is not known"),
    ("TimeoutStopFailureMode=x", "'x' is not known"),
    ("TimeoutStopSec=soon", "'soon' is not a time span"),
    ("RemainAfterExit=perhaps", "'perhaps' is neither yes nor no"),
    ("KillSignal=SIGNOTHING", "'SIGNOTHING' is not a signal"),
    ("UMask=0999", "0999"),
    ("Nice=40", "'40' is not between -20 and 19"),
    ("OOMScoreAdjust=5000", "'5000'"),
    ("LimitNOFILE=many", "many"),
    ("TasksMax=0", "'0' lets no task be"),
    ("MemoryMax=120%", "more than all there is"),
    ("Slice=a.service", "'a.service' is not a slice"),
    ("EnvironmentFile=here", "'here' is not an absolute path"),
    ("[Unit]\nOnFailureJobMode=x", "'x' is not known"),
    ("[Unit]\nStartLimitBurst=few", "few"),
    ("ExecStartPre=-relative/path", "neither an absolute path"),
    ("SyslogIdentifier=%Z", "unknown specifier '%Z'"),
]


@needs_systemd
def test_values_when_systemd_reads_them_then_it_warns_of_each_and_loads_the_unit(tmp_path):
    units = {f"{number}.service": service(line) for number, (line, _) in enumerate(WARNED)}
    write(tmp_path, units)
    said = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0
    assert {name for name in units if f"{name}:" not in said.stderr} == set()


@pytest.mark.parametrize(("line", "words"), WARNED)
def test_value_when_systemd_warns_of_it_then_it_is_left_out_and_told(tmp_path, line, words):
    """It refused the whole run, where systemd goes on."""
    write(tmp_path, {"x.service": service(line), "y.service": service("")})
    unit = load(tmp_path, "x.service")
    (noted,) = [one for one in unit.not_emulated() if one.handling is Handling.INVALID]
    assert words in noted.why
    plain = load(tmp_path, "y.service")
    assert (unit.unit, unit.limits) == (plain.unit, plain.limits)
    assert {**vars(unit.service), "exec_start": []} == {**vars(plain.service), "exec_start": []}


@pytest.mark.parametrize(
    ("line", "left", "words"),
    [
        ("Environment=A=1 B C=3", ("service", "environment", ["A=1", "C=3"]), "'B' sets no"),
        (
            "SuccessExitStatus=3 often 300 SIGUSR1",
            ("service", "success_codes", {3}),
            "'300' is not an exit status",
        ),
        (
            "[Unit]\nAfter=a.service nonsense b.service",
            ("unit", "after", ["a.service", "b.service"]),
            "'nonsense' is not a unit name",
        ),
        (
            "RuntimeDirectory=x ../etc y",
            ("service", "runtime_directory", ["x", "y"]),
            "'../etc' is not a relative path",
        ),
    ],
)
def test_list_when_a_word_of_it_is_wrong_then_the_others_count(tmp_path, line, left, words):
    write(tmp_path, {"x.service": service(line)})
    unit = load(tmp_path, "x.service")
    assert words in unit.not_emulated()[0].why
    part, field, expected = left
    if field == "success_codes":
        assert set().union(*(one.codes for one in unit.service.success_exit_status)) == expected
    else:
        assert getattr(getattr(unit, part), field) == expected


def test_property_when_typed_and_wrong_then_that_is_an_error(tmp_path):
    write(tmp_path, {"x.service": service("")})
    properties = [("x.service", "Restart", "sometimes")]
    library = Library([str(tmp_path)], Directories("/run/kmem"), properties)
    with pytest.raises(UnitFileError, match="'sometimes' is not known"):
        library.load("x.service")


def test_keys_when_not_acted_on_then_each_is_noted(tmp_path):
    write(
        tmp_path,
        {
            "x.service": service(
                "PrivateTmp=yes\nDescripton=typo\nX-Mine=1\nNice=5\n[X-Other]\nA=b\n[Nonsense]\nC=d"
            )
        },
    )
    found = {one.assignment.key: one.handling for one in load(tmp_path, "x.service").noted}
    assert found == {
        "ExecStart": Handling.ENFORCED,
        "PrivateTmp": Handling.NOT_EMULATED,
        "Descripton": Handling.UNKNOWN,
        "X-Mine": Handling.IGNORED,
        "Nice": Handling.ENFORCED,
        "A": Handling.IGNORED,
        "C": Handling.NOT_EMULATED,
    }


def test_link_when_it_leads_to_another_unit_then_it_is_its_alias(tmp_path):
    write(tmp_path, {"real.service": service("")})
    (tmp_path / "alias.service").symlink_to("real.service")
    assert load(tmp_path, "alias.service").text == "real.service"


def test_unit_when_masked_then_that_is_an_error(tmp_path):
    (tmp_path / "gone.service").symlink_to("/dev/null")
    with pytest.raises(ConfigurationError, match="is masked"):
        load(tmp_path, "gone.service")


def test_properties_when_given_then_they_come_last(tmp_path):
    write(tmp_path, {"x.service": service("X-KmemMax=8M")})
    unit = load(tmp_path, "x.service", properties=[("x.service", "X-KmemMax", "4M")])
    assert unit.limits.kmem_max == 4 << 20
    assert apply_property(unit, "X-KmemMax=infinity") == "X-KmemMax"
    assert unit.limits.kmem_max == -1
    with pytest.raises(ConfigurationError, match=r"cannot be set on x\.service"):
        apply_property(unit, "ExecStart=/bin/true")
    with pytest.raises(UnitFileError, match="is not a size"):
        apply_property(unit, "MemoryMax=lots")


def test_request_when_a_folder_is_given_then_templates_and_fragments_are_left_out(tmp_path):
    write(
        tmp_path,
        {
            "a.service": service(""),
            "b@.service": service(""),
            "c.target": "",
            "d.slice": "",
            "e.socket": "",
            "notes.txt": "",
            "a.service.d/x.conf": "",
        },
    )
    request = read_request([str(tmp_path)])
    assert request.names == ("a.service", "c.target", "d.slice")
    assert request.folders == (str(tmp_path),)
    assert read_request([str(tmp_path / "b@1.service")]).names == ("b@1.service",)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("b@.service", "is a template"),
        ("./nowhere.service", "does not exist"),
        ("what?", "not a unit"),
    ],
)
def test_request_when_it_names_nothing_that_can_run_then_that_is_an_error(argument, words):
    with pytest.raises(ConfigurationError, match=words):
        read_request([argument])


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("nosuch", "nosuch.service"),
        ("foo.bar", "foo.bar.service"),
        ("foo@1", "foo@1.service"),
        ("a.target", "a.target"),
    ],
)
def test_request_when_a_name_has_no_suffix_then_a_service_is_meant(argument, name):
    assert read_request([argument]).names == (name,)


def test_unit_when_nowhere_then_the_error_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(UnitNotFoundError, match=re.escape(str(tmp_path))):
        load(tmp_path, "nowhere.service")
