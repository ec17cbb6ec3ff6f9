"""This machine: commands, disks, mounts, the chroot and the files in it."""
