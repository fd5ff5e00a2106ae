"""What is timed: a function of the inputs returns the call and how its plan is made, or says why it cannot run.

ours                 the Triton kernels through the public function
yardstick            plain flash attention in the style of our kernels, benchmarks/yardstick.py
sdpa_flash, _cudnn   torch's plain attention. They take no mask, bias or strength, so like the yardstick they are timed
                     on plain attention alone: the floor of every modulation at that shape
sdpa_efficient_bias  torch's memory-efficient attention with the hard mask and the decay as one dense N x N bias
flex, flex_sorted    FlexAttention with a block mask, tokens as they come and sorted by region; see benchmarks/flex.py
flex_three_pass      FlexAttention with extremes from two calls before it
eager                the reference, over as many heads at once as the memory takes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from fame_accel.kernels.launch_table import choose_launch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import fame_accel as fa
from benchmarks import flex
from benchmarks.inputs import Inputs
from benchmarks.yardstick import yardstick_call

_FAMILIES = {(8, 0): "sm80", (9, 0): "sm90", (10, 0): "sm100"}
_EAGER_BYTES = (16, 24)  # of the reference in half precision, per pair: for all heads together, and for each


@dataclass(frozen=True)
class Prepared:
    """call: [B, H, Nq, D]. replan: makes the plan anew, or forgets it so that the next call does; None without a plan.
    judged: whether the result is held against the 2x rule; eager is what that rule compares with."""

    call: Callable[[], Tensor]
    replan: Callable[[], object] | None = None
    note: str = ""
    judged: bool = True


def ours(inputs: Inputs) -> Prepared | str:
    x = inputs

    def call() -> Tensor:
        return fa.layout_attention(
            x.query, x.key, x.value, x.query_layout, x.key_layout, backend="triton", **x.options
        )  # fmt: skip

    return Prepared(call, replan=x.query_layout.plans.clear)


def yardstick(inputs: Inputs) -> Prepared | str:
    query, key, value = inputs.query, inputs.key, inputs.value
    head_dim, device = query.shape[-1], inputs.device
    family = "interpreter"
    if device.type == "cuda":
        family = _FAMILIES.get(torch.cuda.get_device_capability(device), "sm86")
    launch = choose_launch("tiled", family, head_dim, query.element_size())
    if query.shape[2] % launch.block_q or key.shape[2] % launch.block_k:
        return f"needs lengths that are multiples of {launch.block_q} and {launch.block_k}"
    scale = head_dim**-0.5

    def call() -> Tensor:
        out = torch.empty_like(query)
        launched = yardstick_call(query, key, value, out, scale, launch)
        launched.kernel[launched.grid](**launched.arguments, **launched.options)
        return out

    return Prepared(call, note=f"tiles {launch.block_q}x{launch.block_k}")


def sdpa_flash(inputs: Inputs) -> Prepared | str:
    return _sdpa(inputs, SDPBackend.FLASH_ATTENTION)


def sdpa_cudnn(inputs: Inputs) -> Prepared | str:
    if inputs.device.type != "cuda":
        return "needs CUDA"
    return _sdpa(inputs, SDPBackend.CUDNN_ATTENTION)


def sdpa_efficient_bias(inputs: Inputs) -> Prepared | str:
    if inputs.device.type != "cuda":
        return "needs CUDA"
    queries, keys, dtype = inputs.shape.queries, inputs.shape.keys, inputs.query.dtype
    size = queries * keys * dtype.itemsize
    if (missing := _too_large(2 * size, inputs.device)) is not None:
        return f"dense bias of {size / 2**30:.0f} GiB: {missing}"
    batch, heads = inputs.query.shape[:2]
    kept: dict[str, Tensor] = {}

    def make() -> None:
        kept.clear()
        kept["bias"] = dense_bias(inputs, dtype).expand(batch, heads, -1, -1)

    def call() -> Tensor:
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            return scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, attn_mask=kept["bias"])

    make()
    return Prepared(call, make, f"besides peak_mib the bias takes {size / 2**20:.0f} MiB")


def flex_in_order(inputs: Inputs) -> Prepared | str:
    call, make = flex.masked(inputs, sort=False)
    return Prepared(call, make)


def flex_sorted(inputs: Inputs) -> Prepared | str:
    call, make = flex.masked(inputs, sort=True)
    return Prepared(call, make, "sorting and putting back are timed")


def flex_three_pass(inputs: Inputs) -> Prepared | str:
    return Prepared(flex.three_passes(inputs), note="maxima, minima, attention")


def eager(inputs: Inputs) -> Prepared | str:
    batch, heads = inputs.query.shape[:2]
    pairs = inputs.shape.queries * inputs.shape.keys
    shared, each = (cost * pairs * inputs.query.element_size() // 2 for cost in _EAGER_BYTES)
    if (missing := _too_large(shared + each, inputs.device)) is not None:
        return missing
    room = (_free_bytes(inputs.device) - shared) // each
    step = max(step for step in range(1, heads + 1) if heads % step == 0 and (step <= room or step == 1))

    def call() -> Tensor:
        out = torch.empty_like(inputs.query)
        for item in range(batch):
            for head in range(0, heads, step):
                place = (slice(item, item + 1), slice(head, head + step))
                out[place] = fa.reference.layout_attention(
                    inputs.query[place], inputs.key[place], inputs.value[place], inputs.query_layout,
                    inputs.key_layout, **inputs.options,
                )  # fmt: skip
        return out

    return Prepared(call, note=f"{step} of {heads} heads at once", judged=False)


@dataclass(frozen=True)
class Provider:
    """late: comes after those that compile fast, at the shapes that are not main ones."""

    prepare: Callable[[Inputs], Prepared | str]
    kinds: tuple[str, ...]  # of operations: plain, hard, pulled
    late: bool = False


# In the order of a shape: what ratios are taken to comes first.
PROVIDERS = {
    "sdpa_flash": Provider(sdpa_flash, ("plain",)),
    "sdpa_cudnn": Provider(sdpa_cudnn, ("plain",)),
    "yardstick": Provider(yardstick, ("plain",)),
    "eager": Provider(eager, ("plain", "hard", "pulled")),
    "ours": Provider(ours, ("plain", "hard", "pulled")),
    "sdpa_efficient_bias": Provider(sdpa_efficient_bias, ("hard",)),
    "flex": Provider(flex_in_order, ("hard",), late=True),
    "flex_sorted": Provider(flex_sorted, ("hard",), late=True),
    "flex_three_pass": Provider(flex_three_pass, ("pulled",), late=True),
}


def dense_bias(inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """B of every pair, [1, 1, Nq, Nk], made in slices of rows."""
    layout, keys = inputs.query_layout, inputs.key_layout
    table = inputs.modulation.bias_table.to(inputs.device, dtype)
    bias = torch.empty(1, 1, layout.num_tokens, keys.num_tokens, device=inputs.device, dtype=dtype)
    for rows in torch.arange(layout.num_tokens, device=inputs.device).split(2048):
        same = (layout.region[0, rows, None] & keys.region[0]) != 0
        bias[0, 0, rows] = table[same.long(), layout.frame[0, rows, None].long(), keys.frame[0].long()]
    return bias


def _sdpa(inputs: Inputs, backend: SDPBackend) -> Prepared:
    def call() -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(inputs.query, inputs.key, inputs.value)

    return Prepared(call)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 1 << 30  # a dry run
    torch.cuda.empty_cache()
    return int(0.9 * torch.cuda.mem_get_info(device)[0])


def _too_large(size: int, device: torch.device) -> str | None:
    """Why `size` bytes cannot be had."""
    free = _free_bytes(device)
    return f"needs about {size / 2**30:.0f} GiB, {free / 2**30:.0f} are free" if size > free else None
