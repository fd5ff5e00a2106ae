"""The faults that `run.py` plants, and the tests that must fail with each."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """Replaces `old`, which the file must hold exactly once, with `new`; `tests` are arguments of pytest."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ATTENTION = "tests/core/test_attention.py"
SHORT = "tests/kernels/test_short_sequences.py"


def interpreted(test: str, *words: str) -> tuple[str, ...]:
    """A test's float32 cases on the kernels in the interpreter, whose ids hold the words."""
    return (test, "-k", " and ".join(["triton-fp32-cpu", *words]))


# One kernel each: tiles, one pass over tiles, two passes over tiles, few keys, streamed keys, short sequences.
TILES = interpreted(f"{ATTENTION}::test_presets", "region_mask")  # region_mask_leaky too
ONE_PASS = interpreted(f"{ATTENTION}::test_presets", "fame-")
TWO_PASSES = interpreted(f"{ATTENTION}::test_presets", "random")
WEIGHTED_TILES = interpreted(f"{ATTENTION}::test_key_weight", "97", "random")
FEW_KEYS = interpreted(f"{ATTENTION}::test_text_keys", "fame-77")
WEIGHTED_FEW_KEYS = interpreted(f"{ATTENTION}::test_key_weight", "77", "random")
STREAMED_KEYS = interpreted(f"{ATTENTION}::test_text_keys", "fame-512")
SEQUENCES = interpreted(f"{SHORT}::test_presets", "8-random")
SDPA_RUNS = (f"{ATTENTION}::test_presets[fame-sdpa-fp32-cpu]",)
SDPA_PAIRS = (f"{ATTENTION}::test_key_weight", "-k", "sdpa-fp32-cpu and 97 and random")
PLAN = "tests/core/test_plan.py"
PROCESSORS = ("tests/adapter/test_processors.py",)

KERNEL_FAULTS = [
    Fault(
        "lse in base-2 units",
        "kernels/softmax.py",
        "tl.log2(tl.where(empty, 1.0, row_sum))) * LN2)",
        "tl.log2(tl.where(empty, 1.0, row_sum))))",
        TILES,
    ),
    Fault(
        "a short tile sums one key too many",
        "kernels/softmax.py",
        "tl.where(tl.arange(0, weights.shape[1]) < length, 1.0, 0.0)",
        "tl.where(tl.arange(0, weights.shape[1]) <= length, 1.0, 0.0)",
        TILES,
    ),
    Fault(
        "the accumulator is not rescaled to a new row maximum",
        "kernels/softmax.py",
        "acc_head, acc_tail = rescale(acc_head, acc_tail, factor, TAIL)\n    return weights",
        "return weights",
        TILES,
    ),
    Fault(
        "two groups merge without the lse of their union",
        "kernels/softmax.py",
        "other / total, top + tl.log(total)",
        "other / total, top",
        ONE_PASS,
    ),
    Fault(
        "short tiles run through the loop without a bounds mask",
        "kernels/attention.py",
        "            True, False, BLOCK_K",
        "            False, False, BLOCK_K",
        TILES,
    ),
    Fault(
        "the bias of a tile pair comes one iteration late",
        "kernels/key_loop.py",
        "entry_of(pair_value + 1, pair + 1, last)",
        "entry_of(pair_value + 1, pair, last)",
        TILES,
    ),
    Fault(
        "the key loop starts at its second pair",
        "kernels/key_loop.py",
        "    for pair in range(first, last):",
        "    for pair in range(first + 1, last):",
        TILES,
    ),
    Fault(
        "the lowest logit of a row is its highest",
        "kernels/extremes.py",
        "tl.minimum(low_parts, part_minima(logits, PARTS))",
        "tl.minimum(low_parts, part_maxima(logits, PARTS))",
        TWO_PASSES,
    ),
    Fault(
        "a short tile's extremes include the key after it",
        "kernels/tiles.py",
        "tl.minimum(lane, length - 1) if SHORT and REPEAT else lane",
        "tl.minimum(lane, length) if SHORT and REPEAT else lane",
        TWO_PASSES,
    ),
    Fault(
        "short tiles of the same region move toward the lowest logit",
        "kernels/modulated.py",
        "row_high if part % 2 == 0 else row_low",
        "row_high if part == 0 else row_low",
        TWO_PASSES,
    ),
    Fault(
        "tiles whose weights lost their precision are not done again",
        "kernels/modulated.py",
        "(least < least_sum).to(tl.int32)",
        "(least < 0.0).to(tl.int32)",
        interpreted(f"{ATTENTION}::test_rows_far_below_their_pivot", "underflow"),
    ),
    Fault(
        "the logits of a weighted key move twice",
        "kernels/modulated.py",
        "            strength = 0.0\n",
        "",
        WEIGHTED_TILES,
    ),
    Fault(
        "one pass: the two groups exchange their strengths",
        "kernels/one_pass.py",
        "strength * (strength_other if LAST else strength_same)",
        "strength * (strength_same if LAST else strength_other)",
        interpreted(f"{ATTENTION}::test_strengths_of_same_and_other_regions"),
    ),
    Fault(
        "one pass: a group's lse leaves out how far its logits moved",
        "kernels/one_pass.py",
        "row_lse + amount * strength_other *",
        "row_lse + 0.0 * strength_other *",
        ONE_PASS,
    ),
    Fault(
        "one pass: the merge takes every row strength as 1",
        "kernels/one_pass.py",
        "amount = base2_scale * LN2 * strength\n",
        "amount = base2_scale * LN2\n",
        ONE_PASS,
    ),
    Fault(
        "the column of ones lies over the last channel",
        "kernels/pack.py",
        "tl.where(dim[None, :] == D, 1.0, block)",
        "tl.where(dim[None, :] == D - 1, 1.0, block)",
        interpreted(f"{ATTENTION}::test_out_without_lse", "40"),
    ),
    Fault(
        "logits move away from the extremes",
        "kernels/pairs.py",
        "        return s - change\n",
        "        return s + change\n",
        FEW_KEYS,
    ),
    Fault(
        "key weights are read and not used",
        "kernels/pairs.py",
        "s - weight[None, :] * change",
        "s - change",
        WEIGHTED_FEW_KEYS,
    ),
    Fault(
        "excluded keys count among a row's extremes",
        "kernels/pairs.py",
        'bias_other[:, None]) > -float("inf")',
        'bias_other[:, None]) >= -float("inf")',
        (f"{ATTENTION}::test_rows_without_keys", "-k", "triton and cpu and 1.0-True"),
    ),
    Fault(
        "the last query tile is lost",
        "kernels/few_keys.py",
        "tl.cdiv(num_queries, BLOCK_Q), programs_per_head",
        "num_queries // BLOCK_Q, programs_per_head",
        FEW_KEYS,
    ),
    Fault(
        "the second block of keys is missing from the extremes",
        "kernels/few_keys.py",
        "                high, low = widen(rest_s, rest_same, bias_same, bias_other, high, low, HAS_BIAS)\n",
        "",
        FEW_KEYS,
    ),
    Fault(
        "the sum of the weights is not rescaled to a new row maximum",
        "kernels/streamed_keys.py",
        "row_sum * shrink + real_sum",
        "row_sum + real_sum",
        STREAMED_KEYS,
    ),
    Fault(
        "pairs of the same region move toward the lowest logit",
        "kernels/short_sequences.py",
        "tl.where(strength > 0, 0.0,",
        "tl.where(strength < 0, 0.0,",
        SEQUENCES,
    ),
    Fault(
        "pairs of the same region read the table of the others",
        "kernels/short_sequences.py",
        "same_index = index + query_frames * key_frames",
        "same_index = index",
        SEQUENCES,
    ),
    Fault(
        "all batch items take the plan of the first",
        "kernels/launch.py",
        "return tensor.stride(0) if tensor.shape[0] > 1 else 0",
        "return 0",
        interpreted(f"{ATTENTION}::test_batched_layouts", "both", "fame"),
    ),
]

