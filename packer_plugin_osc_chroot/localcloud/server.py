"""The Region over HTTP: the API below /api/v1, and the VM's metadata.

Each call: its delay, the signature, the permission, the official document's check of the request,
the action, the document's check of the answer, the record. Faults spoil what comes after the
request's check.
"""

import asyncio
import json
import socket
import struct
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import web

from packer_plugin_osc_chroot.localcloud import (
    actions_images,
    actions_places,
    actions_snapshots,
    actions_tags,
    actions_volume_updates,
    actions_volumes,
    state,
)
from packer_plugin_osc_chroot.localcloud.errors import ApiError, error_of_problem, refusal
from packer_plugin_osc_chroot.localcloud.openapi import Document, Json
from packer_plugin_osc_chroot.localcloud.record import Record, RecordedCall
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.saved import StateError
from packer_plugin_osc_chroot.localcloud.signature import SignatureChecker, SignedRequest
from packer_plugin_osc_chroot.localcloud.state import Account
from packer_plugin_osc_chroot.localcloud.trouble import Fault

_Action = Callable[[Region, Account, Json], Awaitable[Json]]
_PublicAction = Callable[[Region, None, Json], Awaitable[Json]]

ACTIONS: Mapping[str, _Action] = {
    "CreateImage": actions_images.create_image,
    "CreateSnapshot": actions_snapshots.create_snapshot,
    "CreateTags": actions_tags.create_tags,
    "CreateVolume": actions_volumes.create_volume,
    "DeleteImage": actions_images.delete_image,
    "DeleteSnapshot": actions_snapshots.delete_snapshot,
    "DeleteTags": actions_tags.delete_tags,
    "DeleteVolume": actions_volumes.delete_volume,
    "LinkVolume": actions_volumes.link_volume,
    "ReadAccounts": actions_places.read_accounts,
    "ReadImages": actions_images.read_images,
    "ReadQuotas": actions_places.read_quotas,
    "ReadSnapshots": actions_snapshots.read_snapshots,
    "ReadSubregions": actions_places.read_subregions,
    "ReadTags": actions_tags.read_tags,
    "ReadVms": actions_places.read_vms,
    "ReadVmsState": actions_places.read_vms_state,
    "ReadVolumeUpdateTasks": actions_volume_updates.read_volume_update_tasks,
    "ReadVolumes": actions_volumes.read_volumes,
    "UnlinkVolume": actions_volumes.unlink_volume,
    "UpdateImage": actions_images.update_image,
    "UpdateSnapshot": actions_snapshots.update_snapshot,
    "UpdateVolume": actions_volume_updates.update_volume,
}

# Not signed, as the official document has it.
PUBLIC_ACTIONS: Mapping[str, _PublicAction] = {"ReadRegions": actions_places.read_regions}

_MAX_BODY = 1024**2


@dataclass
class _Call:
    """What becomes known of a call while it is answered."""

    action: str
    account_id: str = ""
    parameters: Json = field(default_factory=dict)
    spoilt: Fault | None = None


