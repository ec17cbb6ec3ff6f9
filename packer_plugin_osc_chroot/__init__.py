"""Packer plugin that builds OUTSCALE machine images in a chroot on a running VM."""
