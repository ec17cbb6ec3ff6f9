"""Undoing at the end of a block, so that what fails there never hides why the block failed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packer_plugin_osc_chroot.errors import BuildError


@contextmanager
def undoing(undo: Callable[[], None]) -> Iterator[None]:
    """Undo at the end of the block, however it ends.

    What failed first stays the error: an undoing that fails after it goes with it (`not_undone`). Of
    several undos the one to run last comes first, each in a block of its own: all of them run.
    """
    try:
        yield
    except BuildError as error:
        try:
            undo()
        except BuildError as failure:
            error.not_undone = (*error.not_undone, failure, *failure.not_undone)
        raise
    except BaseException:
        # A defect: the traceback in the log tells both.
        undo()
        raise
    undo()
