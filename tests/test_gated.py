"""The gated filter mixer against explicit sums, and its closed-form fit against teachers that it can match."""

import numpy as np
import pytest
import torch
from factories import batch_of

from fnetlib.calibrate import GATE_PENALTY, fit_gates
from fnetlib.config import FNetBertConfig, recipe
from fnetlib.mixers import GatedFilterMixer, Sequence
from fnetlib.mixers.filter import plan_filter
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


def mixer(spread: float = 1.0, heads: int = 2, longest: int = 12) -> GatedFilterMixer:
    torch.manual_seed(0)
    made = GatedFilterMixer(FNetBertConfig(hidden_size=8, num_attention_heads=heads, max_position_embeddings=longest,
                                           num_hidden_layers=1))
    for weight in (made.gate.weight, made.first.weight, made.ends.weight, made.log_filter):
        torch.nn.init.normal_(weight, std=spread)
    return made


@pytest.mark.parametrize("backend", ["matmul", "fft"])
@pytest.mark.parametrize("start, end", [(0, 9), (0, 6), (3, 9), (0, 2), (0, 1)])
def test_weights_are_a_softmax_of_gate_and_offset(backend, start, end):
    """Example 0 is whole, example 1 real from `start` to `end`: each token's log weights, written out in float64."""
    made, x = mixer(), torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1] = (torch.arange(9) >= start) & (torch.arange(9) < end)
    out = made(x, Sequence(filter=plan_filter(real, backend)))
    assert out.isfinite().all()  # padding included
    wide = made.double()
    x = x.double()
    values, gate, first = wide.value(x).view(2, 9, 2, 4), wide.gate(x), wide.first(x)
    ends = wide.ends(x).view(2, 9, 2, 2)
    for example, (begin, stop) in enumerate([(0, 9), (start, end)]):
        for head in range(2):
            for i in range(begin, stop):
                logits = []
                for j in range(begin, stop):
                    if i == begin:
                        logits.append(first[example, j, head])
                    elif j == begin or j == stop - 1:
                        logits.append(ends[example, i, int(j != begin), head])
                    else:
                        logits.append(gate[example, j, head] + wide.log_filter[head, j - i + made.longest - 1])
                expected = torch.stack(logits).softmax(0) @ values[example, begin:stop, head]
                assert torch.allclose(out[example, i, 4 * head: 4 * head + 4].double(), expected, atol=2e-5), (example, i)


def test_large_log_weights_do_not_overflow():
    """Log weights of some hundreds, as a long training may make: the plain exponentials would be infinite."""
    made, x = mixer(spread=60.0), torch.randn(2, 9, 8)
    out = made(x, Sequence(filter=plan_filter(torch.ones(2, 9, dtype=torch.bool), "matmul")))
    out.sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in made.parameters())


@pytest.fixture()
def teacher(tiny_teacher_folder):
    return load_teacher(str(tiny_teacher_folder))


def test_a_teacher_whose_queries_are_constant_is_matched(teacher):
    """Constant queries weigh keys alone: what a gate can express. The ends are keys like others then."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in teacher.state.items():
        if ".query.weight" in name:
            tensor.zero_()
        elif ".query.bias" in name:
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    batch = batch_of([12, 9, 11, 12] * 8)
    reference, _ = build_student(teacher, "bert", head="none")
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch)
    real = batch["attention_mask"].bool()
    plain, _ = build_student(teacher, "fnet+filter", head="none", batch=batch)
    target = reference(**batch).last_hidden_state[real]
    gated, filtered = ((model(**batch).last_hidden_state[real] - target).pow(2).mean().item() for model in (student, plain))
    assert gated < 0.05 * filtered, (gated, filtered)
