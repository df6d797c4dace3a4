"""From a posted prompt to jobs: one for each different cutout of its outputs."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bgpipe.pipeline.comfyui.graph import WorkflowError, no_prompt
from bgpipe.pipeline.comfyui.interpreter import CutoutSpec, OutputNode, Workflow, read_workflow
from bgpipe.pipeline.comfyui.ui_format import is_ui_format
from bgpipe.pipeline.errors import BgpipeError, ModelUnavailable, UsageError
from bgpipe.pipeline.http.comfyui.input_images import InputImages
from bgpipe.pipeline.http.comfyui.prompt_store import OutputFile, Prompt, PromptStore
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.submission import check_open_jobs, check_queue_capacity, submit
from bgpipe.pipeline.planning.recipe import build_recipe
from bgpipe.pipeline.types import Job, JobId, Output, Recipe

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json
    from bgpipe.pipeline.http.dependencies import AppState

CLIENT_ID_LENGTH = 200
PREVIEW_PREFIX = "ComfyUI_temp"
MAX_NUMBER = 1e15
"""Largest absolute number that a client may give its prompt."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AcceptedPrompt:
    """A prompt whose jobs are open, and the errors of those previews that it lacks."""

    prompt: Prompt
    errors: dict[str, Json]


def submit_prompt(state: AppState, owner: str, body: Json) -> AcceptedPrompt:
    """Submit the body of POST /prompt: {"prompt": graph, ...}, or a document in UI format.

    Raises:
        WorkflowError: the workflow is invalid or not supported.
        Problem: the id exists, or the queue is full.

    """
    document, request = _parse_body(body)
    prompts = PromptStore(state.session.client, owner, state.settings.serve.keep_days)
    prompt_id = _prompt_id(request, prompts)
    check_queue_capacity(state)
    check_open_jobs(state, owner)
    images = InputImages(state, owner)
    workflow = read_workflow(
        document, state.settings.comfyui.models, lambda name: images.find(name) is not None
    )
    outputs = _select_outputs(workflow, request.get("partial_execution_targets"))
    specs = _specs(outputs)
    jobs = {
        spec: _make_job(state, owner, JobId(f"{prompt_id}.{n}" if n else prompt_id), spec, images)
        for n, spec in enumerate(dict.fromkeys(specs.values()))
    }
    _submit_all(state, list(jobs.values()))
    prompt = Prompt(
        id=prompt_id,
        number=_number(request, prompts),
        owner=owner,
        client=str(request.get("client_id") or "")[:CLIENT_ID_LENGTH],
        graph=workflow.graph,
        extra_data=_extra_data(request),
        outputs=tuple(output.node for output in outputs),
        kept=tuple(_output_file(prompts, output, specs[output], jobs) for output in outputs),
        created=next(iter(jobs.values())).created,
    )
    prompts.add(prompt)
    return AcceptedPrompt(prompt, dict(workflow.errors))


def _parse_body(body: Json) -> tuple[Json, dict[str, Json]]:
    """Return the workflow, and the request's other fields."""
    if is_ui_format(body):
        return body, {}
    if not isinstance(body, dict) or "prompt" not in body:
        raise no_prompt()
    return body["prompt"], body


def _prompt_id(request: Mapping[str, Json], prompts: PromptStore) -> str:
    prompt_id = request.get("prompt_id")
    if prompt_id is None:
        return str(uuid.uuid4())
    if not isinstance(prompt_id, str) or not _UUID.fullmatch(prompt_id):
        message = "The prompt_id is not a UUID in lower case"
        raise WorkflowError("invalid_prompt_id", message, str(prompt_id))
    if prompts.exists(prompt_id):
        raise Problem(409, "conflict", "prompt_id already exists")
    return prompt_id


def _number(request: Mapping[str, Json], prompts: PromptStore) -> float:
    """Return the prompt's position in listings; it does not change the order of work."""
    requested: Json = request.get("number", "")
    is_number = isinstance(requested, int | float) and not isinstance(requested, bool)
    if is_number and abs(requested) < MAX_NUMBER:
        return float(requested)
    number = prompts.next_number()
    return -number if request.get("front") else number


def _extra_data(request: Mapping[str, Json]) -> dict[str, Json]:
    given = request.get("extra_data")
    extra = dict(given) if isinstance(given, dict) else {}
    return extra | ({"client_id": request["client_id"]} if request.get("client_id") else {})


def _select_outputs(workflow: Workflow, targets: Json) -> tuple[OutputNode, ...]:
    if not isinstance(targets, list):
        return workflow.outputs
    outputs = tuple(output for output in workflow.outputs if output.node in targets)
    if not outputs:
        raise WorkflowError("prompt_no_outputs", "Prompt has no outputs")
    return outputs


def _specs(outputs: Sequence[OutputNode]) -> dict[OutputNode, CutoutSpec]:
    """Return the cutout that each output shows.

    A preview shows the saved cutout of its photo: an earlier stage would need another inference.
    """
    saved = [output.spec for output in outputs if output.is_saved]
    return {
        output: output.spec
        if output.is_saved
        else next((spec for spec in saved if _can_show(spec, output.spec)), output.spec)
        for output in outputs
    }


def _can_show(saved: CutoutSpec, preview: CutoutSpec) -> bool:
    if saved.photo != preview.photo:
        return False
    return saved.is_mask is preview.is_mask or (preview.is_mask and not saved.preset.background)


def _make_job(
    state: AppState, owner: str, job_id: JobId, spec: CutoutSpec, images: InputImages
) -> Job:
    image = images.find(spec.photo)
    if image is None:  # removed since validation
        raise Problem(404, "unknown-photo", f"image not found: {spec.photo}")
    images.touch(image.upload)
    return Job(
        job_id,
        state.uploads.location(owner, image.upload),
        state.uploads.results_location(owner, job_id),
        _make_recipe(state, spec),
        time.time(),
        owner=owner,
    )


def _make_recipe(state: AppState, spec: CutoutSpec) -> Recipe:
    """Return the recipe of a cutout. The settings name the model, so it may be a path."""
    preset = replace(spec.preset, background="", foreground=False) if spec.is_mask else spec.preset
    output = Output(format="mask") if spec.is_mask else Output()
    try:
        built = build_recipe(
            state.settings, model=spec.model, preset=preset, output=output, pull=False
        )
    except (ModelUnavailable, UsageError) as error:
        message = "The model is not available"
        raise WorkflowError("prompt_outputs_failed_validation", message, str(error)) from error
    if built.is_degraded:
        log.warning("using the bundled model")
    return built.recipe


def _submit_all(state: AppState, jobs: Sequence[Job]) -> None:
    """Submit all jobs, or none."""
    opened: list[Job] = []
    try:
        for job in jobs:
            submit(state, job)
            opened.append(job)
    except BgpipeError:
        for job in opened:
            state.jobs.cancel(job.id)
        raise


def _output_file(
    prompts: PromptStore, output: OutputNode, spec: CutoutSpec, jobs: Mapping[CutoutSpec, Job]
) -> OutputFile:
    prefix = output.prefix or PREVIEW_PREFIX
    folder, _, stem = prefix.rpartition("/")
    return OutputFile(
        node=output.node,
        filename=f"{stem}_{prompts.next_count(prefix):05}_.png",
        subfolder=folder,
        type="output" if output.is_saved else "temp",
        job=jobs[spec].id,
        is_mask=output.spec.is_mask and not spec.is_mask,
    )
