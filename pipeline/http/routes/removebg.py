"""/v1.0/removebg: an image in, its cutout out, in the shape of remove.bg's API 1.0 (infra/docs/http.md)."""

from __future__ import annotations

import base64
import json
import time
from typing import Annotated, Any, Literal

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http import submission
from bgpipe.pipeline.http.body_limits import ENCODED_BYTES
from bgpipe.pipeline.http.dependencies import AppState, Caller, State
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
PLAIN: dict[str, Value] = {"crop": False, "canvas": "", "background": "", "shadow": 0.0}
"""What a preset may do to a cutout, and `arrange` does here."""
MEDIA_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "zip": "application/zip",
}


class Parameters(Arrangement):
    """Parameters with remove.bg's names and defaults; others, and other values, are errors."""

    image_file: UploadFile | None = None
    image_file_b64: str = ""
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
        if bool(self.image_file) is bool(self.image_file_b64):
            raise Problem(400, "missing_source", "pass either image_file or image_file_b64")
        if self.image_file:
            return self.image_file.file.read()
        try:
            return base64.b64decode(self.image_file_b64.rpartition(",")[2], validate=True)
        except ValueError as error:
            raise Problem(400, "invalid_parameter", f"image_file_b64: {error}") from error


async def read_parameters(request: Request) -> Parameters:
    """Return the parameters of a form or a JSON object, without those that are empty.

    Raises RequestValidationError if one is invalid, Problem 400 for other JSON.
    """
    values: Any
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await request.body()
        # The size of what a parser makes depends on these.
        if sum(map(body.count, b"[{,")) > SEPARATORS:
            raise Problem(400, "invalid_parameter", "not a flat JSON object")
        try:
            values = json.loads(body)
        except ValueError as error:
            raise Problem(400, "invalid_parameter", f"not JSON: {error}") from error
    else:
        values = dict(await request.form(max_fields=30, max_files=3, max_part_size=ENCODED_BYTES))
    if not isinstance(values, dict):
        raise Problem(400, "invalid_parameter", "not a JSON object")
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
            raise Problem(503, "timeout", f"no cutout in {SECONDS:.0f} s", submission.RETRY_AFTER)
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
    return Response(arranged.data, 200, headers, MEDIA_TYPES[arranged.format])


def _start(state: AppState, owner: str, parameters: Parameters) -> Job:
    submission.check_new_job(state, owner)
    upload = state.uploads.new_id()
    folder = f"{owner}/uploads/{upload}"
    submission.touch_folder(state, folder)
    with state.image_slots:
        state.uploads.write(owner, upload, "image", parameters.read_image())
    options = CutoutOptions(preset=PRESETS.get(parameters.type, ""), set=PLAIN)
    job = submission.make_job(state, owner, state.uploads.location(owner, upload), options)
    submission.submit(state, job)
    return job


def _finish(state: AppState, job: Job, parameters: Parameters) -> Arranged:
    """Return the arranged cutout of a closed job, and remove the job and its files.

    Raises:
        PermanentError: the image, or that of the background, has failed.
        Problem: 400: nothing was found in the image.
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
        state.session.stores.open(job.source).clear()
        state.session.client.zrem(keys.FOLDERS, job.source.removeprefix(f"{state.uploads.root}/"))
    if arranged is None:
        raise Problem(400, "unknown_foreground", "could not identify a foreground in the image")
    return arranged
