"""XATL's comparison, from records whose loss curves are straight lines: every speed-up and gain is known."""

import dataclasses
import math

import pytest
from factories import finetune_record, fingerprint, student_record
from factories import results_of as results_of_records
from matplotlib import pyplot as plt

from fnetlib import xatl, xatl_glue, xatl_arms, xatl_runs, xatl_seeds, xatl_settings
from fnetlib.records import Parameters, Teacher


def results_of(folder, records):
    return results_of_records(folder, [finetune_record(), *records])  # a report needs a fine-tuning run


def line(model="fnet", end=5.0, steps=100, start=9.0, **values):
    """Held-out loss falls evenly from `start` to `end`."""
    return student_record(model, steps=steps, losses=[start + (end - start) * i / 4 for i in range(5)], **values)


def taught(record, teacher):
    """The same run from another teacher."""
    moved = record.model_copy(update={"teacher": Teacher(name=teacher, source="package", fingerprint=fingerprint(teacher))})
    return moved.model_copy(update={"run_id": moved.identity})


def frozen(record, trainable, step):
    """The same run by LIT: what it had to train, and when it unfroze."""
    return record.model_copy(update={"parameters": Parameters(total=1000, trainable=trainable),
                                     "timing": {**record.timing, "unfrozen_at_step": step}})


def diverged(record):
    """The same run, lost after its first evaluation."""
    lost = {"headline": record.metrics.headline.model_copy(update={"last": None}),
            "history": [{**entry, "eval_loss": None if entry["step"] else entry["eval_loss"]} for entry in record.metrics.history]}
    return record.model_copy(update={"status": "diverged", "metrics": record.metrics.model_copy(update=lost)})


@pytest.fixture
def results(tmp_path):
    return results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=5.5, groups="none", learning_rate=1e-4), line(end=5.2, groups="none", learning_rate=2e-3),
        line(end=4.0, steps=200, groups="none"),
        line(end=3.0, start=7.0), line(end=2.0, start=7.0, steps=200), line(end=3.5, start=7.0, learning_rate=1e-3),
        line(end=2.5, start=7.0, freeze="embeddings", lit_threshold=0.01, lit_patience=1),
        line(end=4.5, start=7.0, groups="embeddings,norms"), line(end=5.9, start=8.0, adapt="distill"),
        line("bert", end=1.0, start=2.0)])


def test_arms_say_how_a_student_started(results):
    assert set(xatl_runs.students(results)["arm"]) == {
        "from scratch", "transferred", "transferred, LIT freezes embeddings (0.01, 1)", "transferred: embeddings, norms",
        "distilled"}
    assert set(xatl_runs.students(results)["model"]) == {"fnet"}


def test_distillation_with_predictions_is_an_arm_of_its_own(tmp_path):
    results = results_of(tmp_path, [line(end=5.0, groups="none"), line(end=4.0, start=8.0, adapt="distill", logits_weight=1.0),
                                    line(end=4.5, start=8.0, adapt="distill")])
    assert set(xatl_runs.students(results)["arm"]) == {"from scratch", "distilled, and masked-LM", "distilled"}


def test_speedup_is_the_budget_over_the_steps_to_the_same_loss(results):
    found = {(r.arm, r.steps): r for r in xatl_runs.speedups(results).itertuples()}
    plain = found["transferred", 100]
    # from scratch ends at 5.0, the best of its three rates; 7 -> 3 in 100 steps is there after 50, 7 -> 2 in 200 after 80
    assert plain.scratch_loss == 5.0 and plain.speedup == pytest.approx(2.0) and plain.gain == pytest.approx(2.0)
    assert plain.scratch_edge == "" and found["transferred", 200].scratch_edge == "only rate"
    assert plain.edge == "lowest rate"  # of two
    longer = found["transferred", 200]  # 4.0 is reached after 75 and 120 steps
    assert longer.speedup == pytest.approx(200 / 75) and longer.loss == 2.0 and not longer.at_start
    assert math.isnan(found["distilled", 100].speedup) and found["distilled", 100].gain == pytest.approx(-0.9)
    assert plain.seconds_speedup == pytest.approx(2.0)


def test_a_swap_that_is_there_untrained_counts_from_its_first_evaluation(tmp_path):
    assert xatl_runs.crossing([(0, 3.0), (10, 2.0)], 4.0) == 10 and xatl_runs.crossing([(0, 3.0)], 2.0) is None
    assert xatl_runs.crossing([(0, 4.0), (10, 2.0)], 3.0) == 10  # nor anywhere before it
    assert xatl_runs.crossing([(0, 3.0), (10, 2.0), (20, 1.0)], 1.5) == pytest.approx(15)
    results = results_of(tmp_path, [line(end=5.0, groups="none"), line(end=3.0, start=4.0)])
    row, = xatl_runs.speedups(results).itertuples()
    assert row.at_start and row.speedup == 4  # the first of four evaluations
    assert "at least 4.0x (untrained)" in xatl.table(results).markdown()
    figure = xatl.curves(results)
    assert "≥ 4.0x" in {t.get_text() for axis in figure.axes for t in axis.texts}
    plt.close(figure)


def test_seconds_are_those_of_a_run_alone(tmp_path):
    """Half a second a step alone, two in a crowd; distillation's own pace is not known."""
    crowd = {"shared": True, "train_seconds": 200.0}
    results = results_of(tmp_path, [
        line(end=5.0, groups="none", timing=crowd), line(end=3.0, start=7.0, timing=crowd),
        line(end=3.0, start=7.0, adapt="distill", timing=crowd), line(end=6.0, start=7.0, steps=20)])
    found = {r.arm: r for r in xatl_runs.speedups(results).itertuples()}
    assert found["transferred"].seconds_speedup == pytest.approx(2.0) == found["distilled"].speedup
    assert math.isnan(found["distilled"].seconds_speedup)
    by_arm = xatl_runs.students(results).set_index(["arm", "steps"])["s_per_step"]
    assert by_arm["from scratch", 100] == 0.5 and math.isnan(by_arm["distilled", 100])


def test_only_the_same_batches_compare(tmp_path):
    results = results_of(tmp_path, [line(end=5.0, groups="none"), line(end=3.0), line(end=2.0, shortest=8),
                                    line("hybrid-2", end=2.0)])
    assert sorted(xatl_runs.students(results)["loss"]) == [3.0, 5.0]


