"""What the frozen service runs: PyInstaller wants a script, not a module."""

from packer_plugin_osc_chroot.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
