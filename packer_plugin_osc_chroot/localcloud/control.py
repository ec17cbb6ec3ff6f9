"""Localclouds that run on this machine: how `status` and `export` find them and ask them.

Each listens on a Unix socket in its own directory, which only its user may enter.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from packer_plugin_osc_chroot.localcloud.remains import runtime_directory

_SOCKET = "control.sock"
_SECONDS = aiohttp.ClientTimeout(total=30)


class NotRunning(Exception):
    """No localcloud answers there."""


@dataclass(frozen=True)
class Running:
    """One that runs. `directory` is its own, below the machine's temporary directory."""

    name: str
    directory: Path

    def ask(self, question: str) -> dict[str, Any]:
        """Raises NotRunning where it has ended meanwhile, LookupError for what it does not have."""
        return asyncio.run(self._ask(question))

    async def _ask(self, question: str) -> dict[str, Any]:
        connector = aiohttp.UnixConnector(os.fspath(self.directory / _SOCKET))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=_SECONDS) as session,
                session.get(f"http://localcloud/{question}") as response,
            ):
                if response.status != 200:
                    raise LookupError(await response.text())
                found: dict[str, Any] = await response.json()
                return found
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotRunning(f"localcloud {self.name} does not answer: {error}") from None


def running() -> list[Running]:
    """Those of this user, the oldest first."""
    found: list[tuple[float, Running]] = []
    for entry in (runtime_directory() / "clouds").glob("*"):
        # One that ends meanwhile is none, and no matter of the others.
        with suppress(OSError):
            if _is_locked(entry):
                directory = Path(entry.read_text().splitlines()[0])
                running = Running(name=entry.name, directory=directory)
                found.append((entry.lstat().st_mtime, running))
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def _is_locked(entry: Path) -> bool:
    handle = os.open(entry, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


async def listen(
    directory: Path, answers: Mapping[str, Callable[[str], dict[str, Any]]]
) -> web.AppRunner:
    """Answer `/QUESTION` and `/QUESTION/ARGUMENT`; `answers` run on the caller's event loop.

    An answer raises LookupError, in words for the user, for what does not exist.
    """

    async def respond(request: web.Request) -> web.Response:
        answer = answers.get(request.match_info["question"])
        if answer is None:
            raise web.HTTPNotFound
        try:
            return web.json_response(answer(request.match_info["argument"]))
        except LookupError as error:
            return web.Response(status=404, text=str(error.args[0]))

    application = web.Application()
    application.router.add_get("/{question}{slash:/?}{argument:.*}", respond)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.UnixSite(runner, os.fspath(directory / _SOCKET)).start()
    return runner
