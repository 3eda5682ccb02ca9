"""The graph: presets and notebooks -> records -> rendered notebooks, tables, figures.

    snakemake --cores all                               the quick preset (what `make report` runs)
    snakemake --cores 8 --config preset=minilm          real data; eight fine-tunings side by side on one GPU
    snakemake part --cores 8 --config preset=minilm only=recovery_2-    what is missing of these cells and students, no more
    snakemake --profile profiles/slurm --config preset=minilm       the same sweep on a cluster

A preset's cell (sweep, task, model, seed) is one job: `python -m fnetlib finetune`. Cells and students that have a
record, committed ones say, are not asked for, nor what they started from. What a job printed, the records' paths, is its marker in results/<preset>/done/. Rendered notebooks find all records
there and only show them. Teachers and students (`python -m fnetlib adapt`) that a preset trains itself come first. On a host with several GPUs the jobs take
turns over them. `preset` may also be a path to a YAML file of your own.
"""

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from fnetlib.params import BuildParams, EfficiencyParams, ParameterError, TransferParams
from fnetlib.plan import lacking_cells, lacking_students
from fnetlib.presets import load_preset
from fnetlib.records import RecordError, RecordStore

PRESET = str(config.get("preset", "quick"))
PYTHON = config.get("python", sys.executable)  # runs the jobs
ONLY = re.compile(str(config.get("only", "")))  # of rule `part`: cells and students whose names it is found in


def parameters(kind, own):
    """A notebook's parameters as YAML: the preset's inputs that it takes, and its own. Checked before any job runs."""
    values = {name: value for name, value in preset.inputs().items() if name in kind.model_fields} | own
    kind.parse(values)
    return json.dumps(values)


try:
    preset = load_preset(PRESET)
    BUILD = parameters(BuildParams, preset.build)
    TRANSFER = parameters(TransferParams, preset.transfer)
    EFFICIENCY = parameters(EfficiencyParams, preset.efficiency)
    TEACHERS = {name: parameters(TransferParams, {"save": preset.teacher_folder(name), "force": True, **own})
                for name, own in preset.teachers.items()}
    STUDENTS = preset.adaptations()
except ParameterError as error:
    raise WorkflowError(f"preset {PRESET}: {str(error).removeprefix('preset: ')}") from None

os.environ.setdefault("FNETLIB_ROOT", os.getcwd())  # relative paths of the jobs start here
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one in the user's home
os.environ["PYTHONUNBUFFERED"] = "1"  # logs tell what a job is doing now


envvars:
    "FNETLIB_ROOT",


# The checkout; in a container, which gets a copy of this file alone, FNETLIB_ROOT.
SOURCE = next((d for d in (workflow.basedir, os.environ["FNETLIB_ROOT"]) if Path(d, "notebooks").is_dir()), ".")
SOURCE = "" if Path(SOURCE).resolve() == Path.cwd() else f"{SOURCE}/"  # relative: a checkout that has moved is up to date
NOTEBOOKS = f"{SOURCE}notebooks"
RESULTS = preset.results  # relative: a rendered notebook must not name this machine's folders
DONE, LOGS, RENDERED = f"{RESULTS}/done", f"{RESULTS}/logs", f"{RESULTS}/notebooks"
CELLS = {cell.name: cell for cell in preset.cells()}


def readable(stage):
    """A preset's records of one stage; those of failed runs answer nothing here, and a broken file is said."""
    found = []
    for path in sorted(Path(RESULTS, "runs").glob(f"{stage}-*.json")):
        try:
            found.append(RecordStore.read(path))
        except RecordError as error:
            print(f"{error}; until then its run counts as missing", file=sys.stderr)
    return [record for record in found if record.status != "failed"]


def lacking():
    """Names of the cells and of the students that no record answers. Where these want a teacher whose weights are gone, it is
    trained again, and what came from the old weights answers nothing either."""
    runs, adapted, again = readable("finetune"), readable("adapt"), set()
    while True:
        runs, adapted = ([r for r in records if r.teacher.name not in again] for records in (runs, adapted))
        cells, students = lacking_cells(preset, runs, adapted), lacking_students(preset, adapted)
        teachers = {cell.teacher for cell in cells} | {Path(STUDENTS[name]["teacher"]).name for name in students}
        gone = {name for name in teachers & set(preset.teachers)
                if not Path(preset.teacher_folder(name), "record.json").is_file()}
        if gone <= again:
            return {cell.name for cell in cells}, set(students)
        again |= gone


