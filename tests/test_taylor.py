"""The expansion of attention against its definition, and its start against teachers that it can and cannot match."""

import pytest
import torch
from factories import batch_of

from fnetlib.config import FNetBertConfig, recipe
from fnetlib.mixers import Sequence, TaylorMixer
from fnetlib.mixers.filter import plan_filter
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


def mixer(spread: float = 1.0) -> TaylorMixer:
    torch.manual_seed(0)
    made = TaylorMixer(FNetBertConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=12, num_hidden_layers=1))
    for weight in (made.gate.weight, made.ends.weight, made.log_filter, made.mean_query, made.slope):
        torch.nn.init.normal_(weight, std=spread)
    return made


@pytest.mark.parametrize("backend", ["matmul", "fft"])
@pytest.mark.parametrize("start, end", [(0, 9), (0, 6), (3, 9), (0, 2), (0, 1)])
def test_every_token_by_definition(backend, start, end):
    """Example 0 is whole, example 1 real from `start` to `end`: weights and the derivative written out in float64."""
    made, x = mixer(), torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1] = (torch.arange(9) >= start) & (torch.arange(9) < end)
    out = made(x, Sequence(filter=plan_filter(real, backend)))
    assert out.isfinite().all()  # padding included
    wide, x = made.double(), x.double()
    query, key, value = (part(x).view(2, 9, 2, 4) for part in (wide.query, wide.key, wide.value))
    gate, ends, mean = wide.gate(x), wide.ends(x).view(2, 9, 2, 2), wide.mean_query.view(2, 4)
    for example, (begin, stop) in enumerate([(0, 9), (start, end)]):
        for head in range(2):
            q, k, v = (part[example, begin:stop, head] for part in (query, key, value))
            assert torch.allclose(out[example, begin, 4 * head: 4 * head + 4].double(),
                                  (q[0] @ k.T / 2).softmax(0) @ v, atol=5e-5)  # attention itself
            inside = gate[example, begin + 1: stop - 1, head].softmax(0)

            def expected_at(q_i: torch.Tensor) -> torch.Tensor:  # attention over the inner tokens with a query off the mean
                offset = (k[1:-1] @ (q_i - mean[head])) / 2
                return (inside.log() + offset).softmax(0) @ v[1:-1]

            for i in range(begin + 1, stop):
                logits = []
                for j in range(begin, stop):
                    if j == begin or j == stop - 1:
                        logits.append(ends[example, i, int(j != begin), head])
                    else:
                        logits.append(gate[example, j, head] + wide.log_filter[head, j - i + made.longest - 1])
                weights = torch.stack(logits).softmax(0)
                expected = weights @ v
                if stop - begin > 2:
                    slope = torch.autograd.functional.jvp(expected_at, mean[head].detach(), (q[i - begin] - mean[head]).detach())[1]
                    expected = expected + weights[1:-1].sum() * wide.slope[head] * slope
                assert torch.allclose(out[example, i, 4 * head: 4 * head + 4].double(), expected, atol=2e-4), (example, i)


def test_large_log_weights_do_not_overflow():
    made, x = mixer(spread=60.0), torch.randn(2, 9, 8)
    out = made(x, Sequence(filter=plan_filter(torch.ones(2, 9, dtype=torch.bool), "matmul")))
    out.sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in made.parameters())


@pytest.fixture()
def teacher(tiny_teacher_folder):
    return load_teacher(str(tiny_teacher_folder))


@torch.no_grad()
def errors(teacher, batch, names: list[str]) -> list[float]:
    """Mean squared distance to the teacher's last states, real tokens only."""
    real = batch["attention_mask"].bool()
    target = build_student(teacher, "bert", head="none")[0](**batch).last_hidden_state[real]
    students = [build_student(teacher, name, head="none", batch=batch)[0] for name in names]
    return [float((student(**batch).last_hidden_state[real] - target).pow(2).mean()) for student in students]


def sharpen(teacher, by: float) -> None:
    """Attention that depends on the query: the tiny teacher's own is nearly even."""
    for name, tensor in teacher.state.items():
        if ".query.weight" in name:
            tensor.mul_(by)


def test_the_first_order_is_nearer_to_the_teacher_than_a_constant_query(teacher):
    sharpen(teacher, 20.0)
    expanded, gated = errors(teacher, batch_of([12, 9, 11, 12] * 8), ["fnet+taylor", "fnet+gated"])
    assert expanded < 0.3 * gated, (expanded, gated)


def test_slopes_are_the_least_squares_ones(teacher):
    """Of the first layer, whose input is the teacher's: slopes that are a little off fit worse."""
    sharpen(teacher, 20.0)
    batch = batch_of([12, 9, 11, 12] * 8)
    student, _ = build_student(teacher, "fnet+taylor", head="none", batch=batch)
    reference, _ = build_student(teacher, "bert", head="none")
    made, theirs = (model.encoder.layer[0].attention.self for model in (student, reference))
    real, state = batch["attention_mask"].bool(), reference.embeddings(input_ids=batch["input_ids"])
    sequence = reference.encoder.sequence(state, batch["attention_mask"])

    def error(slope: torch.Tensor) -> float:
        with torch.no_grad():
            made.slope.copy_(slope)
            return float((made(state, Sequence(filter=plan_filter(real, "matmul"))) - theirs(state, sequence))[real].pow(2).sum())

    best = made.slope.clone()
    assert (best > 0.05).any() and (best < 2).all()
    for head in range(len(best)):
        for step in (-0.05, 0.05):
            assert error(best) < error(best + step * torch.nn.functional.one_hot(torch.tensor(head), len(best)))


def test_the_first_token_of_the_first_layer_is_attentions_own(teacher):
    sharpen(teacher, 20.0)
    batch = batch_of([12, 9, 11, 12])
    ours, theirs = (build_student(teacher, name, head="none", batch=batch)[0](**batch, output_hidden_states=True).hidden_states[1]
                    for name in ("fnet+taylor", "bert"))
    assert torch.allclose(ours[:, 0], theirs[:, 0], atol=1e-5)
    assert not torch.allclose(ours[:, 1], theirs[:, 1], atol=1e-5)


def test_queries_keys_and_values_are_the_teachers(teacher):
    _, report = build_student(teacher, "fnet+taylor", head="none", batch=batch_of([6, 4]))
    fates = {row["tensor"].split(".self.")[1]: row["fate"] for row in report.rows if ".self." in row["tensor"]}
    assert {name for name, fate in fates.items() if fate == "copied"} == {
        f"{part}.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias")}
    assert {name for name, fate in fates.items() if fate == "new"} == {
        "gate.weight", "ends.weight", "ends.bias", "log_filter", "mean_query", "slope"}


def test_names():
    assert recipe("hybrid-2+taylor", 6)["mixers"] == ["taylor", "taylor", "attention", "taylor", "taylor", "attention"]
