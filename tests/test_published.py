"""The 2023 study's numbers: right in themselves, checked on reading, and compared with records cell by cell."""

import math

import pandas as pd
import pytest
import yaml
from factories import finetune_record, results_of
from transformers import BertConfig

from fnetlib import plots, published, tables, tables_speed
from fnetlib.errors import ParameterError
from fnetlib.params import FinetuneParams
from fnetlib.presets import load_preset
from fnetlib.readme import headline

TASKS = ("cola", "qnli", "rte")
TRAIN, VALIDATION = {"cola": 8551, "qnli": 104_743, "rte": 2490}, {"qnli": 5463, "rte": 277}


# The numbers

def test_every_number_is_the_published_one():
    """Typed a second time, in the order of the study's tables."""
    table = published.study().pivot(index="model", columns="task")
    rows = {
        "score": [(0.5580, 0.9156, 0.6570), (0.0000, 0.6010, 0.4838)],
        "train_steps_per_s": [(8.449, 3.548, 1.919), (11.000, 4.687, 2.526)],
        "train_runtime_s": [(316.6, 9227.0, 406.4), (243.2, 6984.6, 308.7)],
        "eval_samples_per_s": [(762.8, 175.8, 95.4), (998.8, 235.3, 126.5)],
        "flops": [(4.555e14, 2.407e16, 1.047e15), (3.424e14, 1.809e16, 7.871e14)],
        "train_loss": [(0.2273, 0.1523, 0.3968), (0.6132, 0.6659, 0.7003)],
        "eval_loss": [(0.8711, 0.5563, 1.0747), (0.6197, 0.6622, 0.6932)],
    }
    for name, models in rows.items():
        for model, values in zip(("bert", "fnet-naive"), models, strict=True):
            assert tuple(table.loc[model][name][list(TASKS)]) == values, (name, model)
    assert len(published.study()) == 6 and set(published.study().digits) == {4}
    assert set(published.study().query("task == 'cola'").metric) == {"matthews_correlation"}


def test_the_numbers_hold_together():
    """Steps are GLUE's training sets over the batch, accuracies whole counts, and FLOs follow the parameters."""
    for r in published.study().itertuples():
        steps = 5 * math.ceil(TRAIN[r.task] / 16)
        assert r.train_steps_per_s * r.train_runtime_s == pytest.approx(steps, rel=5e-4)
        if r.task in VALIDATION:
            count = round(r.score * VALIDATION[r.task])
            assert round(count / VALIDATION[r.task], r.digits) == r.score
    config = BertConfig()
    d, layers = config.hidden_size, config.num_hidden_layers
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * d
    counted = 109_482_240 + 2 * d + 2 - embeddings  # what the Trainer multiplies by 6 x tokens
    swapped = counted - layers * 3 * (d * d + d)  # without queries, keys and values
    assert list(published.study_ratios().flops) == pytest.approx([swapped / counted] * 3, rel=5e-4)


def test_the_preset_holds_them_and_repeats_the_recipe():
    preset = load_preset("bert-base")
    assert published.parse(preset.expected) == published.EXPECTED
    assert preset.teacher == published.TEACHER == "bert-base-uncased" and preset.data == "hub"
    for task, runs in published.EXPECTED.tasks.items():
        params = FinetuneParams.parse(preset.finetune(published.TRAINING, task))
        assert params.recipe_name == "study" and published.SEED in params.all_seeds and params.precision == "fp32"
        assert set(runs) <= set(params.models)


@pytest.mark.parametrize("where, value, message", [
    ("tasks.cola.bert.score", "0.5", "expected.tasks.cola.bert.score: '0.5' does not fit: input should be a valid number"),
    ("tasks.cola.bert.score", 55.8, "expected.tasks.cola.bert.score: 55.8 does not fit: input should be less than or"),
    ("tasks.cola.bert.score", float("nan"), "cola.bert.score: nan does not fit: input should be a finite number"),
    ("tasks.cola.bert.score", True, "expected.tasks.cola.bert.score: True does not fit"),
    ("tasks.rte.fnet-naive.train_runtime_s", 0, "rte.fnet-naive.train_runtime_s: 0 does not fit"),
    ("tasks.rte.bert.flops", None, "expected.tasks.rte.bert.flops is missing"),
    ("tasks.rte.bert.flops", yaml.safe_load("1.047e15"), "expected.tasks.rte.bert.flops: '1.047e15' does not fit"),
    ("tasks.rte.bert.f1", 0.3, "expected.tasks.rte.bert.f1: 0.3 does not fit: extra inputs are not permitted"),
    ("tasks.rte.fnet-naive", None, "expected: tasks.rte has no 'fnet-naive'"),
    ("metrics.qnli", None, "expected: metrics are given for cola, rte, runs for cola, qnli, rte"),
    ("seed", None, "expected.seed is missing"),
    ("decimals", 4.5, "expected.decimals: 4.5 does not fit"),
    ("tasks", {}, "expected.tasks: {} does not fit"),
])
def test_missing_and_odd_numbers_are_named(where, value, message):
    values = published.EXPECTED.model_dump()
    *path, last = where.split(".")
    inner = values
    for name in path:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    with pytest.raises(ParameterError) as error:
        published.parse(values)
    assert message in str(error.value) and "\n" not in str(error.value)


