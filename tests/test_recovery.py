"""The recovery by minutes, from records whose shares are known."""

import math

import pandas as pd
import pytest
from factories import efficiency_record, finetune_record, results_of, student_record
from matplotlib import pyplot as plt

from fnetlib import answer, recovery
from fnetlib.records import label, solo_seconds, task_minutes
from fnetlib.results import differences
from fnetlib.statistics import paired_recovery


def runs(model, score, minutes=None, seeds=(1, 2, 3), **fields):
    return [finetune_record("qnli", model, seed, score + 0.01 * seed, minutes=minutes, training="tuned", **fields) for seed in seeds]


@pytest.fixture
def results(tmp_path):
    return results_of(tmp_path, [
        *runs("bert", 0.885), *runs("hybrid-2", 0.685), *runs("hybrid-2", 0.785, minutes=2), *runs("hybrid-2", 0.88, minutes=10),
        *runs("fnet", 0.605, seeds=(1, 2)), *runs("bert", 0.89, minutes=10), *runs("fnet", 0.7, minutes=20, seeds=(2, 3, 4)),
        finetune_record("cola", "bert", 1, 0.4, training="tuned")])  # nobody is adapted here


def test_shares_of_berts_lead_at_the_seeds_that_both_have(results):
    data = recovery.frame(results).set_index(["model", "minutes"])
    assert set(data["task"]) == {"qnli"}
    assert data.loc[("bert", 0), "recovery"] == 1 and data.loc[("hybrid-2", 0), "pairs"] == 3
    # chance .505, BERT .905 over seeds 1 to 3: a lead of .4
    assert data.loc[("hybrid-2", 2), "recovery"] == pytest.approx(0.3 / 0.4)
    row = data.loc[("fnet", 20)]  # seeds 2 and 3 of 2, 3, 4: .725 against .91
    assert (row["n"], row["pairs"]) == (3, 2) and row["recovery"] == pytest.approx(0.22 / 0.405)
    assert row["low"] <= row["recovery"] <= row["high"] and row["method"] == "distill"


def test_the_ceiling_is_also_a_bert_that_had_minutes_of_its_own(results, tmp_path):
    """BERT after ten minutes has .91 over seeds 1 to 3, a lead of .405; one that lost by them, or had two seeds, is no ceiling."""
    data = recovery.frame(results).set_index(["model", "minutes"])
    assert data.loc[("bert", 10), "beside"] == 1 and data.loc[("bert", 0), "beside"] == pytest.approx(0.4 / 0.405)
    assert data.loc[("hybrid-2", 2), "beside"] == pytest.approx(0.3 / 0.405) and data.loc[("hybrid-2", 2), "beside_pairs"] == 3
    assert "| QNLI beside BERT's own minutes |" in recovery.table(results).markdown()
    for adapted in (runs("bert", 0.8, minutes=10), runs("bert", 0.9, minutes=10, seeds=(1, 2))):
        others = results_of(tmp_path / str(len(adapted)), [*runs("bert", 0.885), *runs("fnet", 0.7, minutes=2), *adapted])
        assert recovery.frame(others)["beside"].isna().all() and "beside BERT's" not in recovery.table(others).markdown().split("*Minutes*")[0]


def test_a_folders_frames_are_computed_once(results):
    assert recovery.frame(results) is recovery.frame(results) and results.primary is results.primary


def test_intervals_draw_pairs():
    """Equal differences at every seed: pairing keeps the interval far narrower than the seeds' own spread."""
    bert = pd.Series({1: 0.3, 2: 0.4, 3: 0.5})
    found = paired_recovery(0.9 * bert, bert, 0.0)
    assert found.mean == pytest.approx(0.9) and found.high - found.low < 1e-9
    assert paired_recovery(bert, bert, 0.45).mean is None and paired_recovery(bert, bert, None).n == 3
    assert paired_recovery(bert, pd.Series({7: 0.5}), 0.0).n == 0
    single = paired_recovery(bert, bert[[2]], 0.0)
    assert (single.mean, single.n, single.low) == (1.0, 1, None)


