"""Builds in a Region that has a bad day all along: every one succeeds, and nothing is left.

`make chaos` runs fifty, `make test` a few; the faults are drawn from a seed that is printed.
"""

import json
import random
import time
from pathlib import Path

import pytest
from chaos_points import Chaos
from conftest import SOURCE_OMI
from guest_image import check_filesystem, read_file
from leaks import Machine
from packer_run import Packer

from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import ANY, Fault, FaultKind, Rate, Trouble

pytestmark = pytest.mark.e2e

FAULTS = 0.05
CALLS_PER_SECOND = 5.0
STALE_SECONDS = 2.0
AT_A_TIME = 2
LATENCY = Latency(call=0.02, volume=0.5, link=0.5, unlink=0.5, snapshot=3.0, image=0.5)
KINDS: tuple[FaultKind, ...] = ("503", "429", "500", "reset", "garbage")
# More calls than all of the builds make.
CALLS = 200


def faults(dice: random.Random, *, calls: int) -> list[Fault]:
    """Of so many calls a share, each before or after it was done."""
    return [
        Fault(action=ANY, nth=nth, kind=dice.choice(KINDS), after=dice.random() < 0.5)
        for nth in range(1, calls + 1)
        if dice.random() < FAULTS
    ]


@pytest.mark.timeout(3600)
def test_every_build_succeeds(
    packer: Packer,
    guest_image: Path,
    leak_check: Machine,
    tmp_path: Path,
    chaos: Chaos,
    request: pytest.FixtureRequest,
) -> None:
    builds: int = request.config.getoption("--builds")
    trouble = Trouble(
        stale_reads=STALE_SECONDS,
        faults=faults(chaos.random, calls=CALLS * builds),
        rates=[Rate(per="account", calls_per_second=CALLS_PER_SECOND, burst=5)],
    )
    source = {"type": "osc-chroot", "source_omi": SOURCE_OMI, "omi_name": "{{build_name}}"}
    template = {
        "builders": [{**source, "name": f"bad-day-{number}"} for number in range(builds)],
        "provisioners": [{"type": "shell", "inline": ["echo $PACKER_BUILD_NAME >/made"]}],
    }
    (tmp_path / "bad.json").write_text(json.dumps(template))
    with LocalCloud(
        latency=LATENCY, trouble=trouble, source_omis={SOURCE_OMI: guest_image}
    ) as cloud:
        begun = time.monotonic()
        build = packer.start(
            *("build", "-color=false", f"-parallel-builds={AT_A_TIME}", "bad.json"),
            cwd=tmp_path,
            cloud=cloud,
        )
        outcome = build.wait(timeout=60.0 * builds)
        seconds = time.monotonic() - begun
        made = {image.name: image.image_id for image in cloud.images()}
        assert made.keys() == {f"bad-day-{number}" for number in range(builds)}, outcome.output
        assert outcome.status == 0, outcome.output
        for name, image_id in made.items():
            root = cloud.root_image(image_id)
            check_filesystem(root)
            assert read_file(root, "/made") == f"{name}\n"
        assert cloud.leftovers() == [] and cloud.defects == []
        assert not any(Path(cloud.environment()[STATE_VARIABLE]).glob("*"))
        calls = len(cloud.record)
        spoilt = sum(call.status != 200 for call in cloud.record)
    chaos.possible = builds
    chaos.ends[f"made in {seconds:.0f} s, of {calls} calls {spoilt} refused or spoilt"] = builds
