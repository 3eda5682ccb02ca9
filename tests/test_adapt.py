"""Continued training: it learns, is recorded with its loss by step, token and second, resumes, and is not repeated."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import DataCollatorForLanguageModeling, TrainerCallback

from fnetlib import adapt as module
from fnetlib import finetune as finetuning
from fnetlib import synthetic
from fnetlib.adapt import adapt, curve, in_words, make_trainer, prepare
from fnetlib.callbacks import last_checkpoint
from fnetlib.distill import layer_errors
from fnetlib.freezing import Thaw, frozen_by
from fnetlib.model_card import model_card
from fnetlib.params import AdaptParams, FinetuneParams, ParameterError, TransferParams
from fnetlib.records import RecordStore
from fnetlib.teacher import fingerprint, load_teacher
from fnetlib.text import cut, load_text, sentences
from fnetlib.transfer import build_student, tokenised


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    sentences = synthetic.generate("cola", "train", size=1500)["sentence"]
    pd.DataFrame({"text": [f"{s} {i}" for i, s in enumerate(sentences)]}).to_parquet(folder / "a.parquet")
    return load_text(str(folder))


@pytest.fixture
def params(tiny_teacher_folder, tmp_path):
    def make(**values):
        return TransferParams.parse({
            "teacher": tiny_teacher_folder, "model": "bert", "adapt": "mlm", "steps": 40, "batch_size": 16, "length": 32,
            "learning_rate": 5e-3, "results": str(tmp_path / "results"), "save": str(tmp_path / "model")} | values)
    return make


def run(params, text):
    teacher = load_teacher(params.teacher)
    student, report = build_student(teacher, params.model, "mlm", seed=params.seed)
    return adapt(params, teacher, student, report, text), student


@pytest.mark.parametrize("model", ["bert", "fnet"])
def test_the_loss_falls_and_the_record_says_so(params, text, tmp_path, model):
    record, student = run(params(model=model), text)
    history = record.metrics.history
    assert record.stage == "adapt" and record.status == "finished" and record.metrics.headline.name == "heldout_loss"
    assert history[-1]["eval_loss"] == record.metrics.headline.last < history[0]["eval_loss"] - 0.4
    assert [h["step"] for h in history] == list(range(0, 41, 2)) and history[-1]["tokens"] == 40 * 16 * 32
    assert np.all(np.diff([h["seconds"] for h in history]) > 0) and history[-1]["seconds"] == record.timing["train_seconds"]
    loaded = load_teacher(str(tmp_path / "model"))
    assert loaded.fingerprint == fingerprint(student) == record.transfer["result"]["fingerprint"]
    assert RecordStore(tmp_path / "results").get(record.run_id) == record
    assert "40 steps, 0.0 M tokens" in in_words(record) and f"{record.metrics.headline.last:.3f}" in in_words(record)


@pytest.mark.parametrize("how", ["mlm", "distill"])
def test_batches_of_drawn_lengths(params, text, tmp_path, how, monkeypatch):
    asked, teacher = params(model="fnet", adapt=how, shortest=8), load_teacher(params().teacher)
    student, _ = build_student(teacher, "fnet", "mlm", seed=0)
    trainer, _, _ = make_trainer(asked, 4, teacher, student, text, tmp_path)
    batches = list(trainer.get_train_dataloader())
    lengths = {batch["input_ids"].shape[1] for batch in batches}
    assert lengths <= set(range(8, 33)) and len(lengths) > 4
    assert all(batch["token_type_ids"].shape == batch["input_ids"].shape for batch in batches)
    assert all(("labels" in batch) == (how == "mlm") for batch in batches)
    assert {len(row) for row in trainer.eval_dataset["input_ids"]} == {32}  # held-out losses stay comparable
    assert asked.adaptation()["shortest"] == 8 and "shortest" not in params(model="fnet", adapt=how).adaptation()
    seen = []
    monkeypatch.setattr(module, "cut", lambda *a: seen.append(cut(*a)) or seen[-1])
    record, _ = run(asked, text)
    assert record.status == "finished" and record.metrics.headline.last < record.metrics.history[0]["eval_loss"]
    tokens = sum(batch["input_ids"].numel() for batch in seen[:40])  # those that were there, not 16 x 32 a step
    assert record.metrics.history[-1]["tokens"] == tokens < 40 * 16 * 32
    assert record.timing["tokens_per_s"] == pytest.approx(tokens / record.timing["train_seconds"])


def test_a_finished_run_is_loaded_and_a_lost_model_is_not_trained_again_unasked(params, text, tmp_path, monkeypatch):
    record, student = run(params(steps=4), text)
    monkeypatch.setattr(module, "_train", lambda *a: pytest.fail("computed again"))
    again, same = run(params(steps=4), text)
    assert again == record and all(torch.equal(a, b) for a, b in zip(student.parameters(), same.parameters()))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ParameterError, match="has a record but no model in .*force True"):
        run(params(steps=4), text)
    teacher = load_teacher(params().teacher)
    untrained, report = build_student(teacher, "bert", "mlm", seed=0)
    assert adapt(params(steps=4), teacher, untrained, report, text, show_only=True) == record


def killed_at(step):
    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    return Kill()


def steps_of(trainer):
    """The steps that it will have trained."""
    steps = []
    trainer.add_callback(type("Steps", (TrainerCallback,), {"on_step_begin": lambda self, args, state, control, **kw: steps.append(state.global_step)})())
    return steps


def test_a_killed_adaptation_goes_on_and_its_record_says_so(params, text, monkeypatch):
    made = []

    def killable(*args, **kwargs):
        made.append(make_trainer(*args, **kwargs))
        if len(made) == 1:
            made[0][0].add_callback(killed_at(27))
        return made[-1]

    monkeypatch.setattr(module, "make_trainer", killable)
    with pytest.raises(KeyboardInterrupt):
        run(params(precision="bf16"), text)
    assert not RecordStore(params().results).all()
    record, student = run(params(precision="bf16"), text)
    assert record.timing["resumed"] and record.timing["shared"] and record.timing["steps"] == 40  # its pace measures nothing
    assert record.env["precision"] == "bf16" and {p.dtype for p in student.parameters()} == {torch.float32}
    assert [h["step"] for h in record.metrics.history] == list(range(0, 41, 2))


def test_a_killed_run_goes_on_from_its_checkpoint(params, text, tmp_path):
    asked, teacher, losses = params(), load_teacher(params().teacher), {}
    for name in ("whole", "killed", "resumed"):
        work = tmp_path / name.replace("resumed", "killed")
        student, _ = build_student(teacher, "bert", "mlm", seed=0)
        trainer, clock, _ = make_trainer(asked, 40, teacher, student, text, work)
        if name == "killed":
            trainer.add_callback(killed_at(27))
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            done = steps_of(trainer)
            trainer.train(resume_from_checkpoint=last_checkpoint(work))
            assert done == list(range({"whole": 0, "resumed": 20}[name], 40))  # not from the start
            history = clock.history(trainer.state.log_history)
            assert [h["step"] for h in history] == list(range(0, 41, 2))
            losses[name] = history[-1]["eval_loss"]
            seconds = [h["seconds"] for h in history]
            assert seconds == sorted(seconds) and len(set(seconds)) == 21  # the killed run's seconds count
    assert losses["resumed"] == pytest.approx(losses["whole"], rel=0.1)  # masks are drawn anew: close, not equal


@pytest.mark.parametrize("step", [5, 27])  # before what was frozen thaws, or the layers' own stage ends, and after
@pytest.mark.parametrize("how", [{"freeze": "feed_forward", "lit_threshold": 0.9, "lit_window": 0.1}, {"adapt": "distill", "blockwise": 0.5}],
                         ids=["LIT", "distill"])
def test_stages_outlive_a_kill(params, text, tmp_path, how, step, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_MINUTES", 0.0)
    asked, teacher, found = params(model="hybrid-2", **how), load_teacher(params().teacher), {}
    for name in ("whole", "killed", "resumed"):
        work = tmp_path / name.replace("resumed", "killed")
        student, _ = build_student(teacher, "hybrid-2", "mlm", seed=0)
        trainer, clock, thaw = make_trainer(asked, 40, teacher, student, text, work)
        if name == "killed":
            trainer.add_callback(killed_at(step))
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            done = steps_of(trainer)
            trainer.train(resume_from_checkpoint=last_checkpoint(work))
            assert done == list(range({"whole": 0, "resumed": step}[name], 40))
            rates = [group["lr"] for group in trainer.optimizer.param_groups]
            found[name] = thaw and thaw.step, rates, clock.history(trainer.state.log_history)[-1]["eval_loss"]
    assert (found["whole"][0] is None) == (how.get("adapt") == "distill")
    assert found["resumed"][:2] == found["whole"][:2]  # thawed at the same step, as many groups
    assert found["resumed"][2] == pytest.approx(found["whole"][2], rel=0.1)


def test_a_long_run_is_saved_by_the_clock(params, text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_MINUTES", 0.0)
    teacher = load_teacher(params().teacher)
    student, _ = build_student(teacher, "bert", "mlm", seed=0)
    trainer, clock, _ = make_trainer(params(), 40, teacher, student, text, tmp_path)
    saved = []
    trainer.add_callback(type("Saves", (TrainerCallback,), {"on_save": lambda self, args, state, control, **kw: saved.append(state.global_step)})())
    trainer.train()
    assert {3, 7, 25} <= set(saved)  # quarters alone would be 10, 20, 30, 40
    assert last_checkpoint(tmp_path).endswith("checkpoint-40") and {25, 39} <= set(clock.at)


def test_held_out_masks_are_the_same_in_every_run(params, text, tmp_path):
    teacher = load_teacher(params().teacher)
    batches = []
    for seed in (0, 1):
        student, _ = build_student(teacher, "bert", "mlm", seed=seed)
        trainer, _, _ = make_trainer(params(seed=seed), 4, teacher, student, text, tmp_path)
        batches.append(trainer.eval_dataset[:])
    assert batches[0] == batches[1]
    labels = np.array(batches[0]["labels"])
    assert 0.05 < (labels != -100).mean() < 0.25


def test_a_students_depth_is_the_commands_choice(params, text, monkeypatch):
    values = params(model="fnet", data="synthetic").model_dump()
    monkeypatch.setattr(module, "load_text", lambda name: text)
    _, student, _, _ = prepare(asked := AdaptParams.parse({**values, "layers": 2}))
    assert len(student.bert.encoder.layer) == 2 and asked.adaptation()["layers"] == 2
    assert "layers" not in AdaptParams.parse(values).adaptation()  # renames no finished run
    with pytest.raises(ParameterError, match="layers: 2 layers have no counterparts"):
        AdaptParams.parse({**values, "layers": 2, "adapt": "distill"})


@pytest.mark.parametrize("values, message", [
    ({"save": ""}, "save: a folder is needed for the adapted model"), ({"adapt": "magic"}, "adapt: 'magic' is not one of: none, mlm or distill"),
    ({"adapt": "distill"}, "bert is the teacher itself"), ({"tokens": 5, "minutes": 1}, "one budget decides"),
    ({"shortest": 3}, "shortest: 3 is not 0, nor from 4 to the length, 32"), ({"shortest": 64}, "shortest: 64 is not 0"),
    ({"masking": 1.5}, "masking: 1.5 does not fit"), ({"steps": 0}, "steps: 0 does not fit")])
def test_bad_parameters(params, values, message):
    with pytest.raises(ParameterError, match=message):
        params(**values)


def test_too_little_text_for_a_batch(params, text):
    with pytest.raises(ParameterError, match="are fewer than a batch of 5000"):
        run(params(batch_size=5000), text)


def test_budgets(params):
    assert params(tokens=20 * 16 * 32).planned_steps == 20 and params(tokens=1).planned_steps == 1
    assert params(tokens=40 * 16 * 32).adaptation() == params().adaptation()  # the same run under another name
    assert params(minutes=2.0).planned_steps is None and params(minutes=2.0).adaptation()["minutes"] == 2.0


def test_a_budget_of_minutes_becomes_steps_by_the_pace(params, text, monkeypatch):
    monkeypatch.setattr(module.Pace, "WARMUP", 4)
    record, _ = run(params(minutes=0.02), text)  # 1.2 s
    assert 0.3 < record.timing["train_seconds"] < 5 and record.timing["steps"] == record.metrics.history[-1]["step"]
    assert record.params["minutes"] == 0.02 and "steps" not in record.params


def test_a_slow_device_does_not_measure_its_pace_for_ever(params, text, monkeypatch, capfd):
    monkeypatch.setattr(module.Pace, "WARMUP", 10**6)  # a warm-up that never ends: half of the minutes end it
    record, _ = run(params(minutes=0.01), text)
    assert record.timing["steps"] >= 1 and "measuring the pace" in "".join(capfd.readouterr())


def test_no_budget_and_too_little_text_are_told_apart(params, text, tmp_path, tiny_teacher_folder):
    with pytest.raises(ParameterError, match="one of: minutes, steps, tokens"):
        module.adapt_model(tiny_teacher_folder, "fnet", str(tmp_path))
    few = dataclasses.replace(text, held_out=text.held_out.select(range(1)))
    with pytest.raises(ParameterError, match="the 1 documents that are held out do not fill one sequence of 256 tokens"):
        run(params(length=256, batch_size=2), few)


def test_distillation_brings_every_layer_nearer(params, text):
    record, student = run(params(model="fnet", adapt="distill", steps=60, blockwise=0.5), text)
    errors = [entry["layer_errors"] for entry in record.metrics.history if "layer_errors" in entry]
    assert len(errors) == 21 and all(last < 0.8 * first for first, last in zip(errors[0], errors[-1]))
    assert record.metrics.validation["layer_4_error"] == errors[-1][3]
    assert "mean error of a layer" in in_words(record) and len(curve(record).axes) == 2
    assert all(module.p == 0.1 for module in student.modules() if isinstance(module, torch.nn.Dropout))


@pytest.mark.parametrize("logits_weight", [0.0, 1.0])
def test_errors_are_of_the_text_as_the_student_is_trained_on_it(params, text, logits_weight):
    """Without masks, unless the masked-LM predictions are matched too."""
    asked = params(model="fnet", adapt="distill", steps=4, logits_weight=logits_weight)
    record, student = run(asked, text)
    teacher = load_teacher(asked.teacher)
    masking = DataCollatorForLanguageModeling(teacher.tokenizer, mlm_probability=asked.masking)
    rows = module.masked_once(module.pack(text.held_out, teacher.tokenizer, asked.length), masking).with_format("torch")[:]
    ids = rows["input_ids"] if logits_weight else torch.where(rows["labels"] == -100, rows["input_ids"], rows["labels"])
    assert (ids == teacher.tokenizer.mask_token_id).any() == bool(logits_weight) and len(ids) <= module.EVALUATED_TOGETHER
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=ids, output_hidden_states=True).hidden_states[1:]
                        for model in (student.bert, build_student(teacher, "bert", "mlm")[0].bert))
    expected = layer_errors(ours, theirs)
    found = [record.metrics.validation[f"layer_{i}_error"] for i in range(1, 1 + len(expected))]
    assert found == pytest.approx(expected.tolist(), abs=2e-6) and record.metrics.validation["errors_with_masks"] == bool(logits_weight)


def test_the_saved_folder_is_ready_for_the_hub(params, text, tmp_path):
    record, _ = run(params(model="fnet+gated", adapt="distill", steps=4), text)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.tags == ["fnet", "token-mixing", "fnet+gated"] and card.data.library_name == "transformers"
    for words in ("4 x gated", "the teacher's hidden states", record.run_id, record.teacher.fingerprint, "| Steps | 4 of 16 x 32",
                  f"{record.metrics.headline.last:.3f} nats"):
        assert words in card.text, words
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1].replace('"model"', repr(str(tmp_path / "model")))
    names = {}
    exec(code, names)
    assert names["model"].config.mixers == ["gated"] * 4 and names["tokenizer"].mask_token == "[MASK]"


def test_the_card_names_what_is_on_the_hub(params, text):
    record, student = run(params(model="fnet", adapt="distill", steps=4, logits_weight=1.0), text)
    here = model_card(record, "mine", student.config)
    assert here.data.base_model is None and here.data.datasets is None
    assert "the teacher's hidden states and its masked-LM predictions" in here.text and "of their variance, mean over layers" in here.text
    hub = {name: getattr(record, name).model_copy(update={"source": "hub"}) for name in ("teacher", "data")}
    card = model_card(record.model_copy(update=hub), "mine", student.config)
    assert card.data.base_model == record.teacher.name and card.data.datasets == ["wikimedia/wikipedia"]
    assert (here.data.language, card.data.language) == (None, "en")  # of the user's own text nothing is known


def test_the_readmes_lines_adapt_and_load(params, text, tmp_path, tiny_teacher_folder, monkeypatch):
    monkeypatch.setattr(module.Pace, "WARMUP", 4)
    (tmp_path / "texts").mkdir()
    for name, part in {"a": text.train, "b": text.held_out}.items():
        part.to_parquet(tmp_path / "texts" / f"{name}.parquet")
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    block, = (b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "adapt_model(" in b)
    small = ', batch_size=16, length=32, results=%r)' % str(tmp_path / "results")
    for ours, theirs in {"bert-base-uncased": tiny_teacher_folder, "models/mine": str(tmp_path / "mine"),
                         "my/texts": str(tmp_path / "texts"), "minutes=10)": "minutes=0.01" + small}.items():
        assert ours in block
        block = block.replace(ours, theirs)
    names = {}
    exec(block, names)
    assert names["model"].num_labels == 2 and names["model"].config.mixers.count("attention") == 2
    record, = RecordStore(tmp_path / "results").all("adapt")
    assert record.params["adapt"] == "distill" and record.params["minutes"] == 0.01
    with pytest.raises(ParameterError, match="adapt: 'magic' is not one of"):
        module.adapt_model(tiny_teacher_folder, "fnet", str(tmp_path), minutes=1, how="magic")


@pytest.mark.parametrize("model", ["fnet+gated", "fnet+taylor"])
def test_gates_are_fitted_to_the_users_own_text(text, tmp_path, tiny_teacher_folder, monkeypatch, model):
    """No task is loaded, and its name decides nothing; a preset names no text, and its students start from the task's sentences."""
    (tmp_path / "texts").mkdir()
    for name, part in {"a": text.train, "b": text.held_out}.items():
        part.to_parquet(tmp_path / "texts" / f"{name}.parquet")
    started = []
    monkeypatch.setattr(module, "adapt", lambda params, teacher, student, report, text: started.append((params, student.state_dict())))
    common = {"save": "x", "minutes": 1, "sentences": 40, "length": 32, "data": "synthetic"}
    monkeypatch.setattr(module, "load_task", lambda *a, **k: pytest.fail("the task's sentences are not wanted"))
    module.adapt_model(tiny_teacher_folder, model, text=str(tmp_path / "texts"), **common)
    (params, state), = started
    teacher, own = load_teacher(tiny_teacher_folder), load_text(str(tmp_path / "texts"))
    batch = tokenised(teacher, [sentences(own.train, 40)], 32)
    wanted = build_student(teacher, model, "mlm", batch=batch, seed=0)[0].state_dict()
    assert len(batch["input_ids"]) == 40 and all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert "task" not in params.adaptation() and params.adaptation()["sentences"] == 40
    monkeypatch.undo()
    plain = TransferParams.parse({"teacher": tiny_teacher_folder, "model": model, "adapt": "distill", **common})
    assert AdaptParams.parse(plain.model_dump()).adaptation() == plain.adaptation() and plain.adaptation()["task"] == "cola"


