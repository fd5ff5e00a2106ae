"""Plain attention with its logsumexp on whatever torch has for the device, in O(N) extra memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .library import empty_outputs
from .products import ChunkedAttention, ChunkIndex, onednn_pays
from .strides import with_supported_strides

CUDA_BATCH = 65_535  # items of one call: the memory-efficient kernel's grid has one entry each, and no more


def attend(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q @ k^T + key_bias) @ v and its lse.

    Args:
        query, key, value: [B, H, Nq, D], and twice [B, H, Nk, D] with Nk >= 1.
        key_bias: float32 [Nk], finite, or None.
        scale: of the logits.
        with_lse: whether lse is wanted.

    Returns:
        out [B, H, Nq, D] in the query's dtype, and lse float32 [B, H, Nq], undefined without `with_lse`.
    """
    if query.device.type == "cuda":
        return _attend_cuda_in_parts(query, key, value, key_bias, scale)
    if takes_chunks(query.device, query.dtype, query.shape[2], *key.shape[2:]):
        return _attend_chunked(query, key, value, key_bias, scale, with_lse)
    return _attend_cpu(query, key, value, key_bias, scale)


def takes_chunks(device: torch.device, dtype: torch.dtype, queries: int, keys: int, head_dim: int) -> bool:
    """Whether attention goes by matrix products in chunks, because there is nothing else or it is faster."""
    if device.type not in ("cpu", "cuda"):
        return True
    # few queries do not make up for keys that are copied
    return dtype == torch.float32 and queries >= 256 and onednn_pays(device, queries, keys, head_dim)


def _attend_cpu(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    # the kernel assumes that the channels of a row lie side by side
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    mask = None if key_bias is None else key_bias[None, None, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask, scale=scale)


def _attend_cuda_in_parts(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    parts = [
        _attend_cuda(q, k, v, key_bias, scale)
        for q, k, v in zip(query.split(CUDA_BATCH), key.split(CUDA_BATCH), value.split(CUDA_BATCH), strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])


def _attend_cuda(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The memory-efficient kernel: any dtype, a bias broadcast over rows. It wants aligned rows, hence the padding."""
    batch, heads, num_queries, head_dim = query.shape
    num_keys = key.shape[2]
    if head_dim % 8:
        query, key, value = (pad(x, (0, -head_dim % 8)) for x in (query, key, value))
    query, key, value = (with_supported_strides(x, aligned=True) for x in (query, key, value))
    bias, top = None, query.new_zeros((), dtype=torch.float32)
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

    def attend_to(chunks: list[ChunkIndex]) -> None:
        for chunk in chunks:
            logits = chunked.logits(chunk)
            if key_bias is not None:
                logits += key_bias
            chunked.finish(logits, chunk)
            del logits  # its memory is free for the next

    chunked.run(attend_to)
    return out, lse