def test_crippled_rivals_are_named(tmp_path):
    results = results_of(tmp_path, [line(end=7.2, groups="none", timing={"shared": True}), line(end=3.0)])
    row, = xatl_runs.speedups(results).itertuples()
    assert not row.clear
    text = xatl.table(results).markdown()
    assert "near unigram, only rate" in text and "| 3.3x |" in text
    assert xatl.entries(results) == {}  # nothing is claimed against a rival that has learned no more than frequencies
    assert "At 1x the rival has hardly begun to learn, and does not count" in xatl.sentences(results)[0]


@pytest.mark.parametrize("end, mark", [(7.2, "near unigram"), (6.6, "plateau"), (6.0, None)])
def test_a_rival_that_has_hardly_begun_to_learn_is_named(tmp_path, end, mark):
    """Token frequencies alone give 7.35."""
    results = results_of(tmp_path, [line(end=end, groups="none"), line(end=3.0)])
    text = xatl.table(results).markdown().split("From teacher")[0]
    assert [word for word in ("near unigram", "plateau") if f"({word}" in text] == [mark] * bool(mark)
    assert [entry["rival_learned"] for entry in xatl.entries(results).values()] == ([] if mark == "near unigram" else [{"1x": mark is None}])


def test_tables_figure_and_summary(results):
    text = xatl.table(results).markdown()
    assert "| 1x: 3.3 M tokens | 5.000 | 2.0x | 2.0x | 3.000 (lowest rate) | 2.000 | 40.0 |" in text and "LIT" not in text and "one pace" in text
    assert "| from scratch | 100 | 3.3 | 5.500 | **5.000** | – | 5.200 |" in xatl.rates(results).markdown()
    figure = xatl.curves(results)
    axis, = figure.axes
    assert {"2.0x", "2.7x"} <= {t.get_text() for t in axis.texts}
    bar, = (line.get_xydata().tolist() for line in axis.lines if line.get_linestyle() == "--" and line.get_xydata()[1][0] == 200)
    assert bar == [[pytest.approx(75), 4.0], [200, 4.0]]  # from where the loss is reached to where the from-scratch run ends
    seconds, = axis.child_axes
    assert seconds.get_xlabel().endswith("test CPU") and [t.get_text() for t in seconds.get_xticklabels()] == ["12", "50", "100"]
    assert "token frequencies alone" in {t.get_text() for t in figure.legends[0].get_texts()}
    plt.close(figure)
    assert xatl.entries(results) == {"fnet": {
        "speedup": {"1x": 2.0, "2x": pytest.approx(200 / 75, abs=1e-4)}, "speedup_is_lower_bound": {"1x": False, "2x": False}, "rival_learned": {"1x": True, "2x": True}, "rival_one_rate": {"1x": False, "2x": True},
        "teacher": {"1x": "minilm", "2x": "minilm"}, "gain_loss_pct": {"1x": 40.0, "2x": 50.0}}}
    assert xatl.answer(results) == ("- **`fnet`** transferred is, at 1x (3.3 M tokens), 2x (6.6 M tokens), **2.0x, 2.7x sooner**, by runs of as many steps 2.0x, 1.7x; "
                                    "after as many steps its loss is 40%, 50% lower.\n")
    sentence = xatl.sentences(results)[0]
    assert "2.0x, 2.7x sooner" in sentence and "2.000 against 4.000" in sentence


def test_there_by_the_first_evaluation_is_a_lower_bound(tmp_path):
    results = results_of(tmp_path, [line(end=6.1, groups="none"), line(end=0.0, start=8.0), line(end=4.0, steps=200, groups="none"), line(end=1.0, steps=200)])
    first, second = xatl_runs.speedups(results).sort_values("steps").itertuples()
    assert first.at_least and not first.at_start and first.speedup == 4  # 8 -> 6.1 within the first of four evaluations
    assert not second.at_least and second.speedup == 4  # 200 over 50
    assert "| at least 4.0x |" in xatl.table(results).markdown() and "loss at least 4.0x, 4.0x sooner" in xatl.sentences(results)[0]
    assert xatl.entries(results)["fnet"]["speedup_is_lower_bound"] == {"1x": True, "2x": False}
    figure = xatl.curves(results)
    assert {t.get_text() for t in figure.axes[0].texts} == {"≥ 4.0x", "4.0x"}
    plt.close(figure)


def test_budgets_are_named_by_the_smallest_whose_rival_has_learned_and_shorter_ones_do_not_count(tmp_path):
    results = results_of(tmp_path, [line(end=6.6, groups="none"), line(end=3.0), line(end=5.0, steps=200, groups="none"), line(end=3.0, steps=200),
                                    line(end=4.0, steps=400, groups="none"), line(end=3.0, steps=400)])
    entry = xatl.entries(results)["fnet"]
    assert list(entry["speedup"]) == ["1x", "2x"] and entry["rival_learned"] == {"1x": True, "2x": True}
    assert entry["speedup"] == {"1x": 3.0, "2x": 4.8}  # 9 -> 3 in 100 steps is at 5 after 66.7, at 4 after 83.3
    text = xatl.table(results).markdown()
    assert "| 0.5x: 3.3 M tokens | 6.600 (plateau, only rate) |" in text and "| 1x: " in text and "| 2x: " in text
    figure = xatl.curves(results)
    assert len(figure.axes[0].texts) == 2  # the rival on its plateau has no bar
    plt.close(figure)


def test_a_budget_has_one_teacher_and_no_mean_over_them(tmp_path):
    scratch = [line(end=5.0, groups="none"), line(end=4.0, steps=200, groups="none"), line(end=3.5, steps=400, groups="none")]
    results = results_of(tmp_path, [
        *scratch, line(end=2.5, steps=200), taught(line(end=1.0), "z-teacher"), taught(line(end=2.0, steps=400), "z-teacher"),
        taught(line(end=1.5), "a-teacher")])
    shown = {r.steps: (r.teacher, r.loss) for r in xatl_runs.headline(xatl_runs.speedups(results)).itertuples()}
    assert shown == {100: ("z-teacher", 1.0), 200: ("minilm", 2.5), 400: ("z-teacher", 2.0)}  # most runs before name
    assert xatl.entries(results)["fnet"]["gain_loss_pct"] == {"1x": 80.0, "2x": 37.5, "4x": pytest.approx(42.857143)}
    text = xatl.table(results).markdown()
    assert "| z-teacher |" in text and "`fnet` 1.500 after 100 steps, 1.9x sooner (`a-teacher`)" in text and "From teacher" not in text


