"""What fits: the search against any threshold, and the records with a GPU of our own making."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factories import efficiency_record
from fnetlib import memory_fit
from fnetlib.memory_fit import LIMIT, RATIO, START, STEP, longest, measure, table
from fnetlib.params import EfficiencyParams
from fnetlib.records import RecordStore

PARAMS = EfficiencyParams.parse({"models": "bert,fnet,bigbird,fnet:padded", "precisions": "bf16,fp32", "fit_gb": "16,140,900"})


@given(most=st.integers(0, 2 * LIMIT), power=st.sampled_from([0.0, 0.8, 1.0, 1.3, 2.0]))
def test_the_search_brackets_any_threshold(most, power):
    """However memory grows with the length, or if it tells nothing at all."""
    tried = []
    found = longest(lambda n: tried.append(n) or (n**power if n <= most else None), most**power)
    assert len(tried) == len(set(tried)) < 25 and all(n % STEP == 0 for n in tried)
    if most < START:
        assert found == 0
    else:
        assert found <= most and (found >= LIMIT or max(RATIO * found, found + STEP) + 1 > most)


@given(most=st.integers(2**14, LIMIT), base=st.floats(1e8, 5e9), slope=st.floats(1e4, 1e6), told=st.sampled_from([0.9, 1.0, 1.1, 1.3]))
def test_where_memory_grows_linearly_few_long_sequences_are_tried(most, base, slope, told):
    """They take minutes where time grows with the square. told: what is said to be taken over what is, up to all that there is."""
    tried, allowed = [], base + slope * most
    longest(lambda n: tried.append(n) or (min(told * (base + slope * n), allowed) if n <= most else None), allowed)
    assert sum(n > 0.5 * most for n in tried) <= (5 if told == 1 else 12)


@pytest.fixture
def gpu(monkeypatch):
    """An H200, which has 139.8 GiB, where a sequence takes a MB a token of `bert` and half of that of others, and bigbird breaks."""
    limits = [1.0]
    total = int(139.8 * 2**30)
    monkeypatch.setattr(memory_fit.efficiency, "resolve_device", lambda params: ("cuda", "a GPU"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=total))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    monkeypatch.setattr(memory_fit, "environment", lambda *_: {**efficiency_record("fnet", gpu=True).env, "device_name": "a GPU"})
    monkeypatch.setattr(memory_fit.efficiency, "_free", lambda device: None)

    def trains(params, model, length, precision):
        if model == "bigbird":
            raise RuntimeError("no kernel")
        taken = length * 2**20 // (1 if model == "bert" else 2) * (2 if precision == "fp32" else 1)
        return taken if taken <= limits[-1] * total else None

    monkeypatch.setattr(memory_fit, "trains", trains)
    return limits


def test_one_record_a_model_and_size_and_the_limit_is_lifted(gpu, tmp_path, monkeypatch):
    store = RecordStore(tmp_path)
    made = measure(PARAMS, store, PARAMS.memory_sizes)
    assert [(r.model, r.params["gb"], r.status) for r in made] == [
        (model, gb, "failed" if model == "bigbird" else "finished") for gb in (16, 140) for model in ("bert", "fnet", "bigbird")]
    assert gpu[-1] == 1.0 and gpu[1] == pytest.approx(15e9 / int(139.8 * 2**30))
    longest_of = {(r.model, r.params["gb"]): r.memory["longest"] for r in made}
    assert 15e9 / 2**20 / RATIO <= longest_of["bert", 16] <= 15e9 / 2**20 and longest_of["fnet", 140] > 1.8 * longest_of["bert", 140]
    assert all(r.run_id == r.identity for r in made) and made[2].error == "RuntimeError: no kernel"
    monkeypatch.setattr(memory_fit, "trains", lambda *_: pytest.fail("tried again"))
    assert measure(PARAMS, store, PARAMS.memory_sizes) == made
    elsewhere = EfficiencyParams.parse({**PARAMS.model_dump(), "device": "a GPU"})
    monkeypatch.setattr(memory_fit.efficiency, "resolve_device", lambda params: (None, "a GPU"))
    assert measure(elsewhere, store, [16]) == made[:3]
    shown = table(made).markdown()
    assert "| bert | " in shown and "1.00" in shown and "`bigbird`, bf16, 16 GB: RuntimeError: no kernel" in shown


def test_precisions_are_not_compared_with_each_other(gpu, tmp_path):
    records = [record for precision in ("bf16", "fp32") for record in
               measure(EfficiencyParams.parse({**PARAMS.model_dump(), "models": "bert,fnet", "precisions": precision}), RecordStore(tmp_path), [16])]
    shown = table(records)
    assert list(shown.sections) == [f"a GPU: shape bert-base, {p}, one sequence, eager" for p in ("bf16", "fp32")]
    ratio = {name: float(section.set_index("Model").loc["fnet", "16 GB × BERT"]) for name, section in shown.sections.items()}
    assert all(1.85 < value < 2.15 for value in ratio.values()), ratio  # by the other precision's BERT they would be 4 and 1
    assert all(r.status == "finished" for r in records) and "By the code of" not in shown.markdown()
    older = records[0].model_copy(update={"started": "2020-01-01T00:00:00+00:00"})
    assert "By the code of 2020-01-01: `bert` (bf16, 16 GB); of " in table([older, *records[1:]]).markdown()


def test_no_gpu_no_record(tmp_path):
    assert measure(EfficiencyParams.parse({"device": "cpu", "fit_gb": "16"}), RecordStore(tmp_path), [16]) == []
    assert "it needs a GPU" in table([]).markdown()


def test_only_memory_that_ran_out_means_that_it_does_not_fit(monkeypatch):
    monkeypatch.setattr(memory_fit.efficiency, "_free", lambda device: None)
    steps = []

    class Fake:
        def __init__(self, name, config, setting, seed):
            assert setting.batch == 1 and setting.length == 640

        def build(self):
            pass

        def prepare(self, kind):
            pass

        def step(self, kind):
            steps.append(kind)
            if len(steps) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        def drop(self):
            steps.append("dropped")

    monkeypatch.setattr(memory_fit, "Contender", Fake)
    for name, value in (("synchronize", None), ("reset_peak_memory_stats", None), ("max_memory_allocated", 7)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert memory_fit.trains(PARAMS, "fnet", 640, "bf16") is None and steps == ["train", "train", "dropped"]
    assert memory_fit.trains(PARAMS, "fnet", 640, "bf16") == 7
    monkeypatch.setattr(Fake, "build", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        memory_fit.trains(PARAMS, "fnet", 640, "bf16")
