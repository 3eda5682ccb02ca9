"""The gated filter mixer against explicit sums, and its closed-form fit against teachers that it can match."""

import pytest
import torch
from factories import batch_of

from fnetlib.calibrate import GATE_PENALTY
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
    half = mixer(spread=60.0).half()(x.half(), Sequence(filter=plan_filter(torch.ones(2, 9, dtype=torch.bool), "matmul")))
    assert half.dtype == torch.float16 and half.isfinite().all()


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


def explicit_loss(made, reference, batch) -> torch.Tensor:
    """What the fit minimises in layer 0, pair by pair: the teacher-weighted variance of the error in the scores."""
    state = reference(**batch, output_hidden_states=True).hidden_states[0]
    real = batch["attention_mask"].bool()
    target = reference.encoder.layer[0].attention.self.weights(state, real)
    gate, first, ends = made.gate(state), made.first(state), made.ends(state).unflatten(-1, (2, -1))
    total = 0.0
    for example, length in enumerate(real.sum(1).tolist()):
        place = torch.arange(length)[None] - torch.arange(length)[:, None] + made.longest - 1
        own = gate[example, :length].T[:, None] + made.log_filter[:, place]
        own = torch.cat([ends[example, :length, 0].T[..., None], own[..., 1:-1],
                         ends[example, :length, 1].T[..., None]], -1)
        own = torch.cat([first[example, :length].T[:, None], own[:, 1:]], 1)
        weights = target[example, :, :length, :length]
        error = own - weights.log()
        error = error - (weights * error).sum(-1, keepdim=True)
        total = total + (weights * error.pow(2)).sum()
    return total


def test_the_fit_is_the_least_squares_one(teacher):
    """The fit's gradients are its small penalties' alone; those of gates that are a little off are not."""
    batch = batch_of([9, 7, 5, 9] * 12)
    reference, _ = build_student(teacher, "bert", head="none")
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch)
    made = student.encoder.layer[0].attention.self
    fitted = [made.gate.weight, made.first.weight, made.ends.weight, made.ends.bias, made.log_filter]

    def slope() -> list[float]:
        gradients = torch.autograd.grad(explicit_loss(made, reference, batch), fitted)
        return [float(gradient.abs().max()) for gradient in gradients]

    before = slope()
    assert max(before) < 100 * GATE_PENALTY * 12 * 30
    for weight, was in zip(fitted, before):
        with torch.no_grad():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        assert max(slope()) > 5 * max(before)
        with torch.no_grad():
            weight -= 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def test_offsets_that_no_sentence_has_are_like_the_last_that_one_has(teacher):
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch_of([8, 6]))
    taps, middle = student.encoder.layer[0].attention.self.log_filter, 63
    assert (taps[:, middle + 8:] == taps[:, middle + 7, None]).all()
    assert (taps[:, :middle - 7] == taps[:, middle - 7, None]).all()
    assert taps.std(1).min() > 1e-3


def test_gates_of_a_trained_student_are_kept(teacher, tmp_path):
    student, _ = build_student(teacher, "fnet+gated", head="mlm", seed=1)
    with torch.no_grad():
        student.bert.encoder.layer[0].attention.self.log_filter.add_(torch.randn(127))
    student.save_pretrained(tmp_path)
    teacher.tokenizer.save_pretrained(tmp_path)
    again, report = build_student(load_teacher(str(tmp_path)), "fnet+gated", head="none", batch=batch_of([6, 4]))
    own = dict(student.bert.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in again.named_parameters() if ".self." in name)
    assert {row["fate"] for row in report.rows if ".self." in row["tensor"]} == {"copied"}


def test_without_sentences_all_tokens_weigh_alike():
    torch.manual_seed(0)
    made, x = GatedFilterMixer(FNetBertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1)), torch.randn(1, 7, 8)
    for linear in (made.gate, made.first, made.ends):
        torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(made.ends.bias)
    out = made(x, Sequence(filter=plan_filter(torch.ones(1, 7, dtype=torch.bool), "matmul")))
    assert torch.allclose(out, made.value(x).mean(1, keepdim=True).expand_as(out), atol=1e-6)


@pytest.mark.parametrize("backend", ["matmul", "fft"])
@pytest.mark.parametrize("recipe", ["fnet+gated", "fnet+aft", "fnet+taylor", "fnet+filter"])
def test_half_precision(teacher, recipe, backend):
    """Autocast, and the whole model in bf16: as near to fp32 as attention is."""
    batch = batch_of([9, 7, 5, 8])

    @torch.no_grad()
    def shifts(name: str) -> list[float]:
        model, _ = build_student(teacher, name, head="none", batch=batch, backend=backend)
        exact = model(**batch).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(**batch).last_hidden_state
        whole = model.to(torch.bfloat16)(**batch).last_hidden_state
        assert whole.dtype == torch.bfloat16
        return [float((x.float() - exact).abs().mean()) for x in (mixed, whole)]

    for ours, berts in zip(shifts(recipe), shifts("bert")):
        assert 0 < ours < 2 * berts


def test_names():
    assert recipe("hybrid-2+gated", 6)["mixers"] == ["gated", "gated", "attention", "gated", "gated", "attention"]
    assert recipe("fnet+gated-calibrated", 2)["gain"] is False
