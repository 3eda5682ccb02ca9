"""The model against transformers' own BERT and FNet, its padding invariance, saving, precision, accumulation."""

import pytest
import torch
from transformers import (
    AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM,
    BertForSequenceClassification, FNetConfig, FNetModel,
)

import fnetlib
from fnetlib import FNetBertConfig, FNetBertForMaskedLM, FNetBertForSequenceClassification, FNetBertModel
from fnetlib.config import hybrid_layers, recipe, student_config

RECIPES = ["bert", "fnet-naive", "fnet-paper", "fnet", "hybrid-2", "bound", "fnet+filter", "hybrid-2+filter",
           "fnet+gated", "fnet+aft", "fnet+taylor"]
MASKED = ["bert", "fnet", "hybrid-2", "bound", "fnet+filter", "fnet+gated", "fnet+aft", "fnet+taylor"]


def inputs(length: int = 9, batch: int = 3, vocabulary: int = 200, padded: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, vocabulary, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, length // 2:] = 0
        mask[2, length - 1:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def student(config, name: str, cls=FNetBertForSequenceClassification, **overrides):
    torch.manual_seed(0)
    model = cls(student_config(config, name, **overrides)).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("bias", "gain")):  # zeros and ones would hide a missing one
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def assert_backends_agree(config, name: str, batch: dict[str, torch.Tensor], backends: tuple[str, str]) -> None:
    """All states and all gradients of masked-LM; the second is held against the first."""
    states, gradients = [], []
    for backend in backends:
        model = student(config, name, FNetBertForMaskedLM, backend=backend)
        output = model(**batch, labels=batch["input_ids"], output_hidden_states=True)
        output.loss.backward()
        states.append(torch.stack(output.hidden_states))
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*states, atol=2e-5, rtol=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, ours in gradients[1].items():
        scale = float(gradients[0][parameter].abs().max())
        torch.testing.assert_close(ours, gradients[0][parameter], atol=2e-4 * scale + 1e-7, rtol=0, msg=parameter)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bert_recipe_is_bit_equal_to_transformers_bert(tiny_config, attention):
    torch.manual_seed(1)
    reference = BertForSequenceClassification._from_config(tiny_config, attn_implementation=attention).eval()
    config = student_config(tiny_config, "bert")
    config._attn_implementation = attention
    ours = FNetBertForSequenceClassification(config).eval()
    found = ours.load_state_dict(reference.state_dict(), strict=True)
    assert not found.missing_keys and not found.unexpected_keys
    batch = inputs()
    assert torch.equal(ours(**batch).logits, reference(**batch).logits)
    states = ours(**batch, output_hidden_states=True).hidden_states
    for own, theirs in zip(states, reference(**batch, output_hidden_states=True).hidden_states, strict=True):
        assert torch.equal(own, theirs)


def test_masked_lm_of_the_bert_recipe_is_bit_equal(tiny_config):
    torch.manual_seed(1)
    reference = BertForMaskedLM(tiny_config).eval()
    ours = FNetBertForMaskedLM(student_config(tiny_config, "bert")).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    batch = inputs()
    labels = batch["input_ids"]
    assert torch.equal(ours(**batch, labels=labels).loss, reference(**batch, labels=labels).loss)


@pytest.mark.parametrize("name", ["bert", "fnet"])
def test_sparse_prediction_has_the_same_loss_and_gradients(tiny_config, name):
    model, batch = student(tiny_config, name, FNetBertForMaskedLM), inputs()
    labels = torch.where((torch.arange(27).reshape(3, 9) % 4 == 0) & (batch["attention_mask"] == 1), batch["input_ids"], -100)
    losses, gradients = [], []
    for model.sparse_prediction in (False, True):
        model.zero_grad()
        output = model(**batch, labels=labels)
        output.loss.backward()
        losses.append(output.loss.item())
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert output.logits.shape == (int((labels != -100).sum()), tiny_config.vocab_size)
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert model(**batch).logits.shape == (3, 9, tiny_config.vocab_size)  # without labels nothing is left out


def test_paper_recipe_equals_transformers_fnet(tiny_config):
    """Shared weights, identity embedding projection, the same activation."""
    shape = {k: getattr(tiny_config, k) for k in (
        "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings",
        "type_vocab_size", "hidden_act", "layer_norm_eps")}
    torch.manual_seed(2)
    theirs = FNetModel(FNetConfig(**shape)).eval()
    ours = FNetBertModel(student_config(tiny_config, "fnet-paper", backend="fft")).eval()
    state = {name.replace("fourier.output", "attention.output"): tensor for name, tensor in theirs.state_dict().items()
             if not name.startswith("embeddings.projection")}
    ours.load_state_dict(state, strict=True)
    with torch.no_grad():
        theirs.embeddings.projection.weight.copy_(torch.eye(tiny_config.hidden_size))
        theirs.embeddings.projection.bias.zero_()
    batch = inputs(padded=False)
    mine, reference = ours(**batch), theirs(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])
    assert torch.allclose(mine.last_hidden_state, reference.last_hidden_state, atol=2e-5)
    assert torch.allclose(mine.pooler_output, reference.pooler_output, atol=2e-5)


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("backend", ["fft", "matmul"])
@pytest.mark.parametrize("extra", [1, 7, 23])
def test_padding_changes_nothing_where_it_is_masked(tiny_config, name, backend, extra):
    model, batch = student(tiny_config, name, backend=backend), inputs()
    padded = {k: torch.nn.functional.pad(v, (0, extra)) for k, v in batch.items()}
    assert torch.allclose(model(**batch).logits, model(**padded).logits, atol=2e-6)
    alone = {k: v[1:2, : int(batch["attention_mask"][1].sum())] for k, v in batch.items()}
    assert torch.allclose(model(**batch).logits[1], model(**alone).logits[0], atol=2e-6)