def test_seconds_are_of_one_gpu(tmp_path):
    """The from-scratch run's own GPU has no pace alone: both are told by that of the other."""
    away = line(end=5.0, groups="none", timing={"shared": True, "train_seconds": 1.0})
    results = results_of(tmp_path, [away.model_copy(update={"env": {**away.env, "device_name": "another GPU"}}), line(end=3.0, start=7.0)])
    assert set(xatl_runs.students(results)["gpu"]) == {"test CPU"} and set(xatl_runs.students(results)["s_per_step"]) == {0.5}
    assert xatl_runs.speedups(results)["seconds_speedup"].tolist() == [pytest.approx(2.0)]


def test_the_same_run_twice_shows_both_losses(tmp_path):
    results = results_of(tmp_path, [line(end=5.0, groups="none"), taught(line(end=4.5, groups="none"), "other"), line(end=3.0)])
    assert "| from scratch | 100 | 3.3 | 5.000, **4.500** |" in xatl.rates(results).markdown()
    text = xatl.table(results).markdown()
    assert "`fnet` after 100 steps at 0.0005: 4.500, 5.000" in text and "| 4.500 (only rate) |" in text


@pytest.fixture
def arms(tmp_path):
    """One rate beside another for LIT and transferred, the arms from `second`, the transferred arm from `minilm` too."""
    distilled = line(end=8.5, start=8.0, adapt="distill")
    distilled.metrics.history[-1]["layer_errors"] = [0.1, 0.42]
    lit = {"lit_threshold": 0.01, "lit_patience": 1, "start": 7.0}
    return results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=3.05, start=7.0), line(end=4.02, start=7.0, learning_rate=3e-3), *(taught(record, "second") for record in (
            line(end=3.0, start=7.0), line(end=4.0, start=7.0, learning_rate=3e-3),
            frozen(line(end=2.8, freeze="embeddings", **lit), 500, 25),
            frozen(line(end=3.8, freeze="embeddings", learning_rate=3e-3, **lit), 500, 25),
            frozen(line(end=3.4, freeze="output_projection", **lit), 5, None),
            frozen(line(end=3.01, freeze="feed_forward", **lit), 50, 50),
            line(end=4.6, groups="embeddings"), line(end=4.7, groups="embeddings,norms"), distilled)),
        line(end=4.5, steps=200, groups="none"), line(end=2.0, steps=200, start=7.0)])


def test_arms_stand_beside_the_transferred_one_of_their_teacher(arms):
    text = xatl.arms(arms).markdown()
    assert "## `fnet` after 100 steps (3.3 M tokens), teacher `second`" in text and "| transferred | 0.0005 (lowest rate) | 3.000 | – | – | 2.0x | – | – |" in text
    assert "| transferred, LIT freezes embeddings (0.01, 1) | 0.0005 (lowest rate) | 2.800 | −0.200 | −0.200, −0.200 | 2.1x | 25 | 500 of 1,000 |" in text
    assert "| transferred, LIT freezes output projection (0.01, 1) | 0.0005 (only rate) | 3.400 | +0.400 | +0.400, – | 1.8x | – | 5 of 1,000 |" in text
    rows = [row.split(" | ")[0] for row in text.splitlines() if row.startswith("| ")][2:]
    assert rows[:3] == ["| from scratch", "| transferred: embeddings", "| transferred: embeddings, norms"] and rows[-1] == "| distilled"
    assert "trains its gain alone" in text and "`fnet` 5 parameters" in text and "hidden states, not on the masked-LM loss" in text
    assert "`fnet` after 100 steps +0.050 (`minilm`, 0.0005)" in text and "Without a record" not in text
    assert list(xatl_arms.compare(arms)["steps"].unique()) == [100]


def test_arms_of_another_teacher_stand_in_the_notes(tmp_path):
    lit = {"freeze": "embeddings", "lit_patience": 1, "start": 7.0}
    results = results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=3.0, start=7.0), line(end=4.0, start=7.0, learning_rate=3e-3),
        frozen(line(end=2.8, lit_threshold=0.01, **lit), 500, 25), frozen(line(end=3.9, lit_threshold=0.005, learning_rate=3e-3, **lit), 500, 50),
        *(taught(record, "second") for record in (line(end=3.1, start=7.0), frozen(line(end=3.0, lit_threshold=0.005, **lit), 500, 50))),
        line(end=4.0, steps=200, groups="none"), line(end=2.0, steps=200, start=7.0), frozen(line(end=2.2, steps=200, lit_threshold=0.01, **lit), 500, 25)])
    assert xatl_arms.elsewhere(results) == [
        "`fnet` transferred, LIT freezes embeddings (0.005, 1) 3.000 against 3.100 (−0.100; `second`, 0.0005, 100 steps)"]
    assert "From another teacher, against its own transferred student at the same rate: `fnet` transferred, LIT" in xatl.arms(results).markdown()
    freezing = xatl.sentences(results)[1]  # a best rate that the transferred student does not have is no verdict
    assert "embeddings [0.01, 1] −0.200" in freezing and "helps with embeddings [0.01, 1] and hurts with none" in freezing
    assert "(embeddings [0.005, 1]: no run here at the transferred student's rate, 0.0005)" in freezing


def test_every_budget_with_other_arms_has_its_own_comparison(tmp_path):
    """Beside the transferred run of as many steps, from the teacher that has most arms there."""
    lit = {"freeze": "embeddings", "lit_threshold": 0.01, "lit_patience": 1, "start": 7.0}
    results = results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=3.0, start=7.0), frozen(line(end=2.8, **lit), 500, 25), taught(line(end=3.05, start=7.0), "second"),
        line(end=4.0, steps=200, groups="none"), *(taught(record, "second") for record in (
            line(end=2.0, steps=200, start=7.0), frozen(line(end=2.2, steps=200, **lit), 500, 75))),
        line(end=3.5, steps=400, groups="none"), line(end=1.5, steps=400, start=7.0)])
    data = xatl_arms.compare(results)
    assert data.groupby("steps")["teacher"].max().to_dict() == {100: "minilm", 200: "second"}  # at 400 there is nothing to compare
    assert data.groupby("steps")["against_transferred"].last().round(6).to_dict() == {100: -0.2, 200: 0.2}
    assert "## `fnet` after 200 steps (6.6 M tokens), teacher `second`" in xatl.arms(results).markdown()
    short, long = (line for line in xatl.sentences(results) if "LIT" in line)
    assert "differs by up to 0.050; beyond that it helps with embeddings" in short
    assert "It helps with none and hurts with embeddings" in long  # 100 steps say nothing of 200
    figure = xatl.arm_curves(results)
    assert [axis.get_title() for axis in figure.axes] == ["fnet, 100 steps, from minilm", "fnet, 200 steps, from second"]
    plt.close(figure)


