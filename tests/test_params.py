"""Each kind of bad parameter ends in one line that names what is accepted; papermill's quirks are understood."""

from pathlib import Path

import pytest

from fnetlib.params import STUDY, STUDY_MODELS, FinetuneParams, ParameterError, TransferParams, model_names, parse_grid
from fnetlib.presets import Preset, load_preset, names


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
    ({"grid": "lr 1", "seeds": "1,2"}, "grid: 'lr' is not one of: learning_rate, epochs, batch_size"),
    ({"grid": "epochs two", "seeds": "1,2"}, "grid: 'epochs two' is not a name and its values"),
    ({"grid": "epochs", "seeds": "1,2"}, "grid: epochs has no values"),
    ({"grid": "epochs 1 0", "seeds": "1,2"}, "epochs: 0 does not fit"),
    ({"grid": "epochs 1 2"}, "grid: two seeds are needed"),
    ({"padded_to": "16,x"}, "padded_to: '16,x' is not a comma list of whole numbers"),
    ({"compile": "fast"}, "compile: 'fast' is not one of: no, default or graphs"),
    ({"compile": "graphs", "accumulate": 2}, "compile: 'graphs' overwrites the gradients that accumulate=2 adds up; one of: no, default"),
    ({"pad_to": 0}, "pad_to: 0 does not fit: input should be greater than or equal to 1"),
    ({"training": "study", "pad_to": 8}, "is the 2023 study's recipe, but pad_to=8 (the study: 1)"),
    ({"model": "fnet-no-mask-no-nrom"}, "'nrom' is not one of: norm, mask, gain, projection"),
    ({"model": "fnet+tylor"}, "'tylor' is not one of: norm, mask, gain, projection, filter, gated, aft, taylor, values"),
    ({"model": "fnet+mask"}, "'mask' changes nothing in 'fnet'"),
    ({"model": "bert-no-gain"}, "'gain' changes nothing in 'bert'"),
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


@pytest.mark.parametrize("extra", [{"compile": "default"}, {"compile": "graphs"}, {"pad_to": 32}, {"group_by_length": True}])
def test_what_the_study_did_without_is_not_its_recipe_and_names_a_run_only_where_it_is_used(extra):
    plain, made = FinetuneParams().decisive(), FinetuneParams(**extra)
    assert made.recipe_name == "custom" and made.decisive() == {**plain, **extra} and not set(extra) & set(plain)
    assert FinetuneParams(**{name: FinetuneParams.model_fields[name].default for name in extra}).decisive() == plain


def test_compile_takes_what_yaml_and_02_call_it():
    assert [FinetuneParams.parse({"compile": value}).compile for value in (False, True, "graphs")] == ["no", "default", "graphs"]


def test_presets_are_valid_and_never_fall_back():
    assert set(names()) == {"quick", "minilm", "bert-base"}
    for name in names():
        preset = load_preset(name)
        assert preset.name == name and preset.data != "auto" and preset.teacher != "auto"
        for training, tasks in preset.sweeps.items():
            for task in tasks:
                params = FinetuneParams.parse(preset.finetune(training, task))
                assert params.recipe_name == tasks[task].get("training", training)
        for own in preset.teachers.values():
            TransferParams.parse({**preset.inputs(), "save": "x", **own})
        assert len({cell.name for cell in preset.cells()}) == len(preset.cells())
    assert load_preset("quick").data == "synthetic" and "SYNTHETIC" in load_preset("quick").title


def test_a_grid_is_tried_on_the_first_seed_and_run_on_the_others():
    preset = Preset.parse({
        "name": "x", "title": "x", "teacher": "minilm", "data": "synthetic", "models": ["bert", "fnet"],
        "teachers": {"better": {"adapt": "mlm"}},
        "sweeps": {"tuned": {"rte": {"seeds": [1, 2, 3], "grid": "learning_rate 1e-4 1e-3, epochs 2", "teacher": "better"}}}})
    cells = {cell.name: cell for cell in preset.cells()}
    assert len(cells) == 2 * (2 + 2)
    point, run = cells["tuned-rte-fnet-1-learning_rate-0.001-epochs-2"], cells["tuned-rte-fnet-3"]
    assert (point.training, point.seed, point.teacher) == ("tuned_grid", 1, "better")
    assert point.options == {"learning_rate": 1e-3, "epochs": 2, "grid": "", "training": "tuned_grid"}
    assert (run.training, run.seed, run.options) == ("tuned", 3, {"seeds": "1,3"})
    assert set(run.needs) == {name for name in cells if name.startswith("tuned-rte-fnet-1-")} and len(run.needs) == 2
    assert preset.finetune("tuned", "rte")["teacher"] == "results/x/teachers/better"


