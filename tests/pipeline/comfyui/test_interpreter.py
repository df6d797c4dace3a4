"""Graphs of ComfyUI, read as what bgpipe makes of a photo."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpipe.config.presets import Enhancement
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.comfyui.graph import WorkflowError
from bgpipe.pipeline.comfyui.interpreter import read_workflow
from bgpipe.pipeline.comfyui.node_types import make_node_types
from bgpipe.pipeline.types import Preset

EXAMPLES = Path(__file__).resolve().parents[3] / "infra/examples/comfyui"
UI = json.loads((EXAMPLES / "production_bg_removal.json").read_text())
API = json.loads((EXAMPLES / "production_bg_removal_api.json").read_text())
MODELS = {
    "BiRefNet-general": "birefnet-general",
    "BiRefNet_lite": "birefnet-lite",
    "birefnet.safetensors": "birefnet-general",
    "RMBG-2.0": "birefnet-general",
}
RAW = Preset(foreground=False)
INVERSION = Enhancement(invert=True)
SUBGRAPH_TYPE = "6f0c1f0e-3a55-4d6e-9a0e-000000000001"


def saving(*chain: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A graph of ComfyUI's own nodes: 1 loads the photo, 2 the model, 3 is its mask, then `chain`."""
    nodes = [
        ("LoadImage", {"image": "photo.jpg"}),
        ("LoadBackgroundRemovalModel", {"bg_removal_name": "birefnet.safetensors"}),
        ("RemoveBackground", {"bg_removal_model": ["2", 0], "image": ["1", 0]}),
        *chain,
    ]
    last = {"images": [str(len(nodes)), 0], "filename_prefix": "cutout"}
    nodes.append(("SaveImage", last))
    return {
        str(number): {"class_type": kind, "inputs": inputs}
        for number, (kind, inputs) in enumerate(nodes, 1)
    }


def ui_node(number: int, kind: str, links: dict[str, int], outs: int = 1, **more: Any) -> Any:
    """A node of the editor; its outputs name no links, which the table then does."""
    inputs = [{"name": name, "link": link} for name, link in links.items()]
    outputs = [{"name": "", "links": None}] * outs
    return {"id": number, "type": kind, "inputs": inputs, "outputs": outputs} | more


def link(number: int, origin: int, slot: int, target: int) -> dict[str, int]:
    return {
        "id": number,
        "origin_id": origin,
        "origin_slot": slot,
        "target_id": target,
        "target_slot": 0,
    }


INNER: dict[str, Any] = {
    "id": SUBGRAPH_TYPE,
    "inputs": [
        {"name": "image", "linkIds": [5, 7]},
        {"name": "bg_removal_name", "linkIds": [12]},
    ],
    "outputs": [{"name": "IMAGE", "linkIds": [8]}, {"name": "mask", "linkIds": [11]}],
    "nodes": [
        ui_node(13, "RemoveBackground", {"image": 5, "bg_removal_model": 3}),
        {
            "id": 14,
            "type": "LoadBackgroundRemovalModel",
            "inputs": [{"name": "bg_removal_name", "widget": {}, "link": 12}],
            "widgets_values": ["birefnet.safetensors"],
        },
        ui_node(15, "InvertMask", {"mask": 4}),
        ui_node(16, "JoinImageWithAlpha", {"image": 7, "alpha": 6}),
    ],
    "links": [
        link(3, 14, 0, 13),
        link(4, 13, 0, 15),
        link(6, 15, 0, 16),
        link(5, -10, 0, 13),
        link(7, -10, 0, 16),
        link(8, 16, 0, -20),
        link(11, 13, 0, -20),
        link(12, -10, 1, 14),
    ],
}
SUBGRAPH: dict[str, Any] = {
    "nodes": [
        ui_node(17, "LoadImage", {}, 2, widgets_values=["photo.jpg", "image"]),
        ui_node(19, SUBGRAPH_TYPE, {"image": 15}, 2, widgets_values=[]),
        ui_node(18, "SaveImage", {"images": 14}, widgets_values=["cutout"]),
        ui_node(20, "MaskPreview", {"mask": 16}),
    ],
    "links": [[14, 19, 0, 18, 0, "IMAGE"], [15, 17, 0, 19, 0, "IMAGE"], [16, 19, 1, 20, 0, "MASK"]],
    "definitions": {"subgraphs": [INNER]},
}
LABELLED = {
    "balanced": [1.15, 0.05, 0.05, 0, False, False],
    "products": [1.3, 0, 0, 0, False, False],
    "portraits": [1.0, 0.1, 0.1, 2, True, False],
    "raw": [1.0, 0, 0, 0, False, False],
}