class ApiServer:
    """Answers for one Region, on the thread of its event loop."""

    def __init__(
        self, region: Region, *, document: Document, checker: SignatureChecker, record: Record
    ) -> None:
        self._region = region
        self._document = document
        self._checker = checker
        self._record = record

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY)
        for version in ("v1", "latest"):
            application.router.add_post(f"/api/{version}/{{action}}", self._api)
        application.router.add_get("/latest/meta-data/{name:.*}", self._metadata)
        return application

    async def _metadata(self, request: web.Request) -> web.Response:
        vm = self._region.vm
        known = {"instance-id": vm.vm_id, "placement/availability-zone": vm.subregion}
        text = known.get(request.match_info["name"])
        if text is None:
            raise web.HTTPNotFound
        return web.Response(text=text)

    async def _api(self, request: web.Request) -> web.Response:
        started, began = state.iso(state.now()), time.monotonic()
        action = request.match_info["action"]
        await asyncio.sleep(self._region.latency.of_call(action))
        call = _Call(action)
        status, answer = await self._answer(call, request)
        if call.spoilt is not None:
            status, answer = (200 if call.spoilt.kind == "garbage" else 0), {}
        else:
            answer["ResponseContext"] = {"RequestId": state.new_request_id()}
            status, answer = self._checked(action, status, answer)
        self._record.add_call(
            RecordedCall(
                time=started,
                action=action,
                account=call.account_id,
                parameters=call.parameters,
                status=status,
                answer=answer,
                duration=round(time.monotonic() - began, 4),
            )
        )
        if call.spoilt is not None:
            return _spoil(request, call.spoilt)
        return web.json_response(answer, status=status)

    def _checked(self, action: str, status: int, answer: Json) -> tuple[int, Json]:
        """The answer, or an error of ours where it does not conform to the official document."""
        if status == 200:
            problems = self._document.check_response(action, answer)
        else:
            problems = self._document.check_error(answer)
        if not problems:
            return status, answer
        texts = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
        self._record.add_defect(f"localcloud: the answer to {action} does not conform: {texts}")
        status, entry = self._refusal(ApiError("internal-error", "The answer does not conform."))
        return status, {"Errors": [entry], "ResponseContext": answer["ResponseContext"]}

    def _refusal(self, error: ApiError) -> tuple[int, Json]:
        return refusal(error.name, error.details, known=self._document.errors)

    async def _answer(self, call: _Call, request: web.Request) -> tuple[int, Json]:
        """Status and answer (less the context) of one call."""
        try:
            return 200, await self._perform(call, request)
        except ApiError as error:
            status, entry = self._refusal(error)
        except (web.HTTPRequestEntityTooLarge, web.RequestPayloadError, ConnectionError):
            # A client that sent too much, or died: no fault of ours.
            unread = ApiError(
                "invalid-parameter-value", "The request could not be read to its end."
            )
            status, entry = self._refusal(unread)
        except StateError as error:
            # Of what was done: it would be gone after a kill, so it is not said to be done.
            self._record.add_defect(f"localcloud: {call.action} could not be kept: {error}")
            status, entry = self._refusal(ApiError("internal-error", "It could not be kept."))
        except Exception:
            trace = traceback.format_exc()
            self._record.add_defect(f"localcloud: {call.action} failed:\n{trace}")
            status, entry = self._refusal(ApiError("internal-error", "The localcloud failed."))
        return status, {"Errors": [entry]}

    async def _perform(self, call: _Call, request: web.Request) -> Json:
        action = call.action
        if action not in self._document.actions:
            raise ApiError("no-such-call", f"The action {action} does not exist.")
        body = await request.read()
        account = None
        if action not in self._document.unsigned_actions:
            account = self._account(request, body)
            call.account_id = account.account_id
        is_simulated = action in ACTIONS or action in PUBLIC_ACTIONS
        if is_simulated:
            call.parameters = _parameters(body)
        hazards = self._region.hazards
        hazards.throttle(action, call.account_id)
        if action in hazards.trouble.forbidden:
            raise ApiError("access-denied", f"This user has no permission for {action}.")
        if not is_simulated:
            # Its parameters are not looked at: those of some actions hold passwords and keys.
            raise ApiError("operation-not-supported", f"The localcloud does not simulate {action}.")
        for problem in self._document.check_request(action, call.parameters):
            raise error_of_problem(problem)
        if call.parameters.get("DryRun"):
            return {}
        hazards.refuse(action)
        fault = hazards.next_call(action)
        if fault is None:
            return await self._act(call, account)
        if fault.kind == "slow":
            return await self._act_slowly(call, account, fault)
        if fault.after:
            with suppress(ApiError):
                await self._act(call, account)
        if fault.error_name:
            raise ApiError(fault.error_name, "Trouble on demand.")
        call.spoilt = fault
        return {}

    async def _act_slowly(self, call: _Call, account: Account | None, fault: Fault) -> Json:
        if not fault.after:
            await asyncio.sleep(fault.seconds)
            return await self._act(call, account)
        try:
            return await self._act(call, account)
        finally:
            await asyncio.sleep(fault.seconds)

    async def _act(self, call: _Call, account: Account | None) -> Json:
        action = call.action
        parameters = {key: value for key, value in call.parameters.items() if key != "DryRun"}
        if account is None and action in PUBLIC_ACTIONS:
            return await PUBLIC_ACTIONS[action](self._region, None, parameters)
        assert account is not None, f"{action} is signed"
        answer = await ACTIONS[action](self._region, account, parameters)
        if not action.startswith("Read"):
            await self._region.write()
        return answer

    def _account(self, request: web.Request, body: bytes) -> Account:
        signed = SignedRequest(
            method=request.method,
            path=request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
        )
        return self._region.accounts[self._checker.check(signed)]


def _spoil(request: web.Request, fault: Fault) -> web.Response:
    """An answer that is none: the connection is reset, or the body is not the API's."""
    if fault.kind == "reset" and request.transport is not None:
        # Closing with no time to linger makes the kernel send a reset instead of an orderly end.
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response(text="<html>Trouble on demand.</html>", content_type="text/html")


def _parameters(body: bytes) -> Json:
    try:
        parameters = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("invalid-parameter-value", f"The body is not JSON: {error}.") from None
    if not isinstance(parameters, dict):
        raise ApiError("invalid-parameter-type", "The body is not a JSON object.")
    return parameters