def test_a_teacher_that_read_the_text_is_no_repeat_of_one_that_did_not(tmp_path):
    by_lit = frozen(line(end=2.99, freeze="embeddings", lit_threshold=0.01, lit_patience=1), 500, 25)
    results = results_of(tmp_path, [line(end=5.0, groups="none"), line(end=3.0), by_lit, taught(line(end=2.5), "minilm-mlm-4000")])
    assert xatl_arms.repeated(results).empty and "once more" not in xatl.arms(results).markdown()


@pytest.fixture
def seeds(tmp_path):
    """Two more seeds of both arms from `minilm`; from a teacher trained on this text before, one."""
    return results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=5.4, groups="none", learning_rate=1e-3), line(end=3.0, start=7.0), line(end=2.9, start=7.0, learning_rate=1e-3),
        *(taught(line(end=end, start=6.0, learning_rate=rate), "minilm-mlm-4000") for end, rate in ((2.0, 5e-4), (2.5, 1e-3), (3.0, 2e-3))),
        line(end=4.8, groups="none", seed=1), line(end=3.2, start=7.0, seed=1), line(end=5.2, groups="none", seed=2), line(end=2.8, start=7.0, seed=2)])


def test_seeds_are_compared_pair_by_pair(seeds):
    """At the learning rate that all seeds have, though another was better in one of them."""
    data = xatl_seeds.frame(seeds)
    assert data["seed"].tolist() == [0, 1, 2] and set(data["rate"]) == {0.0005} and set(data["teacher"]) == {"minilm"}
    assert data["speedup"].tolist() == pytest.approx([2.0, 3.8 / 2.2, 4.2 / 1.8])
    assert data["gain_pct"].tolist() == pytest.approx([40.0, 100 * 1.6 / 4.8, 100 * 2.4 / 5.2])
    found = xatl.entries(seeds)["fnet"]["by_seed"]["1x"]
    assert found["speedup"] == {"mean": pytest.approx(2.020202), "sd": pytest.approx(0.303535), "n": 3, "is_lower_bound": False, "not_reached": 0} and found["teacher"] == "minilm"
    assert "| 5.000 ± 0.200 (3) | 3.000 ± 0.200 (3) | 2.0 ± 0.3 (3) | 2.0, 1.7, 2.3 |" in xatl_seeds.table(seeds).markdown()


def test_a_seed_that_diverged_is_no_rival_and_no_speedup(tmp_path):
    """From scratch it leaves the pair out; transferred it is there, not sooner, with nothing gained."""
    results = results_of(tmp_path, [
        *(line(end=5.0, groups="none", seed=seed) for seed in (0, 2, 3)), *(line(end=3.0, start=7.0, seed=seed) for seed in (0, 1, 3)),
        diverged(line(groups="none", seed=1)), diverged(line(seed=2))])
    data = xatl_seeds.frame(results)
    assert data["seed"].tolist() == [0, 2, 3] and data["speedup"].isna().tolist() == [False, True, False]
    assert "| 5.000 ± 0.000 (3) | 3.000 ± 0.000 (2) | 2.0 ± 0.0 (2), not in 1 | 2.0, not, 2.0 | 40.0 ± 0.0 (2) |" in xatl_seeds.table(results).markdown()


def test_other_seeds_change_no_other_figure(seeds):
    assert set(xatl_runs.students(seeds)["seed"]) == {0} and xatl.entries(seeds)["fnet"]["speedup"] == {"1x": pytest.approx(4.0)}
    assert xatl_settings.table(seeds).markdown().count("| as XATL's arms |") == 1


def test_one_seed_is_no_spread(results):
    assert xatl_seeds.frame(results).empty and "-p seed" in xatl_seeds.table(results).markdown() and "by_seed" not in xatl.entries(results)["fnet"]


def test_what_a_refreshed_teacher_hands_down_is_told_apart(seeds):
    """The headline's teacher was trained on this text; `minilm` was not, and stands beside it, not instead of it."""
    found = xatl.entries(seeds)["fnet"]
    assert found["teacher"] == {"1x": "minilm-mlm-4000"} and found["speedup"] == {"1x": pytest.approx(4.0)}
    assert found["as_it_comes"] == {"teacher": {"1x": "minilm"}, "speedup": {"1x": pytest.approx(2.05, abs=0.01)},
                                    "speedup_is_lower_bound": {"1x": False}, "gain_loss_pct": {"1x": 42.0}}
    assert "| at least 4.0x | at least 4.0x | 2.0x (2.0x) |" in xatl.table(seeds).markdown() and "hands down what it learned there" in xatl.table(seeds).markdown()


def test_the_answer_tells_teachers_and_seeds_apart(tmp_path):
    """`hybrid-2` never had a refreshed teacher; of `fnet` one leads at both budgets, and the seeds are of the other."""
    def both(model, **values):
        return [line(model, end=5.0, groups="none", **values), line(model, end=4.0, steps=200, groups="none", **values)]

    inherited = [taught(line(end=end, start=7.0, steps=steps, learning_rate=rate), "minilm-mlm-4000")
                 for end, steps in ((2.0, 100), (1.0, 200)) for rate in (5e-4, 1e-3)]
    results = results_of(tmp_path, [
        *both("fnet"), *both("fnet", seed=1), *inherited, line(end=3.0, start=7.0), line(end=3.0, start=7.0, seed=1), line(end=4.5, start=7.0, steps=200),
        line(end=4.5, start=7.0, steps=200, seed=1), *both("hybrid-2"), line("hybrid-2", end=3.0, start=7.0), line("hybrid-2", end=2.0, start=7.0, steps=200)])
    fnet, hybrid = xatl.answer(results).splitlines()
    assert "from one as it comes: **2.0x, 2.7x** at 1x, 2x (`minilm`)." in fnet  # at 2x by the shorter run
    assert fnet.endswith("Over seeds, by runs of as many steps: 1x 2.0 ± 0.0 (2) (`minilm`).")  # at 2x none of them is ever there
    assert "had been trained on" not in hybrid and "seeds" not in hybrid
    assert set(xatl.entries(results)["hybrid-2"]) & {"as_it_comes", "by_seed"} == set()
    assert xatl.entries(results)["fnet"]["by_seed"]["2x"]["speedup"] == {"n": 0, "is_lower_bound": False, "not_reached": 2}
    assert "| not in 2 | not, not |" in xatl_seeds.table(results).markdown()


