"""The project's one version number, and under whose name its releases are: everything that shows one
of them takes it from here. A release has its own in the tree it is built from (scripts/release.py)."""

VERSION = "0.1.0-dev"
OWNER = "outscale"
