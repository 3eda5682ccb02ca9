"""What 01_build and 04_efficiency show of cost: figures, and the sentences whose numbers come from the records."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from torch import nn
from transformers import BertConfig

from . import flops, published
from .config import student_config
from .efficiency import model_config, shape_config
from .mixers.fourier import MATMUL_MAX_LENGTH
from .params import LEAN, PADDED, EfficiencyParams
from .peers import PEERS
from .plots import _dashes, _empty, _finish, _length_axis, _panels, colour
from .records import Record
from .results import model_key
from .tables import Table
from .tables_speed import KINDS, main_shape, speed, speed_frame

WORDS = {"train": "training step", "infer": "inference"}
MODE_MARKS = {"layers": "o", "lean": "s", "leaner": "^"}  # of what lean modes trade
PART_COLOURS = {"mixing": "#0072B2", "projection": "#56B4E9", "feed-forward": "#B8B8B8", "norms": "#E69F00",
                "pooler": "#CC79A7", "classifier": "#CC79A7", "embeddings": "#CC79A7"}
WAY_STYLES = {"attention": ("#000000", "-"), "Fourier, matrices": ("#0072B2", "-"), "Fourier, FFT": ("#009E73", "-"),
              "Fourier, FFT (Bluestein)": ("#009E73", "--")}


def table(records: list[Record]) -> Table:
    """The report's speed table, of these records alone."""
    return speed(SimpleNamespace(efficiency=records))


def ratios(records: list[Record], against: str = "vs_bert") -> Figure:
    """Bars: how many times as fast as BERT, or what share of the bound's speed; whiskers are quartiles."""
    title = {"vs_bert": "Speed against BERT (more is faster; whiskers: quartiles over rounds)",
             "vs_bound": "Share of the speed of the bound, the same model without mixing (whiskers: quartiles)"}[against]
    data = speed_frame(records)
    columns = [f"{kind}_{against}" for kind in KINDS]
    data = data.dropna(subset=columns, how="all") if len(data) else data
    data = data[data.model != against.removeprefix("vs_")] if len(data) else data
    if data.empty:
        return _empty(title, f"no measurement beside `{against.removeprefix('vs_')}`")
    groups = list(data.groupby(["precision", "mode"], sort=False))
    figure, axes = _panels(2 * len(groups), 2, height=2.4)
    for row, ((precision, mode), group) in enumerate(groups):
        for axis, column in zip(axes[2 * row:], columns):
            _bars(axis, group, column)
            axis.set(title=f"{WORDS[column.split('_')[0]]}, {precision}, {mode}", xlabel="tokens",
                     ylabel="× BERT" if against == "vs_bert" else "× bound")
            axis.grid(axis="x", visible=False)
    return _finish(figure, f"{title}\n{_where(data)}", data.model)


def _bars(axis, group: pd.DataFrame, column: str) -> None:
    lengths, models = sorted(group.length.unique()), sorted(group.model.unique(), key=model_key)
    width = 0.8 / len(models)
    for i, model in enumerate(models):
        part = group[group.model == model].set_index("length").reindex(lengths)
        middle, low, high = (part[f"{column}{end}"].astype(float) for end in ("", "_q25", "_q75"))
        places = np.arange(len(lengths)) + (i - (len(models) - 1) / 2) * width
        axis.bar(places, middle, 0.92 * width, color=colour(model), zorder=2)
        axis.errorbar(places, middle, yerr=[middle - low, high - middle], fmt="none", ecolor="#444444", elinewidth=1,
                      capsize=2, zorder=3)
    axis.axhline(1, color="#000000", lw=1, ls=":", zorder=1)
    axis.set_xticks(range(len(lengths)), [str(n) for n in lengths])