def test_a_folder_of_refreshed_teachers_alone(tmp_path):
    results = results_of(tmp_path, [line(end=5.0, groups="none"), taught(line(end=3.0), "minilm-mlm-4000")])
    assert "as_it_comes" not in xatl.entries(results)["fnet"] and "| minilm" not in xatl.table(results).markdown() and xatl.answer(results)


def test_seeds_of_budgets_that_the_other_tables_lack_are_left_out(tmp_path):
    results = results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=3.0), line(end=2.5, learning_rate=1e-3),
        *(record for seed in (1, 2) for record in (line(end=4.0, steps=200, groups="none", seed=seed), line(end=2.0, steps=200, seed=seed)))])
    assert {(r.seed, r.steps) for r in xatl_runs.students(results).itertuples()} == {(0, 100)} and xatl_seeds.frame(results).empty
    assert "by_seed" not in xatl.entries(results)["fnet"] and "two seeds" in xatl_seeds.table(results).markdown()


def test_repeats_are_of_the_arms_own_kind_or_seeds(tmp_path):
    """What freezing is judged by: here other seeds of the same teacher, since none of its kind was repeated."""
    by_lit = frozen(line(end=2.9, start=7.0, freeze="embeddings", lit_threshold=0.01, lit_patience=1), 500, 25)
    results = results_of(tmp_path, [
        *(line(end=5.0, groups="none", seed=seed) for seed in (0, 1)), line(end=3.0, start=7.0), line(end=3.2, start=7.0, seed=1), by_lit,
        taught(line(end=2.0, start=7.0), "minilm-mlm-4000")])
    assert any("Seeds of the transferred student differ by up to 0.200; beyond that it helps with none" in text for text in xatl.sentences(results))


def test_where_no_teacher_was_refreshed_there_is_one_figure(results):
    assert xatl.as_it_comes(results).empty and "as_it_comes" not in xatl.entries(results)["fnet"] and "as it comes" not in xatl.table(results).markdown()


def test_what_the_preset_plans_and_lacks_is_named(tmp_path):
    second = "minilm-mlm-4000-seed1"
    results = results_of(tmp_path, [line(steps=600, groups="none"), *(taught(record, second) for record in (
        line(end=3.0, steps=600), line(end=3.0, steps=600, groups="embeddings")))])
    assert "Without a record: transferred (fnet, 0.0003, 600 steps)" in xatl.arms(results).markdown()
    assert "transferred, LIT freezes feed forward (0.01, 1) (fnet, 0.001, 600 steps)" in xatl_arms.missing(results)
    assert not any("hybrid" in text for text in xatl_arms.missing(results))  # no such student is compared here


def test_sentences_say_what_each_arm_is_worth(arms):
    _, freezing, distillation, components = xatl.sentences(arms)
    assert "embeddings −0.200 (unfrozen at step 25), feed forward +0.010 (unfrozen at step 50), output projection +0.400 (never unfrozen)" in freezing
    assert "differs by up to 0.050; beyond that it helps with embeddings and hurts with output projection" in freezing  # 0.01 is neither
    assert "lower in 1 of 3 (0.0005), 1 of 1 (0.003)" in freezing
    assert "8.500 under the teacher's resting head against 3.000 transferred (+5.500), above the 8.000 of the untrained swap, and no better" in distillation
    assert "off by 0.42 of their variance" in distillation
    assert "5.000 from scratch (5.000 at its best rate), then embeddings −0.400, norms +0.100, feed forward + output projection + " in components
    assert components.endswith("−1.700, which makes 3.000.")


def test_freezing_does_nothing_within_what_a_repeat_differs_by(tmp_path):
    by_lit = frozen(line(end=2.99, freeze="embeddings", lit_threshold=0.01, lit_patience=1), 500, 25)
    results = results_of(tmp_path, [line(end=5.0, groups="none"), line(end=3.0), by_lit, taught(line(end=3.05), "second")])
    assert "differs by up to 0.050; beyond that it helps with none and hurts with none" in xatl.sentences(results)[1]


def test_arms_figure_marks_where_lit_unfroze(arms):
    figure = xatl.arm_curves(arms)
    axis, = figure.axes
    dots = sorted(line.get_xydata()[0].tolist() for line in axis.lines if line.get_marker() == "o")
    assert dots == [[25, pytest.approx(5.95)], [50, pytest.approx(5.005)]]
    assert axis.texts[0].get_text() == "above: distilled ends at 8.50"
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(legend) == len(set(legend)) and {"LIT freezes embeddings (0.01, 1)", "only embeddings, norms", "unfrozen"} <= set(legend)
    colours = [line.get_color() for line in axis.lines if len(line.get_xydata()) == 5]
    assert len(colours) == len(set(colours)) == 8  # one an arm
    plt.close(figure)


def test_figures_and_tables_of_synthetic_data_say_so(arms):
    synthetic = dataclasses.replace(arms, tag="synthetic")
    assert "SYNTHETIC" in xatl.arms(synthetic).title and "SYNTHETIC" in xatl.table(synthetic).title
    for figure in (xatl.curves(synthetic), xatl.arm_curves(synthetic)):
        assert "SYNTHETIC" in figure.get_suptitle()
        plt.close(figure)


