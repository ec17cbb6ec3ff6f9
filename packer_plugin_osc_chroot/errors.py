"""The exceptions of the builder: each is one short line for the user, with a hint and ids beside it.

Code raises them once, where the failure is understood; only `service/status.py` turns them into a
status for Packer. What they do not say (the traceback) belongs in the log.
"""

from collections.abc import Sequence


class BuildError(Exception):
    """A failure the user can act on.

    `message` is one line: what was expected, what was found. `hint` says what to do, `details` are
    lines (a command's output, a list of candidates) shown before the message.
    """

    # Whether a call of the API that makes something may have been done, though no answer told what
    # it made. True also where an earlier try of the same call may have been: what comes after it, a
    # clear refusal or a cancel, does not take that back. Only `cloud/` sets it.
    maybe_done = False

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        # What else could not be undone: after this had ended a phase halfway, or beside what this
        # says of an undoing. Set by `undoing`.
        self.not_undone: tuple[BuildError, ...] = ()
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message.rstrip('.')}. {self.hint}"


class CommandError(BuildError):
    """A command on the host failed. `status` is its exit status, 128+n for a signal n.

    `program` is empty for what the user wrote.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        program: str = "",
        hint: str = "",
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.status = status
        self.program = program


class CloudError(BuildError):
    """The OUTSCALE API refused a call, or could not be reached.

    `action` is the API's action, `status` the HTTP status (0: no answer, -1: none to be had),
    `codes` the API's own error codes ("9029", …), `request_id` what OUTSCALE's support asks for,
    `retry_after` the seconds that it wants to be left alone for.
    """

    def __init__(
        self,
        message: str,
        *,
        action: str,
        status: int = 0,
        codes: Sequence[str] = (),
        types: Sequence[str] = (),
        request_id: str = "",
        hint: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.action = action
        self.retry_after = retry_after
        self.status = status
        self.codes = tuple(codes)
        self.types = tuple(types)
        self.request_id = request_id
        # No answer, or the server's own failure. 503 code 6 is throttling of the whole platform; it
        # too has been seen after the action was done.
        self.maybe_done = status == 0 or status >= 500


class Cancelled(BuildError):
    """The build was cancelled, by the user or because Packer is gone."""

    def __init__(self, message: str = "build was cancelled") -> None:
        super().__init__(message)


class UndoError(BuildError):
    """Something made by the build could not be undone; `left` names each thing that still exists.

    `left` is part of the details, so that it is shown wherever they are.
    """

    def __init__(self, message: str, *, left: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint, details=[f"left: {each}" for each in left])
        self.left = tuple(left)
