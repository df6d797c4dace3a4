"""Triton kernels for what torch does in several passes over memory. kernels.py calls them.

Each multiplies half precision, accumulates in float32 and rounds once. Nothing is added in an order that
changes between runs, so that the same inputs give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sample(
    x: tl.tensor,  # [B, height, width, CHANNELS]
    points: tl.tensor,  # [B, height, width, POINTS], float32: y, x and logit of the mask of each tap
    out: tl.tensor,  # [B, height, width, TAPS * CHANNELS]
    count: tl.tensor,  # B * height * width * TAPS
    height: tl.tensor,
    width: tl.tensor,
    SIDE: tl.constexpr,  # of the kernel: TAPS is its square
    TAPS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """Sample x bilinearly at BLOCK displaced taps; outside of it are zeros, corner by corner."""
    taken = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = taken < count
    pixel, tap = taken // TAPS, (taken % TAPS).to(tl.int32)
    column = (pixel % width).to(tl.int32)
    line = (pixel // width % height).to(tl.int32)
    image = pixel // width // height
    point = points + pixel * POINTS + tap
    y = tl.load(point, mask=exists, other=0.0) + (line + tap // SIDE - SIDE // 2).to(tl.float32)
    at = tl.load(point + TAPS, mask=exists, other=0.0)
    at += (column + tap % SIDE - SIDE // 2).to(tl.float32)
    mask = tl.sigmoid(tl.load(point + 2 * TAPS, mask=exists, other=0.0))
    # Comparisons instead of a minimum and a maximum, which may drop a NaN.
    y = tl.where(y < -1, -1.0, tl.where(y > height, height.to(tl.float32), y))
    at = tl.where(at < -1, -1.0, tl.where(at > width, width.to(tl.float32), at))
    top, left = tl.floor(y), tl.floor(at)
    down, right = y - top, at - left
    first_row = tl.where(top == top, top, -2.0).to(tl.int32)  # a NaN position reads nothing
    first_place = tl.where(left == left, left, -2.0).to(tl.int32)
    channel = tl.arange(0, BLOCK_CHANNELS)
    total = tl.zeros((BLOCK, BLOCK_CHANNELS), tl.float32)
    for corner in tl.static_range(4):
        row, place = first_row + corner // 2, first_place + corner % 2
        weight = mask * (down if corner // 2 else 1 - down) * (right if corner % 2 else 1 - right)
        inside = exists & (row >= 0) & (row < height) & (place >= 0) & (place < width)
        address = ((image * height + row) * width + place) * CHANNELS
        value = tl.load(
            x + address[:, None] + channel[None, :],
            mask=inside[:, None] & (channel < CHANNELS)[None, :],
            other=0.0,
        )
        total += weight[:, None] * value.to(tl.float32)
    tl.store(
        out + taken[:, None] * CHANNELS + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=exists[:, None] & (channel < CHANNELS)[None, :],
    )


@triton.jit
def linear_gelu(
    x: tl.tensor,  # [rows, INPUTS]
    weight: tl.tensor,  # [outputs, INPUTS]
    bias: tl.tensor,
    out: tl.tensor,  # [rows, outputs]
    rows: tl.tensor,
    outputs: tl.tensor,
    INPUTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    """Compute one tile of gelu(x @ weight.T + bias), with the exact (erf) gelu."""
    # Tiles of the same rows follow each other, so that x is read from memory once.
    across = tl.cdiv(outputs, BLOCK_OUTPUTS)
    row = (tl.program_id(0) // across).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    output = tl.program_id(0) % across * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.float32)
    for start in range(0, INPUTS, BLOCK_INPUTS):
        place = start + tl.arange(0, BLOCK_INPUTS)
        left = tl.load(
            x + row[:, None] * INPUTS + place[None, :],
            mask=(row < rows)[:, None] & (place < INPUTS)[None, :],
            other=0.0,
        )
        right = tl.load(
            weight + output[None, :] * INPUTS + place[:, None],
            mask=(output < outputs)[None, :] & (place < INPUTS)[:, None],
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision="ieee")
    total += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    total = 0.5 * total * (1 + tl.erf(total * 0.7071067811865476))
    tl.store(
        out + row[:, None] * outputs + output[None, :],
        total.to(out.dtype.element_ty),
        mask=(row < rows)[:, None] & (output < outputs)[None, :],
    )


@triton.jit
def _load_heads(
    qkv: tl.tensor,
    padding: tl.tensor,
    row: tl.tensor,  # of each slot, negative for padding
    offset: tl.tensor,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> tl.tensor:
    """Load WIDTH channels from `offset` on, of tokens or of padding."""
    channel = tl.arange(0, BLOCK_WIDTH)
    exists = (channel < WIDTH)[None, :]
    token = tl.load(
        qkv + row[:, None] * (3 * CHANNELS) + (offset + channel)[None, :],
        mask=exists & (row >= 0)[:, None],
        other=0.0,
    )
    constant = tl.load(padding + (offset + channel)[None, :], mask=exists, other=0.0)
    return tl.where((row >= 0)[:, None], token, constant)


@triton.jit
def window_attention(
    qkv: tl.tensor,  # [B, tokens, 3 * HEADS * WIDTH]
    padding: tl.tensor,  # [3 * HEADS * WIDTH]
    token: tl.tensor,  # [windows, SLOTS]: -1 for padding
    kind: tl.tensor,  # [windows]
    bias: tl.tensor,  # [kinds, HEADS, SLOTS, BIAS_WIDTH]
    out: tl.tensor,  # [B, tokens, HEADS * WIDTH]
    tokens: tl.tensor,
    windows: tl.tensor,
    scale: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    BIAS_WIDTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """Attend from some queries of a window to all of its slots, for one head; softmax as it goes."""
    CHANNELS: tl.constexpr = HEADS * WIDTH
    window, head = tl.program_id(0) % windows, tl.program_id(1)
    start = (tl.program_id(0) // windows).to(tl.int64) * tokens
    query = tl.program_id(2) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    asked = tl.load(token + window * SLOTS + query, mask=query < SLOTS, other=-1).to(tl.int64)
    row = tl.where(asked >= 0, start + asked, -1)
    q = _load_heads(qkv, padding, row, head * WIDTH, CHANNELS, WIDTH, BLOCK_WIDTH)
    plane = (tl.load(kind + window) * HEADS + head) * SLOTS
    highest = tl.full((BLOCK_QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_QUERIES,), tl.float32)
    mixed = tl.zeros((BLOCK_QUERIES, BLOCK_WIDTH), tl.float32)
    for first in range(0, SLOTS, BLOCK_KEYS):
        key = first + tl.arange(0, BLOCK_KEYS)
        held = tl.load(token + window * SLOTS + key, mask=key < SLOTS, other=-1).to(tl.int64)
        place = tl.where(held >= 0, start + held, -1)
        k = _load_heads(qkv, padding, place, CHANNELS + head * WIDTH, CHANNELS, WIDTH, BLOCK_WIDTH)
        v = _load_heads(
            qkv, padding, place, 2 * CHANNELS + head * WIDTH, CHANNELS, WIDTH, BLOCK_WIDTH
        )
        given = tl.load(
            bias + (plane + query)[:, None] * BIAS_WIDTH + key[None, :],
            mask=(query < SLOTS)[:, None] & (key < SLOTS)[None, :],
            other=0.0,
        )
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + given.to(tl.float32)
        score = tl.where((key < SLOTS)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        share = tl.exp(score - above[:, None])
        fade = tl.exp(highest - above)
        total = total * fade + tl.sum(share, 1)
        mixed = tl.dot(share.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
        highest = above
    channel = tl.arange(0, BLOCK_WIDTH)
    tl.store(
        out + row[:, None] * CHANNELS + (head * WIDTH + channel)[None, :],
        (mixed / total[:, None]).to(out.dtype.element_ty),
        mask=((query < SLOTS) & (asked >= 0))[:, None] & (channel < WIDTH)[None, :],
    )