def test_freezing_is_recorded(params, text):
    record, student = run(params(model="hybrid-2", freeze="feed_forward", lit_threshold=0.9, lit_window=0.1), text)
    assert record.timing["unfrozen_at_step"] == 8 and record.parameters.trainable < record.parameters.total
    assert "unfrozen at step 8" in in_words(record) and all(p.requires_grad for p in student.parameters())
    assert len(curve(record).axes) == 1


def by_two_processes(program: list[str], options: dict) -> str:
    """What `adapt` prints, trained by two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
               "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", *program, "adapt",
               *(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[:3000]
    return done.stdout


def test_two_processes_train_as_many_steps_whatever_each_took_for_its_first(params, text, tmp_path):
    """Else the slower one would wait for ever for the other's last steps."""
    folder = tmp_path / "text"
    folder.mkdir()
    text.train.to_parquet(folder / "a.parquet")
    text.held_out.to_parquet(folder / "b.parquet")
    (tmp_path / "uneven.py").write_text(
        "import os, sys\nfrom fnetlib import __main__ as cli, callbacks\n"
        "callbacks.Pace.steps_per_s = property(lambda self: 10.0 - 5 * int(os.environ['RANK']))\nsys.exit(cli.main())\n")
    options = {**params(model="fnet", minutes=0.02, text=str(folder)).model_dump(exclude_defaults=True),
               "results": str(tmp_path / "two"), "save": str(tmp_path / "two")}
    by_two_processes([str(tmp_path / "uneven.py")], options)
    record, = RecordStore(tmp_path / "two").all()
    assert record.timing["steps"] == 12 and record.timing["processes"] == 2