def test_table_figure_and_sentence(results):
    text = recovery.table(results).markdown()
    assert "| hybrid-2 | 10 | distill | 0.900 ± 0.010 (3) | 0.99 [" in text and "| hybrid-2 | 0 | – |" in text
    figure = recovery.figure(results)
    axis, = figure.axes
    hybrid = next(line for line in axis.lines if list(line.get_xdata()) == [0, 2, 10])
    assert list(hybrid.get_ydata()) == pytest.approx([0.5, 0.75, 0.9875], abs=1e-6)  # of BERT's lead of .4
    plt.close(figure)
    sentence, = recovery.sentences(results)
    assert "`hybrid-2` 50% [49, 51] (n=3) as it is, 75% [74, 76] (n=3) after 2 minutes, 99% [" in sentence
    assert "with as large a share" not in "".join(answer.lines(results))  # its speed was not measured
    assert "`bert` 101% [" in sentence and "`bert` 100%" not in sentence  # itself is the ceiling


def test_without_adapted_students_it_says_how(tmp_path):
    results = results_of(tmp_path, runs("bert", 0.885))
    assert "-p student FOLDER" in recovery.table(results).markdown() and recovery.sentences(results) == []
    plt.close(recovery.figure(results))


def test_without_a_bert_there_is_no_share(tmp_path):
    results = results_of(tmp_path, runs("hybrid-2", 0.7, minutes=2))
    assert math.isnan(recovery.frame(results)["recovery"].astype(float)[0]) and recovery.sentences(results) == []
    assert "| 0.720 ± 0.010 (3) | – |" in recovery.table(results).markdown()


def test_a_part_of_the_training_examples_is_said(tmp_path):
    few = {"values": {"train_size": 20000}}
    results = results_of(tmp_path, [*runs("bert", 0.885, **few), *runs("fnet", 0.7, minutes=1, **few)])
    assert set(recovery.frame(results)["examples"]) == {20000} and "QNLI (20,000 examples) recovery" in recovery.table(results).markdown()
    line, = recovery.sentences(results)
    assert line.startswith("- **Recovery, QNLI (20,000 examples)**") and line.endswith("after 1 minute.")


def distilled(seconds: float, shared: bool = True, seed: int = 1, size: int = 800, model: str = "fnet", **values):
    """A run of task distillation: `seconds` for the teacher's two epochs, the student's four on states, its eight on predictions."""
    run = finetune_record("qnli", model, seed, 0.7, minutes=None if model == "bert" else 2, training="tuned",
                          values={"distill_epochs": 4, "expert_epochs": 2, "epochs": 8, "batch_size": 16, **values})
    timing = {**run.timing, "task_teacher_s": seconds, "task_states_s": seconds, "wall_s": seconds, "shared": shared}
    return run.model_copy(update={"timing": timing, "data": run.data.model_copy(update={"sizes": {"train": size}})})


def test_task_distillation_is_a_method_of_its_own_and_its_time_counts(tmp_path):
    plain, task = runs("fnet", 0.6, minutes=2), [distilled(60.0, seed=seed) for seed in (1, 2, 3)]
    itself = [distilled(60.0, seed=seed, model="bert") for seed in (1, 2, 3)]
    results = results_of(tmp_path, [*runs("bert", 0.885), *plain, *task, *itself])
    data = recovery.frame(results).set_index(["model", "method"])
    assert data.loc[("fnet", "distill+task"), "minutes"] == 2 + 3 and data.loc[("fnet", "distill"), "minutes"] == 2
    assert {label(r) for r in task} == {"fnet@2min+task"} and {label(r) for r in plain} == {"fnet@2min"}
    assert data.loc[("fnet", "distill+task"), "pairs"] == data.loc[("fnet", "distill"), "pairs"] == 3
    assert data.loc[("bert", ""), "recovery"] == 1 and data.loc[("bert", "task"), "recovery"] < 1  # what judges is not the ceiling
    assert {"fnet@2min", "fnet@5min+task"} <= set(recovery.entries(results)["qnli"])


def test_minutes_of_task_distillation_follow_the_pace_alone_on_the_device():
    """A short run alone, a twentieth of the examples and half of the epochs, gives the long one's seconds by part."""
    shared = distilled(600.0)
    alone = distilled(3.0, shared=False, size=40, epochs=4, distill_epochs=2, expert_epochs=1)
    assert task_minutes(shared, [shared]) == 30  # nothing of its kind ran alone: its own, an upper bound
    assert task_minutes(shared, [shared, alone]) == pytest.approx(3 * 3.0 * 20 * 2 / 60)
    for other in ({"batch_size": 32}, {"precision": "bf16"}):
        assert task_minutes(shared, [shared, distilled(3.0, shared=False, size=40, **other)]) == 30
    assert task_minutes(finetune_record("qnli", "fnet", 1, 0.7), [alone]) == 0
    faster = distilled(300.0)  # shared too: tells more than a short run alone, half of it start
    assert task_minutes(shared, [shared, faster, distilled(30.0, shared=False, size=40)]) == 15
    assert task_minutes(shared, [shared, faster]) == 15  # and where none of the kind was alone, it is the lower bound of two


