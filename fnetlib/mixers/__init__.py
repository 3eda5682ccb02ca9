"""Token mixers: one file each, one call signature.

A mixer maps hidden states `[batch, seq, hidden]` to mixed states of the same shape, given the `Sequence` that the
model prepares once per forward pass and every layer shares.
"""

from .aft import AttentionFreeMixer
from .attention import AttentionMixer
from .base import Sequence
from .filter import FilterMixer
from .fourier import FourierMixer
from .gated import GatedFilterMixer
from .identity import IdentityMixer
from .taylor import TaylorMixer
from .values import ValueMixer

MIXERS = {"fourier": FourierMixer, "filter": FilterMixer, "gated": GatedFilterMixer, "aft": AttentionFreeMixer,
          "taylor": TaylorMixer, "values": ValueMixer, "attention": AttentionMixer, "identity": IdentityMixer}

__all__ = ["MIXERS", "AttentionFreeMixer", "AttentionMixer", "FilterMixer", "FourierMixer", "GatedFilterMixer", "IdentityMixer",
           "Sequence", "TaylorMixer", "ValueMixer"]
