"""The OUTSCALE API and the VM's metadata: who asks, how, and how long to wait."""
