"""The graph: what it would run, that it resumes, fails and repeats as promised, here and through a cluster's executor.

All but the last test let a stub stand in for the jobs: the graph is what is tested, and it is the real one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fnetlib.presets import load_preset, names
from fnetlib.records import RecordStore

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
NOTEBOOKS = ["01_build", "02_transfer", "03_finetune", "04_efficiency", "05_analysis"]

# Stands in for `python`: writes what the real job would, notes each call, and fails or waits when told to.
STUB = '''#!{python}
import json, os, pathlib, shutil, sys, time
args = sys.argv[1:]
with open("calls.txt", "a") as calls:
    calls.write(" ".join(args) + "\\n")
if args[1] == "papermill":
    shutil.copy(args[2], args[3])
    if saved := json.loads(args[args.index("-y") + 1]).get("save"):
        pathlib.Path(saved).mkdir(parents=True, exist_ok=True)
        pathlib.Path(saved, "record.json").write_text("{{}}")
    if "05_analysis" in args[2]:
        results = pathlib.Path("results", json.loads(args[args.index("-y") + 1])["preset"].split("/")[-1][:-5])
        for made in ("tables", "figures"):
            (results / made).mkdir(exist_ok=True)
        (results / "summary.json").write_text("{{}}")
elif args[2] == "clean":
    pathlib.Path(args[4]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(args[3], args[4])
elif args[2] == "adapt":
    value = dict(zip(args, args[1:]))
    run = "adapt-" + pathlib.Path(value["--save"]).name
    for file in (pathlib.Path(value["--save"], "model.safetensors"), pathlib.Path(value["--results"], "runs", run + ".json")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{{}}")
    print(run)
else:
    value = dict(zip(args, args[1:]))
    run = f"finetune-{{value['--task']}}-{{value['--model']}}-{{value['--seeds']}}"
    print("training", run, file=sys.stderr)
    with open("gpus.txt", "a") as gpus:
        gpus.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
    if run in os.environ.get("STUB_FAILS", "").split():
        sys.exit("out of memory")
    if run in os.environ.get("STUB_HANGS", "").split():
        time.sleep(600)
    record = pathlib.Path(value["--results"], "runs", run + ".json")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{{}}")
    print(record)
'''

TINY = {
    "name": "tiny", "title": "A test", "teacher": "minilm", "data": "synthetic", "models": ["bert", "fnet"],
    "sweeps": {"quick": {"rte": {"seeds": [1, 2], "epochs": 1, "train_size": 16, "eval_size": 8, "max_length": 16}}},
}


@pytest.fixture
def project(tmp_path):
    """A folder with the real graph, a tiny preset, empty notebooks and stubbed jobs."""
    shutil.copy(ROOT / "Snakefile", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    for folder in ("notebooks", "fnetlib"):
        (tmp_path / folder).mkdir()
    for name in NOTEBOOKS:
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    (tmp_path / "fnetlib" / "tables.py").write_text("")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    stub = tmp_path / "stub"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    return tmp_path


def command(*options, python="./stub", preset="tiny.yaml", only=""):
    python = [f"python={python}"] if python else []
    return [str(SNAKEMAKE), *options, "--config", f"preset={preset}", *([f"only={only}"] if only else []), *python]


def environment(project, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE", "FNETLIB"))}
    # Snakemake's cache of sources is per user: tests that run side by side keep their own.
    return {**env, "XDG_CACHE_HOME": f"{project}/.cache", **more}


def run(project, *options, env=None, timeout=180, **more):
    """Run the graph; gives the exit status and what it printed."""
    done = subprocess.run(command(*options, **more), cwd=project, env=environment(project, **env or {}), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    return done.returncode, done.stdout


def calls(project):
    """What the jobs were, in order, since the last look."""
    path = project / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    found = []
    for line in lines:
        words = line.split()
        if words[1] == "papermill":
            found.append(Path(words[3]).stem)
        elif words[2] == "finetune":
            value = dict(zip(words, words[1:]))
            found.append(f"{value['--task']}-{value['--model']}-{value['--seeds']}")
    return found


CELLS = {"rte-bert-1", "rte-bert-2", "rte-fnet-1", "rte-fnet-2"}
RENDERED = {"01_build", "02_transfer", "03_finetune-quick-rte", "04_efficiency", "05_analysis"}


def job_counts(output):
    """Snakemake's table of jobs -> {rule: count}."""
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def test_every_notebook_of_the_graph_is_there():
    named = set(re.findall(r"{NOTEBOOKS}/(\w+)\.ipynb", (ROOT / "Snakefile").read_text()))
    assert named == set(NOTEBOOKS)
    for name in NOTEBOOKS:
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file()


