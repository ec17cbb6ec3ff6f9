"""`doctor`: each line with nothing wrong, and with its fault made."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from packer_plugin_osc_chroot import cli
from packer_plugin_osc_chroot.cloud.metadata import Identity
from packer_plugin_osc_chroot.doctor import command, journals, machine, region
from packer_plugin_osc_chroot.doctor.finding import Finding, State
from packer_plugin_osc_chroot.doctor.journals import check_journals
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

CHECKS = [
    "privileges",
    "programs",
    "default mounts",
    "root filesystems",
    "copy_files",
    "cache",
    "journals",
    "metadata",
    "credentials",
    "API",
    "clock",
    "device names",
]


@pytest.fixture(autouse=True)
def _logs_again() -> Iterator[None]:
    """The command silences the package in its process, which other tests share here."""
    yield
    logging.getLogger("packer_plugin_osc_chroot").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def good_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were root on a VM: what a test breaks is all that is broken."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "find_program", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(
        machine, "_filesystems", lambda proc: {"proc", "sysfs", "devpts", "binfmt_misc", "ext4"}
    )
    monkeypatch.setattr(machine, "_has_module", lambda name: False)
    monkeypatch.setattr(machine, "free_mib", lambda path: 1000)


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud() as running:
        yield running


@pytest.fixture
def environ(cloud: LocalCloud, tmp_path: Path) -> dict[str, str]:
    return {**cloud.environment(), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}


def examine(environ: Mapping[str, str]) -> dict[str, Finding]:
    return {finding.check: finding for finding, _ in command.examine(environ)}


def test_nothing_wrong(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([], environ=environ) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"ok       {check}" for check in CHECKS]


def test_json(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--json"], environ=environ) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ready"] is True
    assert [check["check"] for check in said["checks"]] == CHECKS
    del environ["OSC_SECRET_KEY"]
    assert command.main(["--json"], environ=environ) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ready"] is False
    (bad,) = [check for check in said["checks"] if check["state"] == "problem"]
    assert bad["check"] == "credentials" and bad["hint"]


def test_wrong_command_line() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", "--yaml"])
    assert caught.value.code == 2


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_keys_are_never_shown(
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    keys = (environ["OSC_SECRET_KEY"], environ["OSC_ACCESS_KEY"])
    # An error names its endpoint.
    environ["OSC_ENDPOINT_API"] = f"{NOWHERE}/{'/'.join(keys)}"
    monkeypatch.setattr("packer_plugin_osc_chroot.cloud.client._FIRST_RETRY_SECONDS", 0.1)
    command.main(arguments, environ=environ)
    shown = "".join(capsys.readouterr())
    assert "<sensitive>" in shown
    assert not any(key in shown for key in keys)


Break = Callable[[pytest.MonkeyPatch, dict[str, str]], None]


def without(*names: str) -> Break:
    def make(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
        for name in names:
            del environ[name]

    return make


def with_(**variables: str) -> Break:
    return lambda monkeypatch, environ: environ.update(variables)


def patched(module: object, name: str, value: object) -> Break:
    return lambda monkeypatch, environ: monkeypatch.setattr(module, name, value)


def normal_user(*, sudo: bool) -> Break:
    def make(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(machine, "_sudo_works", lambda: sudo)

    return make


def skewed(seconds: float) -> Break:
    now = region._now
    return patched(region, "_now", lambda: now() + seconds)


def container(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    """What a container's root has by default."""
    folder = Path(environ["HOME"]) / "self"
    folder.mkdir()
    (folder / "status").write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")
    real = machine.check_privileges
    monkeypatch.setattr(machine, "check_privileges", lambda: real(proc=folder.parent))


