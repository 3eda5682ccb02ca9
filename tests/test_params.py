"""Each kind of bad parameter ends in one line that names what is accepted; papermill's quirks are understood."""

from pathlib import Path

import pytest

from fnetlib.params import STUDY, STUDY_MODELS, FinetuneParams, ParameterError, TransferParams, model_names
from fnetlib.presets import load_preset, names


@pytest.mark.parametrize("bad, message", [
    ({"task": "foo"}, "task: 'foo' is not one of: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte"),
    ({"learning_rat": 1}, "unknown parameter 'learning_rat'; accepted: teacher, data"),
    ({"model": "fnett"}, "'fnett' is not one of: bert, fnet-naive, fnet-paper, fnet, bound, hybrid-K"),
    ({"model": ""}, "no recipe named"),
    ({"epochs": "many"}, "epochs: 'many' does not fit: input should be a valid integer"),
    ({"epochs": 0}, "epochs: 0 does not fit: input should be greater than or equal to 1"),
    ({"epochs": 2.5}, "epochs: 2.5 does not fit"),
    ({"epochs": True}, "a number is expected, not True or False"),
    ({"learning_rate": -1.0}, "learning_rate: -1.0 does not fit: input should be greater than 0"),
    ({"precision": "fp8"}, "precision: 'fp8' is not one of: fp32, bf16 or fp16"),
    ({"seeds": "1,x"}, "'1,x' is not a comma list of whole numbers"),
    ({"seed": -3}, "seed: -3 does not fit"),
    ({"force": "maybe"}, "force: 'maybe' does not fit"),
    ({"training": "My Recipe"}, "training: 'My Recipe' does not fit"),
    ({"training": "study", "epochs": 2}, "is the 2023 study's recipe, but epochs=2 (the study: 5)"),
    ({"task": 3, "epochs": "x"}, "; epochs: 'x'"),
])
def test_bad_values(bad, message):
    with pytest.raises(ParameterError) as error:
        FinetuneParams.parse(bad)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_jupyter_shows_the_line_without_a_traceback():
    assert ParameterError("task: no")._render_traceback_() == ["ParameterError: task: no"]


def test_what_papermill_passes_is_understood():
    """-p knows True/False/None, int, float and string: `seeds 1` is an int, `force true` a string, `1e5` a float."""
    assert FinetuneParams.parse({"seeds": 1}).all_seeds == [1]
    assert FinetuneParams.parse({"seeds": "1, 2,3"}).all_seeds == FinetuneParams.parse({"seeds": [1, 2, 3]}).all_seeds
    assert FinetuneParams.parse({"force": "true"}).force is True
    assert FinetuneParams.parse({"train_size": 1e3}).train_size == 1000
    assert FinetuneParams.parse({}).all_seeds == [42]


def test_models():
    assert model_names("all") == STUDY_MODELS
    assert model_names("bert, fnet,bert") == ["bert", "fnet"]
    with pytest.raises(ParameterError, match="one recipe is expected"):
        TransferParams.parse({"model": "bert,fnet"})


def test_defaults_are_the_2023_studys_recipe():
    assert FinetuneParams().recipe_name == "study"
    assert {name: getattr(FinetuneParams(), name) for name in STUDY} == STUDY
    assert FinetuneParams(epochs=3).recipe_name == "custom"
    assert FinetuneParams(epochs=3, training="tuned").recipe_name == "tuned"


def test_where_results_go_and_whether_to_force_do_not_change_a_runs_name():
    assert FinetuneParams(results="x", force=True, seed=3).decisive() == FinetuneParams().decisive()
    assert FinetuneParams(precision="bf16").decisive() != FinetuneParams().decisive()


def test_presets_are_valid_and_never_fall_back():
    assert set(names()) == {"quick", "minilm", "bert-base"}
    for name in names():
        preset = load_preset(name)
        assert preset.name == name and preset.data != "auto" and preset.teacher != "auto"
        for training, tasks in preset.sweeps.items():
            for task in tasks:
                params = FinetuneParams.parse(preset.finetune(training, task))
                assert params.recipe_name == training
        assert len(set(preset.cells())) == len(preset.cells())
    assert load_preset("quick").data == "synthetic" and "SYNTHETIC" in load_preset("quick").title


def test_unknown_presets_name_the_accepted():
    with pytest.raises(ParameterError, match="bert-base, minilm, quick"):
        load_preset("huge")


def test_presets_travel_with_the_package():
    import fnetlib

    assert (Path(fnetlib.__file__).parent / "presets" / "quick.yaml").is_file()
