"""Plain attention with its logsumexp on whatever torch has for the device, in O(N) extra memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .library import empty_outputs
from .products import ChunkedAttention, Place, onednn_pays
from .strides import readable


def attend(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q @ k^T + key_bias) @ v and its lse.

    query [B, H, Nq, D], key and value [B, H, Nk, D] with Nk >= 1; key_bias [Nk] float32, finite, or None. Returns
    out [B, H, Nq, D] in the query's dtype and lse [B, H, Nq] float32, which may be anything without with_lse.
    """
    if query.device.type == "cuda":
        return _attend_cuda(query, key, value, key_bias, scale)
    if takes_chunks(query.device, query.dtype, query.shape[2], *key.shape[2:]):
        return _attend_chunked(query, key, value, key_bias, scale, with_lse)
    return _attend_cpu(query, key, value, key_bias, scale)


def takes_chunks(device: torch.device, dtype: torch.dtype, queries: int, keys: int, head_dim: int) -> bool:
    """Whether attention goes by matrix products in chunks: there is nothing else, or it is faster."""
    if device.type not in ("cpu", "cuda"):
        return True
    # few queries do not make up for keys that are copied
    return dtype == torch.float32 and queries >= 256 and onednn_pays(device, queries, keys, head_dim)


def _attend_cpu(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    # the kernel reads rows as if their numbers lay side by side
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    mask = None if key_bias is None else key_bias[None, None, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask, scale=scale)


def _attend_cuda(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The memory-efficient kernel: any dtype, a bias broadcast over rows. It wants aligned rows, hence the padding."""
    batch, heads, num_queries, head_dim = query.shape
    num_keys = key.shape[2]
    if head_dim % 8:
        query, key, value = (pad(x, (0, -head_dim % 8)) for x in (query, key, value))
    query, key, value = (readable(x, aligned=True) for x in (query, key, value))
    bias, top = None, 0.0
    if key_bias is not None:  # in the query's dtype, whose range it may pass: counted from its maximum
        top = key_bias.max()
        bias = (key_bias - top).clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
        bias = pad(bias, (0, -num_keys % 16))[:num_keys].expand(batch, heads, num_queries, num_keys)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)
    return out[..., :head_dim], lse[..., :num_queries].float() + top


def _attend_chunked(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    out, lse = empty_outputs(query)
    chunked = ChunkedAttention(query, key, value, scale, out, lse if with_lse else None)

    def attend_to(places: list[Place]) -> None:
        for place in places:
            logits = chunked.logits(place)
            if key_bias is not None:
                logits += key_bias
            chunked.finish(logits, place)
            del logits  # its memory is free for the next

    chunked.each(attend_to)
    return out, lse