def no_authorities(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    environ["OSC_ENDPOINT_API"] = "https://127.0.0.1:1"
    # requests looks for itself.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle")


# tcpmux, which nobody serves.
NOWHERE = "http://127.0.0.1:1"
FAULTS: list[tuple[str, Break, State, str]] = [
    ("privileges", normal_user(sudo=False), State.PROBLEM, "not root.*command_wrapper"),
    ("privileges", normal_user(sudo=True), State.OK, 'set command_wrapper = "sudo {{.Command}}"'),
    (
        "privileges",
        container,
        State.PROBLEM,
        "without CAP_SYS_ADMIN.*privileged container",
    ),
    (
        "programs",
        patched(machine, "find_program", lambda name: None if name == "partx" else name),
        State.PROBLEM,
        "partx not on this machine. Install util-linux",
    ),
    (
        "default mounts",
        patched(machine, "_filesystems", lambda proc: {"proc", "sysfs", "ext4"}),
        State.PROBLEM,
        "no devpts, binfmt_misc|no devpts. Set chroot_mounts",
    ),
    (
        "default mounts",
        patched(machine, "_filesystems", lambda proc: {"proc", "sysfs", "devpts", "ext4"}),
        State.WARNING,
        "no binfmt_misc: a build warns",
    ),
    (
        "root filesystems",
        patched(machine, "_filesystems", lambda proc: {"proc", "sysfs", "devpts"}),
        State.PROBLEM,
        "none of ext4, xfs, btrfs",
    ),
    (
        "copy_files",
        patched(machine, "DEFAULT_COPY_FILES", ("/no/such/resolv.conf",)),
        State.PROBLEM,
        "/no/such/resolv.conf: no such file.*Remove it from copy_files",
    ),
    (
        "cache",
        patched(machine, "_caches", lambda environ: [Path("/dev/null/x"), Path("/proc/version")]),
        State.PROBLEM,
        "/dev/null is no folder; .*Set XDG_CACHE_HOME",
    ),
    ("cache", patched(machine, "free_mib", lambda path: 3), State.WARNING, "3 MiB of free space"),
    ("metadata", with_(OSC_CHROOT_METADATA_URL=NOWHERE), State.PROBLEM, "not an OUTSCALE VM"),
    ("credentials", without("OSC_SECRET_KEY"), State.PROBLEM, "access_key is set in the environ"),
    (
        "credentials",
        with_(OSC_CONFIG_FILE="/no/such/config.json"),
        State.PROBLEM,
        "profile file /no/such/config.json: not found",
    ),
    ("API", with_(OSC_ENDPOINT_API=NOWHERE), State.PROBLEM, f"no answer from {NOWHERE}"),
    ("API", with_(OSC_SECRET_KEY="x" * 40), State.PROBLEM, "HTTP 401.*Check access_key"),
    ("clock", with_(OSC_ENDPOINT_API=NOWHERE), State.UNKNOWN, "the API does not answer"),
    ("API", no_authorities, State.PROBLEM, "/no/such/bundle: cannot be used for authorities"),
    ("clock", no_authorities, State.UNKNOWN, "the API does not answer"),
    ("clock", skewed(600), State.PROBLEM, "60[01] s ahead of the API's: .*chrony"),
    ("clock", skewed(-100), State.WARNING, "(100|99|101) s behind the API's"),
    (
        "device names",
        patched(machine, "VM_VOLUMES", 1),
        State.PROBLEM,
        "holds 1 volumes, and no VM holds more than 1",
    ),
    (
        "device names",
        patched(machine, "free_names", lambda taken, *, dev: iter(())),
        State.PROBLEM,
        "none is free",
    ),
]


@pytest.mark.parametrize(("check", "make", "state", "text"), FAULTS)
def test_a_fault_is_one_line_that_says_what_to_do(
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    check: str,
    make: Break,
    state: State,
    text: str,
) -> None:
    monkeypatch.setattr("packer_plugin_osc_chroot.cloud.client._FIRST_RETRY_SECONDS", 0.1)
    make(monkeypatch, environ)
    status = command.main([], environ=environ)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [each for each in lines if each[9:].startswith(f"{check}:")]
    assert line.startswith(f"{state:<8} ")
    assert re.search(text, line)
    assert status == int(any(each.startswith("problem") for each in lines))
    assert len(lines) == len(CHECKS)


def test_the_profile_file_is_named_as_the_source(environ: dict[str, str], tmp_path: Path) -> None:
    pair = {
        "access_key": environ.pop("OSC_ACCESS_KEY"),
        "secret_key": environ.pop("OSC_SECRET_KEY"),
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"default": pair}))
    environ["OSC_CONFIG_FILE"] = str(file)
    found = examine(environ)
    assert f'a key pair from profile "default" in {file};' in found["credentials"].message
    assert found["API"].state is State.OK
    file.write_text(json.dumps({"mine": pair}))
    found = examine({**environ, "OSC_PROFILE": "mine"})
    assert f'a key pair from profile "mine" in {file};' in found["credentials"].message


@pytest.mark.parametrize("older", [False, True])
def test_the_variables_are_named_as_the_source(environ: dict[str, str], older: bool) -> None:
    names = ["OSC_ACCESS_KEY", "OSC_SECRET_KEY"]
    if older:
        environ["OUTSCALE_ACCESSKEYID"] = environ.pop("OSC_ACCESS_KEY")
        names[0] = "OUTSCALE_ACCESSKEYID"
    found = examine(environ)["credentials"]
    assert f"a key pair from the environment ({', '.join(names)});" in found.message


def test_a_vm_of_another_account(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        region,
        "read_identity",
        lambda config, environ, *, token: Identity("i-99999999", "eu-west-2a"),
    )
    found = examine(environ)["API"]
    assert found.state is State.PROBLEM and "does not show VM i-99999999" in found.message


def test_journals(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", os.getuid)
    state = tmp_path / "state"
    environ[STATE_VARIABLE] = str(state)
    assert check_journals(environ).state is State.OK
    journal = Journal(state)
    journal.begin(vm_id="i-1", omi_name="web")
    journal.sending("CreateVolume", {"ClientToken": "t"})
    assert check_journals(environ).state is State.OK, "it lives"
    journal.end(kept=True, failed=False)
    found = check_journals(environ)
    assert found.state is State.WARNING and 'the build of "web" of ' in found.message
    state.chmod(0o777)
    assert check_journals(environ).state is State.PROBLEM
    state.chmod(0o700)
    monkeypatch.setattr(journals, "free_mib", lambda path: 0)
    found = check_journals(environ)
    assert found.state is State.WARNING and "no free space" in found.message
    environ[STATE_VARIABLE] = str(next(state.iterdir()))
    found = check_journals(environ)
    assert found.state is State.WARNING and "is no folder" in found.message
