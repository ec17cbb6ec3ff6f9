"""Secrets planted in a template, its variables and the environment are in nothing that a build prints
or leaves, PACKER_LOG=1 or not."""

import json
import subprocess
from pathlib import Path

import pytest
from leaks import Machine
from packer_run import Packer

from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

PASSWORD = "planted-password-4711"

TEMPLATE = {
    "variables": {"password": PASSWORD, "access_key": "", "secret_key": ""},
    "sensitive-variables": ["password", "access_key", "secret_key"],
    "builders": [
        {
            "type": "osc-chroot",
            "source_omi": "ami-00000001",
            "omi_name": "never made",
            "access_key": "{{user `access_key`}}",
            "secret_key": "{{user `secret_key`}}",
            "root_volume_tags": {"note": "with {{user `password`}} in it"},
            "pre_mount_commands": ["test -n '{{user `password`}}'"],
            "post_mount_commands": ["env; echo said {{user `password`}} >&2; exit 7"],
        }
    ],
    "provisioners": [{"type": "shell", "inline": ["env"]}],
}


@pytest.mark.parametrize("keys_in", ["template", "environment"])
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_shows_a_secret(
    packer: Packer,
    cloud: LocalCloud,
    leak_check: Machine,
    tmp_path: Path,
    keys_in: str,
    fails: bool,
) -> None:
    environment = cloud.environment()
    keys = {name: environment[f"OSC_{name.upper()}"] for name in ("access_key", "secret_key")}
    template = json.loads(json.dumps(TEMPLATE))
    (builder,) = template["builders"]
    if not fails:
        # What a user has printed by a command of their own is masked too.
        builder["post_mount_commands"] = ["echo said {{user `password`}}"]
    extra = {"PACKER_LOG": "1"}
    given = tmp_path / "keys.json"
    if keys_in == "template":
        given.write_text(json.dumps(keys))
        extra |= {"OSC_ACCESS_KEY": "", "OSC_SECRET_KEY": ""}
    else:
        given.write_text("{}")
        del builder["access_key"], builder["secret_key"]
        # The user's commands have Packer's environment, and may print what is theirs.
        builder["post_mount_commands"] = [
            each.replace("env; ", "") for each in builder["post_mount_commands"]
        ]
    (tmp_path / "guest.json").write_text(json.dumps(template))
    outcome = packer.run(
        *("build", "-color=false", "-on-error=abort", f"-var-file={given}", "guest.json"),
        cwd=tmp_path,
        cloud=cloud,
        extra=extra,
    )
    assert outcome.status == (1 if fails else 0), outcome.output
    assert "said <sensitive>" in outcome.output
    state = Path(environment[STATE_VARIABLE])
    journals = {str(file): file.read_text() for file in state.iterdir()}
    assert bool(journals) == fails, "an abort leaves its journal"
    reclaimed = subprocess.run(
        [packer.plugin, "reclaim"],
        env=packer.environment(cloud, {"PACKER_LOG": "1"}),
        capture_output=True,
        text=True,
        check=True,
    )
    texts = {
        "the output": outcome.output,
        "reclaim": reclaimed.stdout + reclaimed.stderr,
        **journals,
        **{f"{file}": file.read_text(errors="replace") for file in files_below(leak_check)},
    }
    for where, text in texts.items():
        for secret in (PASSWORD, *keys.values()):
            assert secret not in text, f"{secret} is in {where}"


def files_below(machine: Machine) -> list[Path]:
    """What is left in the test's TMPDIR."""
    return [path for path in machine.temporary.rglob("*") if path.is_file()]