def asked_for(lacking, prefix=""):
    """Those without a record; what this graph has made before stays in it, lest what follows be made again."""
    made = {path.stem.removeprefix(prefix) for path in Path(DONE).glob(f"{prefix}*.txt")}
    return lambda name: name in lacking or name in made


NO_RECORD, UNTRAINED = lacking()
TO_RUN = [*filter(asked_for(NO_RECORD), CELLS)]
STARTS = {CELLS[name].student for name in TO_RUN} - {""}  # students whose weights are needed, not the record alone
TO_TRAIN = [*filter(asked_for(UNTRAINED | STARTS, "student-"), STUDENTS)]
SWEEPS = {f"{sweep}-{task}": (sweep, task) for sweep, tasks in preset.sweeps.items() for task in tasks}


def cells_of(wildcards):
    return [f"{DONE}/{name}.txt" for name in TO_RUN if f"{CELLS[name].sweep}-{CELLS[name].task}" == wildcards.sweep]


def before(wildcards):
    """What a cell waits for: its grid's points, and the teacher if the preset trains it."""
    cell = CELLS[wildcards.cell]
    own = teacher_of(cell.teacher) + [f"{DONE}/student-{name}.txt" for name in [cell.student] if name]
    return [f"{DONE}/{name}.txt" for name in cell.needs if name in TO_RUN] + own


def teacher_of(name):
    """What a run waits for if the preset trains its teacher; name: of the teacher, or its folder."""
    name = Path(name).name
    return [preset.teacher_folder(name) + "/record.json"] if name in preset.teachers else []


