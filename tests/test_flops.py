"""The formulas against torch's own counter where it can see, and against the modules' own parameter counts."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fnetlib import flops as F
from fnetlib.config import student_config
from fnetlib.mixers import folded
from fnetlib.mixers.fourier import MATMUL_MAX_LENGTH
from fnetlib.modeling import FNetBertForSequenceClassification

# width, heads, feed-forward, seq: even, odd, one token; of widths whose half spectrum is not filled up with zeros
SHAPES = [(30, 3, 64, 8), (15, 3, 50, 7), (30, 5, 61, 1)]
RECIPES = ["bert", "fnet-naive", "fnet-paper", "fnet", "hybrid-1", "bound", "fnet+filter", "hybrid-1+filter",
           "fnet+gated", "hybrid-1+gated", "fnet+aft", "fnet+taylor", "fnet+values", "hybrid-1+values"]


def teacher(width=32, heads=4, inner=64, layers=3):
    return BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner,
                      vocab_size=101, max_position_embeddings=32, num_labels=3)


def counted(model, batch, seq):
    model.set_attn_implementation("eager")  # the counter does not see every fused kernel
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.randint(0, 101, (batch, seq)))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("width, heads, inner, seq", SHAPES)
def test_matrix_products_are_what_torch_counts(name, width, heads, inner, seq):
    if "+" in name and seq == 1:
        pytest.skip("torch counts products over a single token as element-wise")
    config = student_config(teacher(width, heads, inner), name, backend="matmul")
    model = FNetBertForSequenceClassification(config)
    ours = F.flops(config, 2, seq)
    assert sum(ours.values()) - ours["norms"] == counted(model, 2, seq)


@pytest.mark.parametrize("name", ["fnet-naive", "hybrid-1"])
def test_torch_does_not_see_the_fft_and_the_formula_adds_it(name):
    config = student_config(teacher(), name, backend="fft")
    ours, layers = F.flops(config, 2, 8), config.mixers.count("fourier")
    seen = counted(FNetBertForSequenceClassification(config), 2, 8)
    assert sum(ours.values()) - ours["norms"] - seen == pytest.approx(2 * layers * F.fourier_fft_flops(8, 32))


@pytest.mark.parametrize("seq, decimated_from", [(8, 9), (30, 31), (32, 33), (32, 32), (28, 16), (30, 16)])
def test_folding_halves_the_projection(seq, decimated_from, monkeypatch):
    """torch sees the fold too, 4 h d² a layer; the formula neglects what is done once a forward pass."""
    monkeypatch.setattr(folded, "DECIMATED_MIN_LENGTH", decimated_from)
    config = student_config(teacher(30, 5), "fnet", backend="folded")
    ours, fold = F.flops(config, 2, seq), 3 * 4 * 16 * 30 * 30
    assert sum(ours.values()) - ours["norms"] + fold == counted(FNetBertForSequenceClassification(config), 2, seq)
    assert (F.fourier_folded_flops(seq, 30) < F.fourier_folded_flops(seq, 30, masked=True)) == (seq >= decimated_from and seq != 30)
    assert 0.5 < F.folded_projection_flops(512, 768) / (2 * 512 * 768**2) < 0.55
    long = {kind: F.mixing_flops(config, "fourier", 8192, masked)[0] for kind, masked in (("full", False), ("padded", True))}
    assert long == {"full": "Fourier, folded", "padded": "Fourier, FFT (Bluestein)"}


def test_decimation_halves_the_token_axis_and_masks_have_none(monkeypatch):
    config = student_config(teacher(30, 5), "fnet", backend="folded")
    assert F.fourier_folded_flops(4096, 768) == F.fourier_folded_flops(4096, 768, masked=True)
    assert F.fourier_folded_flops(8192, 768) / F.fourier_folded_flops(8192, 768, masked=True) == pytest.approx(0.5, rel=1e-2)
    monkeypatch.setattr(folded, "DECIMATED_MIN_LENGTH", 4096)
    assert F.fourier_folded_flops(4096, 768) / F.fourier_folded_flops(4096, 768, masked=True) == pytest.approx(0.5, rel=1e-2)
    assert F.mixing_flops(config, "fourier", 4096, masked=True)[1] == F.fourier_folded_flops(4096, 30, masked=True)
    assert F.flops(config, 2, 4096, masked=True)["projection"] == 3 * 2 * F.folded_projection_flops(4096, 30, masked=True)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("width, heads, inner, seq", SHAPES)
def test_parameters_are_the_modules_own(name, width, heads, inner, seq):
    config = student_config(teacher(width, heads, inner), name)
    model, ours = FNetBertForSequenceClassification(config), F.parameters(config)
    assert sum(ours.values()) == model.num_parameters()
    bert, own = model.bert, lambda module: sum(p.numel() for p in module.parameters())
    gains = [layer.attention.gain.numel() for layer in bert.encoder.layer if layer.attention.gain is not None]
    assert ours["mixing"] == sum(own(layer.attention.self) for layer in bert.encoder.layer) + sum(gains)
    assert ours["embeddings"] == own(bert.embeddings) - own(bert.embeddings.LayerNorm)
    assert ours["feed-forward"] == sum(own(layer.intermediate) + own(layer.output.dense) for layer in bert.encoder.layer)
    assert (ours["pooler"], ours["classifier"]) == (own(bert.pooler), own(model.classifier))


def test_a_plain_bert_is_counted_as_the_bert_recipe():
    config = teacher()
    assert F.flops(config, 2, 8) == F.flops(student_config(config, "bert"), 2, 8)
    assert sum(F.parameters(config).values()) == BertForSequenceClassification(config).num_parameters()
    F.compare(student_config(config, "fnet"), config, 2, 8)


def test_a_training_step_is_three_forward_passes_of_layers_with_weights():
    config = student_config(teacher(), "bound")
    model = FNetBertForSequenceClassification(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 101, (2, 8)), labels=torch.zeros(2, dtype=torch.long)).loss.backward()
    forward = F.flops(config, 2, 8)
    assert F.TRAIN_STEP * (sum(forward.values()) - forward["norms"]) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["bert", "fnet", "fnet-paper", "hybrid-1", "fnet+gated", "fnet+aft", "fnet+taylor"])
def test_the_trainers_count_is_its_own(name, tmp_path):
    config = student_config(teacher(), name)
    trainer = Trainer(FNetBertForSequenceClassification(config), TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    assert F.trainer_flos(config, 16) == trainer.floating_point_ops({"input_ids": torch.zeros(2, 8, dtype=torch.long)})


def test_values_by_hand():
    assert F.fft_flops(8) == 5 * 8 * 3 and F.fft_flops(8, real=True) == 60
    assert F.fourier_fft_flops(4, 8) == 4 * 60 + 5 * (5 * 4 * 2)
    assert F.fourier_bluestein_flops(4, 8) == 4 * 60 + 5 * (2 * 5 * 8 * 3 + 6 * (8 + 8))
    assert F.attention_flops(2, 3) == 6 * 2 * 9 + 4 * 4 * 3
    assert F.fourier_fft_flops(1, 5) == pytest.approx(2.5 * 5 * math.log2(5))


def test_backend_and_padding_decide_what_is_counted():
    lengths = (MATMUL_MAX_LENGTH, MATMUL_MAX_LENGTH + 1)
    short, long = (F.mixing_flops(student_config(teacher(), "fnet"), "fourier", n)[0] for n in lengths)
    assert short == "Fourier, matrices" and long == "Fourier, FFT"
    masked = student_config(teacher(), "fnet", backend="fft")
    ignored = student_config(teacher(), "fnet-naive", backend="fft")
    assert F.mixing_flops(masked, "fourier", 8, masked=True)[0] == "Fourier, FFT (Bluestein)"
    assert F.mixing_flops(ignored, "fourier", 8, masked=True)[0] == "Fourier, FFT"


def test_the_table_adds_up_and_shares_rows_of_layers_that_are_alike():
    config, bert = student_config(teacher(layers=6), "hybrid-2"), student_config(teacher(layers=6), "bert")
    table = F.compare(config, bert, 2, 8, names=("hybrid-2", "BERT"))
    assert list(table.index.get_level_values(0).unique()) == [
        "embeddings", "each of layers 0-1", "layer 2", "each of layers 3-4", "layer 5", "head", "model"]
    times = {"each of layers 0-1": 2, "each of layers 3-4": 2}
    for name, model in (("hybrid-2", config), ("BERT", bert)):
        rows = table[name].drop(("model", "total"))
        weight = [times.get(where, 1) for where, _ in rows.index]
        assert (rows["flops"] * weight).sum() == sum(F.flops(model, 2, 8).values()) == table.loc["model", name]["flops"].iloc[0]
        assert (rows["parameters"] * weight).sum() == sum(F.parameters(model).values())


def test_growth_is_linear_for_attention_and_logarithmic_for_the_fft():
    table = F.growth(64, [256, 512, 1024])
    attention, fft = table["attention"].diff().dropna(), table["Fourier, FFT"].diff().dropna()
    assert attention.iloc[1] == 2 * attention.iloc[0] and fft.iloc[1] == pytest.approx(fft.iloc[0])