@pytest.mark.parametrize("preset", names())
def test_a_dry_run_lists_the_jobs_of_every_preset(project, preset):
    # minilm by way of the Slurm profile: its options must be ones that Snakemake and the plugin know.
    where = ["--profile", "profiles/slurm"] if preset == "minilm" else ["--cores", "2"]
    status, output = run(project, "-n", *where, preset=preset, python=None)
    assert status == 0, output
    loaded = load_preset(preset)
    sweeps = sum(len(tasks) for tasks in loaded.sweeps.values())
    own = {"teacher": len(loaded.teachers), "student": len(loaded.adaptations())}
    assert job_counts(output) == {
        "all": 1, "build": 1, "transfer": 1, "efficiency": 1, "analysis": 1, "render_finetune": sweeps,
        **{rule: count for rule, count in own.items() if count}, "finetune": len(loaded.cells()),
        "total": 5 + sweeps + sum(own.values()) + len(loaded.cells())}


def test_an_unknown_preset_is_one_clear_line(project):
    status, output = run(project, "-n", "--cores", "1", preset="large")
    assert status != 0
    assert f"'large' is not one of: {', '.join(names())}" in output and "Traceback" not in output


def test_a_second_run_computes_nothing_and_a_third_only_what_changed(project):
    status, output = run(project, "--cores", "2")
    assert status == 0, output
    first = calls(project)
    assert first[0] == "04_efficiency" and first[-1] == "05_analysis"  # alone and first; from all records, last
    assert set(first) == CELLS | RENDERED and len(first) == len(CELLS | RENDERED)

    status, output = run(project, "--cores", "2")
    assert status == 0 and "Nothing to be done" in output and calls(project) == []

    (project / "notebooks" / "02_transfer.ipynb").write_text("{ }")
    (project / "results" / "tiny" / "runs" / "finetune-rte-fnet-2.json").unlink()
    assert run(project, "--cores", "2")[0] == 0
    assert set(calls(project)) == {"rte-fnet-2", "02_transfer", "03_finetune-quick-rte", "05_analysis"}

    (project / "fnetlib" / "tables.py").write_text("#")  # library code makes new tables, not new runs
    assert run(project, "--cores", "2")[0] == 0
    assert calls(project) == ["05_analysis"]