def times(records: list[Record]) -> Figure:
    """Time a token by sequence length. On a CPU it is relative to BERT's at the shortest length."""
    data = speed_frame(records)
    data = data.dropna(subset=["train_s"]) if len(data) else data
    if data.empty:
        return _empty("Time by sequence length", "no measurement")
    on_gpu = data.device.str.startswith("cuda").all()
    title = "Time a token by sequence length" + ("" if on_gpu else ", relative to BERT's at the shortest")
    groups = list(data.groupby(["precision", "mode"], sort=False))
    figure, axes = _panels(2 * len(groups), 2, height=2.6)
    for row, ((precision, mode), group) in enumerate(groups):
        for axis, kind in zip(axes[2 * row:], KINDS):
            per_token = group.assign(value=group[f"{kind}_s"].astype(float) / (group.length * group.batch) * 1e6)
            scale = 1.0 if on_gpu else _reference(per_token)
            for model, part in per_token.sort_values("length").groupby("model"):
                axis.plot(part.length, part.value / scale, color=colour(model), marker="o", ms=4, lw=1.6, ls=_dashes(model))
            axis.set(title=f"{WORDS[kind]}, {precision}, {mode}", xlabel="tokens",
                     ylabel="µs a token" if on_gpu else "× BERT, shortest", yscale="log")
            _length_axis(axis, sorted(group.length.unique()))
            _log_axis(axis)
    return _finish(figure, f"{title}\n{_where(data)}", data.model)


def _log_axis(axis) -> None:
    """Labels at 1, 2 and 5 of each decade: two points may lie within one."""
    axis.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter("{x:g}")


def _reference(data: pd.DataFrame) -> float:
    bert = data[data.model == "bert"] if (data.model == "bert").any() else data
    return float(bert.sort_values("length").value.iloc[0])


def memory(records: list[Record]) -> Figure:
    """Peak memory over BERT's by sequence length, and where lean modes were measured memory against time: less is better."""
    title = "Peak memory against BERT (less is better)"
    data = speed_frame(records)
    data = data.dropna(subset=["train_peak_bytes_vs_bert"]) if len(data) else data
    if data.empty:
        return _empty(title, "needs a GPU, and `bert` among the models: a CPU's memory is not measured")
    lean = data["mode"].isin(LEAN)
    groups = list(data[~lean].groupby(["precision", "mode"], sort=False))
    trades = [(key, part) for key, part in data[data["mode"].isin(["layers", *LEAN])].groupby(["precision", "length"]) if part["mode"].isin(LEAN).any()]
    figure, axes = _panels(2 * len(groups) + len(trades), 2, height=2.4)
    for axis, ((precision, length), part) in zip(axes[2 * len(groups):], trades):
        _trade(axis, part)
        axis.set(title=f"training step, {precision}, {length} tokens", xlabel="ms", ylabel="GB")
    for row, ((precision, mode), group) in enumerate(groups):
        for axis, kind in zip(axes[2 * row:], KINDS):
            for model, part in group.sort_values("length").groupby("model"):
                axis.plot(part.length, part[f"{kind}_peak_bytes_vs_bert"].astype(float), color=colour(model), marker="o",
                          ms=4, lw=1.6)
            axis.set(title=f"{WORDS[kind]}, {precision}, {mode}", xlabel="tokens", ylabel="× BERT")
            axis.set_ylim(bottom=0)
            _length_axis(axis, sorted(group.length.unique()))
    marks = [Line2D([], [], color="#555555", marker=marker, ls="", ms=5, label=mode) for mode, marker in MODE_MARKS.items()]
    return _finish(figure, f"{title}\n{_where(data)}", data.model, handles=marks * bool(trades))


def _trade(axis, data: pd.DataFrame) -> None:
    """Each model's memory against its time, one point a mode, the leaner the lower."""
    known = data[data["model"].isin(data.loc[data["mode"].isin(LEAN), "model"])].drop_duplicates(["model", "mode"], keep="last")
    for model, part in known.groupby("model"):
        part = part.set_index("mode").reindex([mode for mode in MODE_MARKS if mode in set(part["mode"])])
        x, y = 1000 * part["train_s"].astype(float), part["train_peak_bytes"].astype(float) / 1e9
        axis.plot(x, y, color=colour(model), lw=1.2)
        for mode in part.index:
            axis.plot(x[mode], y[mode], color=colour(model), marker=MODE_MARKS[mode], ms=5, ls="")
    axis.set_ylim(bottom=0)