def test_a_tasks_teacher_has_the_pace_of_its_own_batches():
    """Of runs that differ in the teacher's batches alone, the student's parts are of one kind and the teacher's is not; whom it
    teaches does not count."""
    small, other = distilled(600.0, expert_batch_size=4), distilled(300.0)
    assert task_minutes(small, [small, other]) == (600 + 300 + 300) / 60
    assert task_minutes(other, [small, other]) == 15
    quick = distilled(60.0, expert_batch_size=4, seed=2)
    assert task_minutes(other, [small, other, quick]) == (300 + 60 + 60) / 60
    assert task_minutes(distilled(300.0, expert_batch_size=16), [other]) == 15  # what is given is the run's own
    assert task_minutes(other, [other, distilled(60.0, model="hybrid-2", distill_edits=0.5)]) == (60 + 300 + 300) / 60
    assert task_minutes(other, [other, distilled(60.0, model="hybrid-2", batch_size=32, expert_batch_size=16)]) == (60 + 300 + 300) / 60


def test_ways_that_differ_in_the_tasks_teacher_are_told_apart(tmp_path):
    """What was not given is the run's own."""
    own, tuned = ([distilled(60.0, seed=seed, learning_rate=2e-4, **given) for seed in (1, 2, 3)]
                  for given in ({}, {"expert_rate": 1e-4, "expert_batch_size": 4}))
    found = set(recovery.frame(results_of(tmp_path, [*runs("bert", 0.885), *own, *tuned]))["own"])
    assert {" [expert_rate=0.0002, expert_batch_size=16]", " [expert_rate=0.0001, expert_batch_size=4]"} <= found


def test_the_table_shows_what_the_tasks_teachers_scored(tmp_path):
    task = [distilled(60.0, seed=seed) for seed in (1, 2, 3)]
    told = [r.model_copy(update={"metrics": r.metrics.model_copy(update={"task_teacher": 0.8 + r.seed / 100})}) for r in task]
    column = "QNLI task's teacher"
    for found in (task, told):
        text = recovery.table(results_of(tmp_path / str(found is told), [*runs("bert", 0.885), *found])).markdown()
        assert (column in text and "0.820" in text) == (found is told)


def test_minutes_of_task_distillation_are_those_of_the_same_layers_in_another_order():
    spread, placed = distilled(300.0, model="hybrid-2"), distilled(600.0, model="hybrid-at-1-4")
    assert task_minutes(placed, [placed, spread]) == task_minutes(spread, [placed, spread]) == 15
    for other in ("hybrid-1", "hybrid-3", "hybrid-2+gated", "fnet"):
        assert task_minutes(placed, [placed, distilled(300.0, model=other)]) == (300 + 600 + 600) / 60  # their teacher is the same BERT


def test_minutes_of_a_resumed_or_failed_task_distillation_lower_nobodys(tmp_path):
    """A resumed run's clock holds its last session only."""
    whole, alone = distilled(600.0), distilled(600.0, shared=False, seed=2)
    cut = alone.model_copy(update={"timing": {**alone.timing, "resumed": True, "wall_s": 6.0, "task_states_s": None}})
    assert task_minutes(whole, [whole, alone, cut]) == task_minutes(cut, [whole, alone, cut]) == 30
    failed = distilled(60.0, seed=3).model_copy(update={"status": "failed", "metrics": None, "timing": {}})
    results = results_of(tmp_path, [*runs("bert", 0.885), distilled(60.0, seed=1), distilled(60.0, seed=2), failed])
    assert recovery.frame(results).set_index("model")["minutes"]["fnet"] == 5
    assert task_minutes(finetune_record("qnli", "fnet", 1, 0.7, values={"distill_epochs": 4}), []) == 0  # its parts were not timed


def test_masked_lm_and_distillation_of_the_same_minutes_have_entries_of_their_own(tmp_path):
    by = [r.model_copy(update={"adapted": r.adapted.model_copy(update={"method": "mlm"})})
          for r in runs("fnet", 0.7, minutes=2, student="adapt-y")]
    found = recovery.entries(results_of(tmp_path, [*runs("bert", 0.885), *runs("fnet", 0.6, minutes=2), *by]))["qnli"]
    assert found["fnet@2min+mlm"]["mean"] > found["fnet@2min"]["mean"]


