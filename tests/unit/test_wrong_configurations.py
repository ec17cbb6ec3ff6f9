"""Each of the wrong configurations is an error that names its option, with the words that help."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from wrong_configurations import GOOD, SCRATCH, Wrong, all_wrong
from wrong_texts import all_wrong_texts

from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import options_of
from packer_plugin_osc_chroot.options.prepare import Prepared, prepare

CORPUS = [*all_wrong(), *all_wrong_texts()]


def prepared(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Prepared:
    packer = {"packer_build_name": "x", "packer_user_variables": {}}
    return prepare([options, packer], started_at=datetime.now(UTC), environ=environ or {})


def test_what_they_are_made_from_is_right() -> None:
    assert prepared(GOOD).errors == ()
    assert prepared(SCRATCH).errors == ()


def test_the_corpus_is_large_and_has_every_option() -> None:
    configurations = {json.dumps([wrong.options, wrong.environ]) for wrong in CORPUS}
    assert len(configurations) >= 300
    tops = {wrong.path.split(".")[0].split("[")[0] for wrong in CORPUS}
    names = {spelling.name for row in options_of(Config) for spelling in row.spellings}
    assert {row.name for row in options_of(Config)} <= tops
    assert {name for wrong in CORPUS for name in wrong.options} & names >= {
        row.name for row in options_of(Config)
    }


@pytest.mark.parametrize("wrong", CORPUS, ids=str)
def test_is_an_error_that_names_its_option(wrong: Wrong) -> None:
    result = prepared(wrong.options, wrong.environ)
    assert result.config is None
    about = [error for error in result.errors if error.startswith(f"{wrong.path}: ")]
    assert any(wrong.text in error for error in about), "\n".join(result.errors)
    assert len(set(result.errors)) == len(result.errors)
    assert not any("Traceback" in error or "\n" in error for error in result.errors)
