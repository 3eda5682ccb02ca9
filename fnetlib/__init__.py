"""fnetlib: swap a pretrained BERT's self-attention for cheap token mixing, transfer the rest, measure both.

Importing it registers the models with transformers' Auto classes.
"""

from .config import RECIPES, FNetBertConfig, recipe, student_config
from .modeling import (
    FNetBertForMaskedLM, FNetBertForSequenceClassification, FNetBertModel, FNetBertPreTrainedModel,
)

__version__ = "0.1.0"
__all__ = [
    "RECIPES", "FNetBertConfig", "FNetBertForMaskedLM", "FNetBertForSequenceClassification", "FNetBertModel",
    "FNetBertPreTrainedModel", "recipe", "student_config",
]
