"""XATL's freezing: transferred parts rest until the loss stops improving (Choi 2024, arXiv 2404.02684).

The Loss Improvement Threshold (LIT): the training loss is averaged over windows; a window whose relative improvement
(L[i] - L[i+1]) / L[i] is under the threshold uses up one unit of patience; at zero everything is unfrozen at once, and
what rested enters with a warm-up of its own to the learning rate of that moment. The authors' windows are 5,000 of
145,000 steps, thresholds 0.01 with patience 1 and 0.005 with patience 2.

An unparametrised mixer has no weights to learn with: with everything transferred frozen, a Fourier layer trains its
gain alone, a hybrid its kept attention beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from .errors import ParameterError

_LAYER = r"(bert\.)?encoder\.layer\.\d+\."
# What a plan freezes; each holds the one before it.
_EMBEDDINGS = r"(bert\.)?embeddings\..*|cls\..*"
_FEED_FORWARD = rf"{_EMBEDDINGS}|{_LAYER}(intermediate|output)\..*"
PLANS: dict[str, str] = {
    "embeddings": _EMBEDDINGS,  # and the masked-LM head
    "feed_forward": _FEED_FORWARD,  # and its norm
    "output_projection": rf"{_FEED_FORWARD}|{_LAYER}attention\.output\..*",  # and its norm
}
MIXER = re.compile(_LAYER + r"attention\.(self\..*|gain)")


def frozen_by(plan: str, model: nn.Module) -> list[str]:
    """Names of the parameters that a plan freezes; `none` freezes none. Raises ParameterError if none is left to train."""
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if plan != "none" and re.fullmatch(PLANS[plan], name)]
    if len(found) == len(names):
        raise ParameterError(f"freeze: {plan!r} leaves this model nothing to train: its mixers have no weights")
    return found


def unfreeze_step(losses: list[tuple[int, float]], threshold: float, patience: int) -> int | None:
    """The step at which LIT unfreezes, from the windows' (last step, mean loss) so far; None while it does not."""
    for (_, before), (step, after) in zip(losses, losses[1:]):
        if (before - after) / before < threshold:
            patience -= 1
            if patience <= 0:
                return step
    return None


class Thaw(TrainerCallback):
    """Unfreezes the parameters by LIT. The windows are the Trainer's logging steps, so a resumed run finds its own (the one that a kill
    cut is the mean of its remaining steps).

    alone: one process. Several each see the mean loss of all, so they unfreeze at one step; but what DistributedDataParallel shares is
    decided before the first step, so there the frozen parameters keep their gradients until `drop_gradients`.
    """

    def __init__(self, frozen: list[nn.Parameter], threshold: float, patience: int, alone: bool = True):
        self.frozen, self.threshold, self.patience, self.step = frozen, threshold, patience, None
        for parameter in frozen:
            parameter.requires_grad_(not alone)

    def drop_gradients(self) -> None:
        """After backward and before clipping: what rests has no gradient."""
        for parameter in self.frozen if self.step is None else []:
            parameter.grad = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.on_log(args, state, control)

    def on_log(self, args, state, control, **kwargs):
        losses = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
        if self.step is None and (step := unfreeze_step(losses, self.threshold, self.patience)) is not None:
            self.step = step
            for parameter in self.frozen:
                parameter.requires_grad_(True)


def set_optimizer(trainer: Trainer, thaw: Thaw | None, mixer_rate: float) -> None:
    """Give a Trainer AdamW and the linear schedule in groups: what rests apart, and the mixers' own weights apart.

    mixer_rate: the mixers' learning rate as a multiple of the rest's. Frozen parameters are in the optimiser from the
    start, without a state until they have gradients; their group's rate is zero until `thaw.step`, then warms up.
    """
    args, total = trainer.args, trainer.args.max_steps
    warmup, resting = args.get_warmup_steps(total), {id(p) for p in (thaw.frozen if thaw else ())}
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    members: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trainer.model.named_parameters():
        key = (id(parameter) in resting, bool(MIXER.fullmatch(name)), name in decayed)
        members.setdefault(key, []).append(parameter)
    groups = [{"params": found, "weight_decay": args.weight_decay if decay else 0.0,
               "lr": args.learning_rate * (mixer_rate if mixer else 1.0)} for (_, mixer, decay), found in members.items()]
    trainer.optimizer = torch.optim.AdamW(groups, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
    schedules = [thawing(thaw, warmup, total) if rests else linear(warmup, total) for rests, _, _ in members]
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, schedules)


def linear(warmup: int, total: int) -> Callable[[int], float]:
    """Warm-up from zero over `warmup` steps, then linear decay to zero at `total`."""
    return lambda step: step / warmup if step < warmup else max(0.0, (total - step) / max(1, total - warmup))


def thawing(thaw: Thaw, warmup: int, total: int) -> Callable[[int], float]:
    """Zero until the parameters are unfrozen, then a second warm-up up to the common schedule."""
    common = linear(warmup, total)

    def factor(step: int) -> float:
        if thaw.step is None or step < thaw.step:  # in fp16 a skipped step leaves the schedule behind
            return 0.0
        return common(step) * min(1.0, (step - thaw.step) / max(1, warmup))

    return factor
