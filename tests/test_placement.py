"""Placement by measurement: the layer that was spoilt is the one that gets its attention back first."""

import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from factories import batch_of, distilled_record, finetune_record, results_of, student_record

from fnetlib import plots_placement, recovery, synthetic, tables_placement
from fnetlib.__main__ import main
from fnetlib.adapt import adapt_model
from fnetlib.config import recipe
from fnetlib.params import ParameterError
from fnetlib.placement import place, recipe_name, restored
from fnetlib.records import Record, RecordStore, make_run_id
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


@pytest.fixture
def teacher(tiny_teacher_folder):
    return load_teacher(tiny_teacher_folder)


def test_all_layers_restored_is_the_teacher(teacher):
    batch = batch_of([9, 7, 5])
    reference, _ = build_student(teacher, "bert", head="none")
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch)
    whole = restored(student, reference, [0, 1, 2, 3])
    assert whole.config.mixers == ["attention"] * 4
    assert torch.equal(whole(**batch).last_hidden_state, reference(**batch).last_hidden_state)
    partly = restored(student, reference, [2])
    assert partly.config.mixers == ["gated", "gated", "attention", "gated"] and student.config.mixers == ["gated"] * 4


def test_the_spoilt_layers_are_chosen(teacher):
    """Layers whose mixers are far from the teacher's are worth most; errors fall from round to round."""
    batch = batch_of([9, 7, 5, 9, 8, 6])
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch)
    with torch.no_grad():
        for layer in (1, 3):
            student.encoder.layer[layer].attention.self.value.bias.add_(5.0 * layer)
    found = place(teacher, student, batch, keep=2)
    assert recipe_name(found) == "hybrid-at-1-3" and list(found.groupby("round").size()) == [4, 3]
    averaged = place(teacher, student, batch, keep=2, by="mean")
    for row in averaged.groupby("round"):
        assert row[1]["chosen"].idxmax() == row[1]["mean_error"].idxmin()
    pd.testing.assert_frame_equal(averaged[averaged["round"] == 1].drop(columns="chosen"), found[found["round"] == 1].drop(columns="chosen"))
    best = found[found["chosen"]]["error"].tolist()
    assert best[1] < best[0] and recipe(recipe_name(found), 4)["mixers"].count("attention") == 2
    for keep in (0, 5):
        with pytest.raises(ParameterError, match=f"keep: {keep} is not from 1 to 4"):
            place(teacher, student, batch, keep)


def test_a_search_on_an_adapted_student_is_recorded_once(tiny_teacher_folder, tmp_path, capsys):
    text = tmp_path / "text"
    text.mkdir()
    sentences = synthetic.generate("cola", "train", size=1500)["sentence"]
    pd.DataFrame({"text": [f"{s} {i}" for i, s in enumerate(sentences)]}).to_parquet(text / "a.parquet")
    (tmp_path / "glue" / "cola").mkdir(parents=True)
    for split in ("train", "validation"):
        pd.DataFrame(synthetic.generate("cola", split, size=48)).to_parquet(tmp_path / "glue" / "cola" / f"{split}.parquet")
    common = {"teacher": tiny_teacher_folder, "data": str(tmp_path / "glue"), "results": str(tmp_path / "results")}
    for model in ("fnet", "hybrid-1"):
        adapt_model(model=model, save=str(tmp_path / model), text=str(text), minutes=1, pace=0.1, batch_size=8, length=16, **common)
    options = [f"--{name}={value}" for name, value in common.items()]
    assert main(["place", *options, f"--student={tmp_path / 'fnet'}", "--keep=2", "--sentences=16"]) == 0
    printed = capsys.readouterr()
    record, = RecordStore(tmp_path / "results").all("placement")
    chosen = sorted(row["layer"] for row in record.transfer["placement"] if row["chosen"])
    assert printed.out.split()[-1] == record.transfer["recipe"] == f"hybrid-at-{chosen[0]}-{chosen[1]}"
    assert main(["place", *options, f"--student={tmp_path / 'fnet'}", "--keep=2", "--sentences=16", "--by=mean"]) == 0
    assert sorted(r.params.get("by", "last") for r in RecordStore(tmp_path / "results").all("placement")) == ["last", "mean"]
    capsys.readouterr()
    assert printed.err.count("chosen") == 2 and record.timing["seconds"] > 0
    shutil.rmtree(tmp_path / "fnet")  # the record is enough
    assert main(["place", *options, f"--student={tmp_path / 'fnet'}", "--keep=2", "--sentences=16"]) == 0
    assert len(RecordStore(tmp_path / "results").all("placement")) == 2
    for student, words in (("hybrid-1", "which has attention already"), ("nobody", "no adapted model with its record")):
        assert main(["place", *options, f"--student={tmp_path / student}"]) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("with_masks, nearest", [(False, "`hybrid-at-4-5` 0.150, `hybrid-2` 0.200 (a repeat's)."), (True, None)])