def test_gain_on_glue_is_transferred_over_from_scratch_at_the_same_budget(tmp_path):
    scratch, ours, longer = line(end=5.0, groups="none"), line(end=3.0), line(end=2.0, steps=200)

    def tuned(student, seed, score, training, rate=1e-4):
        return finetune_record("rte", "fnet", seed, score, training=training, minutes=0.8, student=student.run_id,
                               values={"learning_rate": rate})

    results = results_of(tmp_path, [
        scratch, ours, longer, *(tuned(scratch, seed, 0.5 + 0.01 * seed, "scratch") for seed in (1, 2)),
        *(tuned(ours, seed, 0.6 + 0.01 * seed, "inherited") for seed in (1, 2)),
        *(tuned(ours, seed, 0.7 + 0.01 * seed, "inherited", rate=3e-4) for seed in (1, 2)),
        tuned(longer, 1, 0.9, "inherited"),  # no from-scratch student had as many steps
        tuned(ours, 3, 0.99, "inherited_grid")])  # chooses, and is no result
    row, = xatl.glue_gains(results).itertuples()
    assert (row.steps, row.scratch_n, row.transferred_n) == (100, 2, 2) and row.gain == pytest.approx(0.2)
    assert "| fnet | 100 | RTE accuracy | 0.515 ± 0.007 (2) | 0.715 ± 0.007 (2) | +0.200 [+0.200, +0.200] | 1, 2 | 0.0005, 0.0005 |" in xatl.glue(results).markdown()
    assert xatl.entries(results)["fnet"]["gain_rte"] == {"1x": 0.2} and "fewer" not in xatl.glue(results).markdown()


def test_glue_says_where_a_rival_of_another_rate_was_better(tmp_path):
    better, scratch, ours = line(end=4.5, groups="none", learning_rate=3e-4), line(end=5.0, groups="none", learning_rate=1e-3), line(end=3.0)
    runs = [finetune_record("rte", "fnet", seed, score, training="tuned", minutes=0.8, student=student.run_id)
            for student, score in ((scratch, 0.5), (ours, 0.6)) for seed in (1, 2)]
    results = results_of(tmp_path, [better, scratch, ours, *runs])
    row, = xatl.glue_gains(results).itertuples()
    assert (row.scratch_mlm_rate, row.scratch_mlm_gap, row.transferred_mlm_gap) == (1e-3, pytest.approx(0.5), 0)
    assert "| 0.001 (−0.500 by another run), " in xatl.glue(results).markdown()


def test_a_transferred_student_of_fewer_steps_stands_in_and_is_named(tmp_path):
    first, scratch, ours = line(end=5.0, groups="none"), line(end=4.0, steps=200, groups="none"), line(end=3.0)

    def tuned(student, seed, score):
        return finetune_record("rte", "fnet", seed, score, training="tuned", minutes=0.8, student=student.run_id)

    results = results_of(tmp_path, [first, scratch, ours, *(tuned(scratch, seed, 0.5) for seed in (1, 2)), *(tuned(ours, seed, 0.6) for seed in (1, 2))])
    row, = xatl.glue_gains(results).itertuples()
    assert (row.steps, row.transferred_steps) == (200, 100) and row.gain == pytest.approx(0.1)
    assert "| fnet | 200 (transferred: 100) | RTE" in xatl.glue(results).markdown() and "at less compute" in xatl.glue(results).markdown()
    entry = xatl.entries(results)["fnet"]
    assert entry["gain_rte"] == {"2x": 0.1} and entry["gain_rte_teacher"] == {"2x": "minilm"} and entry["gain_rte_share_of_steps"] == {"2x": 0.5}


def test_glue_shows_each_teacher_and_says_where_the_arms_differ(tmp_path):
    scratch, ours = line(end=5.0, groups="none"), line(end=3.0)
    again, second = taught(scratch, "second"), taught(ours, "second")

    def tuned(student, seed, score):
        return taught(finetune_record("rte", "fnet", seed, score, training="inherited", minutes=0.8, student=student.run_id), student.teacher.name)

    results = results_of(tmp_path, [
        scratch, again, ours, second, tuned(scratch, 1, 0.55), tuned(scratch, 2, 0.57), tuned(again, 1, 0.5), tuned(ours, 1, 0.6),
        *(tuned(second, seed, 0.7) for seed in (1, 2, 3))])
    first, other = xatl.glue_gains(results).itertuples()
    assert (first.teacher, first.transferred_n, other.teacher, other.transferred_n) == ("minilm", 1, "second", 2)
    assert first.scratch == other.scratch == pytest.approx(0.56) and first.scratch_n == 2  # two from-scratch students are not mixed
    text = xatl.glue(results).markdown()
    assert "| minilm | 0.560 ± 0.014 (2) | 0.600 ± – (1) |" in text
    assert "| second (from scratch: minilm) | 0.560 ± 0.014 (2) | 0.700 ± 0.000 (2) | +0.140 [+0.130, +0.150] | 2, 1 | 0.0005, 0.0005 |" in text  # the seeds of both
    assert xatl.entries(results)["fnet"]["gain_rte"] == {"1x": 0.14}  # one seed of the teacher that its other figures are from says less


def test_all_tasks_of_a_budget_have_one_teacher(tmp_path):
    """The one with most runs, though on one task another's were better."""
    scratch, ours = line(end=5.0, groups="none"), line(end=3.0)
    second = taught(ours, "second")

    def tuned(student, task, seeds, score):
        return [taught(finetune_record(task, "fnet", seed, score, training="inherited", minutes=0.8, student=student.run_id), student.teacher.name)
                for seed in seeds]

    results = results_of(tmp_path, [
        scratch, ours, second, *tuned(scratch, "rte", (1, 2, 3), 0.5), *tuned(scratch, "cola", (1, 2, 3), 0.1), *tuned(ours, "rte", (1, 2, 3), 0.6),
        *tuned(ours, "cola", (1, 2, 3), 0.2), *tuned(second, "rte", (1, 2, 3), 0.7), *tuned(second, "cola", (1,), 0.3)])
    found = xatl.entries(results)["fnet"]
    assert (found["gain_rte"], found["gain_cola"]) == ({"1x": 0.1}, {"1x": 0.1})
    assert found["gain_rte_teacher"] == found["gain_cola_teacher"] == {"1x": "minilm"}


