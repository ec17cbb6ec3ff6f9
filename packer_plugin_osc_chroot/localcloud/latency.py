"""How long things take in the simulated Region, in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Each transition's time. `call` is added to every call."""

    call: float = 0.0
    volume: float = 0.0
    link: float = 0.0
    unlink: float = 0.0
    snapshot: float = 0.0
    image: float = 0.0
    delete: float = 0.0


PRESETS = {
    "zero": Latency(),
    "typical": Latency(call=0.05, volume=3.0, link=2.0, unlink=2.0, snapshot=20.0, image=1.0),
}