def test_a_list_of_values_is_a_student_each():
    values = {"name": "x", "title": "x", "teacher": "minilm", "data": "synthetic", "sweeps": {},
              "teachers": {"better": {"adapt": "mlm"}},
              "students": {"short": {"adapt": "mlm", "model": ["fnet", "hybrid-2"], "learning_rate": [1e-3, 1e-4], "solo": True},
                           "long": {"adapt": "distill", "model": "fnet", "teacher": "better", "minutes": 2}}}
    preset = Preset.parse(values)
    found = preset.adaptations()
    assert list(found) == ["short-fnet-0.001", "short-fnet-0.0001", "short-hybrid-2-0.001", "short-hybrid-2-0.0001", "long"]
    assert found["short-hybrid-2-0.001"]["save"] == "results/x/students/short-hybrid-2-0.001"
    assert (found["short-fnet-0.001"]["teacher"], found["long"]["teacher"]) == ("minilm", "results/x/teachers/better")
    assert preset.is_solo("short-fnet-0.001") and not preset.is_solo("long")

    sweep = {"seeds": [1, 2], "students": ["long", "short-hybrid-2-0.001"]}
    cells = Preset.parse({**values, "sweeps": {"adapted": {"rte": sweep}}}).cells()
    assert [(cell.model, cell.student) for cell in cells[::2]] == [("fnet", "long"), ("hybrid-2", "short-hybrid-2-0.001")]
    assert cells[0].options == {"student": "results/x/students/long"} and len(cells) == 4
    with pytest.raises(ParameterError, match="adapted/rte: student 'longer' is not one of: short-fnet-0.001"):
        Preset.parse({**values, "sweeps": {"adapted": {"rte": {**sweep, "students": ["longer"]}}}})
    with pytest.raises(ParameterError, match="students short-hybrid-2-0.001 and short-hybrid-2-0.0001 are one model"):
        Preset.parse({**values, "sweeps": {"adapted": {"rte": {**sweep, "students": ["short-hybrid-2-0.001", "long", "short-hybrid-2-0.0001"]}}}})
    with pytest.raises(ParameterError, match="shortest: 3 is not 0"):
        Preset.parse({**values, "students": {"bad": {"adapt": "mlm", "shortest": 3}}})


def test_a_sweep_without_seeds_is_refused():
    with pytest.raises(ParameterError, match="sweeps: study/rte names no seeds"):
        Preset.parse({"name": "x", "title": "x", "teacher": "minilm", "data": "hub", "sweeps": {"study": {"rte": {}}}})


def test_grids():
    assert parse_grid("learning_rate 3e-5 1e-4, epochs 3 3 10") == {"learning_rate": [3e-5, 1e-4], "epochs": [3, 10]}
    grid = FinetuneParams.parse({"grid": "learning_rate 3e-5 1e-4, epochs 3 10", "seeds": "1,2"})
    assert [tuple(p.values()) for p in grid.grid_points()] == [(3e-5, 3), (3e-5, 10), (1e-4, 3), (1e-4, 10)]
    assert (grid.recipe_name, grid.grid_name) == ("tuned", "tuned_grid") and FinetuneParams().grid_points() == []


def test_unknown_presets_name_the_accepted():
    with pytest.raises(ParameterError, match="bert-base, minilm, quick"):
        load_preset("huge")


def test_presets_travel_with_the_package():
    import fnetlib

    assert (Path(fnetlib.__file__).parent / "presets" / "quick.yaml").is_file()