def test_dropped_gradients_are_gone_before_they_are_clipped(params, text, tmp_path):
    teacher = load_teacher(params().teacher)
    student, _ = build_student(teacher, "hybrid-2", "mlm", seed=0)
    trainer, _, _ = make_trainer(params(model="hybrid-2"), 4, teacher, student, text, tmp_path)
    named = dict(student.named_parameters())
    frozen = [named[name] for name in frozen_by("feed_forward", student)]
    thaw = Thaw(frozen, 0.9, 99, alone=False)
    assert all(p.requires_grad for p in frozen)
    had = []

    def drop():
        had.append(all(p.grad is not None for p in frozen))
        thaw.drop_gradients()

    trainer.after_backward = drop
    left = []
    trainer.add_callback(type("Left", (TrainerCallback,), {"on_pre_optimizer_step": lambda self, args, state, control, **kw: left.append(
        {name for name, p in named.items() if p.grad is not None})})())
    trainer.train()
    assert had == [True] * 4 and len(left) == 4 and all(names and not names & set(frozen_by("feed_forward", student)) for names in left)
    thaw.step = 4
    frozen[0].grad = torch.ones_like(frozen[0])
    thaw.drop_gradients()
    assert frozen[0].grad is not None


def test_adaptation_and_fine_tuning_ask_for_a_compiler_first(params, text, monkeypatch):
    for where in (module, finetuning):
        monkeypatch.setattr(where, "require_compiler", lambda: (_ for _ in ()).throw(ParameterError("compile: no Triton")))
    with pytest.raises(ParameterError, match="no Triton"):
        run(params(compile=True), text)
    with pytest.raises(ParameterError, match="no Triton"):
        finetuning.finetune(FinetuneParams.parse({"teacher": params().teacher, "results": params().results, "data": "synthetic", "model": "bert",
                                                  "compile": "default", "train_size": 32, "eval_size": 32, "epochs": 1, "max_length": 32}))


