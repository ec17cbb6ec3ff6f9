"""The journal of a build: what is in it, who may read it, and what a torn or planted one does."""

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.journal import journal as module
from packer_plugin_osc_chroot.journal.dead import client_tokens, dead_journals, has_journals
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE, state_directory
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.journal.marks import new_client_token, read_mark
from packer_plugin_osc_chroot.journal.story import Story, read_story

VOLUME = {"ClientToken": "t-1", "Size": 10, "SnapshotId": "snap-0"}
IMAGE = {
    "ImageName": "name",
    "Description": "a secret",
    "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": "snap-1"}}],
}


def begun(directory: Path) -> Journal:
    journal = Journal(directory)
    journal.begin(vm_id="i-1", region="r", endpoint="e", account_id="a", omi_name="n")
    return journal


def made_volume(journal: Journal) -> None:
    number = journal.sending("CreateVolume", VOLUME)
    journal.answered(number, "CreateVolume", VOLUME, {"Volume": {"VolumeId": "vol-1"}})


def die(journal: Journal) -> None:
    """What the kernel does for a process that is killed."""
    os.close(journal._file)
    os.close(journal._folder)


def dead_stories(directory: Path) -> list[Story]:
    return [journal.story for journal in dead_journals(directory)]


def test_no_file_before_anything_is_made_and_none_after_a_good_end(tmp_path: Path) -> None:
    journal = begun(tmp_path / "state")
    journal.process(os.getpid())
    assert not has_journals(tmp_path / "state")
    made_volume(journal)
    assert has_journals(tmp_path / "state")
    (file,) = (tmp_path / "state").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    journal.end(kept=False, failed=False)
    assert not has_journals(tmp_path / "state")
    journal.end(kept=False, failed=False)