def test_glue_of_the_teacher_of_the_other_figures_comes_first(tmp_path):
    ours, second = line(end=3.0), taught(line(end=3.5), "second")
    runs = [taught(finetune_record("rte", "fnet", seed, score, training="x", minutes=0.8, student=student.run_id), student.teacher.name)
            for student, score in ((ours, 0.6), (second, 0.7)) for seed in (1, 2)]
    scratch = line(end=5.0, groups="none")
    rivals = [finetune_record("rte", "fnet", seed, 0.5, training="y", minutes=0.8, student=scratch.run_id) for seed in (1, 2)]
    assert xatl.entries(results_of(tmp_path, [scratch, ours, second, *runs, *rivals]))["fnet"]["gain_rte"] == {"1x": 0.1}


def test_glue_marks_what_collapsed(tmp_path):
    scratch, ours = line(end=5.0, groups="none"), line(end=3.0)

    def tuned(student, seed, score, degenerate=False):
        return finetune_record("rte", "fnet", seed, score, training="x", minutes=0.8, student=student.run_id, degenerate=degenerate)

    results = results_of(tmp_path, [scratch, ours, tuned(scratch, 1, 0.5), tuned(scratch, 2, 0.52), tuned(ours, 1, 0.6), tuned(ours, 2, 0.0, True),
                                    tuned(ours, 3, 0.0, True)])
    row, = xatl.glue_gains(results).itertuples()
    assert (row.scratch_collapsed, row.transferred_collapsed) == (0, 1)  # of the seeds that both have
    text = xatl.glue(results).markdown()
    assert "(2)† |" in text and "†" not in text.split("(2)† |")[0].split("| RTE")[1] and "RTE: 1 of 2 transferred." in text


def test_a_student_that_was_frozen_at_first_has_its_own_row_and_no_headline(tmp_path):
    scratch, ours, frozen = line(end=5.0, groups="none"), line(end=3.0), line(end=2.9, freeze="embeddings", lit_threshold=0.01, lit_patience=1)
    runs = [finetune_record("rte", "fnet", seed, score, training="x", minutes=0.8, student=student.run_id)
            for student, score in ((scratch, 0.5), (ours, 0.6), (frozen, 0.9)) for seed in (1, 2)]
    results = results_of(tmp_path, [scratch, ours, frozen, *runs])
    assert [(r.arm, round(r.gain, 3)) for r in xatl.glue_gains(results).itertuples()] == [
        ("transferred", 0.1), ("transferred, LIT freezes embeddings (0.01, 1)", 0.4)]
    assert xatl.entries(results)["fnet"]["gain_rte"] == {"1x": 0.1}
    text = xatl.glue(results).markdown()
    assert "Frozen at first" in text and "| embeddings (0.01, 1) |" in text and "| – |" in text
    longer = [line(end=4.0, steps=200, groups="none")]
    fell = [finetune_record("rte", "fnet", seed, 0.0, training="y", minutes=0.8, student=frozen.run_id, degenerate=True) for seed in (1, 2)]
    more = results_of(tmp_path / "more", [scratch, ours, frozen, *longer, *runs[:4], *fell, *(
        finetune_record("rte", "fnet", seed, 0.55, training="x", minutes=0.8, student=longer[0].run_id) for seed in (1, 2))])
    assert [(r.steps, r.arm.split(",")[0] == r.arm) for r in xatl.glue_gains(more).itertuples()] == [(100, True), (100, False), (200, True)]  # frozen: as many steps alone
    assert "RTE: 2 of 2 transferred, LIT freezes embeddings (0.01, 1)." in xatl.glue(more).markdown()


def test_of_as_many_runs_the_teacher_whose_arm_was_tuned_more_has_the_gain(tmp_path):
    """From scratch two rates were tried; a transferred arm with one of them would be compared untuned."""
    scratch, ours, second = line(end=5.0, groups="none"), line(end=3.0), taught(line(end=3.0), "minilm-mlm-4000")

    def tuned(student, score, rate):
        return [taught(finetune_record("rte", "fnet", seed, score, training=f"at {rate}", minutes=0.8, student=student.run_id, values={"learning_rate": rate}),
                       student.teacher.name) for seed in (1, 2)]

    both = [record for rate, before, after in ((1e-4, 0.5, 0.4), (3e-4, 0.55, 0.6)) for record in (*tuned(scratch, before, rate), *tuned(ours, after, rate))]
    more = tuned(second, 0.3, 1e-4)
    results = results_of(tmp_path, [scratch, ours, second, *both, *more])
    assert "minilm-mlm-4000" in results.preset.teachers  # which would lead otherwise, as it does by the losses
    of = {(r.teacher, r.transferred_n): r.gain for r in xatl.glue_gains(results).itertuples()}
    assert of == {("minilm", 2): pytest.approx(0.05), ("minilm-mlm-4000", 2): pytest.approx(-0.25)}
    found = xatl.entries(results)["fnet"]
    assert found["gain_rte_teacher"] == {"1x": "minilm"} and found["teacher"] == {"1x": "minilm-mlm-4000"}


def test_scores_stand_beside_the_loss_where_several_masked_lm_rates_were_fine_tuned(tmp_path):
    """The lower loss has the lower score here, and the gain is the best score's."""
    scratch, slow, fast = line(end=5.0, groups="none"), line(end=3.5, learning_rate=3e-4), line(end=3.0, learning_rate=1e-3)
    runs = [finetune_record("rte", "fnet", seed, score, training="x", minutes=0.8, student=student.run_id)
            for student, score in ((scratch, 0.5), (slow, 0.8), (fast, 0.6)) for seed in (1, 2)]
    results = results_of(tmp_path, [scratch, slow, fast, *runs])
    rows = list(xatl_glue.by_mlm_rate(results).itertuples())
    assert [(r.arm, r.mlm_rate, r.loss, round(r.score, 3), r.score_n) for r in rows] == [("transferred", 3e-4, 3.5, 0.8, 2), ("transferred", 1e-3, 3.0, 0.6, 2)]
    text = xatl.glue(results).markdown()
    assert "| 0.001 | 3.000 | 0.600 ± 0.000 (2) | 1 |" in text and "+0.300" in text and "need not agree" in text
    assert "need not agree" not in xatl.glue(results_of(tmp_path / "one", [scratch, slow, *runs[:4]])).markdown()


