"""Tables, figures and sentences about repairs, padding, precision, grids and teachers: records with known answers."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from factories import (
    WITH_PROJECTION, WITHOUT_PROJECTION, ablation_records, adapt_record, finetune_record, results_of, study_records,
    transfer_record, student_record,
)
from matplotlib.figure import Figure

from fnetlib import plots_repair, readme, summary, tables_repair, tables_training
from fnetlib.config import REPAIRS
from fnetlib.records import choose
from fnetlib.results import design

WORTH = {"norm": 0.05, "mask": 0.02, "gain": 0.08, "projection": 0.01}
ALL = (*WITH_PROJECTION, *WITHOUT_PROJECTION)


@pytest.fixture
def made(tmp_path):
    """Records -> Results of a folder that holds them."""
    return lambda *records: results_of(tmp_path / "minilm", records)


def additive(on: frozenset, seed: int) -> float:
    """Every repair is worth the same wherever it is added; what a seed does to all models is no part of it."""
    return sum(WORTH[name] for name in on) + 0.03 * seed


def effects(results, **where) -> pd.DataFrame:
    data = tables_repair.ablation(results).data
    for name, value in where.items():
        data = data[data[name] == value]
    return data.set_index("of")


def test_factories_have_the_design_points_that_their_names_say():
    points = [design(finetune_record(model=model)) for model in ALL]
    assert len(set(points)) == 16 and all("projection" in p for p in points[:8]) and not set.union(*map(
        set, points[8:])) & {"projection"}


def test_additive_repairs_are_worth_what_they_add_however_it_is_measured(made):
    results = made(*ablation_records(additive, ALL))
    for measure in ("alone", "left_out", "shapley_4"):
        found = effects(results, quantity=measure)
        assert dict(found["mean"]) == pytest.approx(WORTH) and set(found.n) == {5}
        assert set(found.verdict) == {"significant"}  # the same at every seed
    shares = effects(results, quantity="shapley")
    assert list(shares.index) == ["norm", "mask", "gain"]
    assert dict(shares["mean"]) == pytest.approx({name: WORTH[name] for name in shares.index})
    points = effects(results, quantity="score")
    assert len(points) == 16 and points["mean"]["fnet-naive+gain"] == pytest.approx(0.09 + 0.09)
    assert points["mean"]["fnet-no-projection-no-mask"] == pytest.approx(0.13 + 0.09)


def interacting(on: frozenset, seed: int) -> float:
    """Norm and gain each do the whole of 0.12 and nothing more together; the mask adds 0.03, but only beside a norm."""
    return 0.12 * bool({"norm", "gain"} & on) + 0.03 * ({"norm", "mask"} <= on)


def test_what_two_repairs_do_together_is_shared_between_them(made):
    results = made(*ablation_records(interacting, WITH_PROJECTION))
    alone, left, share = (effects(results, quantity=q)["mean"] for q in ("alone", "left_out", "shapley"))
    assert (alone["norm"], alone["gain"], alone["mask"]) == pytest.approx((0.12, 0.12, 0))
    assert (left["norm"], left["gain"], left["mask"]) == pytest.approx((0.03, 0, 0.03))
    # by hand: 0.12 is halved between norm and gain, 0.03 between norm and mask
    assert (share["norm"], share["gain"], share["mask"]) == pytest.approx((0.075, 0.06, 0.015))
    assert share.sum() == pytest.approx(0.15)  # the whole way from fnet-naive to fnet


def test_differences_are_paired_by_seed_and_intervals_hold_them(made):
    results = made(*ablation_records(lambda on, seed: additive(on, seed) + 0.01 * seed * ("gain" in on)))
    gain = effects(results, quantity="shapley").loc["gain"]
    assert gain["mean"] == pytest.approx(0.08 + 0.03) and gain.sd == pytest.approx(0.0158114, abs=1e-6)
    assert 0.08 < gain.low < gain["mean"] < gain.high < 0.14


def test_a_repair_within_the_seeds_noise_is_not_significant(made):
    noise = {1: 0.04, 2: -0.04, 3: 0.03, 4: -0.02, 5: 0.0}
    results = made(*ablation_records(lambda on, seed: additive(on - {"mask"}, seed) + noise[seed] * ("mask" in on)))
    found = effects(results, quantity="alone").verdict
    assert found["mask"] == "not significant" and found["gain"] == "significant"
    text = tables_repair.ablation(results).markdown()
    assert "not significant" in text and "Holm" in text
    line, = tables_repair.ablation_sentences(results)
    assert "mask +0.002 (not significant)" in line and "Shapley values, n=5): gain +0.080 (significant), norm" in line
    assert "recipe `study`, teacher `minilm`" in line and "from `fnet-naive` 0.100 to `fnet` 0.232" in line


def test_holms_family_is_the_repairs_of_one_measure(made):
    """Three p values of 0.03 or so are one finding in nine of chance; with the correction none is left."""
    noise = {1: 0.9, 2: 1.6, 3: 0.2, 4: 1.9, 5: 0.3}
    results = made(*ablation_records(lambda on, seed: 0.01 * len(on) * noise[seed]))
    alone = effects(results, quantity="alone").loc[["norm", "mask", "gain"]]
    assert (alone.p < 0.05).all() and (alone.p_holm > 0.05).all()
    assert list(alone.p_holm) == pytest.approx(list(3 * alone.p)) and set(alone.verdict) == {"not significant"}


def test_missing_points_leave_out_what_needs_them_and_nothing_else(made):
    models = [m for m in WITH_PROJECTION if m != "fnet-no-gain"]
    results = made(*ablation_records(additive, models))
    assert not (effects(results, quantity="shapley").n > 0).any()
    left = effects(results, quantity="left_out")
    assert left.n["gain"] == 0 and left.verdict["gain"] == "not testable" and left["mean"]["mask"] == pytest.approx(0.02)
    text = tables_repair.ablation(results).markdown()
    assert "Share of the way |" not in text and "nan" not in text and "None" not in text
    assert "Shapley" not in tables_repair.ablation_sentences(results)[0]
    assert summary.figures(results)["ablation"]["cola"]["gain"] == {"alone": 0.08, "left_out": None, "shapley": None}
    assert isinstance(plots_repair.ablation(results), Figure)


def test_failed_runs_take_their_seed_out_of_what_needs_them(made):
    records = [r for r in ablation_records(additive) if (r.model, r.seed) not in {("fnet-naive+norm", 2), ("fnet", 3)}]
    failed = finetune_record(model="fnet-naive+norm", seed=2, status="failed", error="x")
    diverged = finetune_record(model="fnet", seed=3, score=None, status="diverged")
    results = made(*records, failed, diverged)
    assert effects(results, quantity="alone").n.to_dict() == {"norm": 4, "mask": 5, "gain": 5, "projection": 0}
    assert set(effects(results, quantity="left_out").loc[["norm", "mask", "gain"]].n) == {4}
    share = effects(results, quantity="shapley")
    assert set(share.n) == {3} and share["mean"]["gain"] == pytest.approx(0.08)
    text = tables_repair.ablation(results).markdown()
    assert "1 of 5 failed" in text and "1 of 5 diverged" in text


def test_one_seed_is_shown_and_not_tested(made):
    results = made(*ablation_records(additive, seeds=1))
    found = effects(results, quantity="shapley")
    assert dict(found["mean"])["norm"] == pytest.approx(0.05) and set(found.verdict) == {"not testable"}
    assert found.low.isna().all() and "+0.050 (1), not testable" in tables_repair.ablation(results).markdown()
    assert isinstance(plots_repair.ablation(results), Figure)


def test_without_single_repairs_there_is_no_ablation(made):
    results = made(*study_records(), finetune_record(model="fnet-paper"))
    assert tables_repair.ablation(results).data.empty and tables_repair.ablation_sentences(results) == []
    assert "No ablation here" in tables_repair.ablation(results).markdown() and "ablation" not in summary.figures(results)


def test_recipes_settings_tasks_and_precisions_are_ablated_apart(made):
    records = [*ablation_records(additive), *ablation_records(additive, task="qnli", training="study_1epoch", note="N"),
               *ablation_records(lambda on, seed: 0.0, training="solo"),
               *ablation_records(lambda on, seed: 0.0, training="tuned_grid", values={"learning_rate": 1.0})]
    results = made(*records)
    data = tables_repair.ablation(results).data
    assert list(data[["training", "task"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("study", "cola"), ("study_1epoch", "qnli")]
    assert "QNLI*" in tables_repair.ablation_sentences(results)[1]
    assert "\\* QNLI: N" in tables_repair.ablation(results).markdown()
    assert set(summary.figures(results)["ablation"]) == {"cola", "qnli"}


def test_the_ablation_figure_has_every_seed_and_every_share(made):
    figure = plots_repair.ablation(made(*ablation_records(additive, ALL, seeds=3)))
    weights, points, matrix = figure.subfigs[0].axes if figure.subfigs else figure.axes
    assert len(weights.patches) == 3 + 4  # shares of three repairs, and of four with the projection
    heights = sorted(patch.get_height() for patch in weights.patches[:])
    assert heights == pytest.approx(sorted([*WORTH.values(), 0.05, 0.02, 0.08]))
    assert sum(line.get_marker() == "o" for line in points.lines) == 16 * 3
    assert len(matrix.lines) == 16 * 4
    assert [t.get_text() for t in weights.get_xticklabels()] == list(REPAIRS)
    assert not plt.get_fignums()


def test_closed_form_fits_are_beside_their_plain_recipe(made):
    refit = [finetune_record(model="fnet-calibrated", seed=s, score=0.24 + 0.01 * (s - 3)) for s in range(1, 6)]
    results = made(*study_records(tasks=("cola",)), *refit, finetune_record(model="fnet-calibrated", task="rte", score=0.6))
    table = tables_repair.closed_form(results)
    (found,) = table.data.itertuples()  # RTE has no plain recipe to compare with
    assert (found.base, found.difference, found.pairs, found.verdict) == ("fnet", pytest.approx(0.04), 5, "significant")
    assert "`fnet-calibrated` minus `fnet` is +0.040 on CoLA (significant, n=5)" in tables_repair.closed_form_sentences(
        results)[0]
    assert tables_repair.closed_form(made(finetune_record(seed=8))).data.shape[0] == 1


def test_a_gated_filter_is_beside_the_transform_and_the_filter(made):
    scores = {"fnet": 0.1, "fnet+filter": 0.15, "fnet+gated": 0.25, "hybrid-2+gated": 0.3, "fnet+gated-calibrated": 0.24}
    results = made(*(finetune_record(model=m, seed=s, score=v + 0.01 * s) for m, v in scores.items() for s in (1, 2, 3)))
    found = {(r.label, r.base): round(r.difference, 6) for r in tables_repair.closed_form(results).data.itertuples()}
    assert found == {("fnet+filter", "fnet"): 0.05, ("fnet+gated", "fnet"): 0.15, ("fnet+gated", "fnet+filter"): 0.1,
                     ("fnet+gated-calibrated", "fnet+gated"): -0.01}


def padded(model, seed=1, changed=(0, 0), scores=(0.3, 0.3), **fields):
    rows = [{"padded_to": 0, "score": scores[0], "changed": 0}]
    rows += [{"padded_to": 2**(5 + i), "score": scores[1] - 0.1 * i, "changed": n} for i, n in enumerate(changed)]
    return finetune_record(model=model, seed=seed, score=scores[0], padding=rows, **fields)


def test_padding_names_the_models_that_changed_and_those_that_did_not(made):
    results = made(padded("fnet", 1), padded("fnet", 2), padded("fnet-naive", 1, (3, 9)), padded("fnet-naive", 2, (0, 7)),
                   padded("fnet-paper", degenerate=True), padded("bert", training="study_bf16", precision="bf16",
                                                                 changed=(0, 1)), finetune_record(model="hybrid-2"))
    table = tables_repair.padding(results)
    part = table.sections["CoLA: training recipe `study`, teacher `minilm`"].set_index("Model")
    assert list(part.columns) == ["own length", "≥ 32", "≥ 64", "Most changed"] and "hybrid-2" not in part.index
    assert part["≥ 64"]["fnet"] == "0.200 ± 0.000 (2)" and part["Most changed"]["fnet-naive"] == "9 of 100"
    assert part["Most changed"]["fnet-paper†"] == "0 of 100"
    fp32, bf16 = tables_repair.padding_sentences(results)
    assert "to 32, 64 tokens (fp32, 5 runs)" in fp32
    steady, moved = fp32.split("; some changed in ")
    assert "`fnet`" in steady and "`fnet-paper` (which predicts one class throughout)" in steady
    assert moved == "`fnet-naive` (up to 9 of 100, CoLA)."
    assert "(bf16, 1 runs)" in bf16 and "stayed the same in no model" in bf16 and "`bert` (up to 1 of 100" in bf16


def test_padding_of_older_records_is_empty(made):
    results = made(*study_records())
    assert tables_repair.padding(results).data.empty and tables_repair.padding_sentences(results) == []
    assert "No run here was scored" in tables_repair.padding(results).markdown()


def test_the_padding_figure_marks_what_changed(made):
    figure = plots_repair.padding(made(padded("fnet"), padded("fnet-naive", changed=(0, 5)), padded("fnet-no-mask"),
                                       padded("fnet-no-norm")))
    axis, = figure.axes
    markers = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(markers) == 3 * 3  # fnet-no-norm is left to the table
    assert sum(line.get_markerfacecolor() != "white" for line in markers) == 1
    assert [t.get_text() for t in axis.get_xticklabels()] == ["own", "≥ 32", "≥ 64"]


def precision_records(shift: float, seeds: int = 3, **fields):
    """Scores 0.30, 0.31, 0.32 in fp32 (sd 0.01), shifted in the other precision."""
    for seed in range(1, seeds + 1):
        yield finetune_record(seed=seed, score=0.29 + 0.01 * seed, **fields)
        yield finetune_record(seed=seed, score=0.29 + 0.01 * seed + shift, training="study_bf16", precision="bf16", **fields)


@pytest.mark.parametrize("shift, verdict", [(0.0, tables_training.EQUAL), (0.009, tables_training.EQUAL),
                                            (-0.009, tables_training.EQUAL), (0.011, "differs"), (-0.011, "differs")])
def test_precision_is_equal_within_the_spread_of_fp32(made, shift, verdict):
    table = tables_training.precision(made(*precision_records(shift)))
    (found,) = table.data.itertuples()
    assert (found.training, found.precision, found.pairs, found.verdict) == ("study", "bf16", 3, verdict)
    assert found.difference == pytest.approx(shift) and found.fp32_sd == pytest.approx(0.01)
    assert "at most the standard deviation of the fp32 runs" in " ".join(table.markdown().split())


def test_precision_without_a_spread_or_without_pairs_is_unknown(made):
    one, = tables_training.precision(made(*precision_records(0.0, seeds=1))).data.verdict
    assert one == "unknown"
    lone = finetune_record(model="fnet", training="study_bf16", precision="bf16")
    data = tables_training.precision(made(lone)).data.set_index("label")
    assert data.verdict["fnet"] == "unknown" and data.pairs["fnet"] == 0 and data.fp32_n["fnet"] == 0


def test_precision_sentences_give_difference_verdict_and_spread(made):
    line, = tables_training.precision_sentences(made(*precision_records(0.02)))
    assert "bf16 minus fp32 is +0.020 for `bert`, differs (0.010)" in line
    assert line in readme.headline(made())


def point(rate, score, seed=1, training="tuned_grid", epochs=3, loss=None, **fields):
    record = finetune_record(seed=seed, score=score, training=training, **fields,
                             values={"learning_rate": rate, "epochs": epochs})
    if loss is not None:
        history = [*record.metrics.history[:-1], {**record.metrics.history[-1], "eval_loss": loss}]
        record = record.model_copy(update={"metrics": record.metrics.model_copy(update={"history": history})})
    return record


def test_the_grid_marks_its_choice_and_its_edge_and_gives_the_other_seeds(made):
    grid = [point(1e-5, 0.1), point(1e-4, 0.3), point(1e-3, 0.2), point(1e-4, 0.25, epochs=8)]
    others = [point(1e-4, 0.26, 2, "tuned"), point(1e-4, 0.28, 3, "tuned"), point(1e-4, 0.9, 4, "tuned", epochs=8)]
    upper = [point(1e-5, 0.1, model="fnet"), point(1e-3, 0.2, model="fnet"),
             point(1e-4, None, model="fnet", status="diverged")]
    table = tables_training.grid(made(*grid, *others, *upper))
    chosen = table.data[table.data.chosen].set_index("label")
    assert dict(chosen.learning_rate) == {"bert": 1e-4, "fnet": 1e-3} and chosen.epochs["bert"] == 3
    assert dict(chosen.edge) == {"bert": "inside", "fnet": "upper edge"}
    assert (chosen.others_mean["bert"], chosen.others_n["bert"]) == (pytest.approx(0.27), 2)  # not the stray of 0.9
    points = table.sections["CoLA: training recipe `tuned_grid`, teacher `minilm`"].set_index("Point")
    assert points.bert["learning rate 0.0001, epochs 3"] == "0.300 ✓" and points.bert[
        "learning rate 1e-05, epochs 3"] == "0.100"
    assert points.fnet["learning rate 0.0001, epochs 3"] == "diverged" and pd.isna(
        points.fnet["learning rate 0.0001, epochs 8"])
    text = table.markdown()
    assert "upper edge" in text and "0.270 ± 0.014 (2)" in text and "1 runs of `tuned` have other values" in text


def test_the_grids_choice_is_the_best_last_score_and_of_equal_ones_the_lowest_loss():
    tied = [point(1e-5, 0.0, loss=0.7), point(1e-4, 0.0, loss=0.6), point(1e-3, 0.0, loss=0.8),
            point(1e-2, None, status="diverged"), point(1e-1, None, status="failed", error="x")]
    better = point(5e-5, 0.2, loss=0.9)
    assert choose(tied) is tied[1]
    assert choose([*tied, better]) is better
    assert choose(tied[3:]) is choose([]) is None


def test_teachers_are_shown_by_tokens_with_loss_and_time(made):
    runs = [finetune_record(seed=seed, score=base + 0.01 * seed, teacher=teacher, task=task)
            for teacher, base in (("minilm", 0.2), ("long", 0.3), ("short", 0.25)) for seed in (1, 2)
            for task in (("cola", "rte") if teacher != "short" else ("cola",))]
    results = made(*runs, adapt_record("long", 400, 1.5, shared=True), adapt_record("short", 100, 2.0),
                   adapt_record("unused", 800, 1.0), finetune_record(score=0.9, teacher="long", training="tuned"),
                   finetune_record(score=0.9, teacher="elsewhere"))
    table = tables_training.teachers(results)
    shown = table.sections[""].set_index("Teacher")
    assert list(shown.index) == ["minilm", "short", "long", "unused"]
    assert list(shown["Tokens seen, millions"]) == ["0.0", "3.3", "13.1", "26.2"]
    assert list(shown["Minutes"]) == ["–", "0.8", "3.3 (shared)", "6.7"]
    assert list(shown["Held-out loss"]) == ["–", "2.000", "1.500", "1.000"]
    assert shown["CoLA MCC (n)"]["long"] == "0.315 ± 0.007 (2)" and pd.isna(shown["RTE accuracy (n)"]["short"])
    cola, rte, loss = plots_repair.teachers(results).axes
    assert [axis.get_title() for axis in (cola, rte)] == ["CoLA", "RTE"]
    assert sum(len(line.get_xdata()) for line in cola.lines if line.get_marker() == "o") == 3 * 2
    assert len(loss.lines) == 3 and min(loss.lines[0].get_xdata()) > 0


def test_a_bert_that_is_a_student_is_no_teacher(made):
    """Trained on like the students, by minutes, to be the ceiling: by its name in the preset, or because runs start from it."""
    named, started = (student_record("bert", steps, [7.0, 5.0], minutes=2) for steps in (100, 200))
    named.transfer["result"]["name"] = "recover-2-bert"
    records = [named, started, adapt_record(), finetune_record(), finetune_record("cola", "bert", 1, minutes=2, student=started.run_id)]
    assert set(tables_training.teachers(made(*records)).data["teacher"]) == {"minilm", "minilm-mlm-100"}


def test_without_refreshed_teachers_there_is_one_line(made):
    results = made(*study_records())
    assert tables_training.teachers(results).data.empty and "No refreshed teacher" in tables_training.teachers(
        results).markdown()


def test_swap_effects_are_of_the_newest_record_of_each_teacher_and_task(made):
    old = transfer_record(("bert", "fnet", "fnet-naive"), cka=False)
    new = transfer_record(("bert", "fnet"), seed=1, ended="2026-02-01T00:00:00+00:00")
    figure = plots_repair.swap_effects(made(old, new, finetune_record()))
    assert [axis.get_title() for axis in figure.axes] == [name for name, _ in plots_repair.PANELS.values()]
    assert all(len(axis.lines) == 2 for axis in figure.axes) and "sentences of CoLA" in figure.get_suptitle()
    two = plots_repair.swap_effects(made(transfer_record(task="rte", cka=False)))
    assert len([axis for axis in two.axes if axis.get_visible()]) == 4 + 3
    assert any("RTE" in axis.get_title() for axis in two.axes) and not plt.get_fignums()


def test_older_effects_without_cka_have_three_panels_and_words():
    effects = pd.DataFrame(transfer_record(cka=False).transfer["effects"])
    figure = plots_repair.swap_figure(effects, "title")
    assert len([axis for axis in figure.axes if axis.get_visible()]) == 3 and figure.get_suptitle() == "title"
    words = plots_repair.swap_in_words(effects).splitlines()
    assert words[1].startswith("fnet: the mixing branch is 0.8 to 0.8 times the residual stream") and "CKA" not in words[1]
    assert "cosine 0.500 to the teacher's" in words[1] and "up to 0.5" in words[1]
    with_cka = pd.DataFrame(transfer_record().transfer["effects"])
    assert "cosine 0.500 and CKA 0.450 to the teacher's" in plots_repair.swap_in_words(with_cka)
