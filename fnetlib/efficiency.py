"""Time, memory and FLOPs of the recipes, side by side in one process, on random weights and random full-length inputs.

The protocol. A block is one (length, precision, mode); its models are all built and warmed up, then measured in
rounds: one step of each model a round, the first one rotating, so that whatever slows the machine down slows all of
them. A step starts and ends with the device idle. Ratios are taken within a round and say how many times better ours
is: `vs_bert` = t_bert / t_ours, `vs_bound` = t_bound / t_ours (the bound is the same model with the mixing removed:
nothing that has its projection can be faster, so at most 1 but for noise), and so on for the peers (`peers.py`) that are measured
along. Median and quartiles, never the mean: one interruption must not decide. On a CPU only ratios mean anything elsewhere; absolute times are a measurement on a GPU,
where `launched_s` is when the host was through with a step: near the step's own time the GPU has waited for it (or, of more than a thousand
launches, it for the GPU).

A training step is forward, backward and AdamW's step; inference is a forward pass in evaluation mode. There is no
padding and no attention mask, so that attention may take its fused kernel; which one ran is in the record's
`env.attention_kernels`. A model named `…:padded` gets sequences of n/2 to n tokens with their mask instead: its ratios are
to the padded references, and `vs_unpadded` to itself without padding. Peak memory counts what is allocated above what there was before the model was built.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import BertConfig, PreTrainedConfig

from . import flops
from .compiling import keeping, room_for
from .config import OF_VALUES, FNetBertConfig, student_config
from .contender import KINDS, Contender, Setting, attention_kernels, autocast
from .mixers.folded import fourier_backend, matrices_of
from .mixers.fourier import choose_backend
from .params import LEAN, MODES, PADDED, PRECISIONS, EfficiencyParams, ParameterError, parse_shape
from .peers import PEERS, peer_config
from .provenance import code, environment, find_root, now
from .records import Flops, Parameters, Record, RecordStore, make_run_id

REFERENCES = ("bert", "bound", *PEERS)
RECOMPILES = 64  # every model of a block compiles the same forward function, for two kinds of step


def measure(params: EfficiencyParams, store: RecordStore, clock: Callable[[], float] = time.perf_counter,
            say: Callable[[str], None] = print) -> list[Record]:
    """Measure every (length, precision, mode); one record per model, written as soon as its block ends.

    A block whose records all exist is not measured again unless forced. A model that fails (out of memory, a compiler
    error) gets a record of status `failed`, and the others go on. Raises ParameterError before anything is computed
    where the device cannot do what is asked.
    """
    device, name = resolve_device(params)
    settings = [Setting(length, max(1, params.tokens // length), precision, mode, device)
                for length, precision, mode in params.blocks()]
    records = []
    steps = len(KINDS) * (2 + params.warmup + params.repeats)  # of one model in one block
    total = len(settings) * len(params.all_models) * steps
    with _quiet_collector(), tqdm(total=total, unit="step", desc="efficiency") as bar:
        for setting in settings:
            bar.set_postfix_str(f"{setting.length} tokens, {setting.precision}, {setting.mode}")
            kept = {model: store.get(run_id(params, model, setting, name)) for model in params.all_models}
            if all(kept.values()) and not params.force:
                records += kept.values()
                bar.update(len(kept) * steps)
                continue
            if device is None:
                raise not_measured(params, store, f"{setting.length} tokens, {setting.precision}, {setting.mode}")
            for record in measure_block(params, setting, name, clock, bar.update):
                if kept[record.model] is None or params.force:
                    store.write(record, force=params.force)
                records.append(record if params.force else kept[record.model] or record)
                if record.status == "failed":
                    say(f"{record.model}, {setting.length} tokens, {setting.precision}, {setting.mode}: {record.error}")
    return records


def resolve_device(params: EfficiencyParams) -> tuple[str | None, str]:
    """(`cpu` or `cuda`, its name), or (None, a name) where records of that device are only shown.

    Raises ParameterError if the device is not there or cannot do the precisions.
    """
    if params.device not in ("auto", "cpu", "cuda"):
        return None, params.device
    there = torch.cuda.is_available()
    if params.device == "cuda" and not there:
        raise ParameterError("device: 'cuda' is asked for, but torch finds no GPU here; accepted here: auto, cpu")
    device, able = "cpu", ("fp32", "bf16")
    if there and params.device != "cpu":  # bf16 and TF32 came with compute capability 8
        device, able = "cuda", PRECISIONS if torch.cuda.get_device_capability() >= (8, 0) else ("fp32", "fp16")
    for precision in params.precisions.split(","):
        if precision not in able:
            raise ParameterError(f"precisions: {precision!r} is not for this device ({device}); accepted here: "
                                 f"{', '.join(able)}")
    if device == "cpu" and "graphs" in params.modes.split(","):
        raise ParameterError(f"modes: 'graphs' needs a GPU; on this CPU of: {', '.join(mode for mode in MODES if mode != 'graphs')}")
    return device, environment(device, "fp32")["device_name"]


def not_measured(params: EfficiencyParams, store: RecordStore, what: str) -> ParameterError:
    """The error of a device whose records are to be shown and are not there."""
    names = sorted({r.env["device_name"] for r in store.all("efficiency")})
    return ParameterError(f"device: {params.device!r} has no records of {what} with these settings here; accepted: auto, cpu, cuda to "
                          f"measure; devices with records: {', '.join(names) or 'none'}")


def results_folder(params: EfficiencyParams) -> Path:
    """The folder of the parameter `results`; relative ones start at the project's root."""
    return find_root() / ("results/local-efficiency" if params.results == "auto" else params.results)