def test_the_figure_of_glue_has_a_line_from_scratch_and_a_mark_a_student(tmp_path):
    students = [line(end=5.0, groups="none"), line(end=4.0, steps=200, groups="none"), line(end=3.5, learning_rate=3e-4), line(end=3.0, learning_rate=1e-3)]
    read = taught(line(end=2.5, steps=200), "minilm-mlm-4000")
    runs = [taught(finetune_record("rte", "fnet", seed, score, training="x", minutes=0.8, student=student.run_id), student.teacher.name)
            for student, score in zip((*students, read), (0.5, 0.55, 0.8, 0.6, 0.7)) for seed in (1, 2)]
    figure = xatl.glue_curves(results_of(tmp_path, [*students, read, *runs]))
    axis, = (axis for axis in figure.axes if axis.get_visible() and axis.lines)
    rival, *marks = axis.containers
    assert rival[0].get_ydata().tolist() == [0.5, 0.55] and axis.get_title() == "fnet, RTE"
    assert {(float(mark[0].get_ydata()[0]), mark[0].get_markerfacecolor() == "white") for mark in marks} == {(0.8, True), (0.6, True), (0.7, False)}
    assert {text.get_text() for text in axis.texts} == {"0.0003", "0.001"}  # of the other teacher there is one rate
    plt.close(figure)
    few = xatl.glue_curves(results_of(tmp_path / "few", [students[0], students[2], *runs[:2], *runs[4:6]]))
    assert "two budgets" in few.axes[0].texts[0].get_text()
    plt.close(few)


def test_the_swap_as_it_is_stands_beside_students_of_the_same_settings(tmp_path):
    """What it scores no masked-LM has brought. By other settings of fine-tuning, or of a teacher without such a student, it says nothing."""
    students = [line(end=5.0, groups="none"), line(end=4.0, steps=200, groups="none"), line(end=3.5)]
    runs = [finetune_record("rte", "fnet", seed, score, training="x", minutes=0.8, student=student.run_id, values={"adapted": None})
            for student, score in zip(students, (0.5, 0.55, 0.8)) for seed in (1, 2)]
    swapped = [finetune_record("rte", "fnet", seed, 0.7, training="y") for seed in (1, 2)]
    others = [finetune_record("rte", "fnet", seed, 0.9, training="z", values={"learning_rate": 3e-5}) for seed in (1, 2)]
    others += [taught(finetune_record("rte", "fnet", 1, 0.95, training="y"), "second"), finetune_record("cola", "fnet", 1, 0.95, training="y")]
    results = results_of(tmp_path, [*students, *runs, *swapped, *others])
    row, = xatl_glue.as_swapped(results).itertuples()
    assert (row.model, row.task, row.teacher, row.score, row.score_n) == ("fnet", "rte", "minilm", pytest.approx(0.7), 2)
    assert "Before masked-LM" in xatl.glue(results).markdown()
    figure = xatl.glue_curves(results)
    assert [line.get_ydata()[0] for axis in figure.axes for line in axis.lines if line.get_linestyle() == ":"] == [pytest.approx(0.7)]
    plt.close(figure)
    without = results_of(tmp_path / "without", [*students, *runs, *others])
    assert xatl_glue.as_swapped(without).empty and "Before masked-LM" not in xatl.glue(without).markdown()


def test_of_several_teachers_a_refreshed_one_leads_though_another_tried_more_rates(tmp_path):
    results = results_of(tmp_path, [
        line(end=5.0, groups="none"), taught(line(end=3.5), "minilm-mlm-4000"), *(line(end=end, learning_rate=rate) for end, rate in ((3.2, 1e-4), (3.1, 3e-4)))])
    row, = xatl_runs.headline(xatl_runs.speedups(results)).itertuples()
    no_run_of_as_many = results_of(tmp_path / "longer", [line(end=5.0, steps=200, groups="none"), line(end=5.0, groups="none"), line(end=3.5, steps=200),
                                                         taught(line(end=3.0), "minilm-mlm-4000")])
    assert {r.steps: r.teacher for r in xatl_runs.headline(xatl_runs.speedups(no_run_of_as_many)).itertuples()} == {100: "minilm-mlm-4000", 200: "minilm"}
    assert (row.teacher, row.tried) == ("minilm-mlm-4000", 1) and xatl.entries(results)["fnet"]["as_it_comes"]["teacher"] == {"1x": "minilm"}


def test_of_several_teachers_the_one_with_most_rates_leads(tmp_path):
    results = results_of(tmp_path, [
        line(end=5.0, groups="none"), line(end=4.0, steps=200, groups="none"), line(end=3.0, learning_rate=1e-3), line(end=2.5, steps=200),
        *(taught(line(end=end, learning_rate=rate), "second") for end, rate in ((3.2, 1e-4), (3.1, 3e-4), (3.3, 1e-3)))])
    shown = {r.steps: (r.teacher, r.tried, r.edge) for r in xatl_runs.headline(xatl_runs.speedups(results)).itertuples()}
    assert shown == {100: ("second", 3, ""), 200: ("minilm", 1, "only rate")}


def test_a_rate_at_which_a_run_diverges_was_tried(tmp_path):
    gone = diverged(line(end=5.0, groups="none", learning_rate=3e-3))
    results = results_of(tmp_path, [line(end=6.0, groups="none", learning_rate=1e-4), line(end=5.0, groups="none", learning_rate=1e-3), gone, line(end=3.0)])
    row, = xatl_runs.headline(xatl_runs.speedups(results)).itertuples()
    assert (row.scratch_loss, row.scratch_edge, row.gain) == (5.0, "", 2.0)
    assert "| 6.000 | **5.000** | diverged |" in xatl.rates(results).markdown().replace(" – |", "")
    settings = xatl_settings.table(results).markdown()
    assert "| 0.001 of 0.0001, 0.001, 0.003 | 5.000 |" in settings
    for figure in (xatl.curves(results), xatl.arm_curves(results), xatl_settings.curves(results)):
        plt.close(figure)


def test_without_students_it_says_how_to_make_them(tmp_path):
    results = results_of(tmp_path, [line("bert", end=1.0, start=2.0)])
    assert "-p groups none" in xatl.table(results).markdown() and xatl.entries(results) == {} and xatl.sentences(results) == []
    assert "-p freeze" in xatl.arms(results).markdown()
    assert "| Arm |" not in xatl.rates(results).markdown() and "-p student FOLDER" in xatl.glue(results).markdown()
    plt.close(xatl.curves(results))
    plt.close(xatl.arm_curves(results))
