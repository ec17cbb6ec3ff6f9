"""What may stand of a resource that was being made, and that exactly this is looked for and removed."""

from typing import Any

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError, UndoError
from packer_plugin_osc_chroot.resources.former_image import delete_former_snapshots
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.ui import RecordingUi


class Region:
    """Has one resource, or none, that was made without an answer."""

    def __init__(self, found: str | None) -> None:
        self.looked = 0
        self.deleted: list[str] = []
        self._found = found
        self.removal = Removal(
            kind="volume",
            action="DeleteVolume",
            parameter="VolumeId",
            unnamed="with ClientToken t",
            find=lambda token: self.find(),
            delete=lambda key, token: self.deleted.append(key),
        )

    def find(self) -> str | None:
        self.looked += 1
        return self._found


def test_nothing_is_looked_for_before_anything_was_sent() -> None:
    region, attempt = Region("vol-1"), Attempt()
    region.removal.run(attempt, ui=RecordingUi())
    assert region.looked == 0
    assert region.removal.describe(attempt) == ""


@pytest.mark.parametrize(
    "error",
    [CloudError("no", action="X", status=429), Cancelled(), BuildError("no room for the journal")],
)
def test_what_was_not_done_is_not_looked_for(error: BuildError) -> None:
    region, attempt = Region("vol-1"), Attempt()
    with pytest.raises(BuildError), attempt.sending():
        raise error
    region.removal.run(attempt, ui=RecordingUi())
    assert region.looked == 0


@pytest.mark.parametrize("error", [CloudError("no", action="X", status=409), Cancelled()])
def test_what_may_have_been_done_is_looked_for_and_removed(error: BuildError) -> None:
    error.maybe_done = True
    region, attempt = Region("vol-1"), Attempt()
    with pytest.raises(BuildError), attempt.sending():
        raise error
    assert region.removal.describe(attempt) == "volume with ClientToken t"
    region.removal.run(attempt, ui=RecordingUi())
    assert region.deleted == ["vol-1"]


def test_an_answer_that_cannot_be_read_may_stand() -> None:
    attempt = Attempt()
    with pytest.raises(KeyError), attempt.sending():
        raise KeyError("VolumeId")
    assert attempt.may_stand


def test_a_later_try_that_is_refused_does_not_take_back_an_earlier_one() -> None:
    attempt = Attempt()
    for status in (503, 409):
        with pytest.raises(CloudError), attempt.sending():
            raise CloudError("no", action="LinkVolume", status=status)
    assert attempt.may_stand


def test_what_cannot_be_removed_is_named_by_the_id_that_was_found() -> None:
    region, attempt = Region("vol-1"), Attempt(may_stand=True)

    def refuse() -> None:
        raise CloudError("refused", action="DeleteVolume", status=409)

    removal = Removal(**{**vars(region.removal), "delete": lambda key, token: refuse()})
    with pytest.raises(UndoError, match="volume vol-1 is left behind: refused") as caught:
        removal.run(attempt, ui=RecordingUi())
    assert caught.value.left == ("volume vol-1",)
    assert caught.value.hint.endswith("DeleteVolume --VolumeId vol-1")


def test_a_cancel_amid_the_former_omi_s_snapshots_is_not_called_a_deadline() -> None:
    token, ui = CancelToken(), RecordingUi()

    class Cancelling:
        def pages(self, *_: object, token: CancelToken, **__: object) -> list[Any]:
            cancel("Packer is gone")
            token.check()
            return []

    cancel = token.cancel
    bsu = {"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": "snap-1"}}
    delete_former_snapshots(
        Cancelling(),  # type: ignore[arg-type]
        [{"ImageId": "ami-1", "BlockDeviceMappings": [bsu]}],
        account_id="a",
        in_use=(),
        token=token,
        ui=ui,
    )
    assert ui.text == "Snapshots snap-1 of the former OMI may be left: Packer is gone"