def _where(data: pd.DataFrame) -> str:
    return f"shape {', '.join(data['shape'].unique())}; {', '.join(data.device_name.unique())}"


def flops_breakdown(params: EfficiencyParams) -> Figure:
    """FLOPs a token of a forward pass by part, one bar a model, one panel a length."""
    lengths = sorted({length for length, *_ in params.blocks()})
    models = sorted((name for name in params.all_models if name not in PEERS and not name.endswith(PADDED)), key=model_key)
    figure, axes = _panels(len(lengths), min(3, len(lengths)), height=0.32 * len(models) + 0.9, sharey=True)
    for axis, length in zip(axes, lengths):
        left = np.zeros(len(models))
        for part, values in flops_by_part(params, models, length).items():
            axis.barh(range(len(models)), values, left=left, color=PART_COLOURS.get(part, "#E69F00"), label=part, height=0.75, zorder=2)
            left += values
        axis.set_yticks(range(len(models)), models)
        axis.set(title=f"{length} tokens", xlabel="MFLOPs a token")
        axis.grid(axis="y", visible=False)
    axes[0].invert_yaxis()  # the axis is shared
    handles, _ = axes[0].get_legend_handles_labels()
    return _finish(figure, f"FLOPs of a forward pass by part (counted from the shape, {params.shape})", handles=handles)


def trainer_count(params: EfficiencyParams) -> pd.DataFrame:
    """A training step's FLOPs as a share of BERT's: as transformers' Trainer counts them, and by our formulas at each length."""
    lengths = sorted({length for length, *_ in params.blocks()})
    rows = {}
    for model in [name for name in params.all_models if name not in PEERS and not name.endswith(PADDED)]:
        ours, bert = model_config(params, model, lengths[-1]), model_config(params, "bert", lengths[-1])
        shares = {"Trainer's total_flos": flops.trainer_flos(ours, 1) / flops.trainer_flos(bert, 1)}
        for n in lengths:
            a, b = (sum(flops.flops(config, 1, n).values()) for config in (ours, bert))
            shares[f"{n} tokens"] = a / b
        rows[model] = {name: f"{share:.3f}" for name, share in shares.items()}
    return pd.DataFrame(rows).T.rename_axis("share of BERT's FLOPs")


def flops_shares(records: list[Record]) -> Table:
    """The table of `trainer_count` for all recipes and lengths that were measured, and why the 2023 study's figure is what it is."""
    recipes = [r for r in records if r.model not in PEERS and not r.model.endswith(PADDED) and r.params["shape"] == main_shape(records)]
    if not recipes:
        return Table("flops", "FLOPs as a share of BERT's", pd.DataFrame(), {}, ["No recipe was measured."])
    params = EfficiencyParams.parse({"shape": main_shape(records), "lengths": sorted({r.params["length"] for r in recipes}),
                                     "models": ",".join(sorted({"bert", *(r.model for r in recipes)}, key=model_key))})
    data = trainer_count(params).rename_axis("Model").reset_index()
    sections = {f"shape {params.shape}, a training step": data}
    for n in sorted({n for n, *_ in params.blocks()}):
        parts = flops_by_part(params, list(data.Model), n)
        sections[f"{n} tokens: MFLOPs a token of a forward pass"] = parts.assign(all=parts.sum(axis=1)).map("{:.2f}".format).reset_index()
    return Table("flops", "FLOPs as a share of BERT's", data, sections,
                 ["By our formulas at each length, and as the Trainer counts. " + study_sentence(),
                  f"Counted: products with half of the hidden spectrum up to {MATMUL_MAX_LENGTH} tokens, FFTs beyond; filters likewise. In half precision products "
                  "pay for longer and compiled layers fold, which `speed.md` counts where it was measured so; where a GPU takes the whole spectrum "
                  "(`mixers/whole.py`) it does twice the transform's products, and half are counted."])


