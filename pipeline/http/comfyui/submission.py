"""From a posted prompt to jobs: one for each different cutout of its outputs."""

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from bgpipe.pipeline.comfyui.graph import Json, WorkflowError, no_prompt
from bgpipe.pipeline.comfyui.interpreter import CutoutSpec, OutputNode, Workflow, read_workflow
from bgpipe.pipeline.comfyui.ui_format import is_ui_format
from bgpipe.pipeline.errors import ModelUnavailable, UsageError
from bgpipe.pipeline.http.comfyui.prompt_service import PromptService
from bgpipe.pipeline.http.comfyui.prompts import CLIENT_ID_LENGTH, OutputFile, Prompt
from bgpipe.pipeline.http.lifecycle import check_new_job, submit
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.planning.recipe import build_recipe
from bgpipe.pipeline.types import Job, JobId, Output

PREVIEW_PREFIX = "ComfyUI_temp"
MAX_NUMBER = 1e15
"""Largest absolute number that a client may give its prompt."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = EventLogger(__name__)


def submit_prompt(service: PromptService, body: Json) -> tuple[Prompt, Mapping[str, Json]]:
    """Submit the body of POST /prompt: {"prompt": graph, ...}, or a document in UI format.

    Returns the prompt, whose jobs are open, and the errors of those previews that it lacks.
    WorkflowError if the workflow is invalid; Problem if the id exists, or the queue is full.
    """
    document, request = body, {}
    if not is_ui_format(body):
        if not isinstance(body, dict) or "prompt" not in body:
            raise no_prompt()
        document, request = body["prompt"], body
    prompt_id = _prompt_id(request, service)
    check_new_job(service.state, service.owner)
    models, images = service.state.settings.comfyui.models, service.images
    workflow = read_workflow(document, models, lambda name: images.find(name) is not None)
    outputs = _select_outputs(workflow, request.get("partial_execution_targets"))
    specs = _specs(outputs)
    jobs = {
        spec: _make_job(service, JobId(f"{prompt_id}.{n}" if n else prompt_id), spec)
        for n, spec in enumerate(dict.fromkeys(specs.values()))
    }
    with ExitStack() as undo:  # all jobs, or none
        for job in jobs.values():
            submit(service.state, job)
            undo.callback(service.state.jobs.cancel, job.id)
        undo.pop_all()
    given, client = request.get("extra_data"), request.get("client_id")
    extra_data = given if isinstance(given, dict) else {}
    prompt = Prompt(
        id=prompt_id,
        number=_number(request, service),
        owner=service.owner,
        client=str(client or "")[:CLIENT_ID_LENGTH],
        graph=workflow.graph,
        extra_data=extra_data | ({"client_id": client} if client else {}),
        outputs=tuple(output.node for output in outputs),
        kept=tuple(_output_file(service, output, specs[output], jobs) for output in outputs),
        created=next(iter(jobs.values())).created,
    )
    service.add(prompt)
    return prompt, workflow.errors


def _prompt_id(request: Mapping[str, Json], service: PromptService) -> str:
    prompt_id = request.get("prompt_id")
    if prompt_id is None:
        return str(uuid.uuid4())
    if not isinstance(prompt_id, str) or not _UUID.fullmatch(prompt_id):
        message = "The prompt_id is not a UUID in lower case"
        raise WorkflowError("invalid_prompt_id", message, str(prompt_id))
    if service.exists(prompt_id):
        raise Problem(409, "conflict", "prompt_id already exists")
    return prompt_id


def _number(request: Mapping[str, Json], service: PromptService) -> float:
    """Return the prompt's position in listings; it does not change the order of work."""
    requested: Json = request.get("number", "")
    is_number = isinstance(requested, int | float) and not isinstance(requested, bool)
    if is_number and abs(requested) < MAX_NUMBER:
        return float(requested)
    number = service.next_number()
    return -number if request.get("front") else number


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
    cutouts = [output.spec for output in outputs if output.spec.is_cutout]
    specs = {}
    for output in outputs:
        spec = output.spec
        shown = [] if output.is_saved else [each for each in saved if _can_show(each, spec)]
        if not output.is_saved and spec.is_mask:  # the alpha of another preview
            shown += [each for each in cutouts if replace(each, is_mask=True) == spec]
        specs[output] = next(iter(shown), spec)
    return specs


def _can_show(saved: CutoutSpec, preview: CutoutSpec) -> bool:
    if saved.photo != preview.photo or saved.is_inverted is not preview.is_inverted:
        return False
    return saved.is_mask is preview.is_mask or (preview.is_mask and not saved.preset.background)


def _make_job(service: PromptService, job_id: JobId, spec: CutoutSpec) -> Job:
    """Return the job of a cutout. The settings name the model, so it may be a path."""
    image = service.images.find(spec.photo)
    if image is None:  # removed since validation
        raise Problem(404, "unknown-photo", f"image not found: {spec.photo}")
    state, preset, output = service.state, spec.preset, Output()
    if spec.is_mask:
        preset, output = replace(preset, background="", foreground=False), Output(format="mask")
    try:
        built = build_recipe(
            state.settings,
            model=spec.model,
            preset=preset,
            output=output,
            resolution=spec.resolution,
            pull=False,
        )
    except (ModelUnavailable, UsageError) as error:
        message = "The model cannot be used"
        raise WorkflowError("prompt_outputs_failed_validation", message, str(error)) from error
    if built.is_degraded:
        log.warning("using the bundled model")
    return Job(
        job_id,
        state.uploads.location(service.owner, image.upload),
        state.uploads.results_location(service.owner, job_id),
        built.recipe,
        time.time(),
        owner=service.owner,
    )


def _output_file(
    service: PromptService, output: OutputNode, spec: CutoutSpec, jobs: Mapping[CutoutSpec, Job]
) -> OutputFile:
    prefix = output.prefix or PREVIEW_PREFIX
    folder, _, stem = prefix.rpartition("/")
    return OutputFile(
        node=output.node,
        filename=f"{stem}_{service.next_count(prefix):05}_.png",
        subfolder=folder,
        type="output" if output.is_saved else "temp",
        job=jobs[spec].id,
        is_mask=output.spec.is_mask and not spec.is_mask,
    )
