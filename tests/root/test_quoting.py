"""What users write arrives as written, whatever it holds: commands, paths, with a wrapper or not."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from in_process import OPTIONS, SOURCE, Provisioner, assert_nothing_left, mounted, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

WRAPPERS = ["{{.Command}}", "sudo -n {{.Command}}", "env X=1 nice {{.Command}} 2>&1"]
TEXTS = [
    "it's",
    'say "x"',
    "`id`",
    "$x $HOME ${PATH} $(id)",
    "back\\slash \\n \\",
    "two\nlines",
    "é € 漢字",
    "* ? [a] ~ #x; & | < >",
    "-n",
    "  spaces  ",
    "{{ braces }}",
]
# One path with all of it.
NAME = 'it\'s "x" `id` $HOME $(id) \\ two\nlines é € * ; &'


@pytest.fixture(params=WRAPPERS)
def wrapper(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_commands_before_and_after_the_mount(wrapper: str, tmp_path: Path) -> None:
    """A command line of the user is the wrapper's text too: what it prints shows what it got."""
    commands = [
        f"printf '%s\\0' {shlex.quote(text)} >>{tmp_path}/{{}}" for text in TEXTS if "{" not in text
    ]
    ui = RecordingUi()
    with LocalCloud() as cloud:
        run(
            cloud,
            ui=ui,
            config=dataclasses.replace(
                OPTIONS,
                command_wrapper=wrapper,
                pre_mount_commands=tuple(each.format("before") for each in commands),
                post_mount_commands=tuple(each.format("after") for each in commands),
            ),
        )
        assert_nothing_left(cloud)
    for name in ("before", "after"):
        arrived = (tmp_path / name).read_text().split("\0")[:-1]
        assert arrived == [text for text in TEXTS if "{" not in text]


def test_paths(wrapper: str, tmp_path: Path) -> None:
    bound = tmp_path / f"bound {NAME}"
    bound.mkdir()
    (bound / "there").write_text("seen")
    copied = tmp_path / f"copied {NAME}"
    copied.write_text("of the host")
    local = tmp_path / f"local {NAME}"
    local.mkdir()
    (local / NAME).write_text("in a folder")
    token = CancelToken()

    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        files = communicator.files
        root = Path(data["MountPath"])
        assert root.parent == tmp_path and root.name.endswith(NAME)
        assert (root / f"mnt {NAME}/there").read_text() == "seen"
        assert b"".join(files.download(str(copied), token=token)) == b"of the host"
        files.upload(f"/{NAME}", [b"one file"], mode=0o600, token=token)
        files.upload_dir(str(local), f"/dir {NAME}", contents_only=True, token=token)
        back = tmp_path / f"back {NAME}"
        files.download_dir(f"/dir {NAME}", str(back), contents_only=True, token=token)
        assert (back / NAME).read_text() == "in a folder"

    with LocalCloud() as cloud:
        run(
            cloud,
            config=dataclasses.replace(
                OPTIONS,
                command_wrapper=wrapper,
                mount_path=f"{tmp_path}/{{{{.Device}}}} {NAME}",
                post_mount_commands=(),
                chroot_mounts=(("bind", str(bound), f"/mnt {NAME}"),),
                copy_files=(str(copied),),
            ),
            provisioner=Provisioner(look=look),
        )
        assert_nothing_left(cloud)
        (tmp_path / "mnt").mkdir()
        with mounted(cloud.root_image(cloud.images()[-1].image_id), tmp_path / "mnt") as root:
            assert (root / NAME).read_text() == "one file"
            assert (root / f"dir {NAME}" / NAME).read_text() == "in a folder"
            assert not (root / f"mnt {NAME}").exists()
            assert not (root / str(copied).lstrip("/")).exists()


def test_commands_in_the_chroot(wrapper: str, guest_image: Path) -> None:
    """Nothing is expanded on the way; the shell in there gets the text itself."""

    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        for text in TEXTS:
            said = bytearray()
            status = communicator.chroot.start(
                f"x=inside; printf %s {shlex.quote(text)}; printf ' %s' \"$x\"",
                on_stdout=said.extend,
                on_stderr=said.extend,
                token=CancelToken(),
            )
            assert (status, said.decode()) == (0, f"{text} inside")

    with LocalCloud(source_omis={SOURCE: guest_image}) as cloud:
        run(
            cloud,
            config=dataclasses.replace(OPTIONS, command_wrapper=wrapper),
            provisioner=Provisioner(look=look),
        )
        assert_nothing_left(cloud)
