"""Quality against speed: which recipe, which speeds, and names that can be read."""

import itertools

import pytest
from factories import efficiency_record, finetune_record, results_of

from fnetlib.plots_frontier import _budget, frontier
from fnetlib.results import recipe_of


def speed(model, speedup, length=512, mode="layers", name="test GPU", **fields):
    record = efficiency_record(model, length, "bf16", mode, speedup=speedup, gpu=True, **fields)
    return record.model_copy(update={"env": {**record.env, "device_name": name}})


def scores(task, training, **models):
    return [finetune_record(task, model.replace("_", "-"), seed, score + seed / 100, training=training, minutes=minutes, student=f"s{minutes}")
            for model, by_minutes in models.items() for minutes, score in by_minutes.items() for seed in (1, 2)]


@pytest.fixture
def figure(tmp_path):
    """CoLA has more models under tuned_plain, RTE under tuned; one GPU has one model more than the other."""
    records = [*scores("cola", "tuned_plain", bert={None: 0.5}, fnet={None: 0.2, 2.0: 0.21, 10.0: 0.22}, hybrid_2={2.0: 0.2}, fnet_paper={None: 0.3}),
               *scores("cola", "tuned", bert={None: 0.6}), *scores("rte", "tuned", bert={None: 0.6}, fnet={None: 0.55}),
               *scores("rte", "study", bert={None: 0.6}, fnet={None: 0.55}, hybrid_2={None: 0.5}),
               *(speed(model, ratio) for model, ratio in (("bert", 1.0), ("fnet", 1.3), ("hybrid-2", 1.29))), speed("fnet", 9, 128),
               *(speed(model, 7, n, name="another", repeats=9) for model in ("bert", "fnet") for n in (512, 2048, 8192))]
    return frontier(results_of(tmp_path, records))


def test_speeds_are_of_one_device_and_recipes_of_most_models(figure):
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles == ["CoLA: recipe tuned_plain, teacher minilm", "RTE: recipe tuned, teacher minilm"]
    assert "bert-base, 512 tokens, bf16, test GPU; mode layers" in figure.get_suptitle()
    assert "keeps K of 12 layers where its speed is measured, of 6 where its scores are: as large a share would be slower" in figure.get_suptitle().replace("\n", " ")
    for part in (figure._suptitle, figure.legends[0]):  # nothing is cut off
        box = part.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert {x for axis in figure.axes[:2] for bar in axis.containers for x in bar[0].get_xdata()} == {1.0, 1.3, 1.29}
    assert figure.legends[0].get_title().get_text().endswith("not measured: fnet-paper.")


def test_adapted_students_are_hollow_and_joined_to_the_model(figure):
    axis = figure.axes[0]
    hollow = [bar[0].get_ydata()[0] for bar in axis.containers if bar[0].get_markerfacecolor() == "white"]
    assert sorted(hollow) == pytest.approx([0.215, 0.225, 0.235])
    line = next(line for line in axis.get_lines() if list(line.get_xdata()) == [1.3] * 3)
    assert list(line.get_ydata()) == pytest.approx([0.215, 0.225, 0.235])


def test_names_do_not_overlap(figure):
    for axis in figure.axes[:2]:
        texts = [text for text in axis.texts if text.get_text()]
        assert all(not a.get_window_extent().overlaps(b.get_window_extent()) for a, b in itertools.combinations(texts, 2))
    assert {text.get_text() for text in figure.axes[0].texts if text.get_text()} == {"bert", "fnet, 10 min"}  # what none beats
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"bert", "fnet", "hybrid-2", "beaten by none"}


