"""`packer-plugin-osc-chroot doctor`: what would stop a build on this machine, before one is started."""
