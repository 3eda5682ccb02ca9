"""The mixing alone: every way computes the same, and the tables show what the records hold."""

import numpy as np
import pytest
import torch

from fnetlib import mixing_speed
from fnetlib.contender import Setting, real_tokens
from fnetlib.mixing_speed import WAYS, Block, entries, frame, function, roofline, sentences, table, ways
from fnetlib.params import EfficiencyParams
from fnetlib.records import RecordStore

TINY = {"shape": "1x64", "lengths": "8,600", "tokens": 16, "repeats": 3, "warmup": 1, "device": "cpu", "models": "fnet"}


def block(length=9, padded=False, mode="eager"):
    return Block(Setting(length, 3, "fp32", mode, "cpu"), 24, padded)


@pytest.mark.parametrize("padded", [False, True])
def test_every_way_computes_the_same(padded):
    x, weight = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(0)), torch.eye(24)
    wanted = np.zeros((3, 9, 24))
    for i, n in enumerate(real_tokens(3, 9).sum(1).tolist() if padded else [9] * 3):
        wanted[i, :n] = np.fft.fft2(x[i, :n].double().numpy(), norm="ortho").real
    for way in WAYS:
        assert np.allclose(function(way, block(padded=padded), weight)(x).numpy(), wanted, atol=1e-5), way
    assert torch.equal(function("copy", block(), weight)(x), x)


def test_long_padded_sequences_are_not_folded():
    assert "folded" in ways(block(8000)) and "folded" in ways(block(2000, padded=True))
    assert "folded" not in ways(block(8000, padded=True)) and "fft" in ways(block(8000, padded=True))


def test_records_are_kept_and_shown(tmp_path, monkeypatch):
    store, params = RecordStore(tmp_path), EfficiencyParams.parse(TINY)
    made = mixing_speed.measure(params, store)
    assert [(r.params["length"], r.params["padded"]) for r in made] == [(8, False), (8, True), (600, False), (600, True)]
    assert all(r.run_id == r.identity and r.status == "finished" and r.timing["fft"]["train"]["n"] == 3 for r in made)
    assert set(made[0].timing) == {"copy", "projection", "product", *WAYS} and "folded" in made[3].timing
    monkeypatch.setattr(mixing_speed, "_measure_block", lambda *_: pytest.fail("measured again"))
    assert mixing_speed.measure(params, store) == made == sorted(store.all("mixing"), key=lambda r: made.index(r))
    shown = table(made).markdown()
    assert shown.count("| 600 |") == 2 and "n/2 to n tokens, masked" in shown and " ms" not in shown
    assert sentences(made).count("\n- ") == 2
    assert sentences([]) == "The mixing alone was not measured." and "Not measured here" in table([]).markdown()
    assert not roofline(made).axes[0].has_data()  # absolute times are a GPU's matter


def on_gpu(record, **medians):
    timing = {way: {"flops": record.timing[way]["flops"], **{kind: {"median_s": s, "q25_s": s, "q75_s": s, "n": 3}
                                                             for kind in ("infer", "train")}} for way, s in medians.items()}
    return record.model_copy(update={"timing": timing, "env": {**record.env, "device": "cuda"}})


def test_folded_counts_beyond_the_projection_and_the_fastest_is_bold(tmp_path):
    made, *_ = mixing_speed.measure(EfficiencyParams.parse({**TINY, "lengths": "8"}), RecordStore(tmp_path))
    record = on_gpu(made, copy=1e-4, projection=3e-4, product=1e-3, fft=5e-4, matmul=3e-4, folded=5e-4)
    rows = frame([record]).set_index("way")
    assert rows.loc["folded", "train_s"] == pytest.approx(2e-4) and rows.loc["fft", "train_vs_copy"] == pytest.approx(2.5)
    assert list(rows.index[rows["fastest"]]) == ["folded"]
    assert "**1.0 (2.0), 0.200 (0.200) ms**" in table([record]).markdown()
    assert "8: folded (1.0 times the memory's bound)" in sentences([record])
    axis, = [a for a in roofline([record]).axes if a.has_data()]
    ceiling = axis.get_lines()[0].get_ydata()
    another = record.model_copy(update={"params": {**record.params, "device": "another GPU"}})
    assert len([a for a in roofline([record, another]).axes if a.has_data()]) == 2  # each below its own ceilings
    assert ceiling.max() <= record.timing["product"]["flops"] / 1e-3 / 1e12 * 1.001


def test_kernels_are_summed_on_a_gpu_and_shown_beside(tmp_path, monkeypatch):
    params = EfficiencyParams.parse({**TINY, "lengths": "8"})
    made, *_ = mixing_speed.measure(params, RecordStore(tmp_path))
    assert "kernels_s" not in made.timing["fft"]["train"] and entries([made]) == {}
    way = mixing_speed.Way("fft", Block(Setting(8, 2, "bf16", "layers", "cuda"), 16, False), 0)
    taken = iter([5.0, 1.0, 3.0, 2.0, 4.0, 50.0, 10.0, 30.0, 20.0, 40.0])
    monkeypatch.setattr(mixing_speed.breakdown, "kernel_seconds", lambda step: next(taken))
    way.take_apart()
    assert way.kernels == {"infer": 3.0 / 5, "train": 30.0 / 5}
    record = on_gpu(made, copy=1e-4, projection=3e-4, fft=5e-4, folded=5e-4)
    kernels = {"copy": (2e-5, 2e-5), "projection": (1e-4, 3e-4), "fft": (1e-4, 3e-4), "folded": (1.3e-4, 3.6e-4)}  # infer, train
    timing = {way: {**values, **{kind: {**values[kind], "kernels_s": seconds} for kind, seconds in zip(("infer", "train"), kernels[way])}}
              for way, values in record.timing.items()}
    record = record.model_copy(update={"timing": timing, "params": {**record.params, "precision": "bf16", "mode": "layers"}})
    rows = frame([record]).set_index("way")
    assert rows["infer_kernels_vs_copy"].to_dict() == pytest.approx({"fft": 5, "folded": 1.5})
    assert rows["train_kernels_vs_copy"].to_dict() == pytest.approx({"fft": 7.5, "folded": 1.5})
    assert "kernels 1.5 (1.5)" in table([record]).markdown() and "kernels 7.5 (5.0)" in table([record]).markdown()
    place = {"way": "folded", "device": record.params["device"], "mode": "layers", "vs_memory": 1.5}
    assert entries([record]) == {"gpu": {"n8": {"infer": place, "train": place}}}
    elsewhere = record.model_copy(update={"params": {**record.params, "device": "A fast GPU"}, "timing": {**timing, "fft": timing["copy"]}})
    assert entries([elsewhere, record, record]) == entries([record])  # of one device, the one with most records


def test_a_way_that_fails_is_said_and_the_others_stay(tmp_path, monkeypatch):
    whole, said = mixing_speed.function, []

    def function(way, *rest):
        if way == "fft":
            raise RuntimeError("cuFFT error")
        return whole(way, *rest)

    monkeypatch.setattr(mixing_speed, "function", function)
    record, *_ = mixing_speed.measure(EfficiencyParams.parse({**TINY, "lengths": "8"}), RecordStore(tmp_path), say=said.append)
    assert "fft" not in record.timing and "matmul" in record.timing and record.error == "fft: RuntimeError: cuFFT error"
    assert said[0] == "fft, 8 tokens, fp32, eager: RuntimeError: cuFFT error"
