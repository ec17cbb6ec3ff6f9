"""Templates rendered by this plugin and by Packer's own SDK: the same results, the same failures.

The hand-made cases and a fixed seed's generated ones always run; TEMPLATE_SEED and TEMPLATE_CASES
in the environment ask for others.
"""

import os
from pathlib import Path

import pytest
from template_cases import hand_made
from template_generator import generated
from template_reference import Case, ask_ours, ask_reference, build_reference

SEED = int(os.environ.get("TEMPLATE_SEED", "5"))
COUNT = int(os.environ.get("TEMPLATE_CASES", "600"))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reference(tmp_path_factory.mktemp("interpolate"))


def compare(reference: Path, cases: list[Case]) -> None:
    differences = [
        f"{case.mode} {case.template!r} with {case.data!r}\n  Go:   {theirs!r}\n  ours: {ours!r}"
        for case, theirs in zip(cases, ask_reference(reference, cases), strict=True)
        if (ours := ask_ours(case)) != theirs
    ]
    shown = "\n".join(differences[:40])
    assert not differences, f"{len(differences)} of {len(cases)} cases differ:\n{shown}"


def test_hand_made_templates(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = hand_made()
    with capsys.disabled():
        print(f" [{len(cases)} hand-made cases]", end="")
    compare(reference, cases)


def test_generated_templates(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f" [{COUNT} generated cases, seed {SEED}]", end="")
    compare(reference, generated(SEED, COUNT))
