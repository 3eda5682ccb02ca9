"""A training step taken apart: time goes to the part that spends it, in the backward pass too."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fnetlib import breakdown, efficiency
from fnetlib.breakdown import BACKWARD, OPTIMISER, RANGE, parts, seconds_by_part, with_gaps
from fnetlib.params import EfficiencyParams
from fnetlib.peers import PEERS
from fnetlib.records import RecordStore

PARAMS = EfficiencyParams.parse({"shape": "2x64", "lengths": "64", "tokens": 128, "repeats": 3, "warmup": 1, "device": "cpu"})
SETTING = efficiency.Setting(64, 2, "fp32", "eager", "cpu")


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    whole = efficiency.shape_config

    def small(*shape):
        config = whole(*shape)
        config.vocab_size = 200
        return config

    monkeypatch.setattr(efficiency, "shape_config", small)


def contender(name):
    made = efficiency.Contender(name, efficiency.model_config(PARAMS, name, 64), SETTING, 0)
    made.build()
    made.prepare("train")
    return made


def taken_apart(made):
    return parts(made.model, lambda: made.step("train"), "cpu")


@pytest.fixture
def counted(monkeypatch):
    """Products are counted, a second each, instead of timed: no test may depend on how busy this machine is."""
    def count(events, on_gpu):
        return seconds_by_part([SimpleNamespace(name=e.name, cpu_parent=e.cpu_parent, sequence_nr=e.sequence_nr, kernels=[],
                                                device_type=e.device_type, self_cpu_time_total=1e6 * (e.name == "aten::mm"))
                                for e in events], on_gpu)

    monkeypatch.setattr(breakdown, "seconds_by_part", count)


class Busy(nn.Module):
    """Does what `inner` does, with much work around it that has a backward pass of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.weight = nn.Parameter(torch.eye(64))

    def forward(self, x, *rest):
        for _ in range(60):
            x = x @ self.weight
        return self.inner(x, *rest)


@pytest.mark.parametrize("part, place", [("mixing", lambda layer: (layer.attention, "self")),
                                         ("feed-forward", lambda layer: (layer, "intermediate"))])
def test_what_is_made_expensive_is_found_expensive(part, place, counted):
    plain, busy = contender("bound"), contender("bound")
    for layer in busy.model.bert.encoder.layer:
        owner, name = place(layer)
        setattr(owner, name, Busy(getattr(owner, name)))
    before, after = taken_apart(plain), taken_apart(busy)
    assert after[part] - before[part] == 2 * 60 * 3  # layers, products, forward and two in the backward pass
    assert {name: n for name, n in after.items() if name != part} == {name: n for name, n in before.items() if name != part}


def test_nothing_is_left_behind_and_names_are_known():
    made = contender("hybrid-1")
    found = taken_apart(made)
    assert set(found) == set(breakdown.PARTS) - {"launch gaps"} and all(seconds >= 0 for seconds in found.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.model.modules())
    with pytest.raises(ZeroDivisionError):
        parts(made.model, lambda: 1 / 0, "cpu")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.model.modules())


@pytest.mark.parametrize("name", ["bert", "fnet", "fnet-paper", *PEERS])
def test_every_model_is_known_by_its_parts(name):
    found = taken_apart(contender(name))
    assert min(found[part] for part in ("mixing", "feed-forward", "norms", "embeddings", "head", "optimiser")) > 0
    assert (found["projection"] > 0) == (name not in ("fnet-paper", "hf-fnet"))


def event(name, parent=None, number=-1, own=0.0, kernels=(), device=torch.autograd.DeviceType.CPU):
    return SimpleNamespace(name=name, cpu_parent=parent, sequence_nr=number, self_cpu_time_total=own, device_type=device,
                           kernels=[SimpleNamespace(duration=duration) for duration in kernels])


def test_kernels_count_on_a_gpu_and_the_innermost_range():
    outer = event(RANGE + "mixing")
    inner = event(RANGE + "norms", outer)
    product = event("aten::mm", outer, number=7, own=5, kernels=(1e6, 2e6))
    norm = event("aten::native_layer_norm", inner, number=8, own=5, kernels=(4e6,))
    backward = event(BACKWARD + "MmBackward0", number=7)
    again = event("aten::mm", backward, own=5, kernels=(8e6,))
    unknown = event("aten::add_", event(BACKWARD + "torch::autograd::AccumulateGrad", number=99), own=5, kernels=(16e6,))
    adam = event("aten::_fused_adamw_", event(OPTIMISER + "AdamW.step"), own=5, kernels=(32e6,))
    kernel = event("ampere_gemm", own=1, kernels=(), device=torch.autograd.DeviceType.CUDA)
    found = seconds_by_part([outer, inner, product, norm, backward, again, unknown, adam, kernel], on_gpu=True)
    assert {part: seconds for part, seconds in found.items() if seconds} == {"mixing": 11, "norms": 4, "rest": 16, "optimiser": 32}
    assert with_gaps(found, 70.0, True)["launch gaps"] == 7 and with_gaps(found, 1.0, True)["launch gaps"] == 0
    assert "launch gaps" not in with_gaps(found, 70.0, False)
    on_cpu = seconds_by_part([outer, inner, product, norm, backward, again, unknown, adam], on_gpu=False)
    assert sum(on_cpu.values()) == pytest.approx(25e-6)


def test_eager_records_have_parts_and_show_them(tmp_path, monkeypatch):
    params = EfficiencyParams.parse({**PARAMS.model_dump(), "models": "bert,fnet"})
    made = efficiency.measure(params, RecordStore(tmp_path))
    assert all(set(r.timing["parts"]) == set(breakdown.PARTS) - {"launch gaps"} for r in made)
    figure = breakdown.figure(made)
    assert figure.axes[0].has_data() and figure.axes[0].get_xlabel() == "× BERT's step"
    assert breakdown.sentences(made).count("\n- ") == 2 and "`fnet`, 64 tokens, fp32: mixing" in breakdown.sentences(made)
    old = [r.model_copy(update={"timing": {k: v for k, v in r.timing.items() if k != "parts"}}) for r in made]
    assert breakdown.sentences(old) == "No step was taken apart." and not breakdown.figure(old).axes[0].has_data()
    monkeypatch.setattr(breakdown, "parts", lambda *_: (_ for _ in ()).throw(RuntimeError("no profiler")))
    again = efficiency.measure(EfficiencyParams.parse({**params.model_dump(), "repeats": 4}), RecordStore(tmp_path))
    assert all(r.status == "finished" and "parts" not in r.timing for r in again)
