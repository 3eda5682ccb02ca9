"""The distilled students' table and figure, from records whose errors are known."""

import pytest
from factories import distilled_record, finetune_record, results_of, student_record

from fnetlib import distilled


@pytest.fixture
def results(tmp_path):
    return results_of(tmp_path, [
        distilled_record("hybrid-2", 120, [0.1, 0.2, 0.6], minutes=2), distilled_record("fnet", 120, [0.3, 0.4, 0.8], minutes=2),
        distilled_record("fnet", 60, [0.5, 0.6, 1.0], logits_weight=1.0, minutes=1),
        student_record("fnet", 40, [7.0, 6.0]), finetune_record("rte", "bert", 1, 0.6)])  # masked-LM: no states were matched


def test_errors_are_the_last_ones_and_their_mean(results):
    data = distilled.frame(results)
    assert list(zip(data["minutes"], data["model"])) == [(1, "fnet"), (2, "fnet"), (2, "hybrid-2")]
    assert data["layers"][2] == [0.1, 0.2, 0.6] and data["error"][2] == pytest.approx(0.3)
    assert list(data["objective"]) == ["states, predictions", "states", "states"]
    assert data["tokens"][1] == pytest.approx(120 * 256 * 128 / 1e6) and data["heldout_loss"][1] == 4.0


def test_table_and_figure(results, tmp_path):
    text = distilled.table(results).markdown()
    other = distilled.table(results_of(tmp_path, [distilled_record("fnet", 120, [0.3], minutes=2, mixer_rate=10)])).markdown()
    assert "| fnet | 2 | states | 0.0005, mixers × 10 | 10% |" in other
    assert "| hybrid-2 | 2 | states | 0.0005 | 10% | 120 | 3.9 | 4.000 | 0.300‡ | 0.600 |" in text
    figure = distilled.figure(results)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["1 minutes, teacher minilm", "2 minutes, teacher minilm"]
    assert [list(line.get_ydata()) for line in panels[1].lines] == [[0.3, 0.4, 0.8], [0.1, 0.2, 0.6]]
    assert panels[0].lines[0].get_linestyle() == "--" and panels[1].lines[0].get_linestyle() == "-"
    assert "predictions matched too" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_without_distilled_students_it_says_how(tmp_path):
    results = results_of(tmp_path, [student_record("fnet", 40, [7.0, 6.0]), finetune_record("rte", "bert", 1, 0.6)])
    assert "-p adapt distill" in distilled.table(results).markdown()
    assert "no student was distilled" in [text.get_text() for text in distilled.figure(results).axes[0].texts]
