"""What is left of a preset: by recipe, teacher, task, model, seed, student and grid point, and by the weights of teachers."""

from factories import finetune_record, fingerprint, student_record

from fnetlib.params import TransferParams
from fnetlib.plan import lacking_cells, lacking_students
from fnetlib.presets import Preset
from fnetlib.records import Record

PRESET = Preset.parse({
    "name": "tiny", "title": "A test", "teacher": "minilm", "data": "synthetic",
    "teachers": {"better": {"model": "bert", "adapt": "mlm"}},
    "students": {"short": {"model": "fnet", "teacher": "better", "adapt": "mlm", "steps": 10},
                 "long": {"model": "fnet", "teacher": "better", "adapt": "mlm", "steps": 20}},
    "sweeps": {"plain": {"rte": {"seeds": [1, 2], "models": ["bert"]}},
               "grid": {"rte": {"seeds": [1, 2], "models": ["fnet"], "grid": "epochs 1 2"}},
               "after_10": {"rte": {"training": "after", "seeds": [1], "students": ["short"], "teacher": "better"}},
               "after_20": {"rte": {"training": "after", "seeds": [1], "students": ["long"], "teacher": "better"}}},
})


def of(record: Record, **fields) -> Record:
    return record.model_copy(update=fields)


def adapted(name: str, teacher: str = fingerprint("better"), own: str = "0" * 16) -> Record:
    """The record of a student of the preset, or of the teacher `better`."""
    values = TransferParams.parse(PRESET.adaptations().get(name) or {"model": "bert", "adapt": "mlm", "save": "x"})
    record = student_record(values.model, values.planned_steps, [3.0, 2.0])
    teacher = record.teacher if name == "better" else record.teacher.model_copy(update={"name": "better", "fingerprint": teacher})
    return of(record, run_id=f"adapt-{name}", params=values.adaptation(), teacher=teacher,
              transfer={"result": {"name": name, "fingerprint": own}})


def names(finetuned: list[Record], students: list[Record] = ()) -> set[str]:
    return {cell.name for cell in lacking_cells(PRESET, finetuned, students)}


EVERYTHING = names([])


def test_without_records_all_is_left():
    assert EVERYTHING == {cell.name for cell in PRESET.cells()} and len(EVERYTHING) == 7
    assert lacking_students(PRESET, []) == ["short", "long"]


def test_a_record_answers_its_own_cell_only():
    found = finetune_record("rte", "bert", 2, training="plain")
    assert EVERYTHING - names([found]) == {"plain-rte-bert-2"}
    for other in (of(found, training="other"), of(found, seed=3), of(found, task="cola"), of(found, model="fnet"),
                  of(found, teacher=found.teacher.model_copy(update={"name": "another"}))):
        assert names([other]) == EVERYTHING


def test_a_failed_run_is_not_left():
    assert "plain-rte-bert-1" not in names([finetune_record("rte", "bert", 1, training="plain", status="failed", error="x")])


def test_a_grid_has_points():
    point = finetune_record("rte", "fnet", 1, training="grid_grid", values={"epochs": 2})
    assert EVERYTHING - names([point]) == EVERYTHING - names([point, point]) == {"grid-rte-fnet-1-epochs-2"}
    best = finetune_record("rte", "fnet", 2, training="grid", values={"epochs": 2})
    assert EVERYTHING - names([best]) == {"grid-rte-fnet-2"}


def test_students_of_one_recipe_are_told_apart():
    students = [adapted("short"), adapted("long")]
    run = finetune_record("rte", "fnet", 1, training="after", teacher="better", minutes=1.0, student="adapt-long")
    assert EVERYTHING - names([run], students) == {"after_20-rte-fnet-1"}
    assert names([run], students[:1]) == EVERYTHING  # nobody knows whose it is
    assert lacking_students(PRESET, students[:1]) == ["long"]


def test_what_came_from_a_teacher_that_was_trained_again_is_left():
    run = finetune_record("rte", "fnet", 1, training="after", teacher="better", minutes=1.0, student="adapt-long")
    same, again = adapted("better", own=fingerprint("better")), adapted("better", own="1" * 16)
    assert lacking_students(PRESET, [same, adapted("long")]) == ["short"]
    assert lacking_students(PRESET, [again, adapted("long")]) == ["short", "long"]
    assert names([run], [same, adapted("long")]) != EVERYTHING == names([run], [again, adapted("long")])


def test_other_parameters_are_another_run():
    """Sweeps of one training recipe differ in them; the pace of a student is one."""
    sweeps = {"solo": {"cola": {"seeds": [1], "models": ["bert"]}},
              "grouped": {"cola": {"training": "solo", "seeds": [1], "models": ["bert"], "group_by_length": True}}}
    preset = Preset.parse({**PRESET.model_dump(), "sweeps": sweeps, "students": {}})
    plain, grouped = (finetune_record("cola", "bert", 1, training="solo", values=own) for own in ({}, {"group_by_length": True}))
    assert [cell.name for cell in lacking_cells(preset, [plain], [])] == ["grouped-cola-bert-1"]
    assert [cell.name for cell in lacking_cells(preset, [grouped], [])] == ["solo-cola-bert-1"]
    assert not lacking_cells(preset, [grouped, plain], [])
    assert lacking_students(PRESET, [adapted("short")]) == ["long"]
    assert lacking_students(PRESET, [of(adapted("short"), params={"steps": 11})]) == ["short", "long"]


def test_a_student_of_another_teacher_is_another_one():
    short = adapted("short")
    other = of(short, teacher=short.teacher.model_copy(update={"name": "another"}))
    assert lacking_students(PRESET, [other]) == ["short", "long"]