def test_minutes_follow_the_adaptations_record_as_it_is_now(tmp_path):
    """A pace alone on the device, measured after the fine-tuning, replaces the shared device's seconds."""
    student = student_record("hybrid-2", 120, [7.0, 5.0], timing={"shared": True, "train_seconds": 540.0})
    alone = student_record("hybrid-2", 60, [7.0, 6.0], learning_rate=3e-3)
    run = finetune_record("qnli", "hybrid-2", 1, 0.8, minutes=9.0, student=student.run_id, training="tuned")
    found = results_of(tmp_path, [run, student, alone]).finetune
    assert found["minutes"].tolist() == [1.0] and found["label"].tolist() == ["hybrid-2@1min"]  # 120 steps of half a second


def test_a_run_that_shared_its_gpu_bounds_the_minutes_too(tmp_path):
    """Alone but short, half of it start: the longer run, which shared the device and was faster all the same, tells more."""
    alone = student_record("hybrid-2", 10, [7.0, 6.0], timing={"train_seconds": 20.0})
    long = student_record("hybrid-2", 600, [7.0, 5.0], timing={"shared": True, "train_seconds": 600.0})
    two = student_record("hybrid-2", 300, [7.0, 5.0], processes=2, timing={"train_seconds": 30.0, "processes": 2})
    frozen = student_record("hybrid-2", 300, [7.0, 5.0], freeze="embeddings", timing={"train_seconds": 30.0})
    assert solo_seconds(long, [alone, two, frozen]) == 600 and solo_seconds(alone, [long, two, frozen]) == 10
    assert solo_seconds(long, [two]) is None  # nothing of its kind ran alone


def test_a_pace_that_was_reckoned_too_high_does_not_shorten_the_minutes(tmp_path):
    """120 steps, a minute by a pace of 2 a second: alone on the device they take half as long, or twice."""
    minutes = []
    for seconds in (30.0, 120.0):
        student = student_record("hybrid-2", 120, [7.0, 5.0], minutes=1, pace=2, timing={"train_seconds": seconds})
        run = finetune_record("qnli", "hybrid-2", 1, 0.8, minutes=1, student=student.run_id, training="tuned")
        minutes += results_of(tmp_path / str(seconds), [run, student]).finetune["minutes"].tolist()
    assert minutes == [1.0, 2.0]


def test_students_of_the_same_minutes_that_differ_in_a_rate_are_told_apart(tmp_path):
    """The other's runs would else count as more seeds of the first."""
    first = student_record("hybrid-2", 120, [7.0, 5.0], learning_rate=1e-3)
    second = student_record("hybrid-2", 120, [7.0, 5.0], learning_rate=1e-4)
    tuned = [finetune_record("qnli", "hybrid-2", seed, score, minutes=2, student=student.run_id, training="tuned")
             for student, score, seeds in ((first, 0.7, (1, 2, 3, 4)), (second, 0.8, (1, 2, 3))) for seed in seeds]
    results = results_of(tmp_path, [*runs("bert", 0.885), *tuned, first, second])
    data = recovery.frame(results)
    assert "distill [adapt: learning_rate=0.0001]" in recovery.table(results).markdown()
    data = data[data["model"] == "hybrid-2"].set_index("own")
    assert data["n"].to_dict() == {"": 4, " [adapt: learning_rate=0.0001]": 3} and set(data["method"]) == {"distill"}
    assert data.loc[" [adapt: learning_rate=0.0001]", "mean"] == pytest.approx(0.8)
    assert set(recovery.main(results)["own"]) == {""} and list(recovery.others(results)["own"]) == [" [adapt: learning_rate=0.0001]"]
    assert "own" not in results.finetune["record"].iloc[-1].adapted.model_dump()  # known beside the others only: no part of a record
    assert len(set(results.finetune["label"])) == 3 and any("learning_rate=0.0001" in label for label in results.finetune["label"])
    found = recovery.entries(results)["qnli"]
    assert {name for name in found if name.startswith("hybrid-2")} == {"hybrid-2@1min", "hybrid-2@1min+distill [adapt: learning_rate=0.0001]"}