def flops_by_part(params: EfficiencyParams, models: list[str], length: int) -> pd.DataFrame:
    """MFLOPs a token of a forward pass at this length, one row a model: mixing, projection, feed-forward and the rest."""
    counts = pd.DataFrame([flops.flops(model_config(params, model, length), 1, length) for model in models], pd.Index(models, name="Model"))
    shown = counts[["mixing", "projection", "feed-forward"]]
    return shown.assign(rest=counts.sum(axis=1) - shown.sum(axis=1)) / length / 1e6


def study_sentence(shape: str = "bert-base") -> str:
    """Why the 2023 study reports a quarter fewer FLOs; Markdown."""
    teacher = shape_config(shape)
    ours, bert = (student_config(teacher, name) for name in ("fnet-naive", "bert"))
    share, weights = flops.trainer_flos(ours, 1) / flops.trainer_flos(bert, 1), flops.parameters(bert)["mixing"]
    runs = published.EXPECTED.tasks["cola"]
    return (f"The 2023 study reports {1 - runs['fnet-naive'].flops / runs['bert'].flops:.1%} fewer FLOs. That is the Trainer's count, 6 × tokens × parameters "
            f"outside the embedding tables: the swap removes the query, key and value weights, {weights / 1e6:.1f} million of "
            f"{(sum(flops.parameters(bert).values()) - flops.parameters(bert)['embeddings']) / 1e6:.1f} million, so it is "
            f"{1 - share:.1%} at any length. What a length changes, attention's n² products and the transform itself, it does not see.")


def growth(config: BertConfig, lengths: list[int]) -> Figure:
    """How a layer's cost grows with the sequence: its mixing alone, and beside the feed-forward that all models have."""
    mixing = flops.growth(config.hidden_size, lengths)
    rest = 4 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size**2
    figure, axes = _panels(2, 2, height=2.8)
    for way in mixing:
        ink, dashes = WAY_STYLES[way]
        axes[0].plot(lengths, mixing[way] / 1e6, color=ink, ls=dashes, lw=1.8, label=way)
        axes[1].plot(lengths, (mixing["attention"] + rest) / (mixing[way] + rest), color=ink, ls=dashes, lw=1.8)
    axes[1].plot(lengths, (mixing["attention"] + rest) / rest, color=colour("bound"), lw=1.8, label="no mixing (bound)")
    axes[0].set(title="mixing alone", ylabel="MFLOPs a token", yscale="log", xlabel="tokens n")
    axes[1].set(title="whole layer: attention's FLOPs over ours", ylabel="× fewer", xlabel="tokens n", yscale="log")
    for axis in axes:
        _length_axis(axis, lengths[::max(1, math.ceil(len(lengths) / 6))])
        _log_axis(axis)
    handles = [h for axis in axes for h in axis.get_legend_handles_labels()[0]]
    return _finish(figure, f"FLOPs of one encoder layer, width {config.hidden_size}", handles=handles)


def cost_sentences(ours: BertConfig, theirs: BertConfig, seq: int, name: str) -> str:
    """What the counts say, in words; Markdown."""
    counts = [flops.flops(config, 1, seq) for config in (ours, theirs)]
    sizes = [flops.parameters(config) for config in (ours, theirs)]
    total = [sum(c.values()) for c in counts]
    return (
        f"At {seq} tokens a forward pass of `{name}` takes {total[0] / total[1]:.2f} of BERT's FLOPs "
        f"({total[0] / 1e9:.2f} of {total[1] / 1e9:.2f} GFLOPs a sequence); its mixing takes "
        f"{counts[0]['mixing'] / counts[1]['mixing']:.2f} of attention's. Without any mixing it would be "
        f"{(total[0] - counts[0]['mixing']) / total[1]:.2f}: the feed-forward alone is "
        f"{counts[1]['feed-forward'] / total[1]:.0%} of BERT. It has {sum(sizes[0].values()) / 1e6:.1f} of BERT's "
        f"{sum(sizes[1].values()) / 1e6:.1f} million parameters; {sizes[1]['embeddings'] / 1e6:.1f} million of either "
        "are embeddings.")


