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
from PIL import ImageColor
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import PermanentError
from bgpipe.pipeline.http import submission
from bgpipe.pipeline.http.body_limits import ENCODED_BYTES
from bgpipe.pipeline.http.dependencies import AppState, Caller, State
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.routes.jobs import delete_job
from bgpipe.pipeline.http.schemas import CutoutOptions
from bgpipe.pipeline.images.arrangement import Arranged, Arrangement, Length, arrange
from bgpipe.pipeline.types import CLOSED_STATES, Job

router = APIRouter(include_in_schema=False)

SECONDS, POLL = 60.0, 0.1
"""Maximum wait for a cutout, and pause between two reads of its job."""
SEPARATORS = 200
"""Maximum number of brackets and commas in a JSON body, which is flat."""
MEGAPIXELS = dict.fromkeys(("preview", "small", "regular"), 0.25) | {
    "medium": 1.5,
    "hd": 4.0,
    "4k": 10.0,
}
PRESETS = {"person": "portraits", "product": "products"}
PLAIN = {"crop": False, "canvas": "", "background": "", "shadow": 0.0}
"""What a preset may do to a cutout, and `arrange` does here."""
MEDIA_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "zip": "application/zip",
}
SHARE = r"\d{1,3}(\.\d{1,3})?%"
LENGTH = r"\d{1,5}(\.\d{1,3})?(%|px)?"


def _color(text: str) -> str:
    """Return an opaque color as Pillow names it; `#` may be missing."""
    color = f"#{text}" if text[:1] != "#" and set(text.lower()) <= set("0123456789abcdef") else text
    if len(ImageColor.getrgb(color)) > 3:
        raise ValueError("not an opaque color")
    return color


class Parameters(BaseModel):
    """Parameters with remove.bg's names and defaults; others, and other values, are errors."""

    model_config = ConfigDict(extra="forbid")

    image_file: UploadFile | None = None
    image_file_b64: str = ""
    size: Literal["preview", "small", "regular", "medium", "hd", "4k", "full", "auto", "50MP"] = (
        "preview"
    )
    type: Literal["auto", "person", "product", "car", "animal", "graphic", "transportation"] = (
        "auto"
    )
    type_level: Literal["none", "1", "2", "latest"] = "1"
    format: Literal["auto", "png", "jpg", "webp", "zip"] = "auto"
    roi: Annotated[str, Field(pattern=rf"^{LENGTH}( {LENGTH}){{3}}$")] = "0% 0% 100% 100%"
    crop: bool = False
    crop_margin: Annotated[str, Field(pattern=rf"^{LENGTH}( {LENGTH}( {LENGTH} {LENGTH})?)?$")] = (
        "0"
    )
    scale: Annotated[str, Field(pattern=rf"^(original|{SHARE})$")] = "original"
    position: Annotated[str, Field(pattern=rf"^(original|center|{SHARE}( {SHARE})?)$")] = "original"
    channels: Literal["rgba", "alpha"] = "rgba"
    semitransparency: bool = True
    """For the windows of cars only, which the networks leave as they are."""
    add_shadow: Annotated[bool, Field(le=False)] = False
    bg_color: Annotated[str, AfterValidator(_color)] = ""
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

    def arrangement(self) -> Arrangement:
        margins = tuple(map(Length.parse, self.crop_margin.split()))
        shares = ["50%"] if self.position == "center" else self.position.split()
        is_fixed = self.position != "original"
        is_opaque = self.bg_color or self.bg_image_file
        automatic: Literal["jpg", "png"] = "jpg" if is_opaque and self.channels == "rgba" else "png"
        return Arrangement(
            roi=tuple(map(Length.parse, self.roi.split())),
            crop=self.crop,
            margins=margins * (4 // len(margins)),
            scale=float(self.scale[:-1]) / 100 if self.scale != "original" else None,
            position=(_share(shares[0]), _share(shares[-1])) if is_fixed else None,
            max_pixels=MEGAPIXELS.get(self.size, float("inf")) * 1e6,
            color=self.bg_color,
            backdrop=self.bg_image_file.file.read() if self.bg_image_file else b"",
            alpha_only=self.channels == "alpha",
            format=automatic if self.format == "auto" else self.format,
        )


def _share(percent: str) -> float:
    return min(float(percent[:-1]) / 100, 1.0)


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
    media_type = MEDIA_TYPES[parameters.arrangement().format]
    return Response(arranged.data, media_type=media_type, headers=headers)


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
    try:
        (view,) = state.jobs.items.views(job.id, 0, 1)
        if view.failure:
            raise PermanentError(view.failure.code, view.failure.detail)
        limits = state.uploads.limits
        with state.image_slots:
            cutout = state.session.stores.open(job.out).read(view.item.target, limits.max_bytes)
            arranged = arrange(cutout, parameters.arrangement(), limits)
    finally:
        delete_job(state, job)
        state.session.stores.open(job.source).clear()
        state.session.client.zrem(keys.FOLDERS, job.source.removeprefix(f"{state.uploads.root}/"))
    if arranged is None:
        raise Problem(400, "unknown_foreground", "could not identify a foreground in the image")
    return arranged
