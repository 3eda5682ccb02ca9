"""What a second GPU is worth in continued training: the same run by one process and by several (`accelerate launch`)."""

from __future__ import annotations

import pandas as pd

from .records import Record, make_run_id
from .results import Results
from .tables import Table, number

COLUMNS = ["model", "adapt", "device", "batch_size", "length", "steps", "processes", "tokens_per_s", "times", "loss", "gap", "run_id"]


def steady(record: Record) -> float | None:
    """Tokens a second between the first logged step and the last: without the start, which weighs on a short run."""
    points = [(e["seconds"], e["tokens"]) for e in record.metrics.history if e["seconds"]]
    if len(points) < 2:
        return None
    (t0, n0), (t1, n1) = points[0], points[-1]
    return (n1 - n0) / (t1 - t0)


def frame(results: Results) -> pd.DataFrame:
    """One row a run that was made by different numbers of GPUs, each alone: `times` as many tokens a second as one of them,
    `gap`: the largest difference of its held-out loss to that run's, at the same step after the first tenth."""
    groups: dict[str, list[Record]] = {}
    for r in results.adapt:
        if r.metrics and not r.timing["shared"] and str(r.env.get("device", "")).startswith("cuda"):
            same = {name: value for name, value in r.params.items() if name != "processes"}
            groups.setdefault(make_run_id("adapt", None, r.model, r.seed, {**same, "on": r.env["device_name"]}), []).append(r)
    rows = []
    for records in groups.values():
        counted = sorted(records, key=lambda r: r.timing.get("processes") or 1)
        one = counted[0]
        if len({r.timing.get("processes") or 1 for r in records}) < 2:
            continue
        for r in counted:
            rows.append([r.model, r.params["adapt"], r.env["device_name"], r.params["batch_size"], r.params["length"], r.timing["steps"],
                         r.timing.get("processes") or 1, steady(r), steady(r) / steady(one), r.metrics.headline.last, _gap(r, one), r.run_id])
    return pd.DataFrame(rows, columns=COLUMNS)


def _gap(record: Record, other: Record) -> float | None:
    mine, theirs = ({e["step"]: e["eval_loss"] for e in r.metrics.history if e["eval_loss"] is not None} for r in (record, other))
    late = [step for step in mine.keys() & theirs.keys() if step >= record.timing["steps"] / 10]
    return max((abs(mine[step] - theirs[step]) for step in late), default=None) if record is not other else None


def table(results: Results) -> Table:
    """Tokens a second and held-out loss by the number of GPUs."""
    data = frame(results)
    rows = pd.DataFrame([{
        "Run": f"{r.model}, {r.adapt}, {r.batch_size} x {r.length} tokens a step, {r.steps} steps, {r.device}", "GPUs": str(r.processes),
        "Tokens/s": f"{r.tokens_per_s:,.0f}", "× one": number(r.times, 2), "Held-out loss at the end": number(r.loss),
        "Largest gap to one GPU": number(r.gap)} for r in data.itertuples()])
    notes = ["The same batches in the same order, shared by as many processes as there are GPUs. Tokens a second between the first "
             "logged step and the last, evaluations left out, one run each. The gap is of the held-out loss at the same step; dropout "
             "and masks are drawn by each process, so they differ between the runs."]
    if data.empty:
        notes = ["No run was made by one GPU and by several here: `accelerate launch --multi_gpu -m fnetlib adapt ...` beside the same "
                 "without the launcher."]
    return Table("gpus", "One GPU and several", data, {"": rows} if len(rows) else {}, notes)


def sentences(results: Results) -> list[str]:
    """One sentence a run that several GPUs made."""
    return [f"- **{r.processes} GPUs** ({r.device}, masked-LM of `{r.model}`, {r.batch_size} sequences of {r.length} tokens a step): "
            f"{number(r.times, 2)} times the tokens a second of one, held-out loss {number(r.loss)} after {r.steps} steps "
            f"(at most {number(r.gap)} from one GPU's on the way)." for r in frame(results).itertuples() if pd.notna(r.gap)]
