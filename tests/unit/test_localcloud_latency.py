"""Latencies from files, and what is said of those that are wrong."""

from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud.latency import PRESETS, Latency, load_latency
from packer_plugin_osc_chroot.localcloud.toml_file import FileError


def test_latencies_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "latency.toml"
    file.write_text("call = 0.1\nsnapshot = 20\ndelete_volume = 1\n[calls]\nReadVolumes = 0.5\n")
    found = load_latency(file)
    assert found == Latency(call=0.1, snapshot=20, delete_volume=1, calls={"ReadVolumes": 0.5})
    assert (found.of_call("ReadVolumes"), found.of_call("ReadVms")) == (0.6, 0.1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("call = -1", "call is -1: expected 0 to 86400 seconds"),
        ("call = nan", "call: expected a finite number, found nan"),
        ("call = 1e300", "call is 1e+300: expected 0 to 86400 seconds"),
        ("snap = 3", "there is no snap here"),
        ('call = "1 s"', 'call: expected a finite number, found "1 s"'),
        ("calls = 1", "calls: expected a table, found 1"),
    ],
)
def test_latencies_that_make_no_sense(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "latency.toml"
    file.write_text(line)
    with pytest.raises(FileError) as caught:
        load_latency(file)
    assert str(caught.value).startswith(f"{file}: {said}")


def test_the_presets() -> None:
    assert PRESETS["typical"].snapshot == 20 and PRESETS["zero"] == Latency()


def test_a_time_of_an_action_that_there_is_not(tmp_path: Path) -> None:
    file = tmp_path / "latency.toml"
    file.write_text("[calls]\nReadImages = 0.5\nReadImage = 0.5\n")
    with pytest.raises(FileError, match="latency.toml: calls.ReadImage: the API has no such"):
        load_latency(file)