def test_teachers_come_first_then_the_grid_then_its_best_point(project):
    """Two GPUs, a teacher that the preset trains, a grid of two points, and runs that measure speed alone."""
    tuned = {"seeds": [1, 2], "models": ["fnet"], "teacher": "better", "grid": "learning_rate 1e-3 1e-2"}
    (project / "tiny.yaml").write_text(yaml.safe_dump({
        **TINY, "teachers": {"better": {"model": "bert", "adapt": "mlm"}},
        "sweeps": {"tuned": {"rte": tuned}, "alone": {"rte": {"seeds": [1], "models": ["fnet", "bert"], "solo": True,
                                                        "group_by_length": True}}}}))
    status, output = run(project, "--cores", "4", env={"CUDA_VISIBLE_DEVICES": "0,3"})
    assert status == 0, output
    lines = (project / "calls.txt").read_text().splitlines()
    teacher = next(i for i, line in enumerate(lines) if "papermill" in line and "02_transfer-better" in line)
    assert '"save": "results/tiny/teachers/better"' in lines[teacher] and '"force": true' in lines[teacher]
    jobs = [(i, line) for i, line in enumerate(lines) if " finetune " in line]
    grid = [i for i, line in jobs if "--training tuned_grid" in line and "--seeds 1 " in line]
    best = [i for i, line in jobs if "--training tuned " in line and "--seeds 1,2" in line]
    assert len(grid) == 2 and len(best) == 1 and teacher < min(grid) and max(grid) < best[0]
    assert all("--teacher results/tiny/teachers/better" in lines[i] and "--shared" in lines[i] for i in grid + best)
    assert {"--learning-rate 0.001", "--learning-rate 0.01"} == {re.search(r"--learning-rate \S+", lines[i])[0] for i in grid}
    alone = [line for _, line in jobs if "--training alone" in line]
    assert len(alone) == 2 and not any("--shared" in line for line in alone)
    assert all(re.search(r"--group-by-length( --|$)", line) for line in alone)  # a flag: the command line takes no value with it
    gpus = {gpu for gpu in (project / "gpus.txt").read_text().split() if gpu != "none"}
    assert gpus == {"0", "3"}  # jobs take turns


def test_students_wait_for_their_teacher_and_cells_for_their_student(project):
    """A student whose record is enough is not trained again when its weights are gone; one that a cell starts from is."""
    (project / "tiny.yaml").write_text(yaml.safe_dump({
        **TINY, "teachers": {"better": {"model": "bert", "adapt": "mlm"}},
        "students": {"ready": {"model": "fnet", "teacher": "better", "adapt": "distill"},
                     "curve": {"model": "fnet", "teacher": "better", "adapt": "mlm", "steps": [10, 20], "solo": True}},
        "sweeps": {"adapted": {"rte": {"seeds": [1], "students": ["ready"], "teacher": "better"}}}}))
    assert run(project, "--cores", "4")[0] == 0
    lines = (project / "calls.txt").read_text().splitlines()
    teacher = next(i for i, line in enumerate(lines) if "papermill" in line and "02_transfer-better" in line)
    ready, = (i for i, line in enumerate(lines) if " adapt " in line and "students/ready" in line)
    cell, = (i for i, line in enumerate(lines) if " finetune " in line)
    curve = [line for line in lines if " adapt " in line and "students/curve-" in line]
    assert teacher < ready < cell and "--student results/tiny/students/ready" in lines[cell] and "--model fnet" in lines[cell]
    assert "--restore --shared" in lines[ready] and "--teacher results/tiny/teachers/better" in lines[ready]
    assert len(curve) == 2 and all("--record-only" in line and "--shared" not in line for line in curve)

    (project / "calls.txt").unlink()
    shutil.rmtree(project / "results" / "tiny" / "students")
    assert run(project, "--cores", "4")[0] == 0
    again = [line for line in (project / "calls.txt").read_text().splitlines() if " adapt " in line]
    assert len(again) == 1 and "students/ready" in again[0]


def test_a_checkout_that_has_moved_is_up_to_date(project, tmp_path_factory):
    """A teacher takes minutes of a GPU: it is not trained again because its folder is called something else."""
    (project / "tiny.yaml").write_text(yaml.safe_dump({
        **TINY, "teachers": {"better": {"model": "bert", "adapt": "mlm"}},
        "sweeps": {"adapted": {"rte": {"seeds": [1], "models": ["bert"], "teacher": "better"}}}}))
    assert run(project, "--cores", "4")[0] == 0
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.move(project, moved)
    status, output = run(moved, "--cores", "4")
    assert status == 0 and "Nothing to be done" in output, output


