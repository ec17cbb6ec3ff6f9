"""What the localcloud assumes where the official document is silent. Each has its reason.

Whoever finds out better on a real Region changes it here.
"""

import re

# Codes and types that osc-sdk-python's list of errors does not have; known from clients' logs.
ERRORS: dict[str, tuple[str, str]] = {
    "access-denied": ("1", "AccessDenied"),
    "unknown-parameter": ("3001", "InvalidParameter"),
    "missing-parameter": ("7000", "MissingParameter"),
    "operation-not-supported": ("8000", "OperationNotSupported"),
    "internal-error": ("2000", "InternalError"),
    # Codes, statuses and names are the user guide's (API Throttling); that the names are the types
    # is assumed.
    "throttled-platform": ("6", "ErrorOperationThrottledWholePlatform"),
    "throttled-account": ("24", "ErrorOperationThrottledPerAccount"),
    "throttled-call": ("25", "ErrorOperationThrottledPerCall"),
}

# A user without the permission for an action is refused as one whose signature is wrong:
# access-denied, 401. The document has no 403, and osc-sdk-python's list no error for it. It is
# refused before the parameters are looked at, and with DryRun too.

# The document has 400, 401 and 500 on most actions, 409 on a few; conflicts are answered with 409
# everywhere, since clients retry or re-plan on it.
STATUS_OF_TYPE: dict[str, int] = {
    "AccessDenied": 401,
    "ResourceConflict": 409,
    "InvalidState": 409,
    "InternalError": 500,
    "ErrorOperationThrottledWholePlatform": 503,
    "ErrorOperationThrottledPerAccount": 429,
    "ErrorOperationThrottledPerCall": 429,
}

# A signature's date may differ by this much (as on other clouds with this kind of signature).
SIGNATURE_SKEW_SECONDS = 15 * 60
# Wrong signatures in a row that lock an access key, and for how long (user guide).
SIGNATURE_FAILURES_TO_LOCK = 4
SIGNATURE_LOCK_SECONDS = 60.0

# The document bounds ResultsPerPage but names no default: a small one finds clients that read only
# the first page.
DEFAULT_RESULTS_PER_PAGE = 100
MAX_RESULTS_PER_PAGE = 1000

# Filters: `*` stands for any text, nothing else is special; several values of a filter are
# alternatives, several filters must all match.
FILTER_WILDCARD = "*"

# DryRun answers 200 with nothing but the context once signature and parameters' form are right.

# A snapshot is in-queue for this share of its time, then pending.
SNAPSHOT_QUEUE_SHARE = 0.1
# A volume may be unlinked, and then deleted, while its snapshot is pending: the data that counts is
# what was on it when CreateSnapshot was called. Writing to it before the snapshot is completed is a
# defect of the caller. CreateVolume and CreateImage want the snapshot completed. Since no document
# says that unlinking and deleting are allowed, `Trouble` can have them refused: invalid-volume-state.

# A link counts from LinkVolume on: the volume is in-use, its name taken, the link attaching. Only
# an attached one can be unlinked; with ForceUnlink one that is on its way too, however long it has
# been. /dev/sdX and /dev/xvdX are one name.
LINK_DEVICE_NAME = re.compile(r"/dev/(?:sd|xvd)(?P<letters>[b-z][a-z]?)")
ROOT_DEVICE_NAME = "/dev/sda1"
VIRTUAL_DEVICE_NAME = re.compile(r"ephemeral\d+")
MAX_VOLUMES_PER_VM = 40
MAX_VOLUME_SIZE_GIB = 14901
VOLUME_TYPES = ("standard", "gp2", "io1")
MAX_IOPS = 13000
MAX_IOPS_PER_GIB = 300
# The document gives no figure for volumes without provisioned IOPS.
DEFAULT_IOPS = 100

# Which error each quota gives. The document does not name the quotas: these names are the
# localcloud's own, and so is the collection's.
QUOTA_ERRORS: dict[str, str] = {
    "volumes": "too-many-volumes",
    "volumes_gib": "too-much-volume-size",
    "snapshots": "too-many-snapshots",
    "running_snapshots": "too-many-concurrent-snapshots",
}
QUOTA_COLLECTION = "Compute"
# A quota counts what is being made and being deleted too.

IMAGE_NAME = re.compile(r"[A-Za-z0-9_ ()/.\-]{3,128}")
ARCHITECTURES = ("i386", "x86_64")

# Registering an OMI without a name is refused, though the document does not list it as required.
# A ClientToken used again with other parameters is refused; one whose resource is gone is free.
# A tag written again gets the new value. Tag values of at most 255 characters, keys of 1 to 255.
MAX_TAG_LENGTH = 255
# Of DeleteTags' tags, an empty value deletes whatever the value is.

# A copy of an OMI: its snapshots are copies of the source's, owned by the caller, there from the call
# on, and there to be deleted by him; it is pending until they are completed. It keeps the source's
# description, boot modes and product codes where the call gives none, and neither tags nor permissions.
# Who may use an OMI may copy it, whatever he may do with its snapshots. A copied snapshot shows the
# VolumeId of its source. Parameters that the document gives to one way of CreateImage, CreateSnapshot
# are refused with another. OMIs and snapshots in buckets, and OMIs of VMs, are not simulated.
# BootModes without a mode, and values twice in BootModes or ProductCodes, are refused.
# UpdateVolume: of a volume available or in-use, linked or not, one update at a time; the volume keeps
# its state, shows the new values once they hold, and cannot be deleted before.
# That an account id has 12 digits is the document's own example; whether it exists is not looked at.
ACCOUNT_ID = re.compile(r"\d{12}")

# What a Region looks like. The VM is always running: the plugin runs on it.
VM_STATE = "running"
REGION_NAME = "eu-west-2"
SUBREGION_NAMES = ("eu-west-2a", "eu-west-2b")
LOCATION_CODES = ("PAR1", "PAR4")
