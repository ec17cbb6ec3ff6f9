"""Generated from proto/osc_chroot/v1/plugin.proto by proto/generate.sh."""
