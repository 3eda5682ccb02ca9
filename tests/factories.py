"""Fake records for tests of what reads records: valid in every field, with numbers that a test can predict; batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from fnetlib.config import CALIBRATED, recipe
from fnetlib.params import STUDY
from fnetlib.records import (
    Adapted, Code, Data, Flops, Headline, Metrics, Parameters, Record, RecordStore, Teacher, make_run_id,
)
from fnetlib.results import Results, load, repairs

ENV = {"versions": {"python": "3.12.0", "torch": "2.11.0"}, "device": "cpu", "device_name": "test CPU",
       "driver": None, "precision": "fp32", "compile": False}
CODE = Code(commit="0" * 40, dirty=False, source="0" * 16)
METRICS = {"cola": "matthews_correlation", "stsb": "pearson", "mrpc": "f1", "qqp": "f1"}
CHANCE = {"cola": 0.0, "stsb": 0.0, "qnli": 0.505, "rte": 0.527}


def fingerprint(teacher: str) -> str:
    return hashlib.sha256(teacher.encode()).hexdigest()[:16]


def _record(stage: str, model: str, seed: int, params: dict[str, Any], **fields: Any) -> Record:
    data, teacher, adapted, task = fields.get("data"), fields.get("teacher"), fields.get("adapted"), fields.pop("task", None)
    run_id = make_run_id(stage, task, model, seed, params, data.fingerprint if data else None,
                         teacher.fingerprint if teacher else None, adapted.run_id if adapted else None)
    base = {"status": "finished", "env": ENV, "code": CODE, "started": "2026-01-01T00:00:00+00:00",
            "ended": "2026-01-01T00:01:00+00:00"}
    return Record(run_id=run_id, stage=stage, model=model, seed=seed, task=task, params=params, **{**base, **fields})


def finetune_record(
    task: str = "cola", model: str = "bert", seed: int = 1, score: float | None = 0.5, best: float | None = None,
    training: str = "study", teacher: str = "minilm", source: str = "folder", note: str = "", status: str = "finished",
    degenerate: bool = False, minutes: float | None = None, shared: bool = False, steps_per_s: float = 10.0,
    chance: float | None = None, epochs: int = 3, gpu: bool = True, error: str | None = None, steady: float | None = None,
    padding: Iterable[dict[str, Any]] = (), values: dict[str, Any] | None = None, student: str = "adapt-x", **params: Any,
) -> Record:
    """A fine-tuning run; `status="failed"` has no metrics, `score=None` is a diverged run without a score.

    `epochs` are those of the history; the parameter of that name is the study's unless `values` says otherwise.
    """
    name = METRICS.get(task, "accuracy")
    floor = CHANCE.get(task, 0.5) if chance is None else chance
    best = score if best is None else best
    history = [
        {"epoch": e + 1.0, "step": 100 * (e + 1), "train_loss": (1.2 - (score or 0)) / (e + 1),
         "eval_loss": 0.9 - (score or 0) / 2 + 0.05 * e,
         name: None if score is None else floor + (score - floor) * (e + 1) / epochs}
        for e in range(epochs)
    ]
    metrics = Metrics(headline=Headline(name=name, last=score, best=best),
                      validation={name: score, "chance": floor}, history=history,
                      predicted={"0": 100} if degenerate else {"0": 50, "1": 50}, degenerate=degenerate,
                      padding=list(padding))
    timing = {"train_runtime_s": 300 / steps_per_s, "train_steps_per_s": steps_per_s,
              "train_samples_per_s": 16 * steps_per_s, "eval_runtime_s": 2.0, "eval_steps_per_s": 50.0,
              "eval_samples_per_s": 800.0, "shared": shared}
    if steady is not None:
        timing["steady_steps_per_s"] = steady
    own = {"recipe": recipe(model, 6)} | ({"calibration_sentences": 512} if model.endswith(CALIBRATED) else {})
    adapted = Adapted(minutes=minutes, method="distill", run_id=student) if minutes is not None else None
    return _record(
        "finetune", model, seed, {**STUDY, "precision": "fp32", "adapted": minutes, "training": training, **own, **params, **(values or {})},
        task=task, training=training, status=status, error=error, adapted=adapted,
        teacher=Teacher(name=teacher, source="package", fingerprint=fingerprint(teacher)),
        data=Data(source=source, revision=None, fingerprint=f"{source}-{task}", note=note,
                  sizes={"train": 1600, "validation": 100}),
        metrics=None if status == "failed" else metrics, timing={} if status == "failed" else timing,
        memory={"peak_bytes": 2**30 if gpu else None}, flops=Flops(value=1e14, method="trainer"),
        parameters=Parameters(total=1000, trainable=1000),
        env={**ENV, "device": "cuda", "device_name": "test GPU"} if gpu else ENV,
    )


def efficiency_record(
    model: str = "fnet", length: int = 128, precision: str = "fp32", mode: str = "eager", speedup: float = 1.3,
    bound: float | None = 0.9, gpu: bool = False, status: str = "finished", error: str | None = None,
    shape: str = "bert-base", tokens: int = 4096, backend: str = "auto", repeats: int = 5,
    ended: str = "2026-01-01T00:01:00+00:00", bert_s: float = 1.0,
) -> Record:
    """A measurement beside a BERT that takes `bert_s` a training step and 0.4 of that an inference step."""
    params = {"shape": shape, "length": length, "batch": max(1, tokens // length), "tokens": tokens,
              "precision": precision, "mode": mode, "backend": backend, "repeats": repeats, "warmup": 2}

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "q25": 0.97 * value, "q75": 1.04 * value}

    def time(seconds: float) -> dict[str, float]:
        return {"median_s": seconds, "q25_s": 0.98 * seconds, "q75_s": 1.02 * seconds, "n": 5}

    timing: dict[str, Any] = {"train": time(bert_s / speedup), "infer": time(0.4 * bert_s / speedup),
                              "vs_bert": {"train": spread(speedup), "infer": spread(speedup)}}
    if bound is not None:
        timing["vs_bound"] = {"train": spread(bound), "infer": spread(bound)}
    memory = {"train_peak_bytes": int(2**30 / speedup) if gpu else None,
              "infer_peak_bytes": int(2**28 / speedup) if gpu else None}
    return _record(
        "efficiency", model, 0, params, status=status, error=error, timing=timing if status == "finished" else {},
        memory=memory, flops=Flops(value=1e12 / speedup, method="analytic"), ended=ended,
        parameters=Parameters(total=1000, trainable=1000),
        env={**ENV, "device": "cuda", "device_name": "test GPU", "precision": precision} if gpu else
        {**ENV, "precision": precision},
    )


def study_records(source: str = "folder", tasks: tuple[str, ...] = ("cola", "rte"), seeds: int = 5,
                  training: str = "study", **fields: Any) -> list[Record]:
    """A small grid: BERT, a naive swap that predicts one class, and a repaired one half-way between."""
    records = []
    for task in tasks:
        floor = CHANCE[task]
        lead = {"bert": 0.4, "fnet-naive": 0.0, "fnet": 0.2}
        for model, gain in lead.items():
            for seed in range(1, seeds + 1):
                score = floor + gain + (0.01 * (seed - 3) if gain else 0.0)
                records.append(finetune_record(
                    task, model, seed, score, best=score + 0.01 if gain else score, source=source, training=training,
                    degenerate=not gain, steps_per_s=10.0 if model == "bert" else 13.0, **fields))
    return records


def speed_records(lengths: tuple[int, ...] = (128, 512), **fields: Any) -> list[Record]:
    ratios = {"bert": 1.0, "fnet-naive": 1.35, "fnet": 1.3, "bound": 1.6}
    return [efficiency_record(model, length, speedup=1 + (ratio - 1) * (length / 128) ** 0.5 if ratio != 1 else 1.0,
                              **fields) for model, ratio in ratios.items() for length in lengths]


def results_of(folder: Path, records: Iterable[Record], preset: str = "minilm") -> Results:
    """Results of a folder that holds these records."""
    store = RecordStore(folder)
    for record in records:
        store.write(record)
    return load(preset, folder)


WITH_PROJECTION = ("fnet-naive", "fnet-naive+norm", "fnet-naive+mask", "fnet-naive+gain", "fnet-no-gain", "fnet-no-mask",
                   "fnet-no-norm", "fnet")
WITHOUT_PROJECTION = ("fnet-paper", "fnet-paper+norm", "fnet-paper+mask", "fnet-paper+gain",
                      "fnet-no-projection-no-gain", "fnet-no-projection-no-mask", "fnet-no-projection-no-norm",
                      "fnet-no-projection")


def ablation_records(score: Callable[[frozenset, int], float], models: Iterable[str] = WITH_PROJECTION, seeds: int = 5,
                     **fields: Any) -> list[Record]:
    """Runs of design points; score: (repairs in effect, seed) -> score."""
    return [finetune_record(model=model, seed=seed, score=score(repairs(recipe(model, 6)), seed), **fields)
            for model in models for seed in range(1, seeds + 1)]


def transfer_record(models: tuple[str, ...] = ("bert", "fnet"), cka: bool = True, task: str = "cola",
                    teacher: str = "minilm", source: str = "folder", seed: int = 0,
                    ended: str = "2026-01-01T00:01:00+00:00") -> Record:
    """A swap looked at before training: two layers a model, whose cosine is 1 and 0.5."""
    effects = [{"model": model, "layer": layer, "branch_ratio": 0.4 * (i + 1), "cosine": 1 / (layer + 1),
                **({"cka": 0.9 / (layer + 1)} if cka else {}), "padding_shift": 1e-6 if model == "bert" else 0.5}
               for i, model in enumerate(models) for layer in range(2)]
    return _record("transfer", "fnet", seed, {"sentences": 64, "effects": list(models), "cka": cka}, task=task,
                   ended=ended, teacher=Teacher(name=teacher, source="package", fingerprint=fingerprint(teacher)),
                   data=Data(source=source, revision=None, fingerprint=f"{source}-{task}", sizes={"train": 64}),
                   transfer={"groups": [], "effects": effects})


def adapt_record(name: str = "minilm-mlm-100", steps: int = 100, loss: float = 2.0, teacher: str = "minilm",
                 shared: bool = False) -> Record:
    """A teacher trained on with text; fine-tuning records of `teacher=name` come from it."""
    params = {"adapt": "mlm", "steps": steps, "batch_size": 256, "length": 128, "learning_rate": 5e-4}
    history = [{"step": step, "tokens": step * 256 * 128, "seconds": 0.5 * step, "train_loss": loss + 1 / (1 + step),
                "eval_loss": loss + 8 * (1 - step / steps)} for step in (0, steps // 2, steps)]
    return _record(
        "adapt", "bert", 0, params, teacher=Teacher(name=teacher, source="package", fingerprint=fingerprint(teacher)),
        data=Data(source="folder", revision=None, fingerprint="text", sizes={"train": 1000}),
        metrics=Metrics(headline=Headline(name="heldout_loss", last=loss, best=loss), validation={"loss": loss},
                        history=history),
        timing={"train_seconds": 0.5 * steps, "shared": shared},
        transfer={"result": {"name": name, "fingerprint": fingerprint(name)}})


def batch_of(lengths: list[int], vocabulary: int = 100) -> dict[str, torch.Tensor]:
    """Random tokenised sentences of these lengths, padded at the end."""
    ids = torch.randint(5, vocabulary, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def student_record(model: str, steps: int, losses: list[float], adapt: str = "mlm", groups: str = "all", seed: int = 0,
                   learning_rate: float = 5e-4, timing: dict[str, Any] | None = None, teacher_name: str = "minilm", **params: Any) -> Record:
    """A student trained on with text: held-out losses at even steps, half a second each; unigram loss 7.3."""
    places = [round(i * steps / (len(losses) - 1)) for i in range(len(losses))]
    history = [{"step": step, "tokens": step * 256 * 128, "seconds": 0.5 * step, "train_loss": loss, "eval_loss": loss}
               for step, loss in zip(places, losses)]
    values = {"adapt": adapt, "groups": groups, "steps": steps, "batch_size": 256, "length": 128,
              "learning_rate": learning_rate, **params}
    return _record(
        "adapt", model, seed, values,
        teacher=Teacher(name=teacher_name, source="package", fingerprint=fingerprint(teacher_name)),
        data=Data(source="folder", revision=None, fingerprint="text", sizes={"train": 1000}),
        metrics=Metrics(headline=Headline(name="heldout_loss", last=losses[-1], best=min(losses)), history=history,
                        validation={"loss": losses[-1], "unigram_loss": 7.3}),
        timing={"train_seconds": 0.5 * steps, "steps": steps, "shared": False, "unfrozen_at_step": None} | (timing or {}),
        transfer={"result": {"name": f"{model}-{steps}", "fingerprint": fingerprint(f"{model}-{steps}-{groups}-{adapt}")}})


def distilled_record(model: str, steps: int, errors: list[float], logits_weight: float = 0.0, with_masks: bool = True, **kwargs: Any) -> Record:
    """A distilled student, evaluated before, in the middle and at the end; `errors` are the end's, by layer."""
    record = student_record(model, steps, [7.0, 5.0, 4.0], adapt="distill", logits_weight=logits_weight, blockwise=0.1, **kwargs)
    history = [{**entry, "layer_errors": [2 * e for e in errors]} for entry in record.metrics.history]
    history[-1]["layer_errors"] = errors
    validation = {**record.metrics.validation, "errors_with_masks": with_masks}
    return record.model_copy(update={"metrics": record.metrics.model_copy(update={"history": history, "validation": validation})})