@pytest.mark.parametrize("name", ["fnet-naive", "fnet-paper"])
def test_padding_leaks_where_it_is_ignored(tiny_config, name):
    """The historical behaviour, kept for the reproduction."""
    model, batch = student(tiny_config, name), inputs()
    padded = {k: torch.nn.functional.pad(v, (0, 7)) for k, v in batch.items()}
    assert (model(**batch).logits - model(**padded).logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", RECIPES)
def test_backends_agree_in_the_whole_model(tiny_config, name):
    batch, logits = inputs(), []
    for backend in ("fft", "matmul"):
        logits.append(student(tiny_config, name, backend=backend)(**batch).logits)
    assert torch.allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("auto, cls", [
    (AutoModel, FNetBertModel), (AutoModelForMaskedLM, FNetBertForMaskedLM),
    (AutoModelForSequenceClassification, FNetBertForSequenceClassification)])
def test_save_and_load_through_auto_classes(tiny_config, tmp_path, name, auto, cls):
    model, batch = student(tiny_config, name, cls), inputs()
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).mixers == model.config.mixers
    loaded = auto.from_pretrained(tmp_path).eval()
    assert type(loaded) is cls
    for (key, own), theirs in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(own, theirs), key
    for (key, own), (_, theirs) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(own, theirs), key
    assert torch.equal(model(**batch)[0], loaded(**batch)[0])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("backend", ["auto", "folded"])
@pytest.mark.parametrize("name", ["fnet", "hybrid-2"])
def test_gradient_checkpointing_changes_no_gradient(tiny_config, name, backend, reentrant):
    batch = inputs() | {"labels": torch.tensor([0, 1, 1])}
    gradients = []
    for checkpointing in (False, True):
        model = student(tiny_config, name, backend=backend, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(**batch).loss.backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters()})
    for key in gradients[0]:
        assert torch.allclose(gradients[0][key], gradients[1][key], atol=1e-6), key


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("backend", ["fft", "matmul"])
def test_autocast_stays_near_float32(tiny_config, name, dtype, bound, backend):
    model, batch = student(tiny_config, name, backend=backend), inputs() | {"labels": torch.tensor([0, 1, 1])}
    exact = model(**batch)
    with torch.autocast("cpu", dtype=dtype):
        out = model(**batch)
    out.loss.backward()
    assert (out.logits.float() - exact.logits).abs().max() < bound
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_gets_a_gradient(tiny_config):
    for name in RECIPES:
        model = student(tiny_config, name).train()
        model(**inputs(), labels=torch.tensor([0, 1, 1])).loss.backward()
        assert not [k for k, p in model.named_parameters() if p.grad is None], name


