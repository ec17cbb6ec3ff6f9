"""Undoing what builds left that are dead: by the next build, by the shim, or by hand."""
