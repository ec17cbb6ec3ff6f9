"""What the service imports when: validating needs neither the API's client nor the build."""

import subprocess
import sys

PREPARE = """
import sys
from datetime import UTC, datetime
import packer_plugin_osc_chroot.service.server
from packer_plugin_osc_chroot.options.prepare import prepare
options = {"source_omi": "ami-3e158364", "omi_name": "packer {{timestamp}}"}
prepared = prepare([options, {"packer_build_name": "x"}], started_at=datetime.now(UTC), environ={})
assert prepared.errors == (), prepared.errors
late = ("requests", "urllib3", "osc_sdk_python", "tenacity", "packer_plugin_osc_chroot.build",
        "packer_plugin_osc_chroot.host", "packer_plugin_osc_chroot.localcloud")
found = [name for name in late if name in sys.modules]
assert not found, found
"""


def test_prepare_imports_nothing_that_only_a_build_needs() -> None:
    done = subprocess.run([sys.executable, "-c", PREPARE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_build_needs_no_localcloud() -> None:
    program = (
        "import sys, packer_plugin_osc_chroot.build, packer_plugin_osc_chroot.service.stream\n"
        "late = ('packer_plugin_osc_chroot.localcloud', 'aiohttp', 'yaml', 'jsonschema')\n"
        "assert not [name for name in late if name in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