@pytest.mark.parametrize("patience, thawed", [(99, None), (1, 8)])
def test_what_rests_rests_in_two_processes_too(params, text, tmp_path, patience, thawed):
    folder = tmp_path / "text"
    folder.mkdir()
    text.train.to_parquet(folder / "a.parquet")
    text.held_out.to_parquet(folder / "b.parquet")
    asked = AdaptParams.parse(params(model="hybrid-2", freeze="feed_forward", lit_threshold=0.9, lit_patience=patience, lit_window=0.1, text=str(folder)).model_dump())
    _, untrained, _, _ = prepare(asked)
    frozen = set(frozen_by("feed_forward", untrained))
    (tmp_path / "counted.py").write_text(
        "import os, sys\nfrom fnetlib import __main__ as cli, freezing\ndrop = freezing.Thaw.drop_gradients\n"
        "def counted(self):\n    print('x', file=open(f'{sys.argv[0]}.{os.environ[\"RANK\"]}', 'a'))\n    drop(self)\n"
        "freezing.Thaw.drop_gradients = counted\nsys.exit(cli.main())\n")
    by_two_processes([str(tmp_path / "counted.py")], asked.model_dump(exclude_defaults=True))
    assert [len((tmp_path / f"counted.py.{rank}").read_text().split()) for rank in (0, 1)] == [40, 40]
    record, = RecordStore(asked.results).all()
    assert record.timing["processes"] == 2 and record.timing["unfrozen_at_step"] == thawed and record.parameters.trainable < record.parameters.total
    before, after = untrained.state_dict(), load_teacher(asked.save).model.state_dict()
    moved = {name for name, value in untrained.named_parameters() if name in after and not torch.equal(before[name], after[name])}
    assert moved - frozen and (moved & frozen == set() if thawed is None else len(moved & frozen) > 5)


