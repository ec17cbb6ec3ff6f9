"""Secrets are removed from the Ui and from the log, tracebacks included."""

import io
import logging

from packer_plugin_osc_chroot.redaction import RedactingFormatter, RedactingUi, Redactor
from packer_plugin_osc_chroot.ui import RecordingUi


def test_ui() -> None:
    inner = RecordingUi(answers=["yes"])
    redact = Redactor(["s3cret", "s3cret-longer"])
    ui = RedactingUi(inner, redact)
    redact.add(["late", ""])
    ui.say("a s3cret-longer")
    ui.message("b s3cret late")
    ui.error("c s3cret")
    ui.machine("category", "s3cret")
    ui.ask("s3cret?")
    assert "s3cret" not in inner.text and "late" not in inner.text
    assert inner.said[0] == ("say", "a <sensitive>")


def test_log() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(RedactingFormatter("%(message)s", Redactor(["s3cret"])))
    log = logging.Logger("test")
    log.addHandler(handler)
    try:
        raise ValueError("with s3cret")
    except ValueError:
        log.exception("failed: %s", "s3cret")
    assert "ValueError" in out.getvalue() and "s3cret" not in out.getvalue()
