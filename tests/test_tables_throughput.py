"""Fine-tuning throughput, from records whose steps a second are known."""

import pytest
from factories import finetune_record, results_of

from fnetlib import tables_throughput


def run(model, seed, steady, values=None, **fields):
    return finetune_record("rte", model, seed, 0.55, training="solo", steady=steady, values=values, **fields)


@pytest.fixture
def results(tmp_path):
    grouped = {"group_by_length": True}
    return results_of(tmp_path, [
        run("bert", 1, 40.0), run("fnet", 1, 60.0), run("bert", 2, 50.0), run("fnet", 2, 60.0), run("fnet", 3, 70.0),
        run("bert", 1, 80.0, grouped), run("fnet", 1, 100.0, grouped), run("hybrid-2", 1, 1.0, shared=True),
        run("hybrid-2", 1, 9.0, {"distill_epochs": 1})])


def test_ratios_are_within_a_way_and_a_seed(results):
    data = tables_throughput.frame(results).set_index(["way", "model", "seed"])["vs_bert"]
    plain, grouped = "batch 16, fp32", "batch 16, fp32, lengths grouped"
    assert data[plain, "fnet", 1] == 1.5 and data[plain, "fnet", 2] == 1.2 and data[grouped, "fnet", 1] == 1.25
    assert data.isna()[plain, "fnet", 3]  # no BERT at that seed
    assert "hybrid-2" not in data.index.get_level_values("model")  # was not alone, or not trained on labels


def test_table_and_sentence(results):
    text = tables_throughput.table(results).markdown()
    assert "| batch 16, fp32 | 45.0 (2) | 63.3 (× 1.35 [1.20, 1.50], 2) |" in text
    assert "| batch 16, fp32, lengths grouped | 80.0 (1) | 100.0 (× 1.25 [1.25, 1.25], 1) |" in text
    assert len(tables_throughput.sentences(results)) == 1 and "`fnet` +35%" in tables_throughput.sentences(results)[0]


def test_random_weights_of_another_shape_stand_by_themselves(tmp_path):
    base = [run(model, 1, steady, teacher="random-bert-base")
            for model, steady in (("bert", 10.0), ("fnet", 14.0))]
    results = results_of(tmp_path, [run("bert", 1, 40.0), run("fnet", 1, 60.0), *base])
    assert {name: entry["fnet"]["vs_bert"] for name, entry in tables_throughput.entries(results).items()} == {"rte": 1.5, "rte@bert-base": 1.4}
    text = tables_throughput.table(results).markdown()
    assert "teacher `random-bert-base`" in text and "the scores mean nothing" in text
    assert results.scored.empty  # no table about quality has them


def test_the_summary_has_what_the_study_ran(results, tmp_path):
    assert tables_throughput.entries(results) == {"rte": {"fnet": {"vs_bert": 1.35, "lowest": 1.2, "highest": 1.5, "n": 2, "device": "test GPU"}}}
    others = [run(model, 1, steady, {"batch_size": 32}) for model, steady in (("bert", 10.0), ("fnet", 90.0))]
    assert tables_throughput.entries(results_of(tmp_path / "others", others)) == {} == tables_throughput.entries(
        results_of(tmp_path / "alone", [run("fnet", 1, 60.0), run("fnet", 1, 90.0, {"compile": "graphs"})]))
    assert tables_throughput.sentences(results_of(tmp_path / "batches", others)) == []


def test_wall_time_and_samples(tmp_path):
    def timed(model, seed, steady, wall, steps=300):
        made = run(model, seed, steady)
        return made.model_copy(update={"timing": {**made.timing, "wall_s": wall, "steps": steps}})

    results = results_of(tmp_path, [timed("fnet", 1, 60.0, 5.0), timed("fnet", 2, 70.0, 6.0), timed("fnet", 3, 60.0, 20.0, 1200), run("bert", 1, 40.0)])
    made = tables_throughput.runtimes(results)
    assert "| batch 16, fp32 | bert | 640 | – | – | 1 |" in made.markdown()
    assert "| batch 16, fp32 | fnet | 1040 | 5.5 | 300 | 2 |" in made.markdown()  # 16 sequences a step
    assert "| batch 16, fp32 | fnet | 960 | 20.0 | 1200 | 1 |" in made.markdown()  # a longer run is no slower one
    assert "A run is 300 to 1,200 steps" in tables_throughput.table(results).markdown()


def test_nothing_measured_is_said(tmp_path):
    results = results_of(tmp_path, [finetune_record("rte")])
    assert "Not measured" in tables_throughput.runtimes(results).markdown()
    assert "Not measured" in tables_throughput.table(results).markdown() and not tables_throughput.sentences(results)


def test_ways_have_names():
    record = run("fnet", 1, 1.0, {"compile": "graphs", "pad_to": 32, "batch_size": 8, "accumulate": 2})
    assert tables_throughput.way(record) == "batch 16, fp32, padded to multiples of 32, CUDA graphs"
