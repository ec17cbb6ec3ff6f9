"""The whole build in this process, on a localcloud: what it makes, and that nothing is left of it
wherever it fails or is cancelled."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from in_process import (
    OPTIONS,
    SOURCE,
    Provisioner,
    assert_nothing_left,
    live_snapshots,
    mounted,
    run,
)

from packer_plugin_osc_chroot.artifact import Artifact
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


class TroubleUi(RecordingUi):
    """Cancels the build, or fails it, when it hears the nth thing. Once only."""

    def __init__(self, nth: int, *, token: CancelToken, fail: bool) -> None:
        super().__init__()
        self._nth = nth
        self._token = token
        self._fail = fail
        self.struck = False

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("Where the time went"):
            # The build has committed; what is said now changes nothing.
            self._nth = sys.maxsize
        if not text.startswith(("Unlinking", "Deleting", "Deregistering")):
            # Undoing has begun: what happens when that fails is another test.
            self._strike()

    def message(self, text: str) -> None:
        super().message(text)
        self._strike()

    def _strike(self) -> None:
        if self.struck or len(self.said) < self._nth:
            return
        self.struck = True
        if self._fail:
            raise BuildError("trouble")
        self._token.cancel()


def test_what_a_build_makes(tmp_path: Path) -> None:
    ui, provisioner = RecordingUi(), Provisioner()
    with LocalCloud() as cloud:
        result = run(cloud, ui=ui, provisioner=provisioner)
        assert_nothing_left(cloud)
        (image,) = cloud.images()
        (snapshot,) = cloud.snapshots()
        assert (image.image_id, image.name, image.state) == (
            result.image_id,
            "made by a test",
            "available",
        )
        assert image.description == f"from {SOURCE}"
        assert image.tags == {"made-by": result.region}
        assert snapshot.tags == {"made-by": result.region, "kind": f"root of source {SOURCE}"}
        assert provisioner.data["SourceOMI"] == SOURCE
        assert all(isinstance(value, str) for value in provisioner.data.values())
        with mounted(cloud.root_image(image.image_id), tmp_path) as root:
            assert (root / "made").read_text() == "yes\n"
            assert (root / "made").stat().st_mode & 0o777 == 0o640
        assert "Where the time went" in ui.text
        phases = [text.split(",")[1] for kind, text in ui.said if kind == "machine"]
        assert {"look", "create volume", "provision", "wait for OMI"} <= {*phases}
        tagged = [call for call in cloud.record if call.action == "CreateTags"]
        assert len(tagged) == 3
        assert Artifact(result).id == f"{result.region}:{image.image_id}"
        Artifact(result).destroy()
        assert cloud.images() == [] and live_snapshots(cloud) == []


def test_a_larger_root_volume(tmp_path: Path) -> None:
    with LocalCloud() as cloud:
        run(cloud, config=Config(source_omi=SOURCE, omi_name="larger", root_volume_size=3))
        (image,) = cloud.images()
        assert image.mappings[0]["Bsu"]["VolumeSize"] == 3
        assert cloud.root_image(image.image_id).stat().st_size == 3 << 30


def test_two_builds_after_each_other_and_the_name_taken() -> None:
    with LocalCloud() as cloud:
        run(cloud)
        with pytest.raises(BuildError, match='omi_name: the account has an OMI named "made by'):
            run(cloud)
        assert_nothing_left(cloud)
        assert len(cloud.images()) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"source_omi": "ami-ffffffff"}, "source_omi ami-ffffffff does not exist in Region"),
        ({"access_key": "wrong", "secret_key": "wrong"}, "access_key and secret_key"),
        ({"region": "eu-west-9"}, "HTTP 401"),
        (
            {"copy_files": ("/no/such/file",)},
            "copy_files: /no/such/file: no such file or directory",
        ),
        (
            {"root_volume_type": "io1"},
            "root_volume_iops: a root volume of 1 GiB and the type io1 needs 1 to 300 IOPS",
        ),
        (
            {"custom_endpoint_oapi": "http://127.0.0.1:1"},
            "no answer from http://127.0.0.1:1/api/v1",
        ),
    ],
)
def test_what_is_known_before_anything_is_made(options: Mapping[str, object], text: str) -> None:
    given: dict[str, object] = {"source_omi": SOURCE, "omi_name": "never made", **options}
    with LocalCloud() as cloud:
        with pytest.raises(BuildError) as caught:
            run(cloud, config=Config(**given))  # type: ignore[arg-type]
        assert text in str(caught.value)
        assert not any(
            call.action.startswith(("Create", "Link")) and not call.parameters.get("DryRun")
            for call in cloud.record
        )


def test_a_failing_provisioner() -> None:
    provisioner = Provisioner(fails=True)
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match="the script failed"):
            run(cloud, provisioner=provisioner)
        assert provisioner.cleaned_up
        assert_nothing_left(cloud)
        assert cloud.images() == [] and live_snapshots(cloud) == []


@pytest.mark.parametrize("fail", [True, False], ids=["fails", "cancelled"])
def test_trouble_at_every_point(fail: bool) -> None:
    with LocalCloud() as cloud:
        ends = []
        for nth in range(1, 40):
            token = CancelToken()
            ui = TroubleUi(nth, token=token, fail=fail)
            before = len(cloud.images())
            config = Config(**{**vars(OPTIONS), "omi_name": f"trouble at {nth}"})
            try:
                run(cloud, config=config, ui=ui, token=token)
                ends.append("made")
            except Cancelled:
                assert not fail
                ends.append("cancelled")
            except BuildError as error:
                assert fail and "trouble" in str(error), f"at {nth}: {error}\n{ui.text}"
                ends.append("failed")
            made = len(cloud.images()) - before
            assert made == (1 if ends[-1] == "made" else 0), f"at {nth}: {ui.text}"
            assert cloud.leftovers() == [], f"at {nth}: {ui.text}"
            assert cloud.defects == [], f"at {nth}: {ui.text}"
            assert ui.struck or ends[-1] == "made"
            if not ui.struck:
                break
        assert ends[-1] == "made", "the last round must have gone without trouble"
        assert len(ends) > 15
        assert_nothing_left(cloud)
