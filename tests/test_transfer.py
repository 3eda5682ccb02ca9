"""The transfer accounts for every tensor, copies bit by bit, and starts the gain where the teacher was."""

import pytest
import torch
from transformers import BertForPreTraining, BertModel

from fnetlib.diagnostics import linear_cka, pad_batch, swap_effects
from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.transfer import (
    DEFAULT_GROUPS, GROUPS, branches, build_student, group_of, parse_groups, rms, set_gain, transfer, verify,
)

RECIPES = ["bert", "fnet-naive", "fnet-paper", "fnet", "hybrid-2", "bound", "fnet+filter", "hybrid-2+filter",
           "fnet+gated", "fnet+aft", "fnet+taylor"]


@pytest.fixture(scope="module")
def teacher(tiny_teacher_folder):
    return load_teacher(tiny_teacher_folder)


@pytest.fixture(scope="module")
def batch():
    ids = torch.randint(5, 60, (6, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[3:, 5:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("head", ["mlm", "classification"])
def test_every_tensor_has_one_fate_and_copies_are_equal(teacher, name, head):
    student, report = build_student(teacher, name, head=head)
    counts = verify(teacher, student, report)
    assert counts["equal"] == counts["copied"] > 20
    table = report.table()
    assert set(table["fate"]) <= {"copied", "new", "dropped"}
    assert not table["tensor"].duplicated().any()


def test_bert_recipe_transfers_every_weight(teacher):
    student, report = build_student(teacher, "bert", head="mlm")
    assert set(report.table()["fate"]) == {"copied"} | ({"dropped"} if "bert.pooler.dense.weight" in teacher.state else set())
    ids = torch.randint(5, 60, (2, 9))
    assert torch.equal(student(input_ids=ids).logits, teacher.model(input_ids=ids).logits)


def test_hybrid_keeps_attention_only_where_it_is(teacher):
    _, report = build_student(teacher, "hybrid-at-1-3")
    attention = report.table().query("group == 'attention'")
    kept = {name.split(".")[3] for name in attention[attention["fate"] == "copied"]["tensor"]}
    assert kept == {"1", "3"}
    assert set(attention[attention["fate"] == "dropped"]["tensor"].str.split(".").str[3]) == {"0", "2"}


@pytest.mark.parametrize("name", ["fnet", "hybrid-1", "fnet+gated", "fnet-calibrated", "bert"])
def test_a_shallower_student_has_the_teachers_first_layers(teacher, batch, name):
    student, report = build_student(teacher, name, batch=batch, layers=2)
    assert student.config.num_hidden_layers == len(student.config.mixers) == len(student.bert.encoder.layer) == 2
    assert name == "fnet-calibrated" or verify(teacher, student, report)["equal"] > 10  # that one is refitted
    copied = report.table().query("fate == 'copied'")["tensor"]
    assert {name.split(".")[3] for name in copied if ".layer." in name} == {"0", "1"}
    assert student(**batch).logits.isfinite().all()


def test_only_a_student_from_scratch_may_be_deeper(teacher):
    with pytest.raises(ParameterError, match="layers: 6 are more than the 4 of teacher .*; only a student from scratch"):
        build_student(teacher, "fnet", layers=6)
    student, report = build_student(teacher, "hybrid-2", groups=(), layers=6)
    assert student.config.mixers == ["fourier", "fourier", "attention"] * 2 and set(report.table()["fate"]) == {"new", "dropped"}


@pytest.mark.parametrize("selected", ["embeddings", "norms,feed_forward", "output_projection"])
def test_only_selected_groups_are_copied(teacher, selected):
    student, report = build_student(teacher, "fnet", groups=parse_groups(selected))
    table = report.table()
    assert set(table[table["fate"] == "copied"]["group"]) == set(selected.split(","))
    verify(teacher, student, report)


def test_a_bare_encoder_gets_its_prefix(tiny_config, teacher):
    names = {"bert." + name for name in BertModel(tiny_config).state_dict()}
    assert names <= {*teacher.state, "bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_pretraining_heads_are_known_to_the_table(tiny_config):
    assert all(group_of(name) in GROUPS for name in BertForPreTraining(tiny_config).state_dict())
    assert group_of("qa_outputs.weight") == "other_head" not in DEFAULT_GROUPS
    with pytest.raises(ValueError, match="no rule for tensor 'bert.adapter.weight'"):
        group_of("bert.adapter.weight")


def test_other_shapes_are_refused(teacher):
    student, _ = build_student(teacher, "fnet")
    state = dict(teacher.state)
    name = "bert.embeddings.word_embeddings.weight"
    state[name] = state[name][:10]
    with pytest.raises(ValueError, match="word_embeddings"):
        transfer(state, student)


def test_a_wrong_copy_is_found(teacher):
    student, report = build_student(teacher, "fnet")
    with torch.no_grad():
        student.bert.encoder.layer[0].output.dense.bias[0] += 1
    with pytest.raises(RuntimeError, match="encoder.layer.0.output.dense.bias"):
        verify(teacher, student, report)


def test_unknown_groups_name_the_accepted():
    assert parse_groups("all") == DEFAULT_GROUPS and "classifier" not in DEFAULT_GROUPS
    with pytest.raises(ParameterError, match="'ffn' is not one of: all, none, embeddings, norms"):
        parse_groups("norms,ffn")


@pytest.mark.parametrize("name", ["fnet", "bound", "hybrid-2"])
def test_gain_starts_the_branch_at_the_teachers_level(teacher, batch, name):
    student, _ = build_student(teacher, name, batch=batch)
    reference, _ = build_student(teacher, "bert", head="none")
    with torch.no_grad():
        states = reference(**batch, output_hidden_states=True).hidden_states
    for ours, theirs in zip(branches(student, batch, states), branches(reference, batch, states), strict=True):
        assert rms(ours["unbiased"]) == pytest.approx(rms(theirs["unbiased"]), rel=1e-4)


def test_a_students_own_gain_is_kept_and_attention_it_lacks_refused(teacher, batch, tmp_path):
    student, _ = build_student(teacher, "fnet", head="mlm", batch=batch)
    student.save_pretrained(tmp_path)
    teacher.tokenizer.save_pretrained(tmp_path)
    adapted = load_teacher(str(tmp_path))
    again, report = build_student(adapted, "fnet", batch=batch)
    verify(adapted, again, report)
    assert torch.equal(again.bert.encoder.layer[1].attention.gain, student.bert.encoder.layer[1].attention.gain)
    with pytest.raises(ParameterError, match="'hybrid-2' keeps attention in layers where teacher"):
        build_student(adapted, "hybrid-2")


def test_gain_without_projection_and_without_sentences(teacher, batch):
    student, _ = build_student(teacher, "fnet", output_projection=False)
    assert all(torch.equal(l.attention.gain, torch.ones_like(l.attention.gain)) for l in student.bert.encoder.layer)
    gains = set_gain(teacher, student, batch)
    assert len(gains) == 4 and all(g > 0 for g in gains)


def test_branches_are_what_the_layer_adds(teacher, batch):
    student, _ = build_student(teacher, "fnet", batch=batch)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        states = student.bert(**batch, output_hidden_states=True).hidden_states
        layer = student.bert.encoder.layer[0]
        out = layer.attention(states[0], student.bert.encoder.sequence(states[0], batch["attention_mask"]))[real]
        part = branches(student, batch)[0]
        assert torch.allclose(layer.attention.output.LayerNorm(part["residual"] + part["branch"]), out, atol=1e-5)


def test_effects_of_the_swap(teacher, batch):
    effects = swap_effects(teacher, ["bert", "fnet-naive", "fnet"], batch)
    by_model = effects.groupby("model")
    assert (by_model["cosine"].min()["bert"]) == pytest.approx(1.0, abs=1e-5)
    assert by_model["padding_shift"].max()["fnet"] < 1e-4 < by_model["padding_shift"].max()["fnet-naive"]
    assert by_model["branch_ratio"].min()["fnet-naive"] > by_model["branch_ratio"].max()["fnet"]
    assert by_model["cka"].min()["bert"] == pytest.approx(1.0) and by_model["cka"].min()["fnet-naive"] < 0.9


def test_cka_sees_geometry_not_bases():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0)
    other = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    centred = [z.double() - z.double().mean(0) for z in (x, other)]
    grams = [(z @ z.T).flatten() for z in centred]  # the definition by Gram matrices
    assert linear_cka(x, other) == pytest.approx(float(grams[0] @ grams[1] / (grams[0].norm() * grams[1].norm())))


def test_padding_a_batch(batch):
    padded = pad_batch(batch, 3)
    assert padded["input_ids"].shape == (6, 12) and int(padded["attention_mask"][:, 9:].sum()) == 0