def shape_config(shape: str, length: int = 512) -> BertConfig:
    """BERT's configuration of a shape, as a classifier of two labels, with positions for `length` tokens."""
    layers, width, heads = parse_shape(shape)
    return BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_labels=2,
                      intermediate_size=4 * width, max_position_embeddings=max(512, length),
                      problem_type="single_label_classification")


def model_config(params: EfficiencyParams, model: str, length: int) -> FNetBertConfig | PreTrainedConfig:
    """Of a recipe or of a peer."""
    model = model.removesuffix(PADDED)
    if model in PEERS:
        return peer_config(model, shape_config(params.shape, length), length)
    return student_config(shape_config(params.shape, length), model, backend=params.backend)


def record_params(params: EfficiencyParams, setting: Setting, device_name: str) -> dict[str, Any]:
    """What decides a measurement besides model and seed; the models too, for they shared the process."""
    return {"shape": params.shape, "length": setting.length, "batch": setting.batch, "tokens": params.tokens,
            "precision": setting.precision, "mode": setting.mode, "backend": params.backend,
            "repeats": params.repeats, "warmup": params.warmup, "models": params.all_models, "device": device_name}


def run_id(params: EfficiencyParams, model: str, setting: Setting, device_name: str) -> str:
    return make_run_id("efficiency", None, model, params.seed, record_params(params, setting, device_name))


def measure_block(params: EfficiencyParams, setting: Setting, device_name: str, clock: Callable[[], float],
                  progress: Callable[[int], Any] = lambda steps: None) -> list[Record]:
    """All models of one (length, precision, mode), interleaved."""
    started = now()
    contenders = [Contender(model, model_config(params, model, setting.length), setting, params.seed)
                  for model in params.all_models]
    with _products(setting.precision), _compiler(setting.mode):
        env = environment(setting.device, setting.precision, setting.mode != "eager")
        _allocate_workspaces(setting)
        for contender in contenders:
            _try(contender, lambda: _set_up(contender), setting.device)
            progress(2 * len(KINDS))
        for kind in KINDS:
            rounds(contenders, kind, params.warmup, params.repeats, clock, progress)
        for contender in contenders:
            contender.take_apart()
    made = [_record(params, setting, device_name, c, contenders, env, started) for c in contenders]
    del contenders, contender
    _free(setting.device)
    return made


def rounds(contenders: list[Contender], kind: str, warmup: int, repeats: int, clock: Callable[[], float],
           progress: Callable[[int], Any] = lambda steps: None) -> None:
    """One step of each contender a round, the first one rotating; `warmup` rounds are not kept."""
    for contender in contenders:
        if contender.error is None:
            contender.prepare(kind)
    for number in range(warmup + repeats):
        gc.collect(1)
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            if contender.error is None:
                taken = _try(contender, lambda: _timed(contender, kind, clock), contender.setting.device)
                if number >= warmup and taken is not None:
                    launched, seconds = taken
                    contender.launched[kind].append(launched)
                    contender.times[kind].append(seconds)
        progress(len(contenders))


