"""The project's one version number: the shim, the wheel and the documentation take it from here."""

VERSION = "0.1.0-dev"