def test_students_differ_by_a_value_that_the_other_does_not_have_and_by_text(tmp_path):
    """A default is no part of a record's parameters. The student that most runs start from keeps its name."""
    plain = student_record("hybrid-2", 120, [7.0, 5.0])
    short = student_record("hybrid-2", 120, [7.0, 5.0], shortest=16)
    other = student_record("hybrid-2", 120, [7.0, 5.0], shortest=32)
    other = other.model_copy(update={"data": other.data.model_copy(update={"fingerprint": "another"}), "params": plain.params})
    minutes = {r.run_id: 1.0 for r in (plain, short, other)}
    found = differences([short, plain, other], minutes, {short.run_id: 1, plain.run_id: 3, other.run_id: 1})
    assert found == {short.run_id: " [adapt: shortest=16]", other.run_id: " [adapt: text=another]"}
    assert differences([short, plain], minutes, {short.run_id: 3, plain.run_id: 1}) == {plain.run_id: " [adapt: shortest=None]"}


def test_one_budget_on_two_devices_is_one_budget(tmp_path):
    """Ten minutes by the pace of one GPU count as more on another; students of two rates are still told apart, the older keeps its name."""
    older = student_record("hybrid-2", 120, [7.0, 5.0], minutes=10.0)
    newer = student_record("hybrid-2", 120, [7.0, 5.0], minutes=10.0, learning_rate=1e-4)
    older, newer = (r.model_copy(update={"started": f"2026-01-0{day}T00:00:00+00:00"}) for day, r in enumerate((older, newer), 1))
    counts = {older.run_id: 2, newer.run_id: 2}
    assert differences([newer, older], {older.run_id: 10.3, newer.run_id: 10.0}, counts) == {newer.run_id: " [adapt: learning_rate=0.0001]"}


def test_ways_of_one_student_that_differ_in_their_epochs_are_rows_of_their_own(tmp_path):
    ways = [distilled(60.0, seed=seed, epochs=epochs) for seed in (1, 2, 3) for epochs in (8, 16)]
    results = results_of(tmp_path, [*runs("bert", 0.885), *runs("fnet", 0.6, minutes=2), *ways])
    data = recovery.frame(results)
    assert sorted((data["method"] + data["own"])[data["before"] == 2])[1:] == ["distill+task [epochs=16]", "distill+task [epochs=8]"]
    assert set(data["n"]) == {3} and answer.lines(results)[0].count("if the task is distilled too") == 1
    plt.close(recovery.figure(results))


def test_what_bert_learns_from_itself_is_said(tmp_path):
    itself = [distilled(60.0, seed=seed, model="bert") for seed in (1, 2, 3)]
    results = results_of(tmp_path, [*runs("bert", 0.885), *runs("fnet", 0.6, minutes=2), *itself])
    assert "- `bert`: 49%" in recovery.main_sentences(results)[1] and "bert@3min+task" in recovery.entries(results)["qnli"]
    figure = recovery.figure(results)
    assert "^" in {line.get_marker() for line in figure.axes[0].lines}
    plt.close(figure)


def test_other_ways_have_a_sentence_of_their_own(tmp_path):
    results = results_of(tmp_path, [*runs("bert", 0.885), *runs("fnet", 0.6, minutes=2), *(distilled(60.0, seed=seed) for seed in (1, 2, 3))])
    first, second = recovery.main_sentences(results)
    assert "by other ways" not in first and second.startswith("- **Recovery, QNLI, by other ways** (the same recipe and teacher):\n  - `fnet`: ")
    assert second.endswith("(n=3) after 5 minutes of distill+task")
    assert "(n=3, 5 minutes) if the task is distilled too" in answer.lines(results)[0]


def test_what_is_added_to_the_transform_has_a_row_of_its_own(tmp_path):
    records = [*runs("bert", 0.885), *runs("fnet", 0.6), *runs("fnet", 0.65, minutes=2), *runs("fnet+gated", 0.7, minutes=2), *runs("fnet-naive", 0.5)]
    figure = recovery.figure(results_of(tmp_path, records))
    plain, added = [axis for axis in figure.axes if axis.get_visible()]
    assert 2 in {x for line in plain.lines for x in line.get_xdata()} and plain.get_title() == added.get_title()
    heights = [{round(float(y), 3) for line in axis.lines for y in line.get_ydata()} for axis in (plain, added)]
    assert heights[0] - heights[1] and heights[1] - heights[0] and 1.0 in heights[0] & heights[1]  # BERT in both
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"bert", "fnet", "fnet+gated"} <= set(names) and "fnet-naive" not in names  # never adapted


