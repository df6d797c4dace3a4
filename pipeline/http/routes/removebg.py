"""/v1.0/removebg: an image in, its cutout out, in the shape of remove.bg's API 1.0 (infra/docs/http.md)."""

import base64
import json
import time
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field, ValidationError
from starlette.types import Message

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http import lifecycle
from bgpipe.pipeline.http.dependencies import AppState, Caller, State
from bgpipe.pipeline.http.files import CHUNK_BYTES, new_upload_id
from bgpipe.pipeline.http.middleware import ENCODED_BYTES
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.routes.jobs import delete_job
from bgpipe.pipeline.http.schemas import CutoutOptions, Value
from bgpipe.pipeline.images.arrangement import Arranged, Arrangement, arrange
from bgpipe.pipeline.types import CLOSED_STATES, Job

router = APIRouter(include_in_schema=False)

SECONDS, POLL = 60.0, 0.1
"""Maximum wait for a cutout, and pause between two reads of its job."""
SEPARATORS = 200
"""Maximum number of brackets and commas in a JSON body, which is flat."""
PRESETS = {"person": "portraits", "product": "products"}
PLAIN = dict[str, Value](crop=False, canvas="", size="", background="", shadow=0.0, outline="")
"""What a preset may do to a cutout, and `arrange` does here."""


def _decode(text: object) -> UploadFile:
    """Return the file that is given in Base64, perhaps as a data URL."""
    if not isinstance(text, str):
        raise ValueError("not a text")  # noqa: TRY004  # pydantic reports it
    file = TemporaryFile()  # noqa: SIM115  # of the request
    file.write(base64.b64decode(text.rpartition(",")[2], validate=True))
    file.seek(0)
    return UploadFile(file)


class Parameters(Arrangement):
    """Parameters with remove.bg's names and defaults; others, and other values, are errors."""

    image_file: UploadFile | None = None
    image_file_b64: Annotated[UploadFile | None, BeforeValidator(_decode)] = None
    type: Literal["auto", "person", "product", "car", "animal", "graphic", "transportation"] = (
        "auto"
    )
    type_level: Literal["none", "1", "2", "latest"] = "1"
    semitransparency: bool = True
    """For the windows of cars only, which the networks leave as they are."""
    add_shadow: Annotated[bool, Field(le=False)] = False
    bg_image_file: UploadFile | None = None

    def read_image(self) -> bytes:
        """Return the source; raises Problem 400 unless exactly one is given."""
        file = self.image_file or self.image_file_b64
        if file is None or (self.image_file and self.image_file_b64):
            raise Problem(400, "missing_source", "pass either image_file or image_file_b64")
        return file.file.read()


async def read_parameters(request: Request, state: State) -> Parameters:
    """Return the parameters of a form or a JSON object, without those that are empty.

    Bodies are received on disk, and one at a time is in memory, for a moment.

    Raises RequestValidationError if one is invalid, Problem 400 for other JSON.
    """
    with TemporaryFile() as body:
        async for chunk in request.stream():
            body.write(chunk)
        body.seek(0)

        async def replay() -> Message:
            chunk = body.read(CHUNK_BYTES)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

        async with state.body_lock:
            if request.headers.get("content-type", "").startswith("application/json"):
                return await run_sync(lambda: _validate(_parse(body.read())))
            request = Request(request.scope, replay)
            form = await request.form(max_fields=30, max_files=3, max_part_size=ENCODED_BYTES)
            return await run_sync(_validate, dict(form))


def _parse(body: bytes) -> dict[str, Any]:
    # The size of what a parser makes depends on these.
    if sum(map(body.count, b"[{,")) > SEPARATORS:
        raise Problem(400, "invalid_parameter", "not a flat JSON object")
    try:
        values = json.loads(body)
    except ValueError as error:
        raise Problem(400, "invalid_parameter", f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Problem(400, "invalid_parameter", "not a JSON object")
    return values


def _validate(values: dict[str, Any]) -> Parameters:
    try:
        given = {name: value for name, value in values.items() if value not in ("", None)}
        return Parameters.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


@router.post("/v1.0/removebg")
async def remove_background(
    request: Request,
    state: State,
    caller: Caller,
    parameters: Annotated[Parameters, Depends(read_parameters)],
) -> Response:
    """The cutout, or a JSON object that holds it for `Accept: application/json`.

    Nothing is kept afterwards.
    """
    job = await run_sync(_start, state, caller.name, parameters)
    deadline = time.monotonic() + SECONDS
    while (await run_sync(state.jobs.summary, job.id)).state not in CLOSED_STATES:
        if time.monotonic() > deadline:
            await run_sync(state.jobs.cancel, job.id)
            raise Problem(503, "timeout", f"no cutout in {SECONDS:.0f} s", lifecycle.RETRY_AFTER)
        await anyio.sleep(POLL)  # not in a thread, of which there are few
    arranged = await run_sync(_finish, state, job, parameters)
    left, top, right, bottom = arranged.subject
    box = {"top": top, "left": left, "width": right - left, "height": bottom - top}
    headers = {f"X-Foreground-{name.title()}": str(value) for name, value in box.items()} | {
        "X-Type": "other" if parameters.type == "auto" else parameters.type,
        "X-Width": str(arranged.size[0]),
        "X-Height": str(arranged.size[1]),
        "X-Credits-Charged": "0",
    }
    if "application/json" in request.headers.get("accept", ""):
        data = {f"foreground_{name}": value for name, value in box.items()}
        encoded = base64.b64encode(arranged.data).decode()
        return JSONResponse({"data": {"result_b64": encoded} | data}, headers=headers)
    return Response(arranged.data, 200, headers, MEDIA_TYPES[f".{arranged.format}"])


def _start(state: AppState, owner: str, parameters: Parameters) -> Job:
    lifecycle.check_new_job(state, owner)
    upload = new_upload_id()
    with state.image_slots:
        state.uploads.write(owner, upload, "image", parameters.read_image())
    options = CutoutOptions(preset=PRESETS.get(parameters.type, ""), set=PLAIN)
    job = lifecycle.make_job(state, owner, state.uploads.location(owner, upload), options)
    lifecycle.submit(state, job)
    return job


def _finish(state: AppState, job: Job, parameters: Parameters) -> Arranged:
    """Return the arranged cutout of a closed job, and remove the job and its files.

    PermanentError if an image has failed; Problem 400 if nothing was found in it.
    """
    background = parameters.bg_image_file.file.read() if parameters.bg_image_file else b""
    try:
        (view,) = state.jobs.items.views(job.id, 0, 1)
        if view.failure:
            raise PermanentError(Code(view.failure.code), view.failure.detail)
        limits = state.uploads.limits
        with state.image_slots:
            cutout = state.session.stores.open(job.out).read(view.item.target, limits.max_bytes)
            arranged = arrange(cutout, parameters, background, limits)
    finally:
        delete_job(state, job)
        lifecycle.remove_folder(state, job.source)
    if arranged is None:
        raise Problem(400, "unknown_foreground", "could not identify a foreground in the image")
    return arranged
