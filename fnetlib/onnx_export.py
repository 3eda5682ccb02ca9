"""Export to ONNX, with real DFT matrices in place of complex FFTs: any batch and any length, one file.

Needs the extra `onnx` (pip install "fnetlib[onnx]").
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from .params import ParameterError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class _Logits(nn.Module):
    """The model as a function of three tensors, `[batch, seq]` each, to its logits."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


def export(model: PreTrainedModel, file: str | Path) -> Path:
    """Write a model with a head (classification, masked-LM) as ONNX. Inputs INPUTS, int64 `[batch, seq]`; output `logits`.

    The model is exported on the CPU in float32 with backend `matmul`; its own device, dtype and backend stay as they are.
    Raises ParameterError, one line, where the extra is not installed.
    """
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise ParameterError(f"onnx: {', '.join(lacking)} is not installed: pip install 'fnetlib[onnx]'")
    config = type(model.config).from_dict({**model.config.to_dict(), "backend": "matmul"})
    own = type(model)(config)
    own.load_state_dict({name: tensor.float().cpu() for name, tensor in model.state_dict().items()})
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0  # padding, so that its code path is in the graph
    examples = (torch.full_like(mask, 5), mask, torch.zeros_like(mask))  # distinct: one tensor twice becomes one input
    sizes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=2, max=config.max_position_embeddings)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says that torchvision, which is not used, is absent
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Logits(own.eval()).eval(), examples, dynamo=True, verbose=False,
            dynamic_shapes=(sizes,) * 3, input_names=list(INPUTS), output_names=["logits"])
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(file))
    return file
