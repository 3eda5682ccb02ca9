"""When to choose what: from made-up measurements, each model beside BERT, both in their fastest mode."""

from factories import efficiency_record, results_of, study_records

from fnetlib import choice


def test_fastest_modes_are_compared_and_the_closest_peer_is_named(tmp_path):
    """BERT takes half the time by layers, so 1.6 times as fast eager is 0.8 times."""
    records = [efficiency_record(model, n, precision="bf16", mode=mode, speedup=speed, gpu=True, bert_s=seconds)
               for n in (128, 512) for model, mode, speed, seconds in (
                   ("bert", "eager", 1.0, 1.0), ("bert", "layers", 1.0, 0.5), ("fnet", "eager", 1.6, 1.0), ("fnet", "layers", 1.25, 0.5),
                   ("fnet-naive", "eager", 1.5, 1.0), ("bound", "layers", 2.0, 0.5), ("modernbert", "eager", 0.8, 1.0),
                   ("bigbird", "eager", 0.5, 1.0), ("fnet+taylor", "eager", 0.5, 1.0))]
    found = results_of(tmp_path, [*records, *study_records()])
    section = choice.choice(found).sections["test GPU, 4096 tokens a step, training"]
    row = section.iloc[0]
    assert row["fnet"] == "1.25 (layers)" and row["bound"] == "2.00 (layers)" and row["hybrid-2"] == "–"
    assert row["fnet × best peer"] == "2.00 (eager) modernbert" and row["BERT's mode"] == "layers"  # both eager: 1.6 over 0.8
    assert row["fastest"] == "fnet (layers)"
    words = choice.sentences(found)
    assert any("test GPU, 4096 tokens a step, training, each in its fastest mode), times as fast by length: `fnet` 1.25 at 128, 1.25 at 512; "
               "`fnet+taylor` 0.25 at 128 (eager only), 0.25 at 512 (eager only)." in w for w in words)
    assert len(words) == 2 and "inference" in words[1]


def test_nothing_measured_is_said(tmp_path):
    found = results_of(tmp_path, study_records())
    assert "Nothing was measured" in choice.choice(found).markdown() and choice.sentences(found) == []
