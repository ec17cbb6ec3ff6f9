"""`make release` says what is wrong with what it was given, before it builds anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("version", "owner", "said"),
    [
        ("", "someone", "VERSION is '', which is not of the form X.Y.Z"),
        ("v1.2.3", "someone", "VERSION is 'v1.2.3'"),
        ("1.2", "someone", "VERSION is '1.2'"),
        (
            "1.2.3-dev",
            "someone",
            "(development versions are installed with --path, see `make build`)",
        ),
        ("01.2.3", "someone", "VERSION is '01.2.3'"),
        ("1.2.3", "a/b", "OWNER is 'a/b', which is no name of an account"),
    ],
)
def test_what_is_refused(version: str, owner: str, said: str, tmp_path: Path) -> None:
    kept = tmp_path / "output" / "kept"
    kept.parent.mkdir()
    kept.touch()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "release.py")]
        + [f"--version={version}", f"--owner={owner}"]
        + [f"--output={kept.parent}", f"--work={tmp_path / 'work'}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The release was not built: ")
    assert said in done.stderr
    assert kept.exists()