def test_a_hair_faster_is_not_faster(tmp_path):
    records = [*scores("rte", "tuned", bert={None: 0.6}, fnet={None: 0.55}, hybrid_2={None: 0.56}, hybrid_1={None: 0.4}),
               *(speed(model, ratio) for model, ratio in (("bert", 1.0), ("hybrid-2", 1.29), ("fnet", 1.3), ("hybrid-1", 1.5)))]
    axis = frontier(results_of(tmp_path, records)).axes[0]
    assert {text.get_text() for text in axis.texts if text.get_text()} == {"bert", "hybrid-2", "hybrid-1"}
    line = next(line for line in axis.get_lines() if list(line.get_xdata()) == [1.0, 1.29, 1.5])
    assert list(line.get_ydata()) == pytest.approx([0.615, 0.575, 0.415])


def test_a_distilled_task_is_a_triangle(tmp_path):
    task = [finetune_record("rte", "fnet", seed, 0.58, training="tuned", minutes=2.0, student="s", values={"distill_epochs": 3}) for seed in (1, 2)]
    records = [*scores("rte", "tuned", bert={None: 0.6}, fnet={None: 0.55}), *task, speed("bert", 1.0), speed("fnet", 1.3)]
    figure = frontier(results_of(tmp_path, records))
    assert [bar[0].get_marker() for bar in figure.axes[0].containers if bar[0].get_ydata()[0] == pytest.approx(0.58)] == ["^"]
    assert "and its task distilled" in {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.parametrize("label, text", [("fnet@2min", "2 min"), ("fnet@2min+task+edits", "2 min, edits"), ("fnet+taylor@10.3min", "10 min"),
                                         ("fnet@10min [method=mlm]", "10 min, mlm"), ("fnet@10min [method=distill]", "10 min"),
                                         ("hybrid-at-1-4+gated@2min", "in 1, 4: 2 min"), ("bert@2.6min [adapt: learning_rate=0.0001]", "2.6 min, learning_rate=0.0001"),
                                         ("hybrid-at-1-4@7.8min+task+pairs [distill_epochs=3, distill_rate=0.0006]", "in 1, 4: 7.8 min, pairs, distill_epochs=3")])
def test_what_was_spent_is_named_in_few_words(label, text):
    assert _budget(label) == text and recipe_of(label) == label.split("@")[0]
    assert recipe_of("bert+task+edits") == "bert" and recipe_of("fnet+taylor") == "fnet+taylor"


def test_of_all_placements_the_best_stands_at_the_hybrids_speed(tmp_path):
    placed = {"bert": {None: 0.5}, "hybrid-2": {2.0: 0.3}, "hybrid-at-0-1": {2.0: 0.31}, "hybrid-at-1-4": {2.0: 0.33}, "hybrid-at-4-5": {2.0: 0.2}}
    records = [*scores("cola", "tuned_plain", **placed), *scores("rte", "tuned_plain", **{**placed, "hybrid-2": {2.0: 0.4}}),
               *(speed(model, ratio) for model, ratio in (("bert", 1.0), ("hybrid-2", 1.29)))]
    cola, rte = frontier(results_of(tmp_path, records)).axes[:2]
    assert {text.get_text() for text in cola.texts if text.get_text()} == {"bert", "hybrid-2, in 1, 4: 2 min"}
    assert {text.get_text() for text in rte.texts if text.get_text()} == {"bert", "hybrid-2, 2 min"}  # there no placement is better
    assert len(cola.containers) == 3 and len(rte.containers) == 2
    assert {x for bar in cola.containers for x in bar[0].get_xdata()} == {1.0, 1.29}
    assert {bar[0].get_markersize() for bar in cola.containers} == {3.5}  # two seeds each


def test_without_a_gpu_the_cpu_and_its_own_shape_count(tmp_path):
    records = [*scores("rte", "quick", bert={None: 0.6}, fnet={None: 0.55}),
               *(efficiency_record(model, n, speedup=1.2, shape="minilm") for model in ("bert", "fnet") for n in (32, 128))]
    assert "minilm, 128 tokens, fp32, test CPU; mode eager" in frontier(results_of(tmp_path, records)).get_suptitle()
