"""How near the distilled students' states are to the teacher's: every layer's error, from the adaptations' records.

An error is the squared distance to the teacher's states over the teacher's variance, on held-out text (`distill.layer_errors`).
It says where a mixer cannot follow attention, before any task is fine-tuned.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from .plots import _empty, _finish, _panels, colour
from .records import last_errors, solo_minutes
from .results import Results, model_key, natural, once, tagged
from .tables import Table, number

OBJECTIVE = {False: "states", True: "states, predictions"}
COLUMNS = ["teacher", "minutes", "objective", "model", "learning_rate", "mixer_rate", "blockwise", "steps", "tokens", "heldout_loss", "masks", "error",
           "layers", "run_id"]


@once
def frame(results: Results) -> pd.DataFrame:
    """One row a distilled student; `layers`: the errors from the first layer on, `error` their mean, `tokens` in millions."""
    rows = []
    for record in results.adapt:
        errors = last_errors(record.metrics.history) if record.metrics else []
        if errors:
            rows.append([record.teacher.name.split("/")[-1], solo_minutes(record, results.adapt),
                         OBJECTIVE[record.params["logits_weight"] > 0], record.model, record.params["learning_rate"],
                         record.params.get("mixer_rate", 1), record.params["blockwise"], record.timing["steps"], record.metrics.history[-1]["tokens"] / 1e6,
                         record.metrics.headline.last,
                         bool(record.metrics.validation.get("errors_with_masks", True)), sum(errors) / len(errors), errors, record.run_id])
    data = pd.DataFrame(rows, columns=COLUMNS)
    keys = [(natural(r.teacher), r.minutes, r.objective, model_key(r.model), r.run_id) for r in data.itertuples()]
    return data.loc[sorted(data.index, key=lambda i: keys[i])].reset_index(drop=True)


def table(results: Results) -> Table:
    """Every distilled student: what it was given, its held-out masked-LM loss, its errors; a section a teacher."""
    data, sections = frame(results), {}
    for teacher, group in data.groupby("teacher", sort=False):
        sections[f"teacher `{teacher}`"] = pd.DataFrame([{
            "Model": r.model, "Minutes": f"{r.minutes:g}", "Matched": r.objective, "Learning rate": f"{r.learning_rate:g}" + f", mixers × {r.mixer_rate:g}" * (r.mixer_rate != 1),
            "Block-wise": f"{100 * r.blockwise:g}%", "Steps": r.steps, "M tokens": number(r.tokens, 1),
            "Masked-LM loss": number(r.heldout_loss), "Mean error": number(r.error) + "‡" * (r.masks and r.objective == OBJECTIVE[False]), "Last layer's": number(r.layers[-1]),
        } for r in group.itertuples()])
    notes = ["One seed each, on held-out text. *Error*: squared distance to the teacher's states over their variance, 0 is a "
             "match, 1 no better than the teacher's mean state. *Block-wise*: the share of the steps in which every block is given "
             "the teacher's state below it. *Minutes* as in the recovery table. *Masked-LM loss* in nats, with the "
             "teacher's own head; it is not trained on unless predictions are matched. ‡ the error was measured with a share of the tokens "
             "masked (the first versions did), which a student that matches states alone never saw in training: it may rise with more of it."]
    if data.empty:
        notes = ["No student was distilled here: 02 with `-p adapt distill`."]
    return Table("distilled", tagged("Distilled students beside their teacher", results.tag), data.assign(
        layers=[" ".join(f"{error:.4f}" for error in errors) for errors in data["layers"]]), sections, notes)


def figure(results: Results) -> Figure:
    """Error by layer, a panel a teacher and budget; with the predictions matched as well dashed."""
    title = tagged("Distance to the teacher's states after distillation, held-out text", results.tag)
    data = frame(results)
    if data.empty:
        return _empty(title, "no student was distilled")
    groups = list(data.groupby(["teacher", "minutes"], sort=False))
    groups = [(key, group) for key, group in groups if group["model"].nunique() > 2] or groups  # one alone compares with nothing
    made, axes = _panels(len(groups), 2, height=3.0, sharey=True)
    for axis, ((teacher, minutes), group) in zip(axes, groups):
        for r in group.itertuples():
            axis.plot(range(1, len(r.layers) + 1), r.layers, marker="o", ms=4, lw=1.4, color=colour(r.model),
                      ls="-" if r.objective == OBJECTIVE[False] else "--")
        axis.set_title(f"{minutes:g} minutes, teacher {teacher}", fontsize=9)
        axis.set(xlabel="layer", ylabel="error, share of the variance")
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MultipleLocator(1))
    dashed = Line2D([], [], color="#555555", lw=1.4, ls="--", label="predictions matched too")
    return _finish(made, title, data["model"], [dashed] if data["objective"].eq(OBJECTIVE[True]).any() else None)
