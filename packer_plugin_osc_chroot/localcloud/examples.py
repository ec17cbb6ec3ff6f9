"""An example of each file that a user may write for a Region, as `--help` shows them."""

CATALOGUE = """\
[[accounts]]                      # the first is the VM's, and COMMAND's
alias = "mine"
quotas = { volumes = 50, volumes_gib = 1000, snapshots = 50, running_snapshots = 10 }

[[accounts]]
alias = "vendor"

[[omis]]
id = "ami-12345678"
file = "debian.qcow2"             # relative to this file
name = "Debian 12 (2026-01)"
owner = "vendor"                  # of one that is shared_with others, or public = true
shared_with = ["mine"]
date = 2026-01-31
tags = { os = "debian" }
"""

LATENCY = """\
call = 0.05                       # seconds; what is left out takes no time
volume = 3
snapshot = 20

[calls]                           # more for single actions
CreateImage = 0.5
"""

TROUBLE = """\
stale_reads = 1.5                 # seconds
taken_names = ["/dev/xvdb"]

[[rates]]                         # per: platform, account or call
per = "account"
calls_per_second = 5
burst = 10

[[faults]]                        # kind: 503, 429, 429-call, 500, reset, garbage or slow
action = "CreateVolume"
kind = "503"
nth = 1                           # from this call on, count of them; 0: all
after = true                      # the action is done, its answer lost

[[fates]]                         # end: error, never, or no-disk (of LinkVolume)
action = "CreateSnapshot"
end = "error"

[[refusals]]                      # refused for so long from its first call on
action = "DeleteVolume"
seconds = 10
"""


def epilog() -> str:
    """The files, for the end of a help text."""
    parts = (("--catalogue", CATALOGUE), ("--latency", LATENCY), ("--trouble", TROUBLE))
    return "\n".join(f"a file for {option}:\n{_indented(text)}" for option, text in parts)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())
