"""Fairness embeddings: soft injection of a debiasing phrase into a prompt's text encoding, without changing its tokens.

Importing needs torch alone; tokenizers and text encoders of transformers are taken as given.
"""

from fame_accel.fairness.association import association
from fame_accel.fairness.debias import Debias, Injection
from fame_accel.fairness.encode import FairEmbeddings, encode_prompt
from fame_accel.fairness.tokens import token_regions

__all__ = ["Debias", "FairEmbeddings", "Injection", "association", "encode_prompt", "token_regions"]