def test_what_has_a_committed_record_is_not_asked_for_nor_its_teacher(project):
    """A clone with records and without weights: the graph trains what the missing cell starts from, no more; `only` of it."""
    shutil.copytree(ROOT / "results" / "minilm" / "runs", project / "results" / "minilm" / "runs")
    for record in (project / "results" / "minilm" / "runs").glob("finetune-cola-bert-3-*.json"):
        if '"study"' in record.read_text() and '"minilm"' in record.read_text():
            record.unlink()
    status, output = run(project, "-n", "part", "--cores", "2", preset="minilm", only="^(study|tuned)-(cola-bert|rte)", python=None)
    assert status == 0 and job_counts(output) == {"finetune": 1, "part": 1, "total": 2}, output
    assert "study-cola-bert-3" in output
    status, output = run(project, "-n", "part", "--cores", "2", preset="minilm", only="^(study|tuned)-rte", python=None)
    assert status == 0 and job_counts(output) == {"part": 1, "total": 1}, output

    # What needs a teacher's weights trains it again; then nothing of the old weights counts, and a broken record is said.
    lost, *broken = sorted(path for path in (project / "results" / "minilm" / "runs").glob("finetune-rte-bert-*.json")
                           if json.loads(path.read_text())["training"] == "tuned")
    lost.unlink()
    broken[0].write_text("{}")
    status, output = run(project, "-n", "part", "--cores", "2", preset="minilm", only="^tuned-rte", python=None)
    cells = [cell for cell in load_preset("minilm").cells() if (cell.sweep, cell.task) == ("tuned", "rte")]
    assert status == 0 and job_counts(output) == {"teacher": 1, "finetune": len(cells), "part": 1, "total": 2 + len(cells)}, output
    assert f"{broken[0].name}: not a valid record" in output and "counts as missing" in output


def test_a_killed_run_resumes(project):
    env = environment(project, STUB_HANGS="finetune-rte-fnet-1")
    killed = subprocess.Popen(command("--cores", "2"), cwd=project, env=env, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = project / "results" / "tiny" / "done"
    try:
        deadline = time.monotonic() + 120
        while len(list(done.glob("*.txt"))) < 3:  # all but the one that hangs
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        status, output = run(project, "--cores", "2")
        assert status != 0 and f"another run is at work in this folder (process {killed.pid})" in output
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    before = set(calls(project))
    assert CELLS <= before and "05_analysis" not in before

    status, output = run(project, "--cores", "2")
    assert status == 0, output
    after = calls(project)
    assert CELLS & set(after) == {"rte-fnet-1"} and after[-1] == "05_analysis"


def test_a_failed_job_leaves_the_others_and_says_where_to_look(project):
    status, output = run(project, "--cores", "2", env={"STUB_FAILS": "finetune-rte-bert-1"})
    assert status != 0
    assert "out of memory" in output and "results/tiny/logs/" in output
    assert CELLS <= set(calls(project))
    assert {path.stem for path in (project / "results" / "tiny" / "done").glob("*.txt")} == {
        f"quick-{cell}" for cell in CELLS - {"rte-bert-1"}}
    status, output = run(project, "--cores", "2")
    assert status == 0 and CELLS & set(calls(project)) == {"rte-bert-1"}


def test_a_sweep_runs_through_a_cluster_executor(project):
    """The real jobs, submitted and polled as on a cluster; records come back, and are not made twice."""
    (project / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "models": ["fnet"]}))
    options = ["--profile", "profiles/local-cluster", "--until", "finetune"]
    status, output = run(project, *options, python=None, timeout=400)
    assert status == 0, output
    assert output.count("with external jobid") == 2
    records = RecordStore(project / "results" / "tiny").all("finetune")
    assert {f"{r.task}-{r.model}-{r.seed}" for r in records} == {"rte-fnet-1", "rte-fnet-2"}
    assert all(r.status == "finished" and r.training == "quick" and not r.timing["shared"] for r in records)
    status, output = run(project, *options, python=None)
    assert status == 0 and "external jobid" not in output  # nothing is submitted again
