"""The measurement's protocol, with a clock of our own: nothing here depends on how fast this machine is."""

import gc
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import torch
from factories import efficiency_record, speed_records

from fnetlib import compiling, contender, efficiency, efficiency_plots, mixing_speed
from fnetlib.params import LEAN, BuildParams, EfficiencyParams, ParameterError
from fnetlib.peers import PEERS
from fnetlib.records import RecordStore
from fnetlib.tables_speed import speed_frame

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TINY = {"shape": "1x64", "lengths": "8", "tokens": 16, "repeats": 3, "warmup": 1, "device": "cpu",
        "models": "bert,fnet,bound"}
SETTING = efficiency.Setting(8, 2, "fp32", "eager", "cpu")


def tiny(**changes):
    return EfficiencyParams.parse({**TINY, **changes})


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    """BERT's vocabulary is most of a tiny model's work."""
    whole = efficiency.shape_config

    def small(*shape):
        config = whole(*shape)
        config.vocab_size = 200
        return config

    monkeypatch.setattr(efficiency, "shape_config", small)


class Clock:
    """Time passes only where `wait` says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Fake(efficiency.Contender):
    """A model whose step takes `seconds`, times what the machine's mood makes of it, and is written down."""

    def __init__(self, name, seconds, clock, log, mood=lambda step: 1.0, breaks_at=None):
        super().__init__(name, None, SETTING, 0)
        self.seconds, self.clock, self.log, self.mood, self.breaks_at = seconds, clock, log, mood, breaks_at
        self.steps = 0

    def prepare(self, kind):
        self.log.append((kind, "prepare", self.name))

    def step(self, kind):
        if self.steps == self.breaks_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmany more lines")
        self.clock.now += self.seconds * self.mood(self.steps)
        self.log.append((kind, "step", self.name))
        self.steps += 1


def run(*fakes, warmup=1, repeats=4):
    for kind in efficiency.KINDS:
        efficiency.rounds(list(fakes), kind, warmup, repeats, fakes[0].clock)
    return [efficiency.timing(fake, fakes) for fake in fakes if fake.error is None]


def test_every_round_has_one_step_of_each_model_and_the_first_rotates():
    clock, log = Clock(), []
    run(*(Fake(name, 1, clock, log) for name in "abc"), warmup=1, repeats=3)
    steps = [name for kind, what, name in log if (kind, what) == ("train", "step")]
    assert ["".join(steps[i:i + 3]) for i in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]


