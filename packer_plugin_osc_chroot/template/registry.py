"""All functions that a template can call, by name; Packer's hide Go's of the same name."""

from packer_plugin_osc_chroot.template.builtins import BUILTINS
from packer_plugin_osc_chroot.template.functions import PACKER_FUNCTIONS

FUNCTIONS = {**BUILTINS, **PACKER_FUNCTIONS}
