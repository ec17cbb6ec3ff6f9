"""The real Ansible provisioner in the chroot, as examples/ansible.pkr.hcl has it."""

import os
from pathlib import Path

import pytest
from apt_guest import ROOT, apt_proxy, made
from guest_image import read_file
from leaks import Machine
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

SOURCE_OMI = "ami-00000012"


def test_a_playbook_installs_a_package_and_writes_a_template(
    packer: Packer, leak_check: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = made("tools/packer-plugin-ansible")
    playbooks = made("ansible/bin/ansible-playbook").parent
    source = "github.com/hashicorp/ansible"
    installed = packer.run("plugins", "install", "--path", str(plugin), source, cwd=tmp_path)
    assert installed.status == 0, installed.output
    extra = {
        "PATH": f"{playbooks}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
    }
    with LocalCloud(source_omis={SOURCE_OMI: made("images/debian-12.raw")}) as cloud:
        outcome = packer.run(
            *("build", "-color=false", f"-var=source_omi={SOURCE_OMI}"),
            f"-var=proxy={apt_proxy()}",
            str(ROOT / "examples" / "ansible.pkr.hcl"),
            cwd=tmp_path,
            cloud=cloud,
            extra=extra,
        )
        assert outcome.status == 0, outcome.output
        assert "failed=0" in outcome.output
        [image] = cloud.images()
        exported = tmp_path / "omi.raw"
        cloud.export(image.image_id, exported)
    assert cloud.leftovers() == []
    assert cloud.defects == []
    written = read_file(exported, "/etc/issue")
    assert written.startswith("Debian 12"), written
    assert written.endswith(f", made from {SOURCE_OMI}\n"), written
    assert "\nPackage: hello\nStatus: install ok installed\n" in read_file(
        exported, "/var/lib/dpkg/status"
    )
    play = outcome.output[outcome.output.index("Executing Ansible") :]
    with capsys.disabled():
        print(f"\n{play[: play.index('Unmounting')]}\n/etc/issue of the OMI: {written}", end="")
