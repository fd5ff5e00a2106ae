"""What is measured against what: each makes a call of a case, or raises CannotRun with the reason.

eager            the formula on N x N matrices, as VideoGrain runs it
sdpa_plain       torch's attention without modulation: the floor
sdpa_cudnn       the same by cuDNN, on plain attention alone
sdpa_bias        torch's attention with hard mask and decay as one dense bias
sdpa_low_rank    the same bias as extra columns of q and k, as FlashBias has it
compiled         torch.compile of eager
flex             FlexAttention, compiled, tokens as they come
flex_sorted      the same on tokens sorted by region
flex_three_pass  FlexAttention with row extremes from passes before it
xformers         its memory-efficient attention
ours_triton, ours_sdpa
"""

from fame_accel.bench.providers.dense import compiled, eager
from fame_accel.bench.providers.flex_attention import flex, flex_sorted, flex_three_pass
from fame_accel.bench.providers.memory_efficient import xformers
from fame_accel.bench.providers.ours import ours_sdpa, ours_triton
from fame_accel.bench.providers.prepared import CannotRun, Prepared, Provider
from fame_accel.bench.providers.torch_sdpa import sdpa_bias, sdpa_cudnn, sdpa_low_rank, sdpa_plain

EAGER, FLOOR = "eager", "sdpa_plain"  # what ratios are taken to
PROVIDERS: dict[str, Provider] = {
    EAGER: eager,
    FLOOR: sdpa_plain,
    "sdpa_cudnn": sdpa_cudnn,
    "ours_triton": ours_triton,
    "ours_sdpa": ours_sdpa,
    "sdpa_bias": sdpa_bias,
    "sdpa_low_rank": sdpa_low_rank,
    "compiled": compiled,
    "flex": flex,
    "flex_sorted": flex_sorted,
    "flex_three_pass": flex_three_pass,
    "xformers": xformers,
}
COMPILED_ON_CPU = (compiled, flex, flex_sorted, flex_three_pass)  # the first call takes seconds, and much memory

__all__ = ["COMPILED_ON_CPU", "EAGER", "FLOOR", "PROVIDERS", "CannotRun", "Prepared", "Provider"]
