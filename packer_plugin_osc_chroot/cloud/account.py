"""Whose credentials these are."""

import logging

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.errors import CloudError

log = logging.getLogger(__name__)


def account_id(cloud: Cloud, *, token: CancelToken) -> str:
    """The account's id. Raises CloudError; a user of the account may lack this one permission."""
    accounts = cloud.read("ReadAccounts", token=token).get("Accounts") or []
    if not accounts:
        raise CloudError("ReadAccounts: the answer names no account", action="ReadAccounts")
    return str(accounts[0].get("AccountId", ""))


def account_id_if_shown(cloud: Cloud, *, token: CancelToken) -> str:
    """The same, or nothing: for what does not depend on it."""
    try:
        return account_id(cloud, token=token)
    except CloudError as error:
        log.info("the account's id is not known: %s", error)
        return ""