def speed_sentences(records: list[Record]) -> str:
    """What the records say, in words, one line a (precision, mode); Markdown."""
    data = speed_frame(records)
    lines = []
    for (precision, mode), group in data.groupby(["precision", "mode"], sort=False):
        done = group[(group.status == "finished") & ~group.model.isin(["bert"])].dropna(subset="train_vs_bert")
        for model, part in done.groupby("model", sort=False):
            first, last = part.loc[part.length.idxmin()], part.loc[part.length.idxmax()]
            rows = [first] if first.length == last.length else [first, last]
            lines.append(f"- {precision}, {mode}, `{model}`: " + "; ".join(_sentence(r) for r in rows) + ".")
        lines += [f"- {precision}, {mode}, `{r.model}`, {r.length} tokens: {r.status}: {r.error}."
                  for r in group[group.status != "finished"].itertuples()]
    if not lines:
        return "No ratio to BERT was measured."
    if not data.device.astype(str).str.startswith("cuda").all():
        lines.append("\nMeasured on a CPU: the ratios are of this machine and library; absolute times are not shown.")
    return "\n".join(lines)


def _sentence(row: pd.Series) -> str:
    words = [f"{WORDS[kind]} {row[f'{kind}_vs_bert']:.2f}× BERT "
             f"[{row[f'{kind}_vs_bert_q25']:.2f}, {row[f'{kind}_vs_bert_q75']:.2f}]" for kind in KINDS]
    tail = "" if pd.isna(row.train_vs_bound) or row.model == "bound" else f", {row.train_vs_bound:.0%} of the bound's speed in training"
    return f"at {row.length} tokens " + " and ".join(words) + tail


def modules(ours: nn.Module, theirs: nn.Module, name: str) -> pd.DataFrame:
    """Two encoder layers module by module: class and own parameters' shapes; blank where one has no such module."""
    found = {who: {path: _module(part) for path, part in layer.named_modules()
                   if path and (not list(part.children()) or list(part.parameters(recurse=False)))}
             for who, layer in (("BERT", theirs), (name, ours))}
    order = dict.fromkeys(path for listed in found.values() for path in listed)
    return pd.DataFrame({who: [listed.get(path, "") for path in order] for who, listed in found.items()},
                        index=pd.Index(order, name="module of a layer"))


def _module(part: nn.Module) -> str:
    shapes = [f"{name} {'×'.join(map(str, p.shape))}" for name, p in part.named_parameters(recurse=False)]
    return f"{type(part).__name__}: {', '.join(shapes)}" if shapes else type(part).__name__


def parts(ours: BertConfig, theirs: BertConfig, seq: int, name: str) -> pd.DataFrame:
    """Every part of both models, formatted: what it is, MFLOPs of one sequence, parameters."""
    found = flops.compare(ours, theirs, 1, seq, names=(name, "BERT"))
    formats = {"what": str, "flops": lambda v: f"{v / 1e6:,.2f}", "parameters": "{:,}".format}
    shown = found.apply(lambda column: column.map(formats[column.name[1]]))
    return shown.rename(columns={"flops": "MFLOPs"}, level=1)[["BERT", name]]


def kernels(records: list[Record]) -> pd.DataFrame:
    """Which kernel attention ran, as the profiler named it, by setting; one row for settings that agree."""
    rows = [{"device": r.env.get("device"), "precision": r.params["precision"], "mode": r.params["mode"],
             **{WORDS[kind]: ", ".join(names).replace("aten::_scaled_dot_product_", "") or "not seen"
                for kind, names in r.env.get("attention_kernels", {}).items()}}
            for r in records if r.env.get("attention_kernels")]
    return pd.DataFrame(rows).drop_duplicates(ignore_index=True)
