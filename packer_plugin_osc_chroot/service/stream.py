"""One Run's stream to Packer: the Ui, its questions and the provisioners, as messages of the contract.

Everything that the build says goes through one outbox, so that its order is kept. What it asks for is
answered by a message with the same id.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host.process import KILL_GRACE, TERM_GRACE
from packer_plugin_osc_chroot.service.outbox import Outbox
from packer_plugin_osc_chroot.ui import harmless

# The SDK's names of the two hooks (packer.HookProvision, packer.HookCleanupProvision).
_PROVISION = "packer_provision"
_CLEAN_UP = "packer_cleanup_provision"
# After a cancel nothing depends on the hook any more once its commands have been ended, which takes
# this long at most; new ones are refused. Packer's provisioners may go on trying for many seconds.
_HOOK_END_SECONDS = TERM_GRACE + KILL_GRACE


class RunStream:
    """The Ui and the provisioners of a build (see `ui.Ui` and `context.Provisioners`)."""

    def __init__(self, token: CancelToken, register: Callable[[Communicator], str]) -> None:
        self._token = token
        self._register = register
        self._outbox = Outbox(token)
        self._ids = itertools.count(1)
        self._answers: dict[int, Future[pb.RunRequest]] = {}
        self._lock = threading.Lock()
        self._gone = False

    def events(self) -> Iterator[pb.RunEvent]:
        """What goes to the shim, until `finish`."""
        while (event := self._outbox.get()) is not None:
            yield event

    def finish(self) -> None:
        self._outbox.close()

    def abandon(self) -> None:
        """Nobody takes the events any more: what is said from now on is dropped."""
        self._outbox.close(unread=True)

    def send(self, event: pb.RunEvent) -> None:
        self._outbox.put(event)

    def take_answers(self, requests: Iterator[pb.RunRequest]) -> None:
        """Hand the shim's answers to those who wait, until its side of the stream ends."""
        try:
            for request in requests:
                match request.WhichOneof("message"):
                    case "ask_answer":
                        self._answer(request.ask_answer.id, request)
                    case "provision_result":
                        self._answer(request.provision_result.id, request)
        except Exception:
            # The connection is gone; whoever waits is told below, and the build is cancelled.
            pass
        finally:
            with self._lock:
                self._gone = True
                waiting = list(self._answers.values())
                self._answers.clear()
            for answer in waiting:
                answer.set_exception(BuildError("the connection to Packer is gone"))

    def say(self, text: str) -> None:
        self._ui(pb.UiMessage.SAY, text)

    def message(self, text: str) -> None:
        # Packer shows both kinds alike; the indent makes the difference between headline and detail.
        self._ui(pb.UiMessage.MESSAGE, "\n".join(f"    {line}" for line in text.split("\n")))

    def error(self, text: str) -> None:
        self._ui(pb.UiMessage.ERROR, text)

    def machine(self, category: str, *args: str) -> None:
        self._ui(pb.UiMessage.MACHINE, category, *args)

    def ask(self, query: str) -> str:
        key, answer = self._expect()
        self.send(pb.RunEvent(ask=pb.Ask(id=key, query=harmless(query))))
        arrived = threading.Event()
        answer.add_done_callback(lambda _: arrived.set())
        with self._token.on_cancel(arrived.set):
            arrived.wait()
        if not answer.done():
            raise Cancelled(self._token.reason)
        reply = answer.result().ask_answer
        if reply.error:
            raise BuildError(f"no answer from the user: {reply.error}")
        return reply.text

    def run(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        self._hook(_PROVISION, communicator, data)

    def clean_up(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        try:
            self._hook(_CLEAN_UP, communicator, data)
        except BuildError as error:
            self.error(f"error-cleanup-provisioner: {error}")

    def _hook(self, name: str, communicator: Communicator, data: Mapping[str, str]) -> None:
        key, answer = self._expect()
        provision = pb.Provision(
            id=key, hook=name, communicator_id=self._register(communicator), data=data
        )
        ended = threading.Event()
        answer.add_done_callback(lambda _: ended.set())

        def cancel() -> None:
            self.send(pb.RunEvent(cancel_provision=pb.CancelProvision(id=key)))

        self.send(pb.RunEvent(provision=provision))
        with self._token.on_cancel(cancel):
            while not ended.wait(0.2):
                if self._token.cancelled:
                    ended.wait(_HOOK_END_SECONDS)
                    break
        self._token.check()
        if problem := answer.result().provision_result.error:
            raise BuildError(problem)

    def _ui(self, kind: pb.UiMessage.Kind.ValueType, text: str, *args: str) -> None:
        self.send(
            pb.RunEvent(ui=pb.UiMessage(kind=kind, text=harmless(text), args=map(harmless, args)))
        )

    def _expect(self) -> tuple[int, Future[pb.RunRequest]]:
        answer: Future[pb.RunRequest] = Future()
        with self._lock:
            key = next(self._ids)
            if self._gone:
                answer.set_exception(BuildError("the connection to Packer is gone"))
            else:
                self._answers[key] = answer
        return key, answer

    def _answer(self, key: int, request: pb.RunRequest) -> None:
        with self._lock:
            answer = self._answers.pop(key, None)
        if answer is not None:
            answer.set_result(request)
