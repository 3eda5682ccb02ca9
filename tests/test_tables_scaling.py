"""Exponents, crossovers and the cost of a mask, from made-up records and a measured block."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import efficiency_record
from fnetlib import contender, efficiency
from fnetlib.params import EfficiencyParams, ParameterError
from fnetlib.records import RecordStore
from fnetlib.tables_scaling import crossover, exponent, padding, scaling, sentences
from fnetlib import tables_scaling
from fnetlib.tables_speed import entries, speed_frame


@given(e=st.floats(-1, 3), factor=st.floats(1e-3, 1e3))
def test_a_power_law_gives_its_exponent(e, factor):
    assert exponent([512, 1024, 2048, 8192], [factor * n**e for n in (512, 1024, 2048, 8192)]) == pytest.approx(e, abs=1e-6)
    assert exponent([512, 1024], [1, 2]) is None


def test_where_a_model_overtakes():
    assert crossover([128, 512, 2048], [0.5, 2.0, 3.0]) == "256"  # half way between the logarithms
    assert crossover([128, 512], [1.1, 1.2]) == "all from 128" and crossover([128, 512], [0.5, 0.9]) == "none up to 512"
    assert crossover([128, 512, 2048], [1.5, 0.5, 2.0]) == "1024" and crossover([], []) == "–"


def test_the_table_of_made_up_records():
    def record(model, n):
        made = efficiency_record(model, n, gpu=True)
        seconds = {"bert": 1e-6 * n + 1e-9 * n * n, "fnet": 1.5e-6 * n}[model]
        part = {"median_s": seconds * made.params["batch"], "q25_s": 1, "q75_s": 1, "n": 3}
        against = {"median": (1e-6 * n + 1e-9 * n * n) / seconds, "q25": 1, "q75": 1}
        timing = {**made.timing, "train": part, "infer": part, "vs_bert": {"train": against, "infer": against}}
        return made.model_copy(update={"timing": timing})

    made = scaling([record(model, n) for model in ("bert", "fnet") for n in (128, 512, 2048, 8192)])
    rows = made.data.set_index("model")
    assert rows.loc["fnet", "train_exponent"] == pytest.approx(1) and 1.5 < rows.loc["bert", "train_exponent"] < 2
    assert 400 < float(rows.loc["fnet", "train_faster_from"]) < 600  # 500 by the formulas
    section, = made.sections.values()
    assert list(section["Model"]) == ["bert", "fnet"] and section["train faster than BERT from"][0] == "–"
    assert "it needs several lengths" in scaling([]).markdown() and "several" in scaling([record("fnet", 512)]).markdown()


def test_a_padded_model_is_measured_beside_itself(tmp_path, monkeypatch):
    whole = efficiency.shape_config

    def small(*shape):
        config = whole(*shape)
        config.vocab_size = 200
        return config

    monkeypatch.setattr(efficiency, "shape_config", small)
    params = EfficiencyParams.parse({"shape": "2x64", "lengths": "8", "tokens": 16, "repeats": 3, "warmup": 1, "device": "cpu",
                                     "models": "bert,fnet,bound,bert:padded,fnet:padded,modernbert:padded"})
    made = {r.model: r for r in efficiency.measure(params, RecordStore(tmp_path))}
    assert all(r.status == "finished" for name, r in made.items() if "modern" not in name), [r.error for r in made.values()]
    ours = made["fnet:padded"]
    assert {"vs_bert", "vs_unpadded"} <= set(ours.timing) and "vs_bound" not in ours.timing  # the bound was not padded
    assert "vs_unpadded" not in made["fnet"].timing and made["fnet"].timing["vs_bert"] != ours.timing["vs_bert"]
    frame = speed_frame(list(made.values())).set_index("model")
    assert frame.loc["bert:padded", "train_vs_bert"] == 1 and frame.loc["fnet:padded", "flops_vs_bert"] < 1
    shown = padding(list(made.values()))
    assert list(shown.data["model"])[:2] == ["bert:padded", "fnet:padded"] and "× unpadded" in shown.markdown()
    assert "fnet:padded to the models" in padding([made["fnet"]]).markdown()
    assert entries(SimpleNamespace(efficiency=list(made.values()))) == {}  # the summary is of bert-base's shape
    with pytest.raises(ParameterError, match="models: 'fnot' is not one of"):
        EfficiencyParams.parse({"models": "fnot:padded"})


def test_sentences_say_the_limit_the_growth_and_the_mask():
    def record(model, n, mode, speedup, keeps=None):
        made = efficiency_record(model, n, "bf16", mode, speedup=speedup, gpu=True, bert_s=n / 512)
        kept = {"vs_unpadded": {kind: {"median": keeps, "q25": keeps, "q75": keeps} for kind in ("train", "infer")}} if keeps else {}
        return made.model_copy(update={"timing": {**made.timing, **kept}})

    records = [record(model, n, "layers", speedup * (n / 512) ** (model != "bert"))
               for n in (128, 512, 1024, 2048) for model, speedup in (("bert", 1.0), ("fnet", 1.25), ("bound", 1.5))]
    records += [record("fnet:padded", n, "layers", 1.1, 0.9) for n in (128, 512)] + [record("fnet", 512, "eager", 1.0)]
    line, = sentences(SimpleNamespace(efficiency=records))
    assert line.startswith("- **What limits speed** (test GPU, training, bf16): without any mixing (`bound`) a model is "
                           "1.50 times as fast as BERT, each in its fastest mode, at 512 tokens, 3.00 at 1024, 6.00 at 2048; no mixer before the same projection can be faster.")
    assert "Measured as layers: from 512 tokens on a sequence's time grows as n^2.00 for `bert`, n^1.00 for `fnet`, n^1.00 for `bound`." in line  # a batch is tokens / n
    assert line.endswith("a model keeps with one: `fnet` 90% at 512.")
    assert sentences(SimpleNamespace(efficiency=[])) == sentences(SimpleNamespace(efficiency=[efficiency_record("bert")])) == []


def test_the_summary_says_what_a_mask_costs_in_the_fastest_mode():
    def record(mode, speedup, keeps, **fields):
        made = efficiency_record("fnet:padded", 512, mode=mode, speedup=speedup, gpu=True, **{"precision": "bf16", **fields})
        return made.model_copy(update={"timing": {**made.timing, "vs_unpadded": {
            kind: {"median": keeps, "q25": keeps, "q75": keeps} for kind in ("train", "infer")}}})

    records = [record("eager", 1.0, 0.99), record("layers", 1.5, 0.9), record("graphs", 9.0, 0.1, precision="fp16"), record("graphs", 9.0, 0.2, shape="minilm"),
               efficiency_record("fnet", 512, "bf16", gpu=True)]
    records += [record("graphs", 9.0, 0.3, backend="fft"), record("graphs", 9.0, 0.4, tokens=512)]
    elsewhere = record("graphs", 9.0, 0.5)
    records.append(elsewhere.model_copy(update={"env": {**elsewhere.env, "device_name": "another GPU"}}))
    place = {"fnet": {"vs_unpadded": 0.9, "device": "test GPU", "mode": "layers"}}
    assert tables_scaling.entries(records) == {"gpu": {"n512": {"train": place, "infer": place}}} and tables_scaling.entries([]) == {}


def test_a_padded_batch_masks_half_at_most():
    assert contender.real_tokens(4, 16).sum(1).tolist() == [10, 12, 14, 16]
    assert contender.real_tokens(1, 9).sum(1).tolist() == [9] and contender.real_tokens(3, 1).sum(1).tolist() == [1, 1, 1]
    assert contender.real_tokens(64, 512).sum(1).min() > 256
