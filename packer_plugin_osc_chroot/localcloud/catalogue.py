"""What a Region has from the start: accounts with their quotas, and source OMIs.

Given by a TOML file (`--catalogue FILE`), or by `--source-omi` alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import assumptions, toml_file
from packer_plugin_osc_chroot.localcloud.quotas import Quotas
from packer_plugin_osc_chroot.localcloud.sources import SourceError, check_source
from packer_plugin_osc_chroot.localcloud.toml_file import FileError

IMAGE_ID = re.compile(r"ami-[0-9A-Za-z]+")
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class AccountEntry:
    """What is left out is made up. The first account is the VM's, and COMMAND's."""

    alias: str
    id: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    quotas: Quotas = Quotas()


@dataclass(frozen=True)
class OmiEntry:
    """`owner`, and those in `shared_with`, are aliases or ids; without an owner: the first account."""

    id: str
    file: str
    name: str = ""
    description: str = ""
    owner: str = ""
    date: datetime | None = None
    architecture: str = "x86_64"
    public: bool = False
    shared_with: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return Path(self.file)


@dataclass(frozen=True)
class Catalogue:
    accounts: Sequence[AccountEntry] = (AccountEntry("localcloud"),)
    omis: Sequence[OmiEntry] = ()


@dataclass(frozen=True)
class _File:
    accounts: list[AccountEntry] = field(default_factory=list)
    omis: list[OmiEntry] = field(default_factory=list)


def load_catalogue(file: Path) -> Catalogue:
    """Files of OMIs are relative to the catalogue. Raises FileError, one line."""
    found = toml_file.load(file, _File)
    accounts = found.accounts or list(Catalogue().accounts)
    omis = [replace(omi, file=str(file.parent / omi.file)) for omi in found.omis]
    try:
        _check_accounts(accounts)
        _check_omis(omis, accounts)
    except (ValueError, SourceError) as error:
        raise FileError(f"{file}: {error}") from None
    return Catalogue(accounts=accounts, omis=omis)


def _check_accounts(accounts: Sequence[AccountEntry]) -> None:
    for number, account in enumerate(accounts):
        where = f"accounts[{number}]"
        if not account.alias:
            raise ValueError(f"{where}.alias is empty")
        if account.id and not assumptions.ACCOUNT_ID.fullmatch(account.id):
            raise ValueError(f"{where}.id is {account.id!r}: it must have 12 digits")
        for name in ("access_key", "secret_key"):
            value = getattr(account, name)
            if value and not _KEY.fullmatch(value):
                raise ValueError(f"{where}.{name} must have no blanks and only ASCII letters")
        if bool(account.access_key) != bool(account.secret_key):
            raise ValueError(f"{where} needs both access_key and secret_key, or neither")
        for other in accounts[:number]:
            for name in ("alias", "id", "access_key"):
                if getattr(account, name) and getattr(account, name) == getattr(other, name):
                    raise ValueError(f"{where}.{name} is that of another account")


def _check_omis(omis: Sequence[OmiEntry], accounts: Sequence[AccountEntry]) -> None:
    known = {name for account in accounts for name in (account.alias, account.id) if name}
    for number, omi in enumerate(omis):
        where = f"omis[{number}] ({omi.id})"
        if not IMAGE_ID.fullmatch(omi.id):
            raise ValueError(f"{where}.id must be of the form ami-12345678")
        if omi.id in (other.id for other in omis[:number]):
            raise ValueError(f"{where}.id is that of another OMI")
        for name in (omi.owner, *omi.shared_with):
            if name and name not in known:
                raise ValueError(
                    f"{where}: there is no account {name} (there are: {', '.join(sorted(known))})"
                )
        if omi.name and not assumptions.IMAGE_NAME.fullmatch(omi.name):
            raise ValueError(
                f"{where}.name is {omi.name!r}: it must have 3 to 128 letters, digits, and"
                " _ ( ) / . - or blanks"
            )
        if omi.architecture not in assumptions.ARCHITECTURES:
            architectures = " or ".join(assumptions.ARCHITECTURES)
            raise ValueError(
                f"{where}.architecture is {omi.architecture!r}: it must be {architectures}"
            )
        for key, value in omi.tags.items():
            if not key or max(len(key), len(value)) > assumptions.MAX_TAG_LENGTH:
                raise ValueError(
                    f"{where}.tags: {key[:40]!r} and its value must have 1 and 0 to"
                    f" {assumptions.MAX_TAG_LENGTH} letters"
                )
        check_source(omi.path)