def test_placements_of_equally_many_layers_stand_side_by_side(tmp_path, with_masks, nearest):
    student = student_record("fnet", 100, [7.0, 5.0], adapt="distill")
    rounds = [{"round": 1, "layer": i, "error": 0.5 - 0.1 * (i == 4), "chosen": i == 4} for i in range(6)]
    rounds += [{"round": 2, "layer": i, "error": 0.3 - 0.1 * (i == 5), "chosen": i == 5} for i in (0, 1, 2, 3, 5)]
    params = {"student": student.run_id, "keep": 2, "sentences": 8}
    base = finetune_record("cola", "fnet", 0)
    search = Record(run_id=make_run_id("placement", "cola", "fnet", 0, params, base.data.fingerprint, base.teacher.fingerprint),
                    stage="placement", task="cola", model="fnet", seed=0, status="finished", params=params, teacher=base.teacher,
                    data=base.data, timing={"seconds": 1.0}, env=base.env, code=base.code, started=base.started, ended=base.ended,
                    transfer={"placement": rounds, "recipe": "hybrid-at-4-5"})
    students = [distilled_record("hybrid-2", 120, [0.1, 0.3], minutes=2, with_masks=False),
                distilled_record("hybrid-at-4-5", 120, [0.05, 0.25], minutes=2, with_masks=with_masks),
                distilled_record("hybrid-2", 120, [0.01, 0.01], minutes=2, with_masks=False, learning_rate=1e-3)]  # nobody fine-tuned this one
    scores = {"bert": (0.5, None), "hybrid-2": (0.4, 2), "hybrid-at-4-5": (0.3, 2), "hybrid-3": (0.45, 2), "hybrid-2+gated": (0.5, 2)}
    made = {record.model: record.run_id for record in students[:2]}
    students[0] = students[0].model_copy(update={"started": "2099-01-01T00:00:00+00:00"})  # trained once more, after its runs
    runs = [finetune_record("cola", model, seed, score, training="tuned", minutes=minutes, student=made.get(model, "student"))
            for model, (score, minutes) in scores.items() for seed in (1, 2)]
    task = {"distill_epochs": 1, "epochs": 3}  # more than fine-tuning, which is another comparison
    runs += [finetune_record("cola", model, 1, 0.9, training="tuned", minutes=2, student=made[model], values=task) for model in made]
    results = results_of(tmp_path, [student, search, *students, *runs])
    data = tables_placement.frame(results)
    assert list(zip(data["model"], data["layers"], data["placement"])) == [
        ("hybrid-2", "2, 5", "spread"), ("hybrid-at-4-5", "4, 5", "top and measured")]  # three layers have no rival, filters are others
    text = tables_placement.table(results).markdown()
    assert "search on `fnet-100` by the last states, 1 s" in text and "| 0.500 | 0.400 ← | 0.500 |" in text
    sentence, = tables_placement.sentences(results)
    assert "`hybrid-2` (2, 5: spread) 0.400" in sentence and "`hybrid-at-4-5` (4, 5: top and measured) 0.300" in sentence
    assert "0.200§" in text or with_masks
    assert ("mean error" in sentence) == bool(nearest) and (nearest or "") in sentence  # another text is no comparison


@pytest.mark.parametrize("count", [3, 7, 10])
def test_many_placements_are_ranked_and_drawn(tmp_path, count):
    pairs = [(0, 1), (1, 4), (2, 5), (4, 5), (0, 2), (3, 4), (1, 2), (0, 3), (0, 4), (0, 5)][:count]
    models = ["hybrid-2" if pair == (2, 5) else f"hybrid-at-{pair[0]}-{pair[1]}" for pair in pairs]
    students = [distilled_record(model, 120, [0.1 + 0.01 * i] * 2, minutes=2, with_masks=False) for i, model in enumerate(models)]
    runs = [finetune_record("cola", record.model, seed, 0.4 - 0.02 * i, training="tuned", minutes=2, student=record.run_id)
            for i, record in enumerate(students) for seed in (1, 2)]
    results = results_of(tmp_path, [*(finetune_record("cola", "bert", seed, 0.5, training="tuned") for seed in (1, 2)), *students, *runs])
    sentence, = tables_placement.sentences(results)
    axis, *maps = [axis for axis in plots_placement.figure(results).axes if axis.get_visible()]
    assert {"2, 5 (spread)", "0, 1", "1, 4"} <= {text.get_text() for text in axis.texts}
    assert len(maps) == (count == 10)
    for of_pairs in maps:
        assert {(t.get_position(), t.get_text()) for t in of_pairs.texts} >= {((0, 0), "0.400"), ((3, 1), "0.380"), ((4, 4), "0.340")}
    if count > 3:
        assert f"−1.00 (n={count})" in sentence and f"(of {count})" in sentence and "ρ -1.00" in axis.get_title()
        assert "`hybrid-at-4-5` (4, 5: top)" in sentence and "hybrid-at-0-2" not in sentence
    else:
        assert "mean error of the states before that: `hybrid-at-0-1` 0.100" in sentence and "ρ" not in axis.get_title()
    assert not [model for model in recovery.main(results)["model"] if model.startswith("hybrid-at")]
    plt.close("all")


def test_without_a_search_or_rivals_it_says_how(tmp_path):
    results = results_of(tmp_path, [finetune_record("cola", "hybrid-2", 1, 0.4, minutes=2)])
    assert "hybrid-at-I-J" in tables_placement.table(results).markdown() and tables_placement.sentences(results) == []
