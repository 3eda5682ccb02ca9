"""ONNX: onnxruntime gives the model's own logits, for sizes that the export has not seen."""

import onnxruntime
import pytest
import torch
from factories import batch_of

from fnetlib import onnx_export
from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


@pytest.mark.parametrize("recipe", ["fnet", "hybrid-2", "fnet+gated", "fnet+aft", "fnet+taylor", "fnet-paper", "fnet-naive+norm"])
def test_onnxruntime_gives_the_same_logits(tiny_teacher_folder, tmp_path, recipe):
    model, _ = build_student(load_teacher(tiny_teacher_folder), recipe, batch=batch_of([9, 7, 5]), seed=0, backend="fft")
    session = onnxruntime.InferenceSession(str(onnx_export.export(model, tmp_path / "sub" / "model.onnx")))
    assert [i.name for i in session.get_inputs()] == list(onnx_export.INPUTS) and model.config.backend == "fft"
    for lengths in ([6], [17, 30, 2], [12, 12, 12, 12]):
        batch = batch_of(lengths)
        with torch.no_grad():
            expected = model.eval()(**batch).logits
        found, = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5), lengths


def test_without_the_extra_one_line_says_what_to_install(tiny_teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    model, _ = build_student(load_teacher(tiny_teacher_folder), "fnet")
    with pytest.raises(ParameterError, match=r"onnx, onnxscript, onnxruntime is not installed: pip install 'fnetlib\[onnx\]'"):
        onnx_export.export(model, tmp_path / "model.onnx")