def test_heads_follow_the_task(tiny_config):
    batch = inputs()
    three = student(tiny_config, "fnet", num_labels=3)
    assert three(**batch, labels=torch.tensor([0, 2, 1])).logits.shape == (3, 3)
    score = student(tiny_config, "fnet", num_labels=1, problem_type="regression")
    labels = torch.tensor([0.5, 4.0, 2.5])
    out = score(**batch, labels=labels)
    assert torch.allclose(out.loss, torch.nn.functional.mse_loss(out.logits.squeeze(), labels))


def test_inputs_embeds_and_their_absence(tiny_config):
    model, batch = student(tiny_config, "fnet", FNetBertModel), inputs()
    embeds = model.embeddings.word_embeddings(batch.pop("input_ids"))
    assert model(inputs_embeds=embeds, **batch).last_hidden_state.shape == embeds.shape
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(**batch)


def test_recipes_and_hybrid_placement():
    assert hybrid_layers(2, 6) == [2, 5] and hybrid_layers(3, 6) == [1, 3, 5] and hybrid_layers(1, 6) == [5]
    assert recipe("hybrid-at-4-5", 6)["mixers"] == ["fourier"] * 4 + ["attention"] * 2
    assert recipe("fnet-naive", 2) == {"mixers": ["fourier"] * 2, "fourier_norm": "backward", "padding": "ignore",
                                       "output_projection": True, "gain": False}
    bound, fnet = recipe("bound", 2), recipe("fnet", 2)
    assert bound.pop("mixers") == ["identity"] * 2 and fnet.pop("mixers") == ["fourier"] * 2 and bound == fnet


@pytest.mark.parametrize("bad, names", [
    ({"mixers": ["fourier", "wavelet"]}, "attention"), ({"mixers": ["fourier"]}, "num_hidden_layers"),
    ({"fourier_norm": "forward"}, "ortho"), ({"padding": "left"}, "mask"), ({"backend": "triton"}, "matmul"),
    ({"is_decoder": True}, "encoders")])
def test_bad_configurations_name_what_is_accepted(bad, names):
    with pytest.raises(Exception, match=names):
        FNetBertConfig(num_hidden_layers=2, **bad)


@pytest.mark.parametrize("name, names", [
    ("fnet2", "hybrid-K"), ("hybrid-0", "from 1 to 4"), ("hybrid-5", "from 1 to 4"), ("hybrid-at-9", "0 to 3")])
def test_bad_recipes_name_what_is_accepted(name, names):
    with pytest.raises(ValueError, match=names):
        recipe(name, 4)


def test_public_names_exist():
    assert all(hasattr(fnetlib, name) for name in fnetlib.__all__)


@pytest.mark.parametrize("name", ["fnet", "bound"])
def test_the_gain_scales_weights_only_where_nothing_listens_to_the_projection(name):
    """In eager mode; a hook on the projection (an adapter, a probe) sees scaled states, as ever, and the output is the same."""
    config = student_config(BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64), name)
    model = FNetBertModel(config).eval()
    layer, seen = model.encoder.layer[0].attention, []
    torch.nn.init.uniform_(layer.gain, 0.5, 2.0)
    ids = torch.randint(5, 90, (2, 7))
    assert layer.projects_plainly()
    plain = model(input_ids=ids).last_hidden_state
    layer.output.dense.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert not layer.projects_plainly()
    torch.testing.assert_close(model(input_ids=ids).last_hidden_state, plain)
    if name == "bound":  # its mixer is the identity
        torch.testing.assert_close(seen[0], model.embeddings(input_ids=ids) * layer.gain)
    assert len(seen) == 1