ADAPTER_FAULTS = [
    Fault(
        "norm_q is left out",
        "fame_accel/adapter/processors.py",
        "query if attn.norm_q is None else attn.norm_q(query)",
        "query",
        PROCESSORS,
    ),
    Fault(
        "norm_k is left out",
        "fame_accel/adapter/processors.py",
        "key if attn.norm_k is None else attn.norm_k(key)",
        "key",
        PROCESSORS,
    ),
    Fault(
        "norm_cross is left out",
        "fame_accel/adapter/processors.py",
        "text = attn.norm_encoder_hidden_states(text)",
        "pass",
        PROCESSORS,
    ),
    Fault(
        "the residual connection is left out",
        "fame_accel/adapter/processors.py",
        "out = out + hidden_states",
        "pass",
        PROCESSORS,
    ),
    Fault(
        "rescale_output_factor is left out",
        "fame_accel/adapter/processors.py",
        "return out / attn.rescale_output_factor",
        "return out",
        PROCESSORS,
    ),
    Fault(
        "the unconditional part is modulated too",
        "fame_accel/adapter/state.py",
        'parts - 1 if self.config.guidance == "conditional" else 0',
        "0",
        PROCESSORS,
    ),
    Fault(
        "every part takes the text of the first",
        "fame_accel/adapter/processors.py",
        "encoder_hidden_states.unflatten(0, (call.parts, call.frames))[:, 0]",
        "encoder_hidden_states.unflatten(0, (call.frames, call.parts))[0]",
        PROCESSORS,
    ),
    Fault(
        "the schedule is linear",
        "fame_accel/adapter/state.py",
        "(max(step - 1, 0.0) / steps) ** self.config.power",
        "max(step - 1, 0.0) / steps",
        PROCESSORS,
    ),
    Fault(
        "odd sizes are halved downwards",
        "fame_accel/adapter/state.py",
        "(height + 1) // 2, (width + 1) // 2",
        "height // 2, width // 2",
        (f"{PROCESSORS[0]}::test_odd_sizes_that_halve_twice",),
    ),
    Fault(
        "a prompt changed in place is taken for the one known",
        "fame_accel/adapter/state.py",
        " and known_version == version",
        "",
        (f"{PROCESSORS[0]}::test_prompt_changed_in_place_is_checked_again",),
    ),
]

