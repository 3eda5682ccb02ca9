"""The command line: `python -m fnetlib --help`. What the notebooks do, without a notebook."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSubCommand, SettingsConfigDict, SettingsError

from .params import AdaptParams, FinetuneParams, ParameterError, Params, PlaceParams, problem_line
from .provenance import find_root
from .records import RecordError, RecordStore


def _quiet() -> None:
    """stdout and stderr are for the command's own lines."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


class Adapt(AdaptParams):
    """Swap a teacher's attention and train on with text, then save the model. Prints the run's id. Several GPUs share
    each batch with: accelerate launch -m fnetlib adapt ... Where --text names one, its own sentences measure gains, filters and gates,
    and --task and --data are not used."""

    adapt: Literal["mlm", "distill"] = Field("distill", description="mlm: masked language modelling; distill: match the "
                                                                    "teacher's states")
    record_only: bool = Field(False, description="True: a finished run's record is enough, its model may be gone")
    restore: bool = Field(False, description="True: a finished run whose model is gone is made again, and its record replaced")

    def cli_cmd(self) -> None:
        _quiet()
        from .adapt import adapt, is_saved, prepare

        params = self.model_copy(update={"force": True}) if self.restore and not is_saved(self) else self
        record = adapt(params, *prepare(params), show_only=self.record_only)
        if int(os.environ.get("RANK", 0)) == 0:
            print(record.run_id)


class Finetune(FinetuneParams):
    """Fine-tune recipes on a GLUE task; one record per (task, model, seed). Prints the records' paths."""

    def cli_cmd(self) -> None:
        _quiet()
        from .finetune import finetune, record_path

        for record in finetune(self):
            print(record_path(self, record))


class Place(PlaceParams):
    """Choose the layers that a hybrid keeps attention in, by measurement on an adapted student without any. Prints the
    recipe."""

    def cli_cmd(self) -> None:
        _quiet()
        from .placement import search

        record = search(self)
        for row in record.transfer["placement"]:
            mean = f"  mean {row['mean_error']:.4f}" if "mean_error" in row else ""  # searches of before did not measure it
            print(f"round {row['round']}  layer {row['layer']}  error {row['error']:.4f}{mean}{'  chosen' * row['chosen']}", file=sys.stderr)
        print(record.transfer["recipe"])


class Onnx(BaseModel):
    """Export a saved model (02 or `adapt` saves them) to ONNX, for any batch and any length. Needs the extra onnx."""

    model: CliPositionalArg[str] = Field(description="folder of a model with a head, as save_pretrained writes it")
    file: CliPositionalArg[str] = Field(description="the .onnx file to write")

    def cli_cmd(self) -> None:
        _quiet()
        from .onnx_export import export
        from .teacher import load_teacher

        print(export(load_teacher(self.model).model, self.file))


class List(BaseModel):
    """List the records of a results folder, all or those of a stage, a task, a model."""

    results: str = Field("results/minilm", description="folder with runs/")
    stage: str = Field("", description="transfer, adapt, finetune or efficiency; empty: all")
    task: str = Field("", description="GLUE task; empty: all")
    model: str = Field("", description="recipe; empty: all")

    def cli_cmd(self) -> None:
        store = RecordStore(find_root() / self.results)
        frame = store.frame()
        if frame.empty:
            raise ParameterError(f"results: no records in {store.runs}")
        for name in ("stage", "task", "model"):
            if wanted := getattr(self, name):
                known = sorted(frame[name].dropna().unique())
                if wanted not in known:
                    raise ParameterError(f"{name}: no record of {wanted!r} in {self.results}; there are: {', '.join(known)}")
                frame = frame[frame[name] == wanted]
        if frame.empty:
            raise ParameterError(f"results: no records of all of these in {store.runs}")
        columns = ["stage", "task", "label", "training", "seed", "status", "metric", "last", "best", "run_id"]
        print(frame[columns].rename(columns={"label": "model"}).fillna("–").to_string(index=False))


class Show(BaseModel):
    """Show one record as JSON: its file, or a run_id (or its beginning) in a results folder."""

    run: CliPositionalArg[str] = Field(description="path of a record, a run_id, or the beginning of one")
    results: str = Field("results/minilm", description="folder with runs/")

    def cli_cmd(self) -> None:
        path = Path(self.run)
        found = [path] if path.is_file() else sorted(RecordStore(find_root() / self.results).runs.glob(f"{self.run}*.json"))
        if len(found) != 1:
            raise ParameterError(f"run: {len(found)} records in {self.results}/runs begin with {self.run!r}")
        print(RecordStore.read(found[0]).model_dump_json(indent=1))


class Clean(BaseModel):
    """Copy a rendered notebook without noise (counts, timings, stderr)."""

    source: CliPositionalArg[str] = Field(description="rendered notebook")
    target: CliPositionalArg[str] = Field(description="where the clean copy goes")

    def cli_cmd(self) -> None:
        from .notebook import clean

        clean(self.source, self.target)


class Readme(BaseModel):
    """Write the generated parts of README.md and FINDINGS.md from the records."""

    check: bool = Field(False, description="only say whether they are up to date (exit status 1 if not)")

    def cli_cmd(self) -> None:
        from .readme import PAGES, update_readme

        for page in PAGES:
            stale = update_readme(find_root() / page, find_root() / "results", check=self.check)
            if self.check and stale:
                raise ParameterError(f"{page}: not what the records give: {', '.join(stale)}; run python -m fnetlib readme")


class Main(BaseSettings):
    """fnetlib: swap a pretrained BERT's self-attention for Fourier token mixing, and measure what it costs."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m fnetlib", cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True,
        cli_avoid_json=True, cli_use_class_docs_for_groups=True)

    adapt: CliSubCommand[Adapt]
    finetune: CliSubCommand[Finetune]
    place: CliSubCommand[Place]
    onnx: CliSubCommand[Onnx]
    list: CliSubCommand[List]
    show: CliSubCommand[Show]
    clean: CliSubCommand[Clean]
    readme: CliSubCommand[Readme]

    def cli_cmd(self) -> None:
        CliApp.run_subcommand(self)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; a bad value ends in one line on stderr and exit status 2."""
    warnings.filterwarnings("ignore", module="pydantic")
    try:
        CliApp.run(Main, cli_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        errors = [{**e, "loc": e["loc"][1:]} for e in error.errors()]  # without the subcommand's name
        print("error: " + "; ".join(problem_line(e, Params) for e in errors), file=sys.stderr)
        return 2
    except (ParameterError, RecordError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except RuntimeError as error:  # runs that failed: their records say why, the others are done
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
