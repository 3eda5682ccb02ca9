"""One GPU beside several, from records whose paces are known."""

import pytest
from factories import finetune_record, results_of, student_record

from fnetlib import tables_gpus

GPU = {"versions": {}, "device": "cuda", "device_name": "test GPU"}


def run(processes, seconds, losses=(7.0, 5.0, 4.0), **timing):
    """100 steps; the second half takes half of `seconds`, whatever the first one took."""
    own = {"processes": processes} if processes > 1 else {}
    record = student_record("bert", 100, list(losses), **own)
    history = [{"step": s, "tokens": 1000 * s, "seconds": t, "train_loss": None, "eval_loss": loss}
               for s, t, loss in zip((0, 50, 100), (0.0, 30.0, 30.0 + seconds / 2), losses)]
    return record.model_copy(update={
        "env": {**record.env, **GPU},
        "timing": {**record.timing, "processes": processes, "shared": False, **timing},
        "metrics": record.metrics.model_copy(update={"history": history})})


def test_tokens_a_second_without_the_start_and_the_loss_side_by_side(tmp_path):
    results = results_of(tmp_path, [finetune_record(), run(1, 20.0), run(2, 12.5, (7.0, 5.25, 4.125))])
    one, two = tables_gpus.frame(results).itertuples()
    assert (one.tokens_per_s, two.tokens_per_s) == (5000, 8000) and two.times == 1.6
    assert (two.gap, two.loss) == (0.25, 4.125)
    assert "| 2 | 8,000 | 1.60 | 4.125 | 0.250 |" in tables_gpus.table(results).markdown()
    sentence, = tables_gpus.sentences(results)
    assert sentence.startswith("- **2 GPUs**") and "1.60 times the tokens a second of one" in sentence


@pytest.mark.parametrize("records", [[], [run(1, 20.0)], [run(1, 20.0), run(2, 12.5, shared=True)]])
def test_without_a_pair_that_ran_alone_it_says_how(tmp_path, records):
    results = results_of(tmp_path, [finetune_record(), *records])
    assert tables_gpus.frame(results).empty and "accelerate launch" in tables_gpus.table(results).markdown()
    assert tables_gpus.sentences(results) == []
