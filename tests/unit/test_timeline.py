"""The timeline: rows of several builds in one SVG, and what is in its place."""

import fcntl
import json
import os
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.phases import Timing
from packer_plugin_osc_chroot.timeline import Row, draw, timeline
from packer_plugin_osc_chroot.ui import RecordingUi

SVG = "{http://www.w3.org/2000/svg}"


def a_build(path: Path, name: str, *, run: str = "run-1", ui: RecordingUi | None = None) -> None:
    environ = {"OSC_CHROOT_TIMELINE": str(path), "PACKER_RUN_UUID": run}
    with timeline(environ, name, "web 1", ui=ui or RecordingUi()) as timings:
        timings.append(Timing("look", 0.2, begun=100.0))
        timings.append(Timing("create volume", 3.0, begun=100.2))
        timings.append(Timing("provision", 1.0, begun=103.2))
        timings.append(Timing("unlink volume", 2.0, beside=True, begun=104.2))


def names(path: Path) -> list[str]:
    return [text.text or "" for text in ET.parse(path).iter(f"{SVG}text")]


def bars(path: Path) -> list[tuple[str, str]]:
    found = []
    for rect in ET.parse(path).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            found.append((title.text or "", rect.get("fill") or ""))
    return found


def test_waits_work_and_the_users_commands_have_colours_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    a_build(path, "one")
    found = dict(bars(path))
    assert list(found) == [
        "look: 0.20 s",
        "create volume: 3.00 s",
        "provision: 1.00 s",
        "unlink volume: 2.00 s",
    ]
    assert len(set(found.values())) == 3
    assert found["create volume: 3.00 s"] == found["unlink volume: 2.00 s"]


def test_builds_of_one_packer_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    threads = [threading.Thread(target=a_build, args=(path, f"build {n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name in names(path) if name.startswith("build ")) == [
        f"build {n}" for n in range(8)
    ]
    assert len(bars(path)) == 8 * 4


def test_what_an_earlier_packer_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    a_build(path, "old", run="run-1")
    a_build(path, "new", run="run-2")
    assert "old" not in names(path) and "new" in names(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html/>",
        b"<!-- osc-chroot {} -->",
        b'{"rows": 1}',
        b"\xff\xfe no text",
        b'<!-- osc-chroot {"rows": ' + b"[" * 100_000 + b"} -->",
    ],
    ids=["empty", "HTML", "no rows", "JSON", "bytes", "nested too deep"],
)
def test_what_is_no_timeline_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.svg"
    path.write_bytes(content)
    a_build(path, "one")
    assert "one" in names(path)


def test_a_failed_build_has_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    environ = {"OSC_CHROOT_TIMELINE": str(path)}
    with pytest.raises(RuntimeError), timeline(environ, "one", "web", ui=RecordingUi()) as timings:
        timings.append(Timing("look", 0.2, begun=100.0))
        raise RuntimeError
    assert [title for title, _ in bars(path)] == ["look: 0.20 s"]


def test_without_the_variable_nothing_is_written(tmp_path: Path) -> None:
    with timeline({}, "one", "web", ui=RecordingUi()) as timings:
        timings.append(Timing("look", 0.2))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    ui = RecordingUi()
    a_build(tmp_path / "none" / "t.svg", "one", ui=ui)
    assert "OSC_CHROOT_TIMELINE" in ui.text and "cannot be written" in ui.text


@pytest.mark.parametrize(
    ("place", "said"),
    [("pipe", "File or stream is not seekable"), ("/dev/null", "it is no regular file")],
)
def test_a_pipe_or_device_in_the_place_of_the_file_is_said(
    tmp_path: Path, place: str, said: str
) -> None:
    """A device such as /dev/zero would be read for ever."""
    ui = RecordingUi()
    os.mkfifo(tmp_path / "pipe")
    a_build(tmp_path / place, "one", ui=ui)
    assert f"cannot be written: {said}" in ui.text


def test_a_file_that_another_process_has_locked_holds_up_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a build that was stopped does."""
    monkeypatch.setattr("packer_plugin_osc_chroot.timeline._LOCK_SECONDS", 0.1)
    ui = RecordingUi()
    path = tmp_path / "t.svg"
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        build = threading.Thread(target=a_build, args=(path, "one"), kwargs={"ui": ui})
        build.start()
        build.join(5)
        assert not build.is_alive()
    assert "cannot be written: another process has it locked" in ui.text


def test_names_are_only_text(tmp_path: Path) -> None:
    name = 'a --> <b> & "c" --'
    path = tmp_path / "t.svg"
    a_build(path, name)
    a_build(path, "other")
    assert name in names(path)


def test_a_timeline_without_a_phase_is_one(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    path.write_text(draw([Row("one", "web", [])]))
    assert "one" in names(path)
    assert json.dumps({}) not in names(path)


def test_rows_of_one_name_are_told_apart_by_their_omi() -> None:
    """Packer tells a plugin the name of the source block, whatever its build block calls it."""
    rows = [Row("base", "web", []), Row("base", "queue" * 10, []), Row("other", "batch", [])]
    texts = [each.text for each in ET.fromstring(draw(rows)).iter(f"{SVG}text")]
    assert texts[-3:] == ["base: web", "base: " + ("queue" * 10)[:19] + "…", "other"]
