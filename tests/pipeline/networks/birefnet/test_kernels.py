"""Triton kernels against torch's operations: on a GPU, and elsewhere through Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bgpipe.pipeline.networks.birefnet import kernels
from bgpipe.pipeline.networks.birefnet.deform_conv import sample_bilinear
from bgpipe.pipeline.networks.birefnet.fused import fuse
from bgpipe.pipeline.networks.birefnet.kernels import ModuleWithKernel
from bgpipe.pipeline.networks.birefnet.swin import WindowAttention, Windows

from .test_fused import plain
from .test_network_golden import SHIFTED, image

pytest.importorskip("triton", reason="Triton is for Linux")

HALF = 4e-3
"""Rounding of float16, at values around 2."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            "cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU does it")
        ),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    ("side", "dtype"),
    [(1, torch.float32), (3, torch.float16), (3, torch.bfloat16), (7, torch.float32)],
)
def test_taps_are_sampled_as_by_torch(
    side: int, dtype: torch.dtype, device: str, random: torch.Generator
) -> None:
    taps = side * side
    x = torch.randn(2, 6, 5, 7, generator=random).to(dtype)
    points = 2.5 * torch.randn(2, 5, 7, 3 * taps + 5, generator=random)  # the last ones are padding
    points[0, 1, 1, 0], points[1, 2, 3, taps] = torch.nan, 1e30
    sampled = kernels.sample_points(x.permute(0, 2, 3, 1).to(device), points.to(device), side).cpu()
    mask = points[..., 2 * taps : 3 * taps].sigmoid()
    given = torch.cat([points[..., : 2 * taps], mask], dim=3)
    expected = torch.cat(list(sample_bilinear(x.float(), given)), dim=1)
    assert expected.isnan().sum() == 6
    bound = 1e-5 if dtype is torch.float32 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(sampled.float(), expected, atol=bound, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(37, 24, 96), (300, 192, 136), (128, 64, 128)]
)
def test_a_linear_layer_with_gelu_is_torchs(
    rows: int, inputs: int, outputs: int, device: str, random: torch.Generator
) -> None:
    x = torch.randn(2, rows, inputs, generator=random).half()
    weight = (torch.randn(outputs, inputs, generator=random) / inputs**0.5).half()
    bias = torch.randn(outputs, generator=random).half()
    out = kernels.linear_gelu(*(each.to(device) for each in (x, weight, bias))).cpu()
    expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()))
    assert out.dtype is torch.float16
    torch.testing.assert_close(out.float(), expected, atol=HALF, rtol=0)


@pytest.mark.parametrize(
    ("window", "shift", "heads", "channels"), [(12, 6, 2, 64), (7, 0, 3, 72), (4, 2, 1, 16)]
)
def test_attention_in_windows_is_torchs(
    window: int, shift: int, heads: int, channels: int, device: str
) -> None:
    torch.manual_seed(1)
    layer, grids = WindowAttention(channels, heads, window, shift), [(20, 17), (10, 9)]
    nn.init.normal_(layer.relative_position_bias_table)
    nn.init.normal_(layer.qkv.bias)
    windows = Windows(grids, window, shift).to(device)(2)
    layer = layer.half().to(device)
    x = torch.randn(2, sum(height * width for height, width in grids), channels).half().to(device)
    with torch.inference_mode():
        layer.kernel = True
        out = layer(x, windows).cpu()
        layer.kernel = False
        expected = layer.float()(x.float(), windows).cpu()
    torch.testing.assert_close(out.float(), expected, atol=HALF, rtol=0)


@pytest.mark.slow
def test_a_network_of_kernels_gives_the_same_logits(device: str) -> None:
    fused = fuse(plain(SHIFTED), (32, 64)).to(device)
    pixels = image(32, 64).to(device)
    with torch.inference_mode():
        expected, _ = fused(pixels)
        with_kernel = [m for m in fused.modules() if isinstance(m, ModuleWithKernel)]
        assert {type(module).__name__ for module in with_kernel} == {
            "FusedDeformableBranch",
            "Mlp",
            "WindowAttention",
        }
        for module in with_kernel:
            module.kernel = True
        assert (fused(pixels)[0] - expected).abs().max() < (1e-4 if device == "cpu" else 1e-2)


COMPILE = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bgpipe.pipeline.networks.birefnet import kernels, triton_kernels

SIGNATURES = {
    "sample": dict(x="*fp16", points="*fp32", out="*fp16", count="i32", height="i32", width="i32"),
    "linear_gelu": dict(
        x="*fp16", weight="*fp16", bias="*fp16", out="*fp16", rows="i32", outputs="i32"
    ),
    "window_attention": dict(
        qkv="*fp16", padding="*fp16", token="*i64", kind="*i64", bias="*fp16", out="*fp16",
        tokens="i32", windows="i32", scale="fp32",
    ),
}
rows, outputs, inputs = kernels.GELU_TILE
CONSTANTS = {
    "sample": dict(SIDE=7, TAPS=49, POINTS=152, CHANNELS=64, BLOCK=kernels.SAMPLES, BLOCK_CHANNELS=64),
    "linear_gelu": dict(INPUTS=192, BLOCK_ROWS=rows, BLOCK_OUTPUTS=outputs, BLOCK_INPUTS=inputs),
    "window_attention": dict(
        HEADS=6, WIDTH=32, SLOTS=144, BIAS_WIDTH=144,
        BLOCK_QUERIES=kernels.QUERIES, BLOCK_KEYS=kernels.KEYS, BLOCK_WIDTH=32,
    ),
}
for name, types in SIGNATURES.items():
    function, constants = getattr(triton_kernels, name), CONSTANTS[name]
    names = function.arg_names
    aligned = {
        (names.index(each),): [["tt.divisibility", 16]]
        for each, kind in types.items()
        if kind[0] == "*" or each in {"rows", "outputs"}
    }
    signature = types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(function, signature, constexprs=constants, attrs=aligned)
    made = compile(source, GPUTarget("cuda", int(sys.argv[1]), 32), kernels.GELU_OPTIONS if name == "linear_gelu" else {})
    print(name, made.metadata.shared, "wgmma" in made.asm["ptx"], "ld.global.v4" in made.asm["ptx"])
"""
SHARED = {80: 163, 89: 99, 90: 227}
"""KiB of shared memory that a program may use."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
def test_kernels_compile_for_gpus_that_are_not_here(capability: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    rows = {name: values for name, *values in map(str.split, done.stdout.splitlines())}
    assert all(int(shared) <= 1024 * SHARED[capability] for shared, *_ in rows.values())
    assert rows["sample"][2] == "True"  # 16 bytes at a time
    multiplies = rows["linear_gelu"][1], rows["window_attention"][1]
    assert multiplies == (str(capability == 90),) * 2  # by Hopper's own instruction
