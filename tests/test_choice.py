"""When to choose what: from made-up measurements, each model in its fastest mode."""

from factories import efficiency_record, results_of, study_records

from fnetlib import choice


def test_fastest_modes_meet_and_peers_are_named(tmp_path):
    records = [efficiency_record(model, n, precision="bf16", mode=mode, speedup=speed, gpu=True)
               for n in (128, 512) for model, mode, speed in (
                   ("bert", "eager", 1.0), ("bert", "layers", 1.5), ("fnet", "eager", 1.2), ("fnet", "layers", 3.0),
                   ("bound", "layers", 4.0), ("modernbert", "eager", 2.0), ("bigbird", "eager", 0.5))]
    found = results_of(tmp_path, [*records, *study_records()])
    section = choice.choice(found).sections["test GPU, 4096 tokens a step, training"]
    row = section.iloc[0]
    assert row["fnet"] == "2.00 (layers)" and row["bound"] == "2.67 (layers)" and row["hybrid-2"] == "–"
    assert row["best peer"] == "1.33 (eager) modernbert" and row["BERT's mode"] == "layers" and row["fastest of all"] == "fnet"
    words = choice.sentences(found)
    assert any("test GPU, 4096 tokens a step, training), times as fast by length: `fnet` 2.00 at 128, 2.00 at 512." in w for w in words)
    assert "`fnet` 50%" in words[-1] and "CoLA" in words[-1]


def test_nothing_measured_is_said(tmp_path):
    found = results_of(tmp_path, study_records())
    assert "Nothing was measured" in choice.choice(found).markdown() and choice.sentences(found) == []