def test_the_figure_leaves_out_what_has_no_ceiling(tmp_path):
    """Screens of objectives have no BERT of their own; alone they are shown all the same."""
    screens = [finetune_record("cola", "hybrid-2", 1, 0.2, minutes=1, training="screen_mlm"),
               finetune_record("cola", "fnet", 1, 0.1, minutes=1, training="screen_distill")]
    both = recovery.figure(results_of(tmp_path / "both", [*runs("bert", 0.885), *runs("hybrid-2", 0.785, minutes=2), *screens]))
    assert [axis.get_title().split("\n")[0] for axis in both.axes if axis.get_visible()] == ["QNLI"]
    assert "fnet" not in [text.get_text() for text in both.legends[0].get_texts()]
    alone = recovery.figure(results_of(tmp_path / "alone", screens))
    assert [axis.get_title().split("\n")[0] for axis in alone.axes if axis.get_visible()] == ["CoLA", "CoLA"]


def test_the_main_sentence_sets_students_side_by_side(tmp_path):
    many = [*runs("bert", 0.885), *runs("fnet", 0.605), *runs("fnet", 0.7, minutes=2),
            *runs("hybrid-2", 0.785, minutes=2), *runs("hybrid-2", 0.88, minutes=10, seeds=(1, 2))]
    few = [finetune_record("qnli", "bert", 1, 0.9), finetune_record("qnli", "fnet", 1, 0.8, minutes=1)]
    line, = recovery.main_sentences(results_of(tmp_path, [*many, *few]))
    assert "after minutes of distillation:\n" in line and "recipe `tuned`" in line
    assert "\n  - `fnet`: 30% [28, 32] (n=3) as it is, 54% [53, 55] (n=3) after 2 minutes\n  - `hybrid-2`: 75% [74, 76] (n=3) after 2 minutes, 99% [" in line


def test_summary_has_paired_shares_and_what_they_come_from(results):
    found = recovery.entries(results)["qnli"]
    assert set(found) == {"hybrid-2@2min", "hybrid-2@10min", "bert@10min", "fnet@20min"}
    row = found["hybrid-2@2min"]
    assert (row["mean"], row["sd"], row["recovery"], row["n"], row["pairs"]) == (0.805, 0.01, 0.75, 3, 3)
    assert row["low"] < 0.75 < row["high"] and (row["recipe"], row["teacher"]) == ("tuned", "minilm")
    assert found["fnet@20min"]["pairs"] == 2


def test_the_answer_is_each_way_after_its_shortest_adaptation(tmp_path):
    speeds = [efficiency_record(model, 512, "bf16", speedup=speed, gpu=True) for model, speed in (("bert", 1.0), ("fnet", 1.5))]
    found = results_of(tmp_path, [*runs("bert", 0.885), *runs("fnet", 0.605), *runs("fnet", 0.705, minutes=2), *runs("fnet", 0.805, minutes=10),
                                  *runs("hybrid-2", 0.785), *runs("hybrid-3", 0.885, minutes=2), *speeds])
    fnet, hybrid = answer.lines(found)
    assert "(`fnet`, 2 minutes of distillation) keeps 55% on QNLI (n=3)" in fnet and fnet.endswith("trains 1.50 times as fast as BERT at 512 tokens.")
    assert "(`hybrid-2`) keeps 75% on QNLI (n=3) of BERT's lead over chance." in hybrid
    text = answer.markdown(found)
    assert "Recipe `tuned`, teacher `minilm`" in text and "12 layers, not 6" in text and "test GPU, bf16" in text


def test_a_hybrids_speed_is_told_at_an_equal_share_of_attention_too(tmp_path):
    """Scored with attention in 2 of 6 layers, measured with 2 and with 4 of 12."""
    speeds = [efficiency_record(model, 512, "bf16", speedup=speed, gpu=True) for model, speed in (("bert", 1.0), ("hybrid-2", 1.4), ("hybrid-4", 1.2))]
    found = results_of(tmp_path, [*runs("bert", 0.885), *runs("hybrid-2", 0.785, minutes=2), *speeds])
    line, = answer.lines(found)
    assert line.endswith("trains 1.40 times as fast as BERT at 512 tokens (1.20 with as large a share of attention).")


def test_without_adapted_students_there_is_no_answer_yet(tmp_path):
    assert "No student was adapted" in answer.markdown(results_of(tmp_path, runs("bert", 0.885)))