def _timed(contender: Contender, kind: str, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds until a step is launched, and until it is done."""
    idle = torch.cuda.synchronize if contender.setting.device == "cuda" else lambda: None
    idle()
    start = clock()
    contender.step(kind)
    launched = clock() - start
    idle()
    return launched, clock() - start


def _try(contender: Contender, action: Callable[[], Any], device: str) -> Any:
    """A model that breaks is out, with one line why; the others go on."""
    try:
        return action()
    except Exception as error:
        contender.drop(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}")
    _free(device)  # only now: the exception held the step's tensors


def _set_up(contender: Contender) -> None:
    """Build, compile, and on a GPU the peak memory of each kind of step; none of it is timed."""
    device = contender.setting.device
    _free(device)
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    contender.build()
    for kind in KINDS:
        contender.prepare(kind)
        contender.step(kind)  # compiles; allocates the optimiser's state
        if device == "cuda" and contender.setting.mode != "graphs":  # whose memory is a pool that the allocator does not count
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            contender.step(kind)
            torch.cuda.synchronize()
            contender.peaks[kind] = torch.cuda.max_memory_allocated() - before
        if "attention" in getattr(contender.config, "mixers", ["attention"]):
            contender.kernels[kind] = attention_kernels(contender, kind)
        if contender.setting.mode == "graphs":
            for _ in range(3):  # the first runs of a compiled layer are launched one by one, then recorded
                contender.step(kind)


def _allocate_workspaces(setting: Setting) -> None:
    """The matrix library's workspaces stay allocated from the first product on: no model's memory."""
    if setting.device == "cuda":
        layer = torch.nn.Linear(64, 64, device="cuda")
        with autocast(setting):
            layer(torch.ones(64, 64, device="cuda", requires_grad=True)).sum().backward()
        torch.cuda.synchronize()


@contextlib.contextmanager
def _quiet_collector():
    """Python's garbage collector stops the process for a good part of a second: never within a timed step."""
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextlib.contextmanager
def _products(precision: str):
    """fp32 matrix products are TF32 only where that is what is measured."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def _compiler(mode: str):
    """Room for every model of the block, and an error instead of a silent return to eager where it ends; the activations' budget of a
    lean mode, which is looked up when a layer is first called."""
    idle = contextlib.nullcontext()
    with idle if mode == "eager" else room_for(RECOMPILES), keeping(LEAN[mode]) if mode in LEAN else idle:
        yield


def _free(device: str) -> None:
    matrices_of.cache_clear()  # else the next model that folds finds them, and they are not counted as its own
    gc.collect()
    with contextlib.suppress(RuntimeError):  # a context that an earlier error broke
        torch.cuda.empty_cache() if device == "cuda" else None


def spread(values: list[float], unit: str = "") -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {f"median{unit}": float(middle), f"q25{unit}": float(low), f"q75{unit}": float(high)}


def timing(ours: Contender, contenders: list[Contender]) -> dict[str, Any]:
    """A finished contender's times, and its ratios to the references that finished too, paired by round."""
    medians = {kind: float(np.median(ours.times[kind])) for kind in KINDS}
    found: dict[str, Any] = {
        kind: {**spread(ours.times[kind], "_s"), "n": len(ours.times[kind])} for kind in ("train", "infer")}
    if ours.setting.device == "cuda":  # a CPU works while it is told to
        for kind in KINDS:
            found[kind]["launched_s"] = float(np.median(ours.launched[kind]))
    for reference in contenders:
        padding = reference.base == ours.base and ours.padded and not reference.padded
        if (padding or reference.base in REFERENCES and reference.padded == ours.padded) and reference.error is None:
            found["vs_unpadded" if padding else f"vs_{reference.base}"] = {
                kind: spread([theirs / own for theirs, own in zip(reference.times[kind], ours.times[kind], strict=True)])
                for kind in ("train", "infer")}
    found["steps_per_s"] = {kind: 1 / seconds for kind, seconds in medians.items()}
    found["samples_per_s"] = {kind: ours.setting.batch / seconds for kind, seconds in medians.items()}
    found["runtime_s"] = sum(map(sum, ours.times.values()))
    if ours.parts:
        found["parts"] = ours.parts
    return found


def _as_run(ours: Contender) -> PreTrainedConfig:
    """The configuration with the backend that `auto` chose."""
    s = ours.setting
    if ours.config.backend != "auto":
        return ours.config
    dtype = torch.float32 if s.precision in ("fp32", "tf32") else torch.bfloat16
    masked = ours.padded and ours.config.padding == "mask"
    if set(OF_VALUES) & set(ours.config.mixers):  # filters go by what a mask would need
        chosen = choose_backend("auto", s.length, masked or "values" not in ours.config.mixers, s.device, dtype)
    else:
        chosen = fourier_backend(ours.config, (s.batch, s.length, ours.config.hidden_size), masked, s.device, dtype, s.mode != "eager")
    return type(ours.config).from_dict({**ours.config.to_dict(), "backend": chosen})


def _record(params: EfficiencyParams, setting: Setting, device_name: str, ours: Contender,
            contenders: list[Contender], env: dict[str, Any], started: str) -> Record:
    finished = ours.error is None
    peer = ours.base in PEERS
    total = ours.parameters if peer else sum(flops.parameters(ours.config).values())
    return Record(
        run_id=run_id(params, ours.name, setting, device_name), stage="efficiency", model=ours.name, seed=params.seed,
        status="finished" if finished else "failed", error=ours.error,
        params=record_params(params, setting, device_name),
        timing=timing(ours, contenders) if finished else {},
        memory={f"{kind}_peak_bytes": ours.peaks[kind] for kind in ("train", "infer")} if finished else {},
        flops=None if peer else Flops(value=sum(flops.flops(_as_run(ours), setting.batch, setting.length, ours.padded).values()),
                                      method="analytic"),
        parameters=Parameters(total=total, trainable=total) if total else None,
        env={**env, "attention_kernels": ours.kernels}, code=code(), started=started, ended=now(),
    )
