"""Attention-free mixing against explicit sums per channel, and its start as a gated filter."""

import pytest
import torch
from factories import batch_of

from fnetlib.config import FNetBertConfig, recipe
from fnetlib.mixers import AttentionFreeMixer, Sequence
from fnetlib.mixers.filter import plan_filter
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


def mixer(spread: float = 1.0) -> AttentionFreeMixer:
    torch.manual_seed(0)
    made = AttentionFreeMixer(FNetBertConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=12,
                                             num_hidden_layers=1))
    for weight in (made.gate.weight, made.first.weight, made.ends.weight, made.log_filter, made.output_gate.weight):
        torch.nn.init.normal_(weight, std=spread)
    return made


@pytest.mark.parametrize("backend", ["matmul", "fft"])
@pytest.mark.parametrize("start, end", [(0, 9), (0, 6), (3, 9), (0, 2), (0, 1)])
def test_every_channel_is_a_softmax_of_its_own_gate_and_the_offset(backend, start, end):
    """Example 0 is whole, example 1 real from `start` to `end`: each channel's log weights, written out in float64."""
    made, x = mixer(), torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1] = (torch.arange(9) >= start) & (torch.arange(9) < end)
    out = made(x, Sequence(filter=plan_filter(real, backend)))
    assert out.isfinite().all()  # padding included
    wide, x = made.double(), x.double()
    values, gate, first, ends = wide.value(x), wide.gate(x), wide.first(x), wide.ends(x).view(2, 9, 2, 2)
    opened = 2 / (1 + (-wide.output_gate(x)).exp())
    for example, (begin, stop) in enumerate([(0, 9), (start, end)]):
        for channel in range(8):
            head = channel // 4
            for i in range(begin, stop):
                logits = []
                for j in range(begin, stop):
                    if i == begin:
                        logits.append(first[example, j, head])
                    elif j == begin or j == stop - 1:
                        logits.append(ends[example, i, int(j != begin), head])
                    else:
                        logits.append(gate[example, j, channel] + wide.log_filter[head, j - i + made.longest - 1])
                expected = torch.stack(logits).softmax(0) @ values[example, begin:stop, channel] * opened[example, i, channel]
                assert torch.allclose(out[example, i, channel].double(), expected, atol=5e-5), (example, i, channel)


def test_large_log_weights_do_not_overflow():
    made, x = mixer(spread=60.0), torch.randn(2, 9, 8)
    out = made(x, Sequence(filter=plan_filter(torch.ones(2, 9, dtype=torch.bool), "matmul")))
    out.sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in made.parameters())


def test_it_starts_as_the_gated_filter(tiny_teacher_folder):
    """And is more than that after its gates have moved: one step of training changes gates by key and by query."""
    teacher, batch = load_teacher(str(tiny_teacher_folder)), batch_of([9, 7, 5, 9] * 4)
    free, gated = (build_student(teacher, name, head="none", batch=batch, seed=0)[0] for name in ("fnet+aft", "fnet+gated"))
    ours, theirs = (model(**batch).last_hidden_state for model in (free, gated))
    assert torch.allclose(ours, theirs, atol=1e-5)
    made = free.encoder.layer[0].attention.self
    assert made.output_gate.weight.abs().max() == 0
    ours.pow(3).sum().backward()
    assert made.output_gate.weight.grad.abs().max() > 0
    by_channel = made.gate.weight.grad.view(made.heads, -1, made.gate.in_features)
    assert (by_channel.std(1) > 0).any()


def test_names():
    assert recipe("hybrid-2+aft", 6)["mixers"] == ["aft", "aft", "attention", "aft", "aft", "attention"]
