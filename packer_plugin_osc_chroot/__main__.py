"""`python -m packer_plugin_osc_chroot`: the command line, see `cli.py`."""

import sys

from packer_plugin_osc_chroot.cli import main

sys.exit(main())