PLAN_FAULTS = [
    Fault(
        "regions are shared only where the bitsets are equal",
        "fame_accel/core/tiles.py",
        "((query_runs[run, 3] & key_runs[key_run, 3]) != 0).long()",
        "(query_runs[run, 3] == key_runs[key_run, 3]).long()",
        (f"{PLAN}::test_presets", "-k", "overlapping and videograin"),
    ),
    Fault(
        "excluded pairs are planned",
        "fame_accel/core/tiles.py",
        "seen = (bias > -math.inf)",
        "seen = (bias >= -math.inf)",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "the lists of pairs end one early",
        "fame_accel/core/tiles.py",
        "ends = count.flatten().cumsum(0).view(-1, 4)",
        "ends = count.flatten().cumsum(0).view(-1, 4) - 1",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "full key tiles are listed as short",
        "fame_accel/core/tiles.py",
        "(key_tiles[tile, 1] < block_k)",
        "(key_tiles[tile, 1] <= block_k)",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "the short last tile of a run is lost",
        "fame_accel/core/tiles.py",
        "pieces = (length + block - 1) // block",
        "pieces = length // block",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "frames that differ in the bias of one region alone share a class",
        "fame_accel/core/tables.py",
        "query_class = tables.transpose(0, 1)",
        "query_class = tables[:3].transpose(0, 1)",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "runs do not tell classes of frames apart",
        "fame_accel/core/runs.py",
        "(int(frame_class.max()) + 1) + classes",
        "(int(frame_class.max()) + 1)",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "tokens keep their own order",
        "fame_accel/core/runs.py",
        "Runs(order.to(torch.int32)",
        "Runs(order.sort()[0].to(torch.int32)",
        (f"{PLAN}::test_presets", "-k", "mixed and region_mask"),
    ),
    Fault(
        "a layout takes the plan of another modulation",
        "fame_accel/core/planning.py",
        "(backend, kernel, blocks, modulation)",
        "(backend, kernel, blocks)",
        (f"{ATTENTION}::test_modulations_in_turn[sdpa-fp32-cpu]",),
    ),
]

BINDING_FAULTS = [
    Fault(
        "runs: the highest and the lowest logit exchange places",
        "bindings/run_attention.py",
        "torch.cat([logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)], -1)",
        "torch.cat([logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)], -1)",
        SDPA_RUNS,
    ),
    Fault(
        "runs: the output stays in the order of the plan",
        "bindings/run_attention.py",
        "out[batch].index_copy_(2, order_q.long(), ordered_out)",
        "out[batch].copy_(ordered_out)",
        SDPA_RUNS,
    ),
    Fault(
        "runs: lse stays in the order of the plan",
        "bindings/run_attention.py",
        "lse[batch].index_copy_(2, order_q.long(), ordered_lse)",
        "lse[batch].copy_(ordered_lse)",
        SDPA_RUNS,
    ),
    Fault(
        "pairs: row strengths are not used",
        "bindings/pairwise.py",
        "toward_low = toward_low * row_strength[:, None, rows, None]",
        "pass",
        SDPA_PAIRS,
    ),
    Fault(
        "pairs: all are moved toward the highest logit",
        "bindings/pairwise.py",
        "toward_high = toward_low * same[:, None]",
        "toward_high = toward_low",
        SDPA_PAIRS,
    ),
    Fault(
        "pairs: excluded keys count among a row's extremes",
        "bindings/pairwise.py",
        "torch.zeros_like(bias).masked_fill_(~shown, -math.inf)",
        "torch.zeros_like(bias)",
        SDPA_PAIRS,
    ),
    Fault(
        "lse is the highest logit",
        "bindings/products.py",
        "highest - weights.amax(-1).log()",
        "highest",
        SDPA_PAIRS,
    ),
    Fault(
        "torch's attention gets channels that do not lie side by side",
        "bindings/torch_attention.py",
        "(x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))",
        "(query, key, value)",
        (f"{ATTENTION}::test_strides", "-k", "sdpa-fp32-cpu and plain"),
    ),
    Fault(
        "key weights stay in the order of the keys",
        "bindings/tile_ops.py",
        "key_weight = key_weight.expand(items, -1).gather(1, key_order.expand(items, -1).long())",
        "key_weight = key_weight.expand(items, -1).contiguous()",
        WEIGHTED_TILES,
    ),
]

FAULTS = [*KERNEL_FAULTS, *PLAN_FAULTS, *BINDING_FAULTS, *ADAPTER_FAULTS]
