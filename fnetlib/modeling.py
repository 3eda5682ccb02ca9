"""BERT with a token mixer per layer: transformers' own parts, one sub-layer replaced.

Parameters keep BERT's names (`bert.encoder.layer.0.attention.output.dense.weight`, ...), so that the transfer from a
teacher is the identity on what both share. The class names end as transformers' do: it derives losses from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput
from transformers.models.bert.modeling_bert import (
    BertEmbeddings, BertForMaskedLM, BertForSequenceClassification, BertIntermediate, BertOnlyMLMHead, BertOutput,
    BertPooler, BertPreTrainedModel, BertSelfOutput,
)

from .config import FILTERS, FNetBertConfig
from .mixers import MIXERS, Sequence
from .mixers.filter import FilterMixer, plan_filter
from .mixers.folded import FoldedPlan, fold_projections, folded_mix, fourier_backend, plan_folded
from .mixers.fourier import FourierMixer, hidden_dft, matrix_dtype, plan_fourier
from .mixers.aft import AttentionFreeMixer
from .mixers.gated import GatedFilterMixer
from .mixers.taylor import TaylorMixer
from .mixers.whole import join_projections, joined_mix, plan_whole, takes_whole_spectrum


class MixingSublayer(nn.Module):
    """LayerNorm(x + dropout(W (gain · mix(x)) + b)): BERT's attention block with any mixer.

    Without `output_projection` it is FNet's block: LayerNorm(x + gain · mix(x)), no dropout.
    """

    def __init__(self, config: FNetBertConfig, layer_idx: int):
        super().__init__()
        mixer = config.mixers[layer_idx]
        self.self = MIXERS[mixer](config, layer_idx=layer_idx)
        has_gain = config.gain and mixer != "attention"
        self.gain = nn.Parameter(torch.ones(config.hidden_size)) if has_gain else None
        projects = config.output_projection or mixer == "attention"
        self.output = BertSelfOutput(config) if projects else ResidualNorm(config)

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`."""
        if self.mixes_projected(sequence):
            plan, projection = sequence.fourier[0], sequence.projection
            if projection is None:
                projection = mixed_projections([self], sequence, hidden_states)[0]
            mix = folded_mix if isinstance(plan, FoldedPlan) else joined_mix
            return self.added(mix(hidden_states, plan, projection, self.output.dense.bias), hidden_states)
        mixed = self.self(hidden_states, sequence)
        if self.gain is None:
            return self.output(mixed, hidden_states)
        if self.projects_plainly() and not torch.compiler.is_compiling():
            # One product with the weights, not with every token's states; a compiler joins that one with what is around it.
            dense = self.output.dense
            return self.added(nn.functional.linear(mixed, dense.weight * self.gain, dense.bias), hidden_states)
        return self.output(mixed * self.gain, hidden_states)

    def added(self, projected: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """What `self.output` does after its projection."""
        return self.output.LayerNorm(self.output.dropout(projected) + hidden_states)

    def projects_plainly(self) -> bool:
        """Whether `self.output` is BERT's projection and nothing else: not where something was put in its place, or into its call
        (adapters, pruning, offloading)."""
        parts = ((self.output, BertSelfOutput), (getattr(self.output, "dense", None), nn.Linear))
        return all(_is_plain(*part) for part in parts) and type(self.output.dense.weight) in (nn.Parameter, torch.Tensor)

    def mixes_projected(self, sequence: Sequence) -> bool:
        """Whether mixing, gain and projection are one: what `self.output` would do is done here, see `mixers/folded.py` and
        `mixers/whole.py`. Not where something was put in the place of one of them, or into its call."""
        if not isinstance(self.self, FourierMixer):
            return False
        plan = sequence.fourier[0]
        if not isinstance(plan, FoldedPlan) and not plan.joined:
            return False
        return _is_plain(self.self, FourierMixer) and self.projects_plainly()

    def is_frozen(self) -> bool:
        """Whether what the joined projection is made of rests: its weights and the gain."""
        return not self.output.dense.weight.requires_grad and (self.gain is None or not self.gain.requires_grad)


def mixed_projections(layers: list[MixingSublayer], sequence: Sequence, hidden_states: torch.Tensor) -> torch.Tensor:
    """`fold_projections` or `join_projections` of layers that project as they mix; hidden_states: what is mixed."""
    weights = torch.stack([layer.output.dense.weight for layer in layers])
    if layers[0].gain is not None:
        weights = weights * torch.stack([layer.gain for layer in layers])[:, None]
    plan, hidden_matrices = sequence.fourier
    if isinstance(plan, FoldedPlan):
        return fold_projections(weights, plan, hidden_matrices, matrix_dtype(hidden_states))
    return join_projections(weights, plan)


def _is_plain(module: nn.Module, kind: type) -> bool:
    """Whether calling it is what `kind` says, and nothing else."""
    if type(module) is not kind:
        return False
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return not any(hooks) and not hasattr(module, "_hf_hook")


class ResidualNorm(nn.Module):
    """FNet's output: the residual sum and its LayerNorm, no dense layer (Lee-Thorp 2021, figure 1)."""

    def __init__(self, config: FNetBertConfig):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, mixed: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(mixed + hidden_states)


class FNetBertLayer(GradientCheckpointingLayer):
    """One encoder block: mixing sub-layer, then BERT's feed-forward."""

    def __init__(self, config: FNetBertConfig, layer_idx: int):
        super().__init__()
        self.attention = MixingSublayer(config, layer_idx)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        hidden_states = self.attention(hidden_states, sequence)
        return self.output(self.intermediate(hidden_states), hidden_states)


class FNetBertEncoder(nn.Module):
    """The stack of blocks, and the hidden axis' DFT matrices that its Fourier layers share."""

    def __init__(self, config: FNetBertConfig):
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList([FNetBertLayer(config, i) for i in range(config.num_hidden_layers)])
        cos, sin = hidden_dft(config.hidden_size)
        self.register_buffer("hidden_cos", cos, persistent=False)
        self.register_buffer("hidden_sin", sin, persistent=False)

    def compiled(self) -> bool:
        """Whether torch.compile is at work: on the whole model, or on each layer."""
        return torch.compiler.is_compiling() or any(layer._compiled_call_impl is not None for layer in self.layer)

    def sequence(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> Sequence:
        """What all layers share for this batch; `attention_mask` is `[batch, seq]`, nonzero where a token is real."""
        config, (_, length, width) = self.config, hidden_states.shape
        real = attention_mask.bool() if attention_mask is not None else None
        attention = fourier = filtered = tokens = None
        if "attention" in config.mixers:
            attention = create_bidirectional_mask(
                config=config, inputs_embeds=hidden_states, attention_mask=attention_mask)
        if "fourier" in config.mixers:
            masked = real if config.padding == "mask" else None
            device, dtype, hidden_matrices = hidden_states.device, matrix_dtype(hidden_states), (self.hidden_cos, self.hidden_sin)
            backend = fourier_backend(config, hidden_states.shape, masked is not None, device.type, dtype, self.compiled(),
                                      torch.is_grad_enabled())
            if backend == "folded":
                plan = plan_folded(length, width, masked, config.fourier_norm, device, dtype)
            elif backend == "matmul" and takes_whole_spectrum(hidden_states, dtype):
                plan = plan_whole(hidden_states.shape, masked, config.fourier_norm, hidden_matrices, device, dtype, config.output_projection)
            else:
                plan = plan_fourier(length, width, masked, config.fourier_norm, backend, device, dtype)
            fourier = (plan, hidden_matrices)
        if "values" in config.mixers:
            tokens = plan_fourier(length, 1, real if config.padding == "mask" else None, config.fourier_norm, config.backend,
                                  hidden_states.device, matrix_dtype(hidden_states))
        if set(FILTERS) & set(config.mixers):
            everything = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
            filtered = plan_filter(real if real is not None and config.padding == "mask" else everything, config.backend,
                                   matrix_dtype(hidden_states))
        return Sequence(real, attention, fourier, filtered, tokens)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None,
                block_inputs: Iterable[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """All states: the input and every block's output, each `[batch, seq, hidden]`.

        block_inputs: what each block is given in place of the output of the one before (block-wise distillation).
        """
        sequence = self.sequence(hidden_states, attention_mask)
        states, projections = [hidden_states], self.projections(hidden_states, sequence)
        for layer, projection, given in zip(self.layer, projections, block_inputs or itertools.repeat(None)):
            own = sequence if projection is None else sequence._replace(projection=projection)
            states.append(layer(states[-1] if given is None else given, own))
        return states

    def projections(self, hidden_states: torch.Tensor, sequence: Sequence) -> list[torch.Tensor | None]:
        """Each layer's projection as mixing takes it, made of all at once; None where mixing takes none, or the layer must make its own.

        It must where its weights can only be read in its own forward pass (sharded, or on several devices), and where that
        pass is run again on its own (checkpointing). A frozen layer's is detached: no gradient goes further down for its sake.
        """
        layers = [layer.attention for layer in self.layer if layer.attention.mixes_projected(sequence)]
        weights = [layer.output.dense.weight for layer in layers]
        plain = all(type(weight) is nn.Parameter for weight in weights) and len({weight.device for weight in weights}) == 1
        if not plain or self.training and any(layer.gradient_checkpointing for layer in self.layer):
            return [None] * len(self.layer)
        made = {layer: own.detach() if layer.is_frozen() else own
                for layer, own in zip(layers, mixed_projections(layers, sequence, hidden_states))}
        return [made.get(layer.attention) for layer in self.layer]


class FNetBertPreTrainedModel(BertPreTrainedModel):
    """Loading, saving and initialisation for all FNetBert models."""

    config: FNetBertConfig
    config_class = FNetBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FNetBertLayer"]
    _can_record_outputs = {}
    # Our forward takes **kwargs; without this the Trainer takes the loss as already divided by the number of items
    # over all accumulation steps, and gradients grow with them.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MixingSublayer) and module.gain is not None:
            init.ones_(module.gain)
        elif isinstance(module, FilterMixer):
            for weight in (module.filter, module.first, module.ends):
                init.normal_(weight, std=self.config.initializer_range)
        elif isinstance(module, GatedFilterMixer):
            init.zeros_(module.log_filter)
            if isinstance(module, AttentionFreeMixer):
                init.zeros_(module.output_gate.weight)
            elif isinstance(module, TaylorMixer):
                init.zeros_(module.mean_query)
                init.ones_(module.slope)
        elif isinstance(module, FNetBertEncoder):
            # Not in the checkpoint, so from_pretrained leaves them uninitialised.
            cos, sin = hidden_dft(module.config.hidden_size)
            init.copy_(module.hidden_cos, cos)
            init.copy_(module.hidden_sin, sin)


class FNetBertModel(FNetBertPreTrainedModel):
    """The encoder: BERT's embeddings, blocks with a mixer each, BERT's pooler."""

    def __init__(self, config: FNetBertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = FNetBertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, block_inputs: Iterable[torch.Tensor] | None = None, **kwargs,
    ) -> BaseModelOutputWithPooling | tuple:
        """input_ids, attention_mask, token_type_ids: `[batch, seq]`; or inputs_embeds `[batch, seq, hidden]`.

        block_inputs: one `[batch, seq, hidden]` a block, see FNetBertEncoder.

        Raises ValueError unless exactly one of input_ids and inputs_embeds is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        embedded = self.embeddings(
            input_ids=input_ids, position_ids=position_ids, token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds)
        states = self.encoder(embedded, attention_mask, block_inputs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = BaseModelOutputWithPooling(
            last_hidden_state=states[-1],
            pooler_output=self.pooler(states[-1]) if self.pooler is not None else None,
            hidden_states=tuple(states) if output_hidden_states else None,
        )
        return output if return_dict is not False else output.to_tuple()


class FNetBertForMaskedLM(FNetBertPreTrainedModel, BertForMaskedLM):
    """Masked-LM head, loss and weight tying are BERT's."""

    sparse_prediction = False  # True: with labels, only the tokens to predict meet the vocabulary

    def __init__(self, config: FNetBertConfig):
        BertPreTrainedModel.__init__(self, config)  # not BertForMaskedLM's, which would build a BERT first
        self.bert = FNetBertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None, labels: torch.Tensor | None = None, **kwargs,
    ) -> MaskedLMOutput | tuple:
        """BERT's. Where `sparse_prediction` is set and labels `[batch, seq]` are given, the loss is the same and `logits`
        are `[n, vocab]`, of the n tokens whose label is not -100: with 15 % of them masked, that saves most of a small
        model's work (Warner 2024, ModernBERT, trains so)."""
        # Named, not *args: the Trainer drops the columns that a forward does not name.
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids,
                  "position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        if labels is None or not self.sparse_prediction:
            return super().forward(**inputs, labels=labels)
        output, masked = self.bert(**{**inputs, "return_dict": True}), labels != -100
        logits = self.cls(output.last_hidden_state[masked])
        loss = nn.functional.cross_entropy(logits.float(), labels[masked])
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)


class FNetBertForSequenceClassification(FNetBertPreTrainedModel, BertForSequenceClassification):
    """Classification or regression from `[CLS]`; head and loss are BERT's."""

    def __init__(self, config: FNetBertConfig):
        BertPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.bert = FNetBertModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


AutoConfig.register("fnet_bert", FNetBertConfig, exist_ok=True)
AutoModel.register(FNetBertConfig, FNetBertModel, exist_ok=True)
AutoModelForMaskedLM.register(FNetBertConfig, FNetBertForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(FNetBertConfig, FNetBertForSequenceClassification, exist_ok=True)
