"""The localcloud: a simulated OUTSCALE Region on this machine.

Part of the product: users rehearse templates on it, `make demo` and the tests run on it. Nothing of
the builder imports it.
"""