# Beside our records

def cell(task: str, model: str, scores: list[float | None], **fields) -> list:
    """Runs of the preset's teacher and recipe, one a seed."""
    return [finetune_record(task, model, seed, score, teacher="bert-base-uncased", source="hub", status=(
        "finished" if score is not None else "diverged"), **fields) for seed, score in enumerate(scores, start=1)]


@pytest.fixture
def compared(tmp_path):
    """Records -> what 05 loads and compares: `load("bert-base", folder)`."""
    return lambda *records: tables.compared(results_of(tmp_path / "bert-base", records, "bert-base"))


@pytest.mark.parametrize("task, model, scores, check", [
    ("cola", "bert", [0.55, 0.57, 0.56, 0.58, 0.54], "agrees"),
    ("cola", "bert", [0.50, 0.51, 0.50, 0.52, 0.51], "published is above"),
    ("rte", "fnet-naive", [0.53, 0.54, 0.53, 0.535, 0.54], "published is below"),
    ("qnli", "bert", [0.9156], "unknown (needs two runs)"),
    ("qnli", "bert", [0.9156, None, None], "unknown (needs two runs)"),  # two diverged
    ("qnli", "bert", [0.915, None, 0.916], "agrees"),
    ("cola", "fnet-naive", [0.0] * 5, "agrees"),  # one class each, as published: no spread on either side
    ("cola", "fnet-naive", [0.02] * 5, "published is below"),
    ("rte", "fnet-naive", [134 / 277] * 5, "agrees"),  # 0.48375..., published as 0.4838
    ("rte", "fnet-naive", [135 / 277] * 5, "published is below"),  # one example more
    ("rte", "fnet-naive", [133 / 277] * 5, "published is above"),
    ("qnli", "fnet-naive", [3283 / 5463] * 3, "agrees"),  # 0.60095..., published as 0.6010
    ("qnli", "fnet-naive", [3284 / 5463] * 3, "published is below"),
])
def test_each_cell_says_whether_it_agrees(compared, task, model, scores, check):
    """`agrees`: the published run lies where one more of ours would, or rounds to the same."""
    table = compared(*cell(task, model, scores, degenerate=model == "fnet-naive"))
    (found,) = table.data.itertuples()
    assert (found.task, found.model, found.check) == (task, model, check)
    known = [score for score in scores if score is not None]
    assert found.n == len(known) and found.mean == pytest.approx(sum(known) / len(known))
    assert found.difference == pytest.approx(found.mean - found.published) and check in table.markdown()


def test_runs_without_any_score_compare_nothing(compared):
    (found,) = compared(*cell("cola", "bert", [None, None])).data.itertuples()
    assert found.n == 0 and pd.isna(found.difference) and found.check.startswith("unknown")


def test_the_teachers_full_name_on_the_hub_is_the_same_teacher(compared):
    runs = [finetune_record("cola", "bert", seed, 0.55 + seed / 100, teacher="google-bert/bert-base-uncased")
            for seed in range(3)]
    table = compared(*runs, *cell("rte", "bert", [0.65, 0.66]))
    assert set(table.data.check) == {"agrees"} and "teacher differs" not in table.markdown()


def test_a_whole_preset_goes_through_what_05_shows(tmp_path):
    """Every cell of the study, and the preset's other recipes beside them, which it did not run."""
    scores = {"bert": (0.558, 0.9156, 0.657), "fnet-naive": (0.0, 0.601, 0.4838), "fnet": (0.2, 0.7, 0.53)}
    records = cell("cola", "fnet-naive", [0.0, 0.0, 0.0], degenerate=True)
    for model, means in scores.items():
        for task, mean in zip(TASKS, means):
            if mean:
                records += cell(task, model, [mean - 0.01, mean, mean + 0.01], steps_per_s=8.0 if model == "bert" else 11.0)
    found = results_of(tmp_path / "bert-base", records, "bert-base")
    table = found.keep(tables.compared(found))
    assert set(table.data.check) == {"agrees"} and len(table.data) == 6 and "SYNTHETIC" not in table.markdown()
    assert "**The teacher differs**" not in table.markdown() and "*agrees*: " in table.markdown()
    found.keep(plots.beside_published(found), "published")
    speed = tables_speed.published_speed(found).data.set_index("task")
    assert speed.ours_train_steps_per_s["rte"] == pytest.approx(11 / 8)
    assert "CoLA" in headline(found) and found.preset.name == "bert-base"
    assert {path.name for path in found.written} == {"published.md", "published.csv", "published.png"}
    assert "agrees" in (tmp_path / "bert-base" / "tables" / "published.md").read_text()