def test_a_living_build_is_left_alone_and_a_dead_one_is_found(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    client_token = journal.client_token()
    journal.sending("CreateSnapshot", {"ClientToken": client_token})
    journal.refused(2)
    assert dead_stories(tmp_path) == []
    assert client_tokens(tmp_path) == {client_token}
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.about.vm_id == "i-1" and story.about.omi_name == "n" and story.end == ""
    assert story.describe() == ["volume vol-1"]


def test_of_two_that_look_one_has_it(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    die(journal)
    for _ in dead_journals(tmp_path):
        assert dead_stories(tmp_path) == []


def test_what_stands_is_what_was_made_and_not_removed(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    for name, refuse in (("/dev/xvdb", True), ("/dev/xvdc", False)):
        body = {"VolumeId": "vol-1", "VmId": "i-1", "DeviceName": name}
        number = journal.sending("LinkVolume", body)
        if refuse:
            journal.refused(number)
        else:
            journal.answered(number, "LinkVolume", body, {})
    journal.sending("CreateSnapshot", {"ClientToken": "t-2", "VolumeId": "vol-1"})
    number = journal.sending("CreateImage", IMAGE)
    journal.answered(number, "CreateImage", IMAGE, {"Image": {"ImageId": "ami-1"}})
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.describe() == [
        "OMI ami-1",
        "snapshot with ClientToken t-2",
        "link of volume vol-1 to VM i-1",
        "volume vol-1",
    ]
    assert [x.traces["DeviceName"] for x in story.of("LinkVolume")] == ["/dev/xvdc"]
    assert story.of("CreateImage")[0].traces["SnapshotId"] == "snap-1"


def test_removed_and_kept_things_are_struck(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    number = journal.sending("CreateImage", IMAGE)
    journal.answered(number, "CreateImage", IMAGE, {"Image": {"ImageId": "ami-1"}})
    journal.keep("ami-1")
    gone = {"VolumeId": "vol-1"}
    journal.answered(journal.sending("DeleteVolume", gone), "DeleteVolume", gone, {})
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.describe() == []


def test_nothing_but_ids_and_names_is_in_it(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.sending("CreateImage", IMAGE)
    (file,) = tmp_path.iterdir()
    assert "a secret" not in file.read_text()
    journal.keep_all()
    journal.end(kept=True, failed=False)
    (story,) = dead_stories(tmp_path)
    assert story.end == "kept"


def test_an_undo_that_failed_is_found_again(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    journal.end(kept=False, failed=True)
    for dead in dead_journals(tmp_path):
        assert dead.story.end == "failed"
        dead.failed()
    for dead in dead_journals(tmp_path):
        dead.remove()
    assert dead_stories(tmp_path) == []


def test_every_torn_end_can_be_read(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    journal.keep("x")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(len(whole)):
        story = read_story(whole[:size])
        assert (story is None) == (size < first)
    journal.end(kept=False, failed=False)


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(BuildError, match=r"state, belongs to user \d+ with mode 777"):
        begun(state)
    with pytest.raises(BuildError, match="mode 777"):
        dead_stories(state)


def test_links_and_files_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    state, real = tmp_path / "state", tmp_path / "real"
    real.mkdir(mode=0o700)
    state.symlink_to(real)
    with pytest.raises(OSError):
        begun(state)
    (real / "a.journal").symlink_to("/etc/passwd")
    os.mkfifo(real / "b.journal")
    (real / "c.journal").write_bytes(b"")
    (real / "d.journal").mkdir()
    (real / "notes").write_text("no journal")
    said: list[str] = []
    assert [*dead_journals(real, tell=said.append)] == []
    assert said == [f"{real / name}.journal: left alone: is no file" for name in "abd"]
    assert client_tokens(real) == set()
    assert not (real / "c.journal").exists(), "its build was killed before it made anything"


def test_one_that_is_removed_before_it_has_a_line_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begun(tmp_path)
    flock = fcntl.flock
    looks: list[int] = []

    def found_first(file: int, how: int) -> None:
        if not looks:
            looks.append(file)
            assert dead_stories(tmp_path) == [] and not has_journals(tmp_path)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", found_first)
    made_volume(journal)
    assert has_journals(tmp_path) and dead_stories(tmp_path) == []
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.describe() == ["volume vol-1"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            {"event": "begin", "format": 2, "when": "tomorrow"},
            "is of format 2, and this version of the plugin knows 1. A newer version",
        ),
        ({"event": "begin", "at": 0, "format": 1}, ""),
        # As versions wrote it that knew of no format.
        ({"event": "begin", "at": 0}, ""),
        ({"event": "begin", "at": "noon"}, "is damaged"),
        ({"event": "begin", "format": [], "at": 0}, "is damaged"),
    ],
)
def test_a_journal_of_another_version(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    file = tmp_path / "a.journal"
    mark = new_client_token("i-1")
    lines = [line, {"event": "send", "n": 1, "action": "CreateVolume", "ClientToken": mark}]
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    told: list[str] = []
    found = [x.story.describe() for x in dead_journals(tmp_path, tell=told.append)]
    assert found == ([] if said else [[f"volume with ClientToken {mark}"]])
    assert [text.startswith(f"{file}: left alone: {said}") for text in told] == [True] * bool(said)
    # What it names is no orphan, whatever it says else.
    assert client_tokens(tmp_path) == {mark}
    assert file.exists()


@pytest.mark.parametrize(
    "line",
    [
        {"event": "send", "n": 1, "action": "LinkVolume", "VmId": "i-1"},
        {"event": "former", "image": {"ImageName": "x"}},
        {"event": "former", "image": {"ImageId": "ami-1", "BlockDeviceMappings": "x"}},
    ],
)
def test_what_undoing_could_not_use_is_damaged(line: dict[str, Any]) -> None:
    lines = [{"event": "begin", "format": 1, "at": 0}, line]
    with pytest.raises(BuildError, match="^is damaged"):
        read_story("".join(json.dumps(each) + "\n" for each in lines).encode())


def full(file: int, event: Mapping[str, Any], *, sync: bool) -> None:
    raise OSError(28, "No space left on device")


def test_what_an_abort_keeps_is_kept_on_a_full_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    monkeypatch.setattr(module, "append", full)
    journal.keep_all()
    journal.end(kept=True, failed=True)
    (story,) = dead_stories(tmp_path)
    assert story.end == "kept"


def test_a_commit_that_cannot_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next build would take back what is called complete."""
    journal = begun(tmp_path)
    made_volume(journal)
    monkeypatch.setattr(module, "append", full)
    with pytest.raises(BuildError, match="cannot be written: No space left"):
        journal.keep("snap-1", "ami-1")
    journal.end(kept=False, failed=False)


def test_a_line_that_does_not_reach_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda file: full(file, {}, sync=True))
        with pytest.raises(BuildError):
            journal.keep("vol-1")
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.describe() == ["volume vol-1"]


def test_a_full_disk_stops_before_an_effect_and_not_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begun(tmp_path)
    number = journal.sending("CreateVolume", VOLUME)
    monkeypatch.setattr(module, "append", full)
    journal.answered(number, "CreateVolume", VOLUME, {"Volume": {"VolumeId": "vol-1"}})
    with pytest.raises(BuildError, match="cannot be written: No space left"):
        journal.sending("CreateSnapshot", {"ClientToken": "t"})
    journal.end(kept=False, failed=False)


def test_a_line_that_a_full_disk_cuts_short_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: write(file, line[:10]))
        journal.process(os.getpid())
        with pytest.raises(BuildError, match="cannot be written: No space left"):
            journal.sending("CreateSnapshot", {"ClientToken": "t-2"})
    journal.sending("CreateSnapshot", {"ClientToken": "t-3"})
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.describe() == ["snapshot with ClientToken t-3", "volume vol-1"]


def test_an_answer_without_its_call_is_passed_over(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    (file,) = tmp_path.iterdir()
    text = b"".join(x for x in file.read_bytes().splitlines(True) if b'"send"' not in x)
    story = read_story(text)
    assert story is not None and story.describe() == []
    journal.end(kept=False, failed=False)


def test_a_snapshot_that_came_with_something_else_is_one_line(tmp_path: Path) -> None:
    """A call without an id and without a ClientToken could be undone on anybody's snapshot."""
    journal = begun(tmp_path)
    made_volume(journal)
    journal.owns_snapshot("snap-1")
    die(journal)
    (story,) = dead_stories(tmp_path)
    assert story.describe() == ["snapshot snap-1", "volume vol-1"]
    (file,) = tmp_path.iterdir()
    assert sum(b"CreateSnapshot" in line for line in file.read_bytes().splitlines()) == 1
    assert [x.resource_id for x in story.of("CreateSnapshot")] == ["snap-1"]


def test_a_file_that_somebody_has_removed_does_not_fail_a_build(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)
    (file,) = tmp_path.iterdir()
    file.unlink()
    journal.end(kept=False, failed=False)
    assert not journal.is_open


def test_without_a_directory_nothing_is_written() -> None:
    journal = begun_without()
    made_volume(journal)
    journal.keep("x")
    journal.end(kept=True, failed=False)
    assert not has_journals(None)


def begun_without() -> Journal:
    journal = Journal()
    journal.begin(vm_id="i-1")
    return journal


def test_lines_of_many_threads_are_whole(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made_volume(journal)

    def work() -> None:
        for _ in range(50):
            journal.process(os.getpid())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (file,) = tmp_path.iterdir()
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(event["event"] == "process" for event in events) == 200
    journal.end(kept=False, failed=False)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({STATE_VARIABLE: "/given"}, "/given"),
        ({"XDG_STATE_HOME": "/xdg", "HOME": "/home/u"}, "/xdg/packer-plugin-osc-chroot"),
        ({"XDG_STATE_HOME": "rel", "HOME": "/h"}, "/h/.local/state/packer-plugin-osc-chroot"),
    ],
)
def test_where_it_is_for_a_user(
    monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str], expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state_directory(environ) == Path(expected)


def test_where_it_is_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    environ = {"HOME": "/home/u", "XDG_STATE_HOME": "/home/u/state"}
    assert state_directory(environ) == Path("/var/lib/packer-plugin-osc-chroot")


def test_the_mark() -> None:
    token = new_client_token("i-12345678")
    assert len(token) <= 64
    mark = read_mark(token)
    assert mark is not None and mark.vm_id == "i-12345678" and -1 < mark.age < 5
    assert read_mark("0c8d1a9e-5a6e-4b1c-8f40-6d0c4b7ad5a2") is None
    assert read_mark(new_client_token("")) is None
    # Anybody in the account may write one.
    assert read_mark("osc-chroot.i-1.20269999T999999Z.ab") is None


def test_a_lock_that_a_dying_build_hands_on_is_waited_for(tmp_path: Path) -> None:
    """A command that is between fork and exec when its build is killed still has the descriptor."""
    journal = begun(tmp_path)
    made_volume(journal)
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert f'"pid": {os.getpid()}' in text
    # As if the build had been another process, which is gone.
    file.write_text(text.replace(f'"pid": {os.getpid()}', '"pid": 0'))
    threading.Timer(0.2, die, [journal]).start()
    assert len(dead_stories(tmp_path)) == 1
