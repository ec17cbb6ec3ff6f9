"""Weak decoding as Packer's own builders do it, and its refusals."""

import pytest

from packer_plugin_osc_chroot.options.declaration import Kind
from packer_plugin_osc_chroot.options.decode import UNKNOWN, decode, load_json
from packer_plugin_osc_chroot.options.report import Report


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Kind.STRING, "x", "x"),
        (Kind.STRING, 7, "7"),
        (Kind.STRING, 7.0, "7"),
        (Kind.STRING, True, "1"),
        (Kind.BOOL, "true", True),
        (Kind.BOOL, "0", False),
        (Kind.BOOL, "", False),
        (Kind.BOOL, 1, True),
        (Kind.BOOL, UNKNOWN, False),
        (Kind.INT, "15", 15),
        (Kind.INT, "0x10", 16),
        (Kind.INT, "010", 8),
        (Kind.INT, 15.0, 15),
        (Kind.INT, "", 0),
        (Kind.INT, UNKNOWN, 0),
        (Kind.STRINGS, "a,b", ("a", "b")),
        (Kind.STRINGS, ["a,b", 1], ("a,b", "1")),
        (Kind.STRINGS, "", ()),
        (Kind.STRINGS, 5, ("5",)),
        (Kind.TUPLES, [["a", "b"], []], (("a", "b"), ())),
        (Kind.TUPLES, ["a,b", ["c"]], (("a", "b"), ("c",))),
        (Kind.STRING, 1e-7, "0.0000001"),
        (Kind.STRING_MAP, {"a": None, "b": ""}, {"b": ""}),
        (Kind.STRING_MAP, {"a": 1, "b": True}, {"a": "1", "b": "1"}),
        (Kind.STRING_MAP, [{"a": "1"}, {"a": "2", "b": "3"}], {"a": "2", "b": "3"}),
    ],
)
def test_accepted(kind: Kind, value: object, expected: object) -> None:
    report = Report()
    assert decode(kind, value, "option", report) == expected
    assert report.errors == []


@pytest.mark.parametrize(
    ("kind", "value", "path", "text"),
    [
        (Kind.STRING, ["x"], "", "expected a string, found a list"),
        (Kind.BOOL, "maybe", "", 'expected true or false, found "maybe"'),
        (Kind.INT, "ten", "", 'expected a whole number, found "ten"'),
        (Kind.INT, 1.5, "", "expected a whole number, found the number 1.5"),
        (Kind.STRINGS, {"a": 1}, "", "expected a list of strings, found a map"),
        (Kind.STRINGS, ["a", {}], "[1]", "expected a string, found a map"),
        (Kind.TUPLES, [7], "[0]", "expected a list of strings, found the number 7"),
        (Kind.TUPLES, "proc", "", 'expected a list of lists of strings, found "proc"'),
        (Kind.INT, " 5", "", 'expected a whole number, found " 5"'),
        (Kind.INT, 2**63, "", "expected a whole number, found the number 9223372036854775808"),
        (Kind.STRING_MAP, "", "", 'expected a map of strings, found ""'),
        (Kind.STRING_MAP, "x", "", 'expected a map of strings, found "x"'),
        (Kind.STRING_MAP, {"a": []}, ".a", "expected a string, found a list"),
    ],
)
def test_refused(kind: Kind, value: object, path: str, text: str) -> None:
    report = Report()
    decode(kind, value, "option", report)
    assert report.errors == [f"option{path}: {text}"]


@pytest.mark.parametrize(("digits", "shown"), [("9" * 200, "9" * 36 + "…"), ("9" * 6000, "inf")])
def test_a_huge_number_is_no_crash(digits: str, shown: str) -> None:
    report = Report()
    decode(Kind.DURATION, load_json(digits), "option", report)
    assert report.errors[0].endswith(f"found the number {shown}")
