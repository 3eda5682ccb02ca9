"""What was varied to learn from scratch, and that XATL's arms stay in one setting."""

import dataclasses

import pytest
from factories import finetune_record, results_of, student_record
from matplotlib import pyplot as plt

from fnetlib import xatl_runs, xatl_settings


def run(model="fnet", end=6.5, steps=100, start=9.0, **values):
    """Token frequencies alone give 7.3 nats."""
    return student_record(model, steps=steps, losses=[start + (end - start) * i / 4 for i in range(5)], **values)


@pytest.fixture
def results(tmp_path):
    return results_of(tmp_path, [
        finetune_record(), run(groups="none", shortest=8), run(groups="none", end=5.0, steps=400, shortest=8),
        run(groups="none", end=5.5, steps=400, shortest=8, learning_rate=1e-3), run(shortest=8, end=3.0), run(shortest=8, end=3.0, steps=400),
        run(groups="none", end=6.0), run(end=4.0), run(groups="none", end=6.7, shortest=8, layers=2, warmup=0.2),
        run("hybrid-2", groups="none", end=7.2, batch_size=512, shortest=8), run("fnet-paper", groups="none", end=4.5, shortest=8),
        run("fnet-no-norm", groups="none", end=2.5, steps=400, shortest=8), run("bert", end=2.0)])


def test_each_setting_says_what_differs_and_whether_it_learns(results):
    found = {(r.model, r.setting, r.steps): r for r in xatl_settings.best(results).itertuples()}
    assert set(found) == {("fnet", "", 100), ("fnet", "", 400), ("fnet", "128 tokens each", 100), ("fnet", "2 layers, warm-up 20%", 100),
                          ("hybrid-2", "batch 512", 100), ("fnet-paper", "", 100), ("fnet-no-norm", "", 400)}
    plain = found["fnet", "", 400]
    assert plain.loss == 5.0 and plain.learned and plain.rates == [5e-4, 1e-3] and not found["fnet", "", 100].learned
    assert plain.speedup == pytest.approx(400 / (100 * 4 / 6))  # 9 -> 3 in 100 steps
    assert found["fnet", "128 tokens each", 100].speedup == pytest.approx(100 / 60)  # of that setting's own transferred run: 9 -> 4
    assert not found["hybrid-2", "batch 512", 100].speedup > 0  # none was transferred there
    text = xatl_settings.table(results).markdown()
    assert "| as XATL's arms | 400 |" in text and "| 0.0005 of 0.0005, 0.001 | 5.000 |" in text and "| learns | 6.0x (`minilm`) |" in text
    assert "| 2 layers, warm-up 20% | 100 |" in text and "| plateau | – |" in text and "| near frequencies | – |" in text
    assert "cut to sequences of 8 to 128" in text
    assert "| 1.3x (`fnet` from `minilm`, 100 steps) |" in text  # no such swap was trained: 9 -> 3 is at 4.5 after 75 steps
    assert "| not reached: `fnet` from `minilm`, " in text and " steps ends at 3.000 |" in text


def test_xatls_arms_stay_in_the_setting_with_most_of_them(results):
    assert sorted(xatl_runs.students(results)["loss"]) == [3.0, 3.0, 5.0, 5.5, 6.5]


def test_figure_and_sentence_name_the_longest_run_of_each(results):
    figure = xatl_settings.curves(results)
    labels = {t.get_text() for t in figure.legends[0].get_texts()}
    assert {label.split(" after ")[0] for label in labels} == {
        "fnet: 5.00", "fnet, 128 tokens each: 6.00", "fnet, 2 layers, warm-up 20%: 6.70", "hybrid-2, batch 512: 7.20", "fnet-paper: 4.50",
        "fnet-no-norm: 2.50", "token frequencies alone", "past the plateau"}
    assert "fnet, 128 tokens each: 6.00 after 3 M" in labels
    plt.close(figure)
    sentence, = xatl_settings.sentences(results)  # of `hybrid-2` there is one run
    assert "past the plateau (more than 1 nats below token frequencies) after" in sentence and "128 tokens each: 6.000" in sentence


def test_synthetic_data_is_called_so_and_nothing_is_said_so(results, tmp_path):
    synthetic = dataclasses.replace(results, tag="synthetic")
    assert "SYNTHETIC" in xatl_settings.table(synthetic).title
    nothing = results_of(tmp_path / "none", [finetune_record(), run("bert", end=2.0)])
    assert "-p groups none" in xatl_settings.table(nothing).markdown() and xatl_settings.sentences(nothing) == []
    plt.close(xatl_settings.curves(nothing))
