"""The whole build as a normal user, with `command_wrapper = "sudo {{.Command}}"` and nothing else."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from guest_image import RESOLV_CONF, exists, read_file
from packer_run import Packer
from sudo_user import SudoUser

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

# Shell, quotes and Packer's own templates would each make something else of one of these.
LITERALS = ["$HOME", "`id -u`", "$(id -u)", "a \"b\" 'c'", "back\\slash", "é 漢", "*", "${X}"]

TEMPLATE = """
source "osc-chroot" "guest" {
  source_omi          = "ami-00000001"
  omi_name            = "made {{timestamp}}"
  command_wrapper     = "sudo {{.Command}}"
  pre_mount_commands  = ["test -b {{.Device}} && test $(id -u) != 0"]
  post_mount_commands = ["sh -c 'test $(id -u) = 0 && touch {{.MountPath}}/after'"]
}

build {
  sources = ["source.osc-chroot.guest"]
  provisioner "shell" {
    environment_vars = @VARIABLES@
    inline           = @COMMANDS@
  }
  provisioner "file" {
    source      = "tree"
    destination = "/var/lib"
  }
  provisioner "file" {
    source      = "upload.txt"
    destination = "/root/upload.txt"
  }
  provisioner "file" {
    direction   = "download"
    source      = "/root/secret"
    destination = "download.txt"
  }
  provisioner "file" {
    direction   = "download"
    source      = "/var/lib/made/"
    destination = "made"
  }
}
"""
COMMANDS = [
    "mkdir -p /var/lib/made && id -u >/var/lib/made/uid",
    "umask 077 && echo hidden >/root/secret",
    *(f'printf "%s" "$V{i}" >/var/lib/made/v{i}' for i in range(len(LITERALS))),
    "printf '%s' '$HOME `id -u` $(id -u)' >/var/lib/made/inline",
    "(sleep 9741 </dev/null >/dev/null 2>&1 &)",
]


@pytest.fixture
def workplace(packer: Packer, sudo_user: SudoUser) -> Iterator[Path]:
    """Packer and the plugin where the user reaches them, which need not hold of the source tree."""
    home = sudo_user.home
    for program in (packer.binary, packer.plugin):
        shutil.copy(program, home / program.name)
    variables = [f"V{i}={literal}" for i, literal in enumerate(LITERALS)]
    template = TEMPLATE.replace("@VARIABLES@", hcl(variables)).replace("@COMMANDS@", hcl(COMMANDS))
    (home / "guest.pkr.hcl").write_text(template)
    (home / "upload.txt").write_text("uploaded\n")
    (home / "tree/sub").mkdir(parents=True)
    (home / "tree/sub/file").write_text("in a tree\n")
    (home / "tmp").mkdir()
    subprocess.run(["chown", "-R", sudo_user.name, home], check=True)
    yield home


def hcl(values: list[str]) -> str:
    """A list of strings; `${` would begin a template of HCL's."""
    return json.dumps(values, ensure_ascii=False).replace("${", "$${")


def test_whole_build_with_sudo(
    packer: Packer, cloud: LocalCloud, sudo_user: SudoUser, workplace: Path
) -> None:
    environment = cloud.child_environment(packer.base)
    # The Region's own profile file is its user's.
    del environment["OSC_CONFIG_FILE"]
    environment |= {
        "HOME": str(workplace),
        "TMPDIR": str(workplace / "tmp"),
        "XDG_CACHE_HOME": str(workplace / "cache"),
        "PACKER_CONFIG_DIR": str(workplace / "config"),
        "PACKER_PLUGIN_PATH": str(workplace / "plugins"),
    }

    def as_user(*arguments: str) -> str:
        done = subprocess.run(
            [*sudo_user.argv, f"./{packer.binary.name}", *arguments],
            cwd=workplace,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    as_user("plugins", "install", "--path", packer.plugin.name, "github.com/outscale/osc-chroot")
    said = as_user("build", "-color=false", "guest.pkr.hcl")

    assert "sleep 9741" in said
    (image,) = cloud.images()
    root = cloud.root_image(image.image_id)
    assert read_file(root, "/var/lib/made/uid") == "0\n"
    for i, literal in enumerate(LITERALS):
        assert read_file(root, f"/var/lib/made/v{i}") == literal
    assert read_file(root, "/var/lib/made/inline") == "$HOME `id -u` $(id -u)"
    assert read_file(root, "/root/upload.txt") == "uploaded\n"
    assert read_file(root, "/var/lib/tree/sub/file") == "in a tree\n"
    assert read_file(root, "/etc/resolv.conf") == RESOLV_CONF
    assert exists(root, "/after")
    uid = workplace.stat().st_uid
    for name in ("download.txt", "made/uid"):
        assert (workplace / name).stat().st_uid == uid
    assert (workplace / "download.txt").read_text() == "hidden\n"
    assert (workplace / "made/v0").read_text() == "$HOME"
    with suppress(FileNotFoundError):
        assert os.listdir(workplace / "tmp") == []