@pytest.fixture
def ui() -> dict[str, Any]:
    return copy.deepcopy(UI)


@pytest.fixture
def graph() -> dict[str, Any]:
    """The same graph in API format, with the enhancer's own inputs."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "photo.jpg"}},
        "2": {
            "class_type": "BiRefNetRMBG",
            "inputs": {"image": ["1", 0], "model": "BiRefNet-general"},
        },
        "3": {"class_type": "AILab_MaskEnhancer", "inputs": {"mask": ["2", 1]}},
        "4": {
            "class_type": "AILab_ImageMaskConvert",
            "inputs": {"image": ["2", 0], "mask": ["3", 0]},
        },
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "a/b"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["2", 2]}},
    }


def saved(document: Any) -> Preset:
    main = read_workflow(document, MODELS).main
    assert main
    assert main.is_saved
    return main.spec.preset


def refused(document: Any) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        read_workflow(document, MODELS)
    return caught.value


@pytest.mark.parametrize("name", LABELLED)
def test_six_widget_values_are_a_preset_by_their_documented_labels(ui, name):
    ui["nodes"][2]["widgets_values"] = LABELLED[name]
    assert saved(ui) == load_settings().presets[name]


def test_named_inputs_are_the_enhancers_own(graph):
    graph["3"]["inputs"] |= {"sensitivity": 0.9, "mask_blur": 2, "mask_offset": -1, "smooth": 1}
    step = Enhancement(sensitivity=0.9, mask_blur=2, mask_offset=-1, smooth=1)
    assert saved(graph) == Preset(foreground=False, enhance=(step,))


def test_the_removal_nodes_own_mask_values_come_first(graph):
    graph["2"]["inputs"] |= {"mask_offset": -3, "refine_foreground": True}
    graph["3"]["inputs"] |= {"fill_holes": True}
    assert saved(graph).enhance == (Enhancement(mask_offset=-3), Enhancement(fill_holes=True))
    assert saved(graph).foreground


def test_eight_widget_values_of_the_removal_node_begin_with_a_sensitivity(ui):
    ui["nodes"][1]["widgets_values"] = [
        "BiRefNet_lite",
        0.8,
        0,
        2,
        False,
        False,
        "Alpha",
        "#222222",
    ]
    assert saved(ui).enhance == (Enhancement(sensitivity=0.8, mask_offset=2),)


def test_the_saved_cutout_has_the_refined_alpha_and_the_previews_their_own(ui):
    workflow = read_workflow(ui, MODELS)
    views = {output.node: output.spec for output in workflow.outputs}
    assert (views["5"].preset.contrast, views["5"].is_mask) == (1.15, False)
    assert (views["6"].preset, views["6"].is_mask) == (Preset(), False)
    assert (views["7"].preset, views["7"].is_mask) == (Preset(), True)
    assert {view.photo for view in views.values()} == {"photo.jpg"}
    assert {view.model for view in views.values()} == {"birefnet-general"}


def test_the_two_example_workflows_ask_for_the_same():
    api = json.loads((EXAMPLES / "production_bg_removal_api.json").read_text())
    assert saved(api) == saved(UI)


def test_links_that_no_input_names_join_nothing(ui):
    ui["links"] += [[8, 2, 1, 3, 0, "MASK"], [9, 3, 1, 3, 1, "MASK"], [10, 1, 0, 3, 1, "IMAGE"]]
    assert saved(ui) == saved(UI)


def test_notes_reroutes_and_muted_nodes_do_no_harm(ui):
    ui["nodes"][1]["inputs"][0]["link"] = 12
    ui["nodes"][0]["outputs"][0]["links"] = [11]
    ui["nodes"] += [
        {"id": 20, "type": "Note", "widgets_values": ["hello"]},
        {
            "id": 21,
            "type": "Reroute",
            "inputs": [{"name": "", "link": 11}],
            "outputs": [{"links": [12]}],
        },
        {"id": 22, "type": "PreviewImage", "mode": 2, "inputs": []},
    ]
    assert saved(ui) == saved(UI)
    ui["nodes"][2]["mode"] = 4
    assert refused(ui).body["error"]["type"] == "invalid_prompt"


def test_a_colour_and_a_mask_alone(graph):
    graph["2"]["inputs"] |= {"background": "Color", "background_color": "#ff8800"}
    assert saved(graph).background == "#ff8800"
    graph["2"]["inputs"]["background_color"] = "orange"
    assert refused(graph).nodes["2"].errors[0].type == "custom_validation_failed"
    del graph["2"]["inputs"]["background"], graph["4"]["inputs"]["image"]
    workflow = read_workflow(graph, MODELS)
    assert workflow.main
    assert workflow.main.spec.is_mask


@pytest.mark.parametrize(
    ("changes", "node", "error"),
    [
        ({"sensitivity": 1.15}, "3", "value_bigger_than_max"),
        ({"mask_offset": -65}, "3", "value_smaller_than_min"),
        ({"mask_blur": "abc"}, "3", "invalid_input_type"),
        ({"smooth": float("nan")}, "3", "invalid_input_type"),
        ({"mask": ["2"]}, "3", "bad_linked_input"),
        ({"mask": ["2", 0]}, "3", "return_type_mismatch"),
        ({"mask": ["9", 0]}, "3", "exception_during_inner_validation"),
        ({"mask": 3}, "3", "invalid_input_type"),
    ],
)
def test_what_is_wrong_with_the_saved_image_refuses_the_workflow(graph, changes, node, error):
    graph["3"]["inputs"] |= changes
    body = refused(graph).body
    assert body["error"]["type"] == "prompt_outputs_failed_validation"
    assert [entry["type"] for entry in body["node_errors"][node]["errors"]] == [error]
    assert body["node_errors"][node]["dependent_outputs"] == ["5"]


def test_what_is_wrong_with_a_preview_alone_leaves_the_rest(graph):
    graph["6"]["inputs"]["images"] = ["1", 0]
    workflow = read_workflow(graph, MODELS)
    assert [output.node for output in workflow.outputs] == ["5", "7"]
    assert workflow.errors["6"]["errors"][0]["type"] == "custom_validation_failed"


@pytest.mark.parametrize(
    ("node", "change"),
    [
        ("5", {"images": ["1", 0]}),  # nothing is removed
        ("2", {"image": ["6", 0]}),
        ("3", {"mask": ["1", 1]}),
        ("5", {"filename_prefix": "../x"}),
        ("5", {"filename_prefix": "/etc/x"}),
        ("5", {"filename_prefix": ".hidden"}),
        ("5", {"filename_prefix": ""}),
    ],
)
def test_what_cannot_be_had_is_refused(graph, node, change):
    graph[node]["inputs"] |= change
    assert refused(graph).body["error"]["type"] in {
        "prompt_outputs_failed_validation",
        "invalid_prompt",
    }


@pytest.mark.parametrize(
    "values",
    [
        [1.15, 0.05, 0.05, 0, 0, False],
        [True, 0, 0, 0, False, False],
        ["1.15", 0, 0, 0, False, False],
        [1.15, 0, 0, 0, False],
        [9, 0, 0, 0, False, False],
        [1.15, 0, 0, float("inf"), False, False],
    ],
)
def test_widget_values_of_other_types_are_refused(ui, values):
    ui["nodes"][2]["widgets_values"] = values
    assert "3" in refused(ui).body["node_errors"]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "x",
        7,
        {"1": 3},
        {"1": {}},
        {"1": {"class_type": ["x"]}},
        {"1": {"class_type": "SaveImage"}},
        {"1": {"class_type": "SaveImage", "inputs": []}},
        {"nodes": [3]},
        {"nodes": [{"id": 1, "type": "SaveImage", "inputs": [{"name": "images", "link": [1]}]}]},
        {"nodes": [{"id": 1, "type": "Load", "outputs": [{"links": 3}], "widgets_values": {}}]},
    ],
)
def test_no_document_is_more_than_refused(document):
    assert refused(document).body["error"]["message"]


def test_circles_and_towers_end(graph):
    circle = copy.deepcopy(graph)
    circle["3"]["inputs"]["mask"] = ["3", 0]
    assert "cycle" in refused(circle).message
    for level in range(60):  # each uses the one below twice
        below = [str(99 + level), 0] if level else ["4", 0]
        mask = [below[0], 1]
        graph[str(100 + level)] = {
            "class_type": "AILab_ImageMaskConvert",
            "inputs": {"image": below, "mask": mask},
        }
    graph["5"]["inputs"]["images"] = ["159", 0]
    assert saved(graph) == Preset(foreground=False)


def test_comfyuis_own_nodes_give_the_networks_alpha():
    """Their alpha is one minus the mask, which graphs therefore invert."""
    invert, mask = ("InvertMask", {"mask": ["3", 0]}), {"image": ["1", 0], "alpha": ["3", 0]}
    joined = ("JoinImageWithAlpha", {"image": ["1", 0], "alpha": ["4", 0]})
    assert saved(saving(invert, joined)) == RAW
    assert saved(saving(("JoinImageWithAlpha", mask))) == replace(RAW, enhance=(INVERSION,))
    split = ("SplitImageWithAlpha", {"image": ["5", 0]})
    again = ("JoinImageWithAlpha", {"image": ["6", 0], "alpha": ["6", 1]})
    assert saved(saving(invert, joined, split, again)) == RAW
    size = {"upscale_method": "lanczos", "width": 0, "height": 0, "crop": "disabled"}
    assert saved(saving(invert, joined, ("ImageScale", {"image": ["5", 0]} | size))) == RAW
    gray = read_workflow(saving(("MaskToImage", {"mask": ["3", 0]})), MODELS).main
    assert gray
    assert (gray.spec.is_mask, gray.spec.preset) == (True, RAW)


def test_an_inverted_mask_is_enhanced_and_refined_in_the_order_of_the_graph():
    join = {"image": ["1", 0], "alpha": ["5", 0]}
    enhance = ("AILab_MaskEnhancer", {"mask": ["4", 0], "mask_blur": 3})
    graph = saving(("InvertMask", {"mask": ["3", 0]}), enhance, ("JoinImageWithAlpha", join))
    assert saved(graph).enhance == (INVERSION, Enhancement(mask_blur=3), INVERSION)
    refine = ("BgpipeRefiner", {"mask": ["3", 0], "dilate": 1})
    graph = saving(refine, ("InvertMask", {"mask": ["4", 0]}), ("JoinImageWithAlpha", join))
    assert (saved(graph).invert, saved(graph).dilate, saved(graph).enhance) == (False, 1, ())


@pytest.mark.parametrize(
    ("resolution", "side"), [(1024, 0), (512, 512), (2048, 2048), (256, 256), (4096, 4096)]
)
def test_the_default_resolution_stands_for_the_models_own(resolution, side):
    graph = saving(("JoinImageWithAlpha", {"image": ["1", 0], "alpha": ["3", 0]}))
    graph["3"]["inputs"]["resolution"] = resolution
    main = read_workflow(graph, MODELS).main
    assert main
    assert main.spec.resolution == side


@pytest.mark.parametrize(
    ("node", "change", "error"),
    [
        ("3", {"resolution": 255}, "value_smaller_than_min"),
        ("3", {"resolution": 4097}, "value_bigger_than_max"),
        ("3", {"resolution": "wide"}, "invalid_input_type"),
        ("3", {"bg_removal_model": ["1", 0]}, "return_type_mismatch"),
        ("3", {"bg_removal_model": "birefnet.safetensors"}, "invalid_input_type"),
        ("2", {"bg_removal_name": "BiRefNet-general"}, "value_not_in_list"),
        ("4", {"image": ["5", 0]}, "custom_validation_failed"),
        ("5", {"width": 512}, "custom_validation_failed"),
        ("5", {"width": 16385}, "value_bigger_than_max"),
        ("5", {"crop": "left"}, "value_not_in_list"),
    ],
)
def test_values_that_comfyuis_own_nodes_refuse_are_refused(node, change, error):
    size = {"upscale_method": "area", "width": 0, "height": 0, "crop": "center"}
    graph = saving(
        ("SplitImageWithAlpha", {"image": ["6", 0]}),
        ("ImageScale", {"image": ["6", 0]} | size),
        ("JoinImageWithAlpha", {"image": ["1", 0], "alpha": ["3", 0]}),
        ("JoinImageWithAlpha", {"image": ["4", 0], "alpha": ["4", 1]}),
        ("AILab_ImageMaskConvert", {"image": ["5", 0], "mask": ["3", 0]}),
    )
    graph["4"]["inputs"]["image"] = ["6", 0]
    assert saved(graph)
    graph[node]["inputs"] |= change
    if node == "4":
        graph["4"]["inputs"]["image"] = ["1", 0]  # a photo without an alpha
        graph["9"]["inputs"]["images"] = ["7", 0]
    assert [each.type for each in refused(graph).nodes[node].errors] == [error]


def test_the_node_rmbg_applies_its_sensitivity_twice(graph):
    graph["2"] = {
        "class_type": "RMBG",
        "inputs": {
            "image": ["1", 0],
            "model": "RMBG-2.0",
            "sensitivity": 0.9,
            "process_res": 512,
            "mask_offset": -64,
        },
    }
    main = read_workflow(graph, MODELS).main
    assert main
    steps = (Enhancement(sensitivity=0.9), Enhancement(sensitivity=0.9, mask_offset=-64))
    assert (main.spec.preset.enhance, main.spec.resolution) == (steps, 512)
    for change in ({"model": "BEN2"}, {"process_res": 2056}, {"mask_offset": -65}):
        wrong = copy.deepcopy(graph)
        wrong["2"]["inputs"] |= change
        assert "2" in refused(wrong).nodes


def test_a_subgraph_is_read_as_the_nodes_in_it():
    workflow = read_workflow(SUBGRAPH, MODELS)
    specs = {output.node: output.spec for output in workflow.outputs}
    assert list(workflow.graph) == ["17", "18", "20", "19:13", "19:14", "19:15", "19:16"]
    assert workflow.graph["19:13"]["inputs"]["image"] == ["17", 0]
    assert (specs["18"].photo, specs["18"].preset, specs["18"].is_mask) == ("photo.jpg", RAW, False)
    assert (specs["20"].preset, specs["20"].is_mask) == (RAW, True)


def test_the_values_that_a_subgraph_shows_outside_replace_those_inside():
    document = copy.deepcopy(SUBGRAPH)
    document["nodes"][1]["widgets_values"] = ["other.safetensors"]
    assert "19:14" in refused(document).nodes
    main = read_workflow(document, MODELS | {"other.safetensors": "birefnet-lite"}).main
    assert main
    assert main.spec.model == "birefnet-lite"
    document["nodes"][1]["widgets_values"] = ["birefnet.safetensors", 3]
    assert "19" in refused(document).nodes


def test_a_subgraph_may_hold_another_but_not_itself():
    document = copy.deepcopy(SUBGRAPH)
    outer = {
        "id": "outer",
        "inputs": [{"name": "photo", "linkIds": [1]}],
        "outputs": [{"name": "IMAGE", "linkIds": [2]}, {"name": "mask", "linkIds": [3]}],
        "nodes": [ui_node(7, SUBGRAPH_TYPE, {"image": 1}, 2)],
        "links": [link(1, -10, 0, 7), link(2, 7, 0, -20), link(3, 7, 1, -20)],
    }
    document["definitions"]["subgraphs"].append(outer)
    document["nodes"][1] |= {"type": "outer", "inputs": [{"name": "photo", "link": 15}]}
    assert read_workflow(document, MODELS).graph["19:7:16"]["inputs"]["image"] == ["17", 0]
    assert saved(document) == RAW
    outer["nodes"][0]["mode"] = 4
    assert "19:7" in refused(document).details
    outer["nodes"] = [ui_node(7, "outer", {"photo": 1}), ui_node(8, "outer", {"photo": 1})]
    assert "more than 500 nodes" in refused(document).message


@pytest.mark.parametrize("text", ["@{image=photo.jpg}", "System.Collections.Hashtable"])
def test_what_powershell_cuts_by_default_is_refused_with_the_option_that_helps(graph, ui, text):
    """Windows PowerShell writes what is deeper than two levels as a string."""
    graph["1"]["inputs"] = text
    ui["nodes"][1]["inputs"] = [text, text]
    for document in (graph, ui):
        error = refused(document)
        assert "ConvertTo-Json -Depth 20" in error.body["error"]["message"]
        assert "ConvertTo-Json -Depth 20" in str(error)
    del graph["1"]
    assert "ConvertTo-Json" not in str(refused(graph))


def test_the_golden_answers_are_met(shared):
    """ComfyUI runs what is left of a prompt; we refuse one whose saved image cannot be had."""
    golden = json.loads((shared / "golden/comfyui/http_shapes.json").read_text())
    models = dict.fromkeys(("BiRefNet-general", "BiRefNet_lite"), "birefnet-general")
    asked = {name: case for name, case in golden["cases"].items() if "request" in case}
    assert len(asked) >= 5
    for name, case in asked.items():
        answer, graph = case["answer"], case["request"]["prompt"]
        if theirs := answer["body"]["node_errors"]:
            assert kinds(refused(graph).body["node_errors"]) == kinds(theirs), name
            continue
        found = read_workflow(graph, models)
        assert [output.node for output in found.outputs] == answer["outputs_that_will_run"]
        assert found.errors == {}


def kinds(errors: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the words of a tooltip."""
    return {
        node: (
            found["class_type"],
            sorted(found["dependent_outputs"]),
            [
                (entry["type"], entry["message"], entry["details"], sorted(entry["extra_info"]))
                for entry in found["errors"]
            ],
        )
        for node, found in errors.items()
    }


def test_every_node_type_describes_itself():
    for name, node in make_node_types(MODELS).items():
        info = node.info
        assert info["name"] == name
        assert len(info["output"]) == len(info["output_name"]) == len(info["output_is_list"])
        for group, names in info["input_order"].items():
            assert list(info["input"][group]) == names


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=JSON)
def test_whatever_stands_anywhere_in_a_workflow_it_is_read_or_refused(
    data: st.DataObject, value: Any
) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from([UI, API, SUBGRAPH])))
    place = document
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    with contextlib.suppress(WorkflowError):
        read_workflow(document, MODELS, lambda name: len(name) < 99)
