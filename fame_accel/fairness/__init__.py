"""Fairness embeddings: soft injection of a debiasing phrase into the encoding of a prompt, whose tokens stay the same.

Importing this folder needs torch alone. The caller brings the tokenizers and text encoders of transformers.
"""

from fame_accel.fairness.association import association
from fame_accel.fairness.debias import Debias, Injection
from fame_accel.fairness.encode import FairEmbeddings, encode_prompt
from fame_accel.fairness.tokens import token_regions

__all__ = ["Debias", "FairEmbeddings", "Injection", "association", "encode_prompt", "token_regions"]
