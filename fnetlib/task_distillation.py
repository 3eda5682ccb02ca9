"""Task distillation: a student learns a task from a BERT that was fine-tuned on it, in two steps over the task's texts.

First its states are matched to the fine-tuned BERT's, then its predictions (TinyBERT: Jiao 2020, section 3.2; widths are
equal, so states are matched without projections). Both start with BERT's own pooler and classifier, which the student's
states are to fit. The fine-tuned BERT judges any text, so a task has more examples than were labelled: TinyBERT's data
augmentation replaces words by what a language model proposes; here words are dropped, exchanged or replaced by another
text's, and first and second texts are paired anew, both without a model and drawn anew in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .callbacks import last_checkpoint, say
from .distill import layer_errors, prediction_error
from .glue_trainer import GlueTrainer, make_trainer
from .params import EXTRAS, FinetuneParams
from .tasks import TaskData
from .teacher import Teacher

Collate = Callable[[list[dict[str, Any]]], Any]
MOST_EDITS = 3  # words that are changed in an example whose words are edited


class NewPairs:
    """Collates a batch in which a share of the pairs has the second text of another example, by the generator of its rows.

    Takes rows of token ids with types 0 and 1; what is longer than `limit` loses its end, but for the last token.
    """

    def __init__(self, collate: Collate, share: float, limit: int, draws: Callable[[list[dict[str, Any]]], torch.Generator]):
        self.collate, self.share, self.limit, self.draws = collate, share, limit, draws

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        draws = self.draws(rows)
        order, chosen = torch.randperm(len(rows), generator=draws).tolist(), torch.rand(len(rows), generator=draws) < self.share
        return self.collate([self.joined(row, rows[other]) if new else row for row, other, new in zip(rows, order, chosen)])

    def joined(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        ends = first["token_type_ids"].index(1), second["token_type_ids"].index(1)
        new = {name: first[name][:ends[0]] + second[name][ends[1]:] for name in ("input_ids", "token_type_ids", "attention_mask")}
        return {**first, **{name: [*ids[:self.limit - 1], ids[-1]] if len(ids) > self.limit else ids for name, ids in new.items()}}


class EditedWords:
    """Collates a batch in which a share of the examples has up to three words changed, by the generator of its rows.

    A change drops a word, exchanges it with the next one of its text, or puts a word of an example of the batch in its place. A
    text keeps one word at least. Takes rows of WordPiece ids: pieces that go on a word stay with it, special tokens stay where they
    are. An example that would be longer than `limit` stays as it is.
    """

    def __init__(self, collate: Collate, share: float, limit: int, tokenizer: PreTrainedTokenizerBase,
                 draws: Callable[[list[dict[str, Any]]], torch.Generator]):
        self.collate, self.share, self.limit, self.draws = collate, share, limit, draws
        self.special = set(tokenizer.all_special_ids)
        self.goes_on = {index for token, index in tokenizer.get_vocab().items() if token.startswith("##")}

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        draws = self.draws(rows)
        others = torch.randint(len(rows), (len(rows),), generator=draws).tolist()
        chosen = torch.rand(len(rows), generator=draws) < self.share
        return self.collate([self.edited(row, rows[other], draws) if edit else row for row, other, edit in zip(rows, others, chosen)])

    def edited(self, row: dict[str, Any], other: dict[str, Any], draws: torch.Generator) -> dict[str, Any]:
        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=draws))

        words, theirs = self.words(row), [pieces for pieces, _ in self.words(other) if pieces[0] not in self.special]
        for _ in range(1 + below(MOST_EDITS)):
            places = [i for i, (pieces, _) in enumerate(words) if pieces[0] not in self.special]
            if not places:
                return row
            place, change = places[below(len(places))], below(3)
            (pieces, kind), (following, _) = words[place], words[place + 1]
            if change == 0 and sum(words[i][1] == kind for i in places) > 1:
                del words[place]
            elif change == 1 and following[0] not in self.special:
                words[place:place + 2] = (following, kind), (pieces, kind)
            elif change == 2 and theirs:
                words[place] = theirs[below(len(theirs))], kind
        ids = [piece for pieces, _ in words for piece in pieces]
        types = [kind for pieces, kind in words for _ in pieces]
        new = {"input_ids": ids, "token_type_ids": types, "attention_mask": [1] * len(ids)}
        return row if len(ids) > self.limit else {**row, **new}

    def words(self, row: dict[str, Any]) -> list[tuple[list[int], int]]:
        """The pieces of every word, and its token type."""
        found: list[tuple[list[int], int]] = []
        for piece, kind in zip(row["input_ids"], row["token_type_ids"]):
            if piece in self.goes_on and found and found[-1][0][0] not in self.special:
                found[-1][0].append(piece)
            else:
                found.append(([piece], kind))
        return found


class ExpertTrainer(GlueTrainer):
    """A GlueTrainer whose student learns from `expert`; it is evaluated on the labels all the same."""

    def __init__(self, expert: PreTrainedModel, **kwargs):
        super().__init__(**kwargs)
        self.expert = expert.to(self.args.device).eval().requires_grad_(False)

    def get_train_dataloader(self):
        """The Trainer's, with new pairs and edited words where they are asked for; evaluation has the task's own."""
        plain = self.data_collator
        if self.params.distill_edits:
            self.data_collator = EditedWords(plain, self.params.distill_edits, self.params.max_length, self.processing_class, self.draws)
        if self.params.distill_pairs:
            self.data_collator = NewPairs(self.data_collator, self.params.distill_pairs, self.params.max_length, self.draws)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def draws(self, rows: list[dict[str, Any]]) -> torch.Generator:
        """By seed, epoch and the batch itself: a resumed run, whose loader is elsewhere with its own draws, changes the same words."""
        known = [self.args.data_seed, int(self.state.epoch or 0), [row["input_ids"] for row in rows]]
        return torch.Generator().manual_seed(zlib.crc32(json.dumps(known).encode()))

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            target = self.expert(**inputs, output_hidden_states=True)
        found = model(**inputs, output_hidden_states=True)
        loss = self.distance(found, target, inputs["attention_mask"].bool())
        return (loss, found) if return_outputs else loss

    def distance(self, found, target, real: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class StatesTrainer(ExpertTrainer):
    """The first step: mean over the layers of the states' errors, real tokens only."""

    def distance(self, found, target, real):
        return layer_errors(found.hidden_states[1:], target.hidden_states[1:], real).mean()


