"""The frames that the agent and its client exchange: a kind, a length, a payload."""

import json
import struct
from typing import Any

from packer_plugin_osc_chroot.host.trees import Entry

VERSION = 1
HEADER = struct.Struct(">cI")
# One frame is at most a chunk of a file or a listing.
MAX_FRAME = 64 << 20

CALL, DATA, ENTRY, END, RESULT, ERROR = b"C", b"D", b"I", b"E", b"R", b"X"
KINDS = frozenset((CALL, DATA, ENTRY, END, RESULT, ERROR))


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def json_frame(kind: bytes, value: Any) -> bytes:
    # ASCII only: a name that is no UTF-8 travels as an escaped surrogate.
    return frame(kind, json.dumps(value).encode("ascii"))


def item_frame(item: Entry | bytes) -> bytes:
    return frame(DATA, item) if isinstance(item, bytes) else json_frame(ENTRY, item)


def item_of(kind: bytes, payload: bytes) -> Entry | bytes:
    return payload if kind == DATA else Entry(*json.loads(payload))