def test_on_a_gpu_it_is_known_when_the_host_was_through(monkeypatch):
    """The host takes 1 s to launch a step, the GPU 3 s more."""
    clock, log = Clock(), []
    fake = Fake("a", 1, clock, log)
    fake.setting = SETTING._replace(device="cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(clock, "now", clock.now + 3))
    found, = run(fake)
    assert found["train"]["launched_s"] == found["infer"]["launched_s"] == 1 and found["train"]["median_s"] == 4
    assert "launched_s" not in run(Fake("b", 1, Clock(), []))[0]["train"]  # a CPU works while it is told to


def test_models_are_switched_between_training_and_evaluation_outside_the_rounds():
    clock, log = Clock(), []
    run(Fake("a", 1, clock, log), Fake("b", 1, clock, log), warmup=1, repeats=3)
    kinds = [(kind, what) for kind, what, _ in log]
    assert kinds == [(k, w) for k in efficiency.KINDS for w, n in (("prepare", 2), ("step", 8)) for _ in range(n)]


def test_warm_up_is_not_measured():
    clock, log = Clock(), []
    slow_start = lambda step: 1000.0 if step % 5 < 2 else 1.0  # noqa: E731 (five rounds a kind, two of them warm-up)
    bert = Fake("bert", 2, clock, log, slow_start)
    found, = run(bert, warmup=2, repeats=3)
    assert bert.times == {"infer": [2, 2, 2], "train": [2, 2, 2]}
    assert found["train"] == {"median_s": 2, "q25_s": 2, "q75_s": 2, "n": 3} and found["runtime_s"] == 12


def test_ratios_are_paired_within_a_round():
    clock, log = Clock(), []
    drift = lambda step: 3.0 ** (step % 5)  # noqa: E731 (the machine gets slower and slower)
    bert, ours, bound = Fake("bert", 6, clock, log, drift), Fake("fnet", 4, clock, log, drift), Fake("bound", 3, clock, log, drift)
    of_bert, of_ours, of_bound = run(bert, ours, bound)
    assert of_ours["vs_bert"]["train"] == {"median": 1.5, "q25": 1.5, "q75": 1.5}  # six over four: better is above 1
    assert of_ours["vs_bound"]["infer"] == {"median": 0.75, "q25": 0.75, "q75": 0.75}  # at most 1
    assert of_bert["vs_bert"]["train"]["median"] == 1 and of_bound["vs_bert"]["train"]["median"] == 2
    assert of_ours["train"]["q75_s"] > 2 * of_ours["train"]["q25_s"]  # the times themselves did drift
    assert of_ours["samples_per_s"]["train"] == pytest.approx(SETTING.batch * of_ours["steps_per_s"]["train"])


def test_a_model_that_breaks_is_out_and_the_others_go_on():
    clock, log = Clock(), []
    fakes = [Fake("bert", 2, clock, log, breaks_at=3), Fake("fnet", 1, clock, log), Fake("bound", 1, clock, log)]
    of_ours, of_bound = run(*fakes)
    assert fakes[0].error == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB."
    assert len(fakes[1].times["train"]) == len(fakes[2].times["train"]) == 4
    assert "vs_bert" not in of_ours and "vs_bound" in of_ours


def test_without_a_reference_there_is_no_ratio():
    found, = run(Fake("fnet", 1, Clock(), []))
    assert not {"vs_bert", "vs_bound"} & set(found)


def test_records_round_trip_in_the_layout_that_the_tables_read(tmp_path):
    store, params = RecordStore(tmp_path), tiny(lengths="8,12", precisions="fp32,bf16")
    made = efficiency.measure(params, store)
    assert len(made) == 12 and {r.run_id: r for r in store.all("efficiency")} == {r.run_id: r for r in made}
    wanted = efficiency_record("fnet")
    for record in made:
        assert record.run_id == record.identity and record.status == "finished" and record.task is None
        assert set(wanted.params) | {"models", "device", "backend"} == set(record.params)
        assert set(wanted.timing) | {"steps_per_s", "samples_per_s", "runtime_s", "parts"} == set(record.timing)
        for part in ("train", "infer", "vs_bert", "vs_bound"):
            assert set(wanted.timing[part]) == set(record.timing[part])
        assert record.timing["train"]["n"] == 3 and record.memory == {"train_peak_bytes": None, "infer_peak_bytes": None}
        assert record.flops.method == "analytic" and record.env["precision"] == record.params["precision"]
    assert [r.params["batch"] for r in made if r.model == "bert" and r.params["precision"] == "fp32"] == [2, 1]
    frame = speed_frame(made)
    assert frame[["train_vs_bert", "infer_vs_bound", "flops_vs_bert"]].notna().all(axis=None)
    assert (frame[frame.model == "bert"].train_vs_bert == 1).all()


def test_a_finished_block_is_kept_a_forced_one_measured_again(tmp_path, monkeypatch):
    store, params = RecordStore(tmp_path), tiny()
    first = efficiency.measure(params, store)
    with monkeypatch.context() as patch:
        patch.setattr(efficiency, "measure_block", lambda *_: pytest.fail("measured again"))
        assert efficiency.measure(params, store) == first
    forced = efficiency.measure(tiny(force=True), store)
    assert [r.run_id for r in forced] == [r.run_id for r in first] and forced != first
    assert store.all("efficiency") != sorted(first, key=lambda r: r.run_id)


def test_records_of_a_device_that_is_elsewhere_are_shown(tmp_path):
    store = RecordStore(tmp_path)
    here = efficiency.measure(tiny(), store)
    name = here[0].env["device_name"]
    with pytest.raises(ParameterError, match=f"device: 'tpu' has no records of 8 tokens, fp32, eager .* records: {re.escape(name)}"):
        efficiency.measure(tiny(device="tpu"), store)
    assert efficiency.measure(tiny(device=name), store) == here
    with pytest.raises(ParameterError, match="has no records of 12 tokens"):
        efficiency.measure(tiny(device=name, lengths="8,12"), store)
    with pytest.raises(ParameterError, match="has no records of the mixing alone at 8 tokens"):
        mixing_speed.measure(tiny(device=name), store)


def test_of_a_block_that_is_partly_there_only_the_missing_records_are_written(tmp_path):
    store, params = RecordStore(tmp_path), tiny()
    first = efficiency.measure(params, store)
    store.path(first[1].run_id).unlink()
    before = {r.run_id: store.path(r.run_id).read_text() for r in (first[0], first[2])}
    again = efficiency.measure(params, store)
    assert {name: store.path(name).read_text() for name in before} == before
    assert again[1].timing["vs_bert"] and again[1] != first[1] and again[0] == first[0]


def test_what_shared_the_process_and_the_device_is_in_the_run_id():
    names = {efficiency.run_id(tiny(), "fnet", SETTING, "one CPU"), efficiency.run_id(tiny(), "fnet", SETTING, "a GPU"),
             efficiency.run_id(tiny(models="bert,fnet"), "fnet", SETTING, "one CPU"),
             efficiency.run_id(tiny(repeats=4), "fnet", SETTING, "one CPU"),
             efficiency.run_id(tiny(), "fnet", SETTING._replace(precision="bf16"), "one CPU")}
    assert len(names) == 5


def test_a_failed_model_has_a_record_that_says_why(tmp_path, monkeypatch):
    whole = efficiency.Contender.build

    def build(self):
        if self.name == "fnet":
            raise torch.OutOfMemoryError("CUDA out of memory.\nhints")
        whole(self)

    monkeypatch.setattr(efficiency.Contender, "build", build)
    said = []
    made = {r.model: r for r in efficiency.measure(tiny(), RecordStore(tmp_path), say=said.append)}
    assert {name: r.status for name, r in made.items()} == {"bert": "finished", "fnet": "failed", "bound": "finished"}
    assert made["fnet"].error == "OutOfMemoryError: CUDA out of memory." and made["fnet"].timing == {}
    assert said == ["fnet, 8 tokens, fp32, eager: OutOfMemoryError: CUDA out of memory."]
    assert RecordStore(tmp_path).get(made["fnet"].run_id) == made["fnet"]


def test_a_compiler_that_fails_is_recorded_and_eager_goes_on(tmp_path, monkeypatch):
    def compile(model, **_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", compile)
    made = efficiency.measure(tiny(models="fnet", modes="compiled,eager"), RecordStore(tmp_path), say=lambda _: None)
    assert [(r.params["mode"], r.status, r.error) for r in made] == [
        ("compiled", "failed", "RuntimeError: no C++ compiler"), ("eager", "finished", None)]
    assert [r.env["compile"] for r in made] == [True, False]


def test_each_model_of_a_compiled_block_is_compiled_whole_and_for_one_shape(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    efficiency.measure(tiny(modes="compiled", models="bert,fnet"), RecordStore(tmp_path))
    assert asked == [{"dynamic": False}] * 2


@pytest.mark.parametrize("name", ["bert", "fnet:padded", *PEERS])
def test_layers_are_compiled_by_themselves(name, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, **how: asked.append(how) or call)
    made = efficiency.Contender(name, efficiency.model_config(tiny(shape="2x64"), name, 16), SETTING._replace(length=16, mode="layers"), 0)
    made.build()
    made.prepare("train"), made.step("train")
    assert len(contender.layers_of(made.model)) == 2 and asked == [{"fullgraph": name not in PEERS, "dynamic": False, "options": None}] * 2
    graphs = efficiency.Contender(name, made.config, made.setting._replace(mode="graphs"), 0)
    graphs.build()
    assert asked[2:] == [{"fullgraph": name not in PEERS, "dynamic": False, "options": compiling.GRAPHS}] * 2


def test_one_compilation_serves_all_layers(monkeypatch):
    """Dynamo's own, without a compiler behind it: graphs are made for one layer and found again for the others."""
    graphs, whole = [], torch.compile

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", lambda call, **how: whole(call, backend=count, **how))
    setting = SETTING._replace(mode="layers")
    made = efficiency.Contender("fnet:padded", efficiency.model_config(tiny(shape="4x64"), "fnet:padded", 8), setting, 0)
    with efficiency._compiler("layers"):
        made.build()
        made.prepare("infer"), made.step("infer")
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["bert", "fnet"])
def test_lean_modes_keep_fewer_activations_for_the_same_gradients(name, monkeypatch):
    """PyTorch's own partitioner, without a compiler behind it."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, *, options, **how: whole(call, backend="aot_eager_decomp_partition", **how))
    kept, gradients = {}, {}
    for mode in ("layers", *LEAN):
        config = efficiency.model_config(tiny(shape="1x64"), name, 64)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        made = efficiency.Contender(name, config, SETTING._replace(length=64, mode=mode), 0)
        with efficiency._compiler(mode):
            made.build()
            made.prepare("train")
            weights, bytes_kept = {w.untyped_storage().data_ptr() for w in made.model.parameters()}, {}
            with torch.autograd.graph.saved_tensors_hooks(
                    lambda t: bytes_kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t):
                loss = made.call(**made.batch).loss
            loss.backward()
        kept[mode] = sum(size for place, size in bytes_kept.items() if place not in weights)
        gradients[mode] = made.model.bert.encoder.layer[0].attention.output.dense.weight.grad
    assert kept["leaner"] < kept["lean"] < kept["layers"]
    for mode in LEAN:
        torch.testing.assert_close(gradients[mode], gradients["layers"])


@pytest.mark.parametrize("mode, option", [("layers", None), ("autotuned", "max_autotune"), ("graphs", "triton.cudagraphs")])
def test_modes_are_the_compilers_options(mode, option, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, *, options, **how: asked.append(options) or call)
    efficiency.Contender("fnet", efficiency.model_config(tiny(shape="2x64"), "fnet", 16), SETTING._replace(length=16, mode=mode), 0).build()
    assert len(asked) == 2 and all(options == asked[0] for options in asked)  # a layer each
    assert asked[0] is None if option is None else asked[0][option] is True


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", ["bert", "fnet", "hybrid-1", "fnet:padded"])
def test_layers_launched_as_graphs_take_the_same_steps(name):
    losses = []
    for mode in ("eager", "graphs"):
        config = efficiency.model_config(tiny(shape="2x64"), name, 64)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        made = efficiency.Contender(name, config, SETTING._replace(length=64, mode=mode, device="cuda"), 0)
        with efficiency._compiler(mode):
            made.build()
            made.optimizer.param_groups[0]["lr"] = 1e-3
            made.prepare("train")
            for _ in range(6):
                made.step("train")
            losses.append(made.call(**made.batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] < 0.5


def test_bert_takes_the_fused_kernel():
    bert = efficiency.Contender("bert", efficiency.model_config(tiny(), "bert", 8), SETTING, 0)
    bert.build()
    bert.prepare("infer")
    assert efficiency.attention_kernels(bert, "infer") == ["aten::_scaled_dot_product_flash_attention_for_cpu"]


def test_a_training_step_trains_and_inference_does_not():
    ours = efficiency.Contender("fnet", efficiency.model_config(tiny(), "fnet", 8), SETTING, 0)
    ours.build()
    weight = ours.model.bert.encoder.layer[0].output.dense.weight
    before = weight.detach().clone()
    ours.prepare("infer"), ours.step("infer")
    assert torch.equal(weight, before) and not ours.model.training
    ours.prepare("train"), ours.step("train")
    assert not torch.equal(weight, before) and ours.model.training
    assert all(p.grad is None for p in ours.model.parameters())  # the next model must not find our gradients


def test_the_garbage_collector_rests_while_steps_are_timed(tmp_path, monkeypatch):
    seen, whole = [], efficiency.Contender.step
    monkeypatch.setattr(efficiency.Contender, "step", lambda self, kind: seen.append(gc.isenabled()) or whole(self, kind))
    efficiency.measure(tiny(models="bound"), RecordStore(tmp_path))
    taken_apart = 2
    assert len(seen) == 2 * (1 + 1 + 3) + taken_apart and not any(seen) and gc.isenabled()


def test_tf32_is_switched_for_its_block_only():
    for precision, on in (("tf32", True), ("fp32", False), ("bf16", False)):
        with efficiency._products(precision):
            assert torch.backends.cuda.matmul.allow_tf32 is on
        assert torch.backends.cuda.matmul.allow_tf32 is False


@pytest.mark.parametrize("shape, layers, width, heads, inner", [
    ("bert-base", 12, 768, 12, 3072), ("minilm", 6, 384, 12, 1536), ("tiny", 2, 64, 1, 256), ("4x256", 4, 256, 4, 1024)])
def test_shapes(shape, layers, width, heads, inner):
    config = efficiency.shape_config(shape, 2048)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size,
            config.max_position_embeddings, config.num_labels) == (layers, width, heads, inner, 2048, 2)


@pytest.mark.parametrize("bad, said", [
    ({"shape": "12x700"}, "shape: '12x700' is not one of: bert-base, minilm, tiny, or layers x width"),
    ({"shape": "big"}, "shape: 'big' is not one of: bert-base"),
    ({"precisions": "fp8"}, "precisions: 'fp8' is not one of: fp32, tf32, bf16, fp16"),
    ({"modes": "fast"}, "modes: 'fast' is not one of: eager, compiled, layers, graphs"),
    ({"lengths": "128,many"}, "lengths: '128,many' is not a comma list of whole numbers from 2"),
    ({"lengths": "1"}, "lengths: '1' is not a comma list"),
    ({"models": "gpt"}, "models: 'gpt' is not one of: bert, fnet-naive"),
    ({"models": "hybrid-2"}, "models: 'hybrid-2' keeps 2 of 1 layers"),
    ({"backend": "dct"}, "backend: 'dct' is not one of: auto, fft, matmul or folded"),
    ({"repeats": 2}, "repeats: 2 does not fit"), ({"warmup": 0}, "warmup: 0 does not fit"),
    ({"teacher": "minilm"}, "unknown parameter 'teacher'; accepted: results, models"),
])
def test_a_bad_parameter_is_one_clear_line(bad, said):
    with pytest.raises(ParameterError) as error:
        tiny(**bad)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize("wanted, there, said", [
    ({"device": "cpu", "precisions": "fp32,fp16"}, False, "precisions: 'fp16' is not for this device (cpu); accepted here: fp32, bf16"),
    ({"device": "cpu", "precisions": "tf32"}, True, "precisions: 'tf32' is not for this device (cpu); accepted here: fp32, bf16"),
    ({"device": "cpu", "modes": "eager,graphs"}, False, "modes: 'graphs' needs a GPU; on this CPU of: eager, compiled, layers, autotuned, lean, leaner"),
    ({"device": "cuda"}, False, "device: 'cuda' is asked for, but torch finds no GPU here; accepted here: auto, cpu"),
    ({"device": "auto", "precisions": "bf16"}, True, "precisions: 'bf16' is not for this device (cuda); accepted here: fp32, fp16"),
])
def test_what_the_device_cannot_do_is_said_before_anything_runs(monkeypatch, tmp_path, wanted, there, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    with pytest.raises(ParameterError) as error:
        efficiency.measure(tiny(**wanted), RecordStore(tmp_path))
    assert str(error.value) == said and not list(tmp_path.iterdir())


def test_parameters_as_papermill_gives_them():
    params = tiny(lengths=128, tokens=4096.0, modes="compiled, eager,eager", precisions=" bf16")
    assert params.blocks() == [(128, "bf16", "compiled"), (128, "bf16", "eager")]
    assert tiny(models="all", shape="tiny").all_models[-1] == "bound"


def test_results_go_to_the_project(monkeypatch, tmp_path):
    monkeypatch.setenv("FNETLIB_ROOT", str(tmp_path))
    assert efficiency.results_folder(tiny()) == tmp_path / "results/local-efficiency"
    assert efficiency.results_folder(tiny(results="results/quick")) == tmp_path / "results/quick"


def test_figures_and_words_come_from_the_records():
    lost = efficiency_record("hybrid-2", 512, gpu=True, status="failed", error="OutOfMemoryError: CUDA out of memory")
    records = [*speed_records((128, 512), gpu=True), lost]
    words = efficiency_plots.speed_sentences(records)
    assert "`fnet`: at 128 tokens training step 1.30× BERT [1.26, 1.35]" in words
    assert "`hybrid-2`, 512 tokens: failed: OutOfMemoryError" in words and "CPU" not in words
    assert "Measured on a CPU" in efficiency_plots.speed_sentences(speed_records((128,)))
    for figure in (efficiency_plots.ratios(records), efficiency_plots.ratios(records, "vs_bound"),
                   efficiency_plots.times(records), efficiency_plots.memory(records)):
        assert len(figure.axes) == 2 and figure.axes[0].has_data()
    assert "relative to BERT" in efficiency_plots.times(speed_records((128,))).get_suptitle()


def test_lean_modes_show_memory_against_time_and_not_by_length():
    modes = [efficiency_record(model, 512, "bf16", mode, speedup=speedup, gpu=True, bert_s=seconds) for mode, seconds in
             (("layers", 0.05), ("lean", 0.06), ("leaner", 0.07)) for model, speedup in (("bert", 1.0), ("fnet", 2.0))]
    others = [efficiency_record(model, 512, "bf16", "layers", gpu=True) for model in ("hybrid-2",)]
    *_, trade, spare = efficiency_plots.memory([*modes, *others]).axes
    assert not spare.get_visible() and len(trade.figure.axes) == 4 and (trade.get_xlabel(), trade.get_ylabel()) == ("ms", "GB")  # and two by length
    bert, fnet = (line for line in trade.lines if len(line.get_xdata()) == 3)
    assert list(fnet.get_xdata()) == pytest.approx([25, 30, 35]) and list(bert.get_ydata()) == pytest.approx([2**30 / 1e9] * 3)


def test_the_trainers_count_beside_ours_explains_the_study():
    table = efficiency_plots.trainer_count(EfficiencyParams.parse({"lengths": "128,2048", "models": "bert,fnet,fnet:padded,bigbird"}))
    assert list(table.index) == ["bert", "fnet"] and list(table.loc["bert"]) == ["1.000"] * 3
    assert table.loc["fnet", "Trainer's total_flos"] == "0.752" and float(table.loc["fnet", "2048 tokens"]) < 0.6
    assert "reports 24.8% fewer FLOs" in efficiency_plots.study_sentence() and "it is 24.8% at any" in efficiency_plots.study_sentence()
    shares = efficiency_plots.flops_shares([efficiency_record("fnet", n) for n in (128, 2048)])
    assert list(shares.data["Model"]) == ["bert", "fnet"] and list(shares.data["2048 tokens"]) == [table.loc["bert", "2048 tokens"], table.loc["fnet", "2048 tokens"]]
    by_part = shares.sections["128 tokens: MFLOPs a token of a forward pass"].set_index("Model").astype(float)
    assert by_part.loc["fnet", ["mixing", "projection", "feed-forward", "rest"]].sum() == pytest.approx(by_part.loc["fnet", "all"], abs=0.03)
    assert by_part.loc["bert", "feed-forward"] == pytest.approx(12 * 4 * 768 * 3072 / 1e6, abs=0.01)
    assert "reports 24.8% fewer" in shares.markdown() and "No recipe was measured." in efficiency_plots.flops_shares([]).markdown()


@pytest.mark.parametrize("records", [[], [efficiency_record("fnet", status="failed", error="RuntimeError: no")]])
def test_nothing_measured_is_said_not_drawn(records):
    for make in (efficiency_plots.ratios, efficiency_plots.times, efficiency_plots.memory):
        assert len(make(records).axes) == 1
    efficiency_plots.table(records), efficiency_plots.speed_sentences(records), efficiency_plots.kernels(records)


def execute(name, folder, **values):
    path = folder / f"{name}.ipynb"
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", path, values, progress_bar=False, cwd=folder)
    text = "".join("".join(out.get("text", "")) + "".join(out.get("data", {}).get("text/markdown", ""))
                   for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", []))
    return text


@pytest.mark.parametrize("name, params", [("01_build", BuildParams), ("04_efficiency", EfficiencyParams)])
def test_notebook_sources(name, params):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    nbformat.validate(notebook)
    cell, = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    lines = [f"{key}: {type(f.default).__name__} = {json.dumps(f.default) if isinstance(f.default, str) else f.default}"
             f"  # {f.description}" for key, f in params.model_fields.items()]
    assert cell.source == "\n".join(lines)
    assert all(c.execution_count is None and not c.outputs for c in notebook.cells if c.cell_type == "code")
    assert f"notebooks/{name}.ipynb" in notebook.cells[0].source


def test_04_runs_and_writes_its_records(tmp_path):
    text = execute("04_efficiency", tmp_path, **{**TINY, "models": "bert,fnet", "results": str(tmp_path / "out")})
    records = RecordStore(tmp_path / "out").all("efficiency")
    assert [r.model for r in records] == ["bert", "fnet"] and all(f"{r.run_id}.json" in text for r in records)
    assert f"training step {speed_frame(records).train_vs_bert[1]:.2f}× BERT" in text


def test_01_runs_with_a_hybrid_of_any_teacher(tmp_path, tiny_teacher_folder):
    text = execute("01_build", tmp_path, teacher=tiny_teacher_folder, model="hybrid-1", seq_length=21)
    assert "4 layers of width 32; hybrid-1: fourier, fourier, fourier, attention" in text
    assert "At 21 tokens a forward pass of `hybrid-1`" in text and "Largest error in float32" in text