def gpus():
    """The GPUs that jobs take turns over: CUDA_VISIBLE_DEVICES, else what the driver lists; none on most machines."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(len(re.findall(r"^GPU \d+:", listed, re.MULTILINE)))]


GPUS = gpus()


def on_gpu(wildcards):
    """On a host with several GPUs: the one of this cell or student."""
    place = [*CELLS, *STUDENTS].index(wildcards[0])
    return f"CUDA_VISIBLE_DEVICES={GPUS[place % len(GPUS)]}" if len(GPUS) > 1 and not workflow.remote_exec else ""


def command_line(values):
    """{"learning_rate": 2e-5, "compile": True} -> --learning-rate 2e-05 --compile"""
    def option(name, value):
        name = name.replace("_", "-")
        if isinstance(value, bool):
            return f"--{name}" if value else f"--no-{name}"
        return f"--{name} {shlex.quote(str(value))}"

    return " ".join(option(name, value) for name, value in values.items())


def finetune_options(wildcards):
    cell = CELLS[wildcards.cell]
    one = {"model": cell.model, "seeds": cell.seed}
    return command_line({**preset.finetune(cell.sweep, cell.task), **one, **cell.options})


def cores():
    try:
        return workflow.cores
    except WorkflowError:  # on a cluster, where a profile gives each job its own
        return 1


def shared(wildcards):
    """Fine-tunings that run side by side are marked in their records: their speed is no measurement of the model."""
    return "--shared" if cores() > 1 and not workflow.remote_exec and not CELLS[wildcards.cell].solo else ""


def adapt_options(wildcards):
    """A student whose record is there is trained again only where a cell starts from it and its weights are gone."""
    name = wildcards.student
    again = "--restore" if name in STARTS else "--record-only"
    side_by_side = cores() > 1 and not workflow.remote_exec and not preset.is_solo(name)
    return f"{command_line(STUDENTS[name])} {again}" + " --shared" * side_by_side


def has_weights(student):
    return Path(preset.student_folder(student), "model.safetensors").is_file()


def forget_lost_results():
    """A marker whose record is gone counts for nothing, and so does the last notebook without what it made."""
    for cell in CELLS:
        marker = Path(f"{DONE}/{cell}.txt")
        if marker.exists():
            records = [Path(line).name for line in marker.read_text().splitlines() if line.endswith(".json")]
            if not records or not all(Path(RESULTS, "runs", record).exists() for record in records):
                marker.unlink()
    for student in STUDENTS:
        marker = Path(f"{DONE}/student-{student}.txt")
        if marker.exists() and (not Path(RESULTS, "runs", f"{marker.read_text().strip()}.json").exists()
                                or student in STARTS and not has_weights(student)):
            marker.unlink()
    if not all(Path(RESULTS, made).exists() for made in ("tables", "figures", "summary.json")):
        Path(f"{RENDERED}/05_analysis.ipynb").unlink(missing_ok=True)


def hold_lock():
    """One run a preset and folder. Unlike Snakemake's own lock this one ends with the process, killed or not."""
    Path(".snakemake").mkdir(exist_ok=True)
    lock = open(f".snakemake/fnetlib-{preset.name}.lock", "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise WorkflowError(f"preset {preset.name}: another run is at work in this folder (process "
                            f"{lock.read().strip()}); wait for it or stop it") from None
    except OSError:
        pass  # a file system without locks
    lock.truncate(0)
    print(os.getpid(), file=lock, flush=True)
    return lock


if workflow.is_main_process:  # not in a cluster's job, which parses this file too
    if not workflow.dryrun:
        LOCK = hold_lock()
        forget_lost_results()


onstart:
    print(f"{preset.title}\n{len(NO_RECORD)} of {len(CELLS)} fine-tuning cells to run, {len(UNTRAINED)} of {len(STUDENTS)} students to "
          f"train; jobs log to {LOGS}/", file=sys.stderr)


onerror:
    print(f"\nSomething failed: see above and {LOGS}/. What finished is kept; the same command goes on from there.",
          file=sys.stderr)


wildcard_constraints:
    cell="|".join(map(re.escape, CELLS)),
    sweep="|".join(map(re.escape, SWEEPS)),
    student="|".join(map(re.escape, STUDENTS)) or "none",
    teacher="|".join(map(re.escape, preset.teachers)) or "none",


# Logs keep everything; what tells how far a job is (bars, epochs) shows on the terminal too, with the job's name.
def shown_as(name):
    return (f'| while IFS= read -r line; do case "$line" in *"%|"*|*" epoch "*|*" adapt: "*) echo "  {name}: $line" >&2;;'
            " esac; done")


# papermill writes beside the logs, so that a failed notebook can be opened; `clean` moves it into place in one step.
RENDER = (
    "{PYTHON:q} -m papermill {input.notebook:q} {log.notebook:q} -y {params.values:q} --log-output"
    " --no-progress-bar 2>&1 | tee {log.text:q} " + shown_as("{rule}") +
    " && {PYTHON:q} -m fnetlib clean {log.notebook:q} {output.notebook:q} >> {log.text:q} 2>&1"
)


rule build:
    input:
        notebook=local(f"{NOTEBOOKS}/01_build.ipynb"),
    output:
        notebook=f"{RENDERED}/01_build.ipynb",
    log:
        text=f"{LOGS}/01_build.log",
        notebook=f"{LOGS}/01_build.ipynb",
    params:
        values=BUILD,
    message:
        "01 build: what the mixing layer computes"
    shell:
        RENDER


rule transfer:
    input:
        notebook=local(f"{NOTEBOOKS}/02_transfer.ipynb"),
    output:
        notebook=f"{RENDERED}/02_transfer.ipynb",
    log:
        text=f"{LOGS}/02_transfer.log",
        notebook=f"{LOGS}/02_transfer.ipynb",
    params:
        values=TRANSFER,
    message:
        "02 transfer: which weights go where"
    shell:
        RENDER


# A teacher that the preset trains itself. Its weights are kept here and never committed: where they are missing they
# are asked for, so a record that is there does not stop the training.
rule teacher:
    input:
        notebook=local(f"{NOTEBOOKS}/02_transfer.ipynb"),
    output:
        f"{RESULTS}/teachers/{{teacher}}/record.json",
        notebook=f"{RENDERED}/02_transfer-{{teacher}}.ipynb",
    log:
        text=f"{LOGS}/02_transfer-{{teacher}}.log",
        notebook=f"{LOGS}/02_transfer-{{teacher}}.ipynb",
    params:
        values=lambda wildcards: TEACHERS[wildcards.teacher],
    priority: 90
    message:
        "02 train the teacher {wildcards.teacher}"
    shell:
        RENDER


rule student:
    input:
        lambda wildcards: teacher_of(STUDENTS[wildcards.student]["teacher"]),
    output:
        f"{DONE}/student-{{student}}.txt",
    log:
        f"{LOGS}/student-{{student}}.log",
    params:
        options=adapt_options,
        gpu=on_gpu,
    threads: lambda wildcards: cores() if preset.is_solo(wildcards.student) else 1
    priority: 20
    message:
        "02 train the student {wildcards.student}"
    shell:
        "({params.gpu} {PYTHON:q} -m fnetlib adapt {params.options} 2>&1 >&3 | tee {log:q} "
        + shown_as("{wildcards.student}") + ") 3> {output:q}.part && mv {output:q}.part {output:q}"


rule finetune:
    input:
        before,
    output:
        f"{DONE}/{{cell}}.txt",
    log:
        f"{LOGS}/finetune-{{cell}}.log",
    params:
        options=finetune_options,
        shared=shared,
        gpu=on_gpu,
    threads: lambda wildcards: cores() if CELLS[wildcards.cell].solo else 1
    priority: 10
    message:
        "03 fine-tune {wildcards.cell}"
    shell:
        "({params.gpu} {PYTHON:q} -m fnetlib finetune {params.options} {params.shared} 2>&1 >&3 | tee {log:q} "
        + shown_as("{wildcards.cell}") + ") 3> {output:q}.part && mv {output:q}.part {output:q}"


rule render_finetune:
    input:
        cells_of,
        notebook=local(f"{NOTEBOOKS}/03_finetune.ipynb"),
    output:
        notebook=f"{RENDERED}/03_finetune-{{sweep}}.ipynb",
    log:
        text=f"{LOGS}/03_finetune-{{sweep}}.log",
        notebook=f"{LOGS}/03_finetune-{{sweep}}.ipynb",
    params:
        values=lambda wildcards: json.dumps(preset.finetune(*SWEEPS[wildcards.sweep])),
    message:
        "03 fine-tune {wildcards.sweep}: show its records"
    shell:
        RENDER


# Timings shared with other jobs are worthless: this one takes the whole machine, and takes it first, when nothing
# has to be waited for.
rule efficiency:
    input:
        notebook=local(f"{NOTEBOOKS}/04_efficiency.ipynb"),
    output:
        notebook=f"{RENDERED}/04_efficiency.ipynb",
    log:
        text=f"{LOGS}/04_efficiency.log",
        notebook=f"{LOGS}/04_efficiency.ipynb",
    params:
        values=EFFICIENCY,
    priority: 100
    threads: cores()
    message:
        "04 efficiency: time, memory and FLOPs (alone on the machine)"
    shell:
        RENDER


# The one rule that library code re-runs: tables and plots are made by it, from records, in seconds.
rule analysis:
    input:
        [f"{DONE}/{cell}.txt" for cell in TO_RUN],
        [f"{DONE}/student-{student}.txt" for student in TO_TRAIN],
        [f"{RENDERED}/03_finetune-{sweep}.ipynb" for sweep in SWEEPS],
        rules.build.output,
        rules.transfer.output,
        rules.efficiency.output,
        [local(str(path)) for path in sorted(Path(f"{SOURCE}fnetlib").rglob("*.py"))],
        notebook=local(f"{NOTEBOOKS}/05_analysis.ipynb"),
    output:
        notebook=f"{RENDERED}/05_analysis.ipynb",
    log:
        text=f"{LOGS}/05_analysis.log",
        notebook=f"{LOGS}/05_analysis.ipynb",
    params:
        values=json.dumps({"preset": PRESET}),
        preset=preset.model_dump_json(),  # a new title or expected value shows
    message:
        "05 analysis: tables and figures from the records"
    shell:
        RENDER


# Everything is named: Snakemake makes a lost file again only if it is asked for.
rule all:
    default_target: True
    input:
        [f"{DONE}/{cell}.txt" for cell in TO_RUN],
        [f"{DONE}/student-{student}.txt" for student in TO_TRAIN],
        [f"{RENDERED}/03_finetune-{sweep}.ipynb" for sweep in SWEEPS],
        rules.build.output,
        rules.transfer.output,
        rules.efficiency.output,
        rules.analysis.output,
    message:
        f"all of {preset.name} is made"


# A part of the runs, nothing rendered: `only` is a regular expression, e.g. 'recovery_2' or '^study-cola-fnet'.
rule part:
    input:
        [f"{DONE}/{cell}.txt" for cell in TO_RUN if ONLY.search(cell)],
        [f"{DONE}/student-{student}.txt" for student in TO_TRAIN if ONLY.search(student)],
    message:
        f"the runs of {preset.name} that {ONLY.pattern!r} is found in are made"