class PredictionsTrainer(ExpertTrainer):
    """The second step: Kullback-Leibler divergence of the predictions; of a regression the squared distance."""

    def distance(self, found, target, real):
        if self.task.regression:
            return (found.logits - target.logits).float().pow(2).mean()
        return prediction_error(found.logits, target.logits)


def fine_tuned_bert(params: FinetuneParams, data: TaskData, teacher: Teacher, bert: PreTrainedModel, seed: int,
                    work: Path) -> tuple[PreTrainedModel, float | None, float | None]:
    """`bert`, fine-tuned as the recipe `bert` is under these parameters and this seed, by `expert_epochs`, `expert_rate` and in
    batches of `expert_batch_size` where they are given, all else (warm-up, batches by length, ...) being the run's; the seconds that
    it took (None: a killed run's are not known); and its score (None where it is no number).

    It is kept beside `work`, so that students of one seed share it; processes that need the same one wait for it.
    """
    own = {name: value for name, value in EXTRAS.items() if name.startswith(("distill_", "expert_"))}
    plain = params.model_copy(update={
        **own, "epochs": params.expert_epochs or params.epochs, "learning_rate": params.expert_rate or params.learning_rate,
        "batch_size": params.expert_batch_size or params.batch_size, "student": ""})
    decisive = json.dumps([plain.decisive(), params.task, seed, data.record.fingerprint, teacher.fingerprint])
    folder = work.parent / f"expert-{params.task}-{seed}-{hashlib.sha256(decisive.encode()).hexdigest()[:10]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        done = folder / "expert.json"
        if not done.is_file():
            say(f"  task distillation: fine-tuning bert ({folder.name})")
            trainer = make_trainer(plain, data, teacher, bert, seed, folder)
            seconds = _fit(trainer)
            trainer.evaluate()
            bert.save_pretrained(folder)
            score = trainer.last_metrics[data.task.headline]
            done.write_text(json.dumps({"seconds": seconds, "score": score if math.isfinite(score) else None}))
        found = json.loads(done.read_text())
        return type(bert).from_pretrained(folder), found["seconds"], found["score"]


def distill_task(params: FinetuneParams, data: TaskData, teacher: Teacher, expert: PreTrainedModel,
                 student: PreTrainedModel, seed: int, work: Path) -> tuple[Callable[..., PredictionsTrainer], float | None]:
    """The first step, in place; returns the Trainer's class for the second, and the seconds of the first."""
    student.bert.pooler.load_state_dict(expert.bert.pooler.state_dict())
    student.classifier.load_state_dict(expert.classifier.state_dict())
    folder = work / "states"
    done = folder / "seconds.json"
    if done.is_file():  # a killed run's first step
        student.load_state_dict(type(student).from_pretrained(folder).state_dict())
    else:
        say(f"  task distillation: {params.distill_epochs} epochs on states")
        first = params.model_copy(update={"epochs": params.distill_epochs,
                                          "learning_rate": params.distill_rate or params.learning_rate})
        seconds = _fit(make_trainer(first, data, teacher, student, seed, folder, partial(StatesTrainer, expert)))
        student.save_pretrained(folder)
        done.write_text(json.dumps(seconds))
    return partial(PredictionsTrainer, expert), json.loads(done.read_text())


def _fit(trainer: GlueTrainer) -> float | None:
    """Trains without evaluation; the seconds it took, None where a killed run's were lost."""
    trainer.args.eval_strategy = "no"
    start, checkpoint = time.perf_counter(), last_checkpoint(Path(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=checkpoint)
    return None if checkpoint else time.perf_counter() - start