def test_two_processes_share_a_batch(params, text, tmp_path):
    """The same loss curve as one process on whole batches, up to the errors' denominators, which are each half's own."""
    folder = tmp_path / "text"
    folder.mkdir()
    text.train.to_parquet(folder / "a.parquet")
    text.held_out.to_parquet(folder / "b.parquet")
    asked = AdaptParams.parse(params(model="fnet", adapt="distill", steps=20, text=str(folder)).model_dump())
    one = adapt(asked, *prepare(asked))
    options = {**asked.model_dump(exclude_defaults=True), "results": str(tmp_path / "two"), "save": str(tmp_path / "two")}
    printed = by_two_processes(["-m", "fnetlib"], options)
    two, = RecordStore(tmp_path / "two").all()
    assert (one.timing["processes"], two.timing["processes"]) == (1, 2) and printed.strip() == two.run_id
    assert two.params == {**one.params, "processes": 2} and two.run_id != one.run_id  # a folder can hold both
    assert [h["tokens"] for h in one.metrics.history] == [h["tokens"] for h in two.metrics.history]
    for ours, theirs in zip(one.metrics.history, two.metrics.history):
        assert ours["layer_errors"] == pytest.approx(theirs["layer_errors"], rel=0.02)
        assert ours["train_loss"] is None or ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)
