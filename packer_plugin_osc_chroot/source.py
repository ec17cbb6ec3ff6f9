"""The source OMI: found by its id, by filters, or by both.

Where not exactly one fits, the error shows what there is.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import as_map
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.blocks import OmiFilter
from packer_plugin_osc_chroot.options.filters import api_filters, selects, wanted_tags
from packer_plugin_osc_chroot.resources.image import Json, read_image

# How many OMIs an error lists.
_LISTED = 10
_SELF = "self"
# Filters that owners and source_omi are sent as, each with what it looks at.
_OVERRIDDEN = {"AccountIds": "AccountId", "AccountAliases": "AccountAlias", "ImageIds": "ImageId"}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which OMI is meant. `filters` are the API's own (FiltersImage), None without a filter block.

    `tags` must all be there, `*` in a value stands for any text: to the API several are alternatives.
    `owners` are account ids, account aliases and `self`. `block` is where a template has these options,
    empty for a data source, which has them at its top.
    """

    image_id: str
    filters: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    owners: Sequence[str] = ()
    most_recent: bool = False
    block: str = "source_omi_filter"

    @property
    def place(self) -> str:
        """What an error about all of it is called by."""
        return self.block or "filters"

    @property
    def owners_place(self) -> str:
        return f"{self.block}.owners" if self.block else "owners"


def wanted_by(chosen: OmiFilter, *, image_id: str = "", block: str = "source_omi_filter") -> Wanted:
    """What a template's filters ask for."""
    return Wanted(
        image_id,
        filters=api_filters(chosen.filters or {}),
        tags=wanted_tags(chosen.filters or {}),
        owners=chosen.owners,
        most_recent=chosen.most_recent,
        block=block,
    )


def find_source(
    cloud: Cloud, wanted: Wanted, *, account_id: Callable[[], str], token: CancelToken
) -> Json:
    """The one OMI that is meant, as the API shows it.

    `account_id` is asked only where `self` is among the owners. Raises BuildError listing what was
    found where it is not exactly one.
    """
    if wanted.filters is None:
        found = read_image(cloud, wanted.image_id, token=token)
        if found is None:
            raise _not_there(cloud, wanted.image_id)
        return found
    owners = _owners(wanted, account_id)
    # An OMI that is not available cannot be built from.
    filters = {"States": ["available"], **wanted.filters}
    matching = [
        image
        for image in _matching(cloud, filters, owners, wanted.image_id, token=token)
        if _has_tags(image, wanted.tags)
    ]
    if len(matching) == 1 or matching and wanted.most_recent:
        return matching[0]
    if matching:
        raise BuildError(
            f"{wanted.place}: {len(matching)} OMIs match, expected one",
            hint="Narrow the filters, or set most_recent = true for the newest",
            details=_listed(matching),
        )
    raise _none(cloud, wanted, owners, token=token)


def _owners(wanted: Wanted, account_id: Callable[[], str]) -> list[dict[str, list[str]]]:
    """As filters, of which one must match: the API joins ids and aliases with an "and"."""
    owners = wanted.owners
    ids = [owner for owner in owners if owner.isdigit()]
    aliases = [owner for owner in owners if not owner.isdigit() and owner != _SELF]
    if _SELF in owners:
        own = account_id()
        if not own:
            raise BuildError(
                f'{wanted.owners_place}: "self" is not known: these credentials may not call'
                " ReadAccounts",
                hint="Write the account's id instead",
            )
        ids.append(own)
    found: list[dict[str, list[str]]] = []
    if ids:
        found.append({"AccountIds": ids})
    if aliases:
        found.append({"AccountAliases": aliases})
    return found


def _matching(
    cloud: Cloud,
    filters: Mapping[str, Any],
    owners: Sequence[Mapping[str, Any]],
    image_id: str,
    *,
    token: CancelToken,
) -> list[Json]:
    """What matches all filters, one of the owners and the id where there is one; newest first."""
    found: dict[str, Json] = {}
    for owner in owners:
        asked = {**filters, **owner}
        if image_id:
            asked["ImageIds"] = [image_id]
        for image in cloud.pages("ReadImages", "Images", token=token, Filters=asked):
            if _holds(filters, image):
                found[str(image["ImageId"])] = image
    return sorted(found.values(), key=_age, reverse=True)


def _holds(filters: Mapping[str, Any], image: Json) -> bool:
    """Whether those filters of the template hold that `_matching` had to override."""
    return all(
        any(selects(wanted, str(image.get(key, ""))) for wanted in filters[name])
        for name, key in _OVERRIDDEN.items()
        if name in filters
    )


def _has_tags(image: Json, wanted: Mapping[str, str]) -> bool:
    tags = as_map(image.get("Tags"))
    return all(key in tags and selects(value, tags[key]) for key, value in wanted.items())


def _age(image: Json) -> tuple[datetime, str]:
    """What sorts OMIs by date; where two have the same, the order is at least always the same."""
    try:
        created = datetime.fromisoformat(str(image.get("CreationDate", "")))
    except ValueError:
        created = datetime.min
    return created.replace(tzinfo=created.tzinfo or UTC), str(image.get("ImageId", ""))


def _listed(images: Sequence[Json]) -> list[str]:
    lines = [
        f'{image.get("ImageId")} "{image.get("ImageName", "")}", {image.get("CreationDate", "")}'
        for image in images[:_LISTED]
    ]
    if len(images) > _LISTED:
        lines.append(f"and {len(images) - _LISTED} more")
    return lines


def _not_there(cloud: Cloud, image_id: str) -> BuildError:
    return BuildError(
        f"source_omi {image_id} does not exist in Region {cloud.region}, or these credentials may not"
        " use it",
        hint="Check the id; ids differ between Regions",
    )


def _none(
    cloud: Cloud,
    wanted: Wanted,
    owners: Sequence[Mapping[str, Any]],
    *,
    token: CancelToken,
) -> BuildError:
    """The error for no match, which shows what there is without the filters."""
    if wanted.image_id:
        image = read_image(cloud, wanted.image_id, token=token)
        if image is None:
            return _not_there(cloud, wanted.image_id)
        owner = image.get("AccountAlias") or image.get("AccountId")
        return BuildError(
            f"{wanted.place}: source_omi {wanted.image_id} does not satisfy it",
            hint="Correct the filters or owners, or leave one of the two options out",
            details=[f"{_listed([image])[0]}, of {owner}, {image.get('State')}"],
        )
    there = _matching(cloud, {}, owners, "", token=token)
    shown = [f"OMIs of {', '.join(wanted.owners)}:", *(f"  {line}" for line in _listed(there))]
    return BuildError(
        f"{wanted.place}: no OMI in Region {cloud.region} matches",
        hint="Correct the filters or owners",
        details=shown if there else [f"{', '.join(wanted.owners)}: no OMI is shown at all"],
    )
