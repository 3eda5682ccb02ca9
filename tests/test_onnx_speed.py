"""onnxruntime beside torch: same logits, one record a (model, length), kept."""

import pytest

from fnetlib import efficiency, onnx_speed
from fnetlib.params import EfficiencyParams, ParameterError
from fnetlib.records import RecordStore


def test_measured_once_with_the_same_logits(tmp_path, monkeypatch):
    whole = efficiency.shape_config

    def small(*shape):
        config = whole(*shape)
        config.vocab_size = 200
        return config

    monkeypatch.setattr(efficiency, "shape_config", small)
    store = RecordStore(tmp_path)
    params = EfficiencyParams.parse({"shape": "1x64", "lengths": "8,12", "tokens": 24, "repeats": 3, "warmup": 1, "device": "cpu",
                                     "models": "bert,fnet,fnet:padded,modernbert", "onnx": True})
    made = onnx_speed.measure(params, store)
    assert [(r.model, r.params["length"], r.params["batch"]) for r in made] == [
        ("bert", 8, 3), ("bert", 12, 2), ("fnet", 8, 3), ("fnet", 12, 2)]
    assert all(r.run_id == r.identity and r.timing["largest_logit_error"] < 1e-5 for r in made)
    assert all(r.timing["onnxruntime"]["n"] == 3 and r.env["versions"]["onnxruntime"] for r in made)
    monkeypatch.setattr(onnx_speed, "_measure_model", lambda *_: pytest.fail("measured again"))
    assert onnx_speed.measure(params, store) == made
    named = params.model_copy(update={"device": made[0].params["device"]})
    assert onnx_speed.measure(named, store) == made  # by its name, whatever this machine is
    assert onnx_speed.measure(params.model_copy(update={"device": "another CPU"}), store) == []
    shown = onnx_speed.table(made)
    assert shown.data.loc[shown.data["model"] == "bert", "vs_bert"].eq(1).all() and [len(part) for part in shown.sections.values()] == [4]
    assert list(shown.sections) == [f"{made[0].params['device']}, {made[0].params['threads']} threads: shape 1x64"]
    assert "onnx=True" in onnx_speed.table([]).markdown()


def test_sizes_are_checked():
    assert EfficiencyParams.parse({"fit_gb": "16, 140"}).fit_gb == "16,140" and EfficiencyParams.parse({"fit_gb": 16}).fit_gb == "16"
    with pytest.raises(ParameterError, match="fit_gb: 'much' is not a comma list of whole numbers"):
        EfficiencyParams.parse({"fit_gb": "much"})
