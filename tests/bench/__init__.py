"""`make bench`: what the plugin's speed and size are, beside what they could be at best.

The real packer builds on a localcloud. Each figure stands beside its lower bound, measured in the same
run: the critical path of the simulated latencies, the `null` builder for Packer's own share, `cp` and
`tar` for transfers, fork and exec of /bin/true for commands. Machines differ and are busy; ratios say
more than seconds.
"""
