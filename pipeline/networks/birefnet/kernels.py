"""Operations of the fused network that Triton kernels do in one pass over memory.

torch sees each as one operation, whose result has a known shape, so that a pass can be traced, compiled,
captured in a CUDA graph, or counted on the meta device. They have no gradients.
"""

import torch
from torch import Tensor, nn

SAMPLES = 64  # samples of a program that samples: each copies the channels of four pixels
GELU_TILE = (128, 128, 64)  # rows, outputs and inputs that a program multiplies at a time
GELU_OPTIONS = {"num_warps": 8, "num_stages": 3}
QUERIES, KEYS = 64, 32  # slots of a window that a program of attention multiplies at a time
SMALLEST_DOT = 16  # of each side of a matrix product on tensor cores


class ModuleWithKernel(nn.Module):
    """A layer that can be computed by torch's operations or by a kernel."""

    kernel = False
    """Whether the kernel computes it."""


@torch.library.custom_op("bgpipe::sample_points", mutates_args=())
def sample_points(x: Tensor, points: Tensor, side: int) -> Tensor:
    """Sample x [B, H, W, C] at the taps of a kernel of `side`: [B, H, W, side^2 * C].

    points [B, H, W, 3 * side^2 or more], float32: the taps' offsets along y, those along x, and the
    logits of their weights.
    """
    from bgpipe.pipeline.networks.birefnet import triton_kernels

    batch, height, width, channels = x.shape
    taps = side * side
    out = x.new_empty(batch, height, width, taps * channels)
    count = batch * height * width * taps
    triton_kernels.sample[(_divide(count, SAMPLES),)](
        x.contiguous(),
        points.contiguous(),
        out,
        count,
        height,
        width,
        SIDE=side,
        TAPS=taps,
        POINTS=points.shape[3],
        CHANNELS=channels,
        BLOCK=SAMPLES,
        BLOCK_CHANNELS=_round_up(channels),
    )
    return out


@sample_points.register_fake
def _(x: Tensor, points: Tensor, side: int) -> Tensor:
    return x.new_empty(*x.shape[:3], side * side * x.shape[3])


@torch.library.custom_op("bgpipe::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return gelu(x @ weight.T + bias): x [..., inputs], weight [outputs, inputs]."""
    from bgpipe.pipeline.networks.birefnet import triton_kernels

    outputs, inputs = weight.shape
    out = x.new_empty(*x.shape[:-1], outputs)
    rows = x.numel() // inputs
    tall, wide, deep = GELU_TILE
    triton_kernels.linear_gelu[(_divide(rows, tall) * _divide(outputs, wide),)](
        x.contiguous(),
        weight.contiguous(),
        bias,
        out,
        rows,
        outputs,
        INPUTS=inputs,
        BLOCK_ROWS=tall,
        BLOCK_OUTPUTS=wide,
        BLOCK_INPUTS=deep,
        **GELU_OPTIONS,
    )
    return out


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("bgpipe::window_attention", mutates_args=())
def window_attention(
    qkv: Tensor, padding: Tensor, token: Tensor, kind: Tensor, bias: Tensor
) -> Tensor:
    """Attend inside windows: qkv [B, T, 3C] to [B, T, C].

    token [windows, N], the token of each slot, -1 for padding, whose query, key and value are `padding`
    [3C]; kind [windows], and the bias of each kind [kinds, heads, N, N or more].
    """
    from bgpipe.pipeline.networks.birefnet import triton_kernels

    batch, tokens, channels = qkv.shape
    windows, slots = token.shape
    heads = bias.shape[1]
    width = channels // 3 // heads
    out = qkv.new_empty(batch, tokens, channels // 3)
    triton_kernels.window_attention[(batch * windows, heads, _divide(slots, QUERIES))](
        qkv.contiguous(),
        padding,
        token,
        kind,
        bias.contiguous(),
        out,
        tokens,
        windows,
        width**-0.5,
        HEADS=heads,
        WIDTH=width,
        SLOTS=slots,
        BIAS_WIDTH=bias.shape[3],
        BLOCK_QUERIES=QUERIES,
        BLOCK_KEYS=KEYS,
        BLOCK_WIDTH=_round_up(width),
    )
    return out


@window_attention.register_fake
def _(qkv: Tensor, padding: Tensor, token: Tensor, kind: Tensor, bias: Tensor) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


def _divide(count: int, block: int) -> int:
    return -(-count // block)


def _round_up(width: int) -> int:
    """Return the next power of two that a program can multiply."""
    return max(SMALLEST_DOT, 1 << (width - 1).bit_length())
