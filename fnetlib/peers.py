"""Other encoders for comparison of speed: transformers' own, with random weights and the shape of a recipe's.

Each gets the layers, width and heads of the shape and BERT's vocabulary; what else its paper fixes (windows, landmarks,
gated feed-forwards) keeps that paper's proportions. No weights are loaded, so their quality is not what is compared.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import (
    AutoModelForSequenceClassification, BertConfig, BigBirdConfig, FNetConfig, LongformerConfig, ModernBertConfig,
    NystromformerConfig, PreTrainedConfig, PreTrainedModel,
)

WINDOW = 512  # Longformer's
LANDMARKS, KERNEL = 64, 65  # Nystromformer's; the kernel's length is odd and, here, at most the sequence's


def _common(config: BertConfig) -> dict:
    return {"vocab_size": config.vocab_size, "hidden_size": config.hidden_size, "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads, "intermediate_size": config.intermediate_size,
            "num_labels": config.num_labels, "problem_type": config.problem_type, "pad_token_id": 0}


def _bert(config: BertConfig, length: int) -> PreTrainedConfig:
    """What the 2023 study ran: attention as separate products and a softmax, no fused kernel."""
    made = BertConfig(**_common(config), max_position_embeddings=config.max_position_embeddings)
    made._attn_implementation = "eager"
    return made


def _fnet(config: BertConfig, length: int) -> PreTrainedConfig:
    """FNet (Lee-Thorp 2021) as transformers has it: torch.fft, which takes no half precision."""
    values = _common(config)
    values.pop("num_attention_heads")
    return FNetConfig(**values, max_position_embeddings=config.max_position_embeddings, tpu_short_seq_length=length)


def _modernbert(config: BertConfig, length: int) -> PreTrainedConfig:
    """ModernBERT (Warner 2024): rotary positions, gated feed-forwards of 1.5 d, attention within 128 tokens in two of
    three layers; unpadded, where flash-attention is installed."""
    special = {f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}
    return ModernBertConfig(**_common(config) | {"intermediate_size": 3 * config.hidden_size // 2} | special,
                            max_position_embeddings=config.max_position_embeddings, reference_compile=False)


def _longformer(config: BertConfig, length: int) -> PreTrainedConfig:
    """Longformer (Beltagy 2020): attention within a window of 512 tokens (shorter where the sequence is)."""
    return LongformerConfig(**_common(config), max_position_embeddings=config.max_position_embeddings + 2,
                            attention_window=min(WINDOW, length + length % 2))


def _bigbird(config: BertConfig, length: int) -> PreTrainedConfig:
    """BigBird (Zaheer 2020): blocks of 64 tokens, three random ones; full attention where that is no fewer."""
    return BigBirdConfig(**_common(config), max_position_embeddings=config.max_position_embeddings)


def _nystromformer(config: BertConfig, length: int) -> PreTrainedConfig:
    """Nystromformer (Xiong 2021): 64 landmarks, a convolution over the values."""
    landmarks = next(n for n in range(min(LANDMARKS, length), 0, -1) if length % n == 0)
    return NystromformerConfig(**_common(config), max_position_embeddings=config.max_position_embeddings,
                               num_landmarks=landmarks, segment_means_seq_len=length,
                               conv_kernel_size=min(KERNEL, length - 1 + length % 2))


PEERS: dict[str, Callable[[BertConfig, int], PreTrainedConfig]] = {
    "bert-eager": _bert, "hf-fnet": _fnet, "modernbert": _modernbert, "longformer": _longformer, "bigbird": _bigbird,
    "nystromformer": _nystromformer}


def peer_config(name: str, shape: BertConfig, length: int) -> PreTrainedConfig:
    """The configuration of a peer in a shape, for sequences of `length` tokens."""
    return PEERS[name](shape, length)


def peer_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A classifier with random weights. Attention is the implementation that the configuration names, else the default."""
    own = config._attn_implementation
    return AutoModelForSequenceClassification.from_config(config, **({"attn_implementation": own} if own else {}))
