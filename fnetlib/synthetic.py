"""Embedded, seeded stand-in for the nine GLUE tasks: offline use and tests. Scores on it are not GLUE scores.

Three forms; in each, the labels have the same words equally often in either text and sentences of the same lengths, so
that a linear model on each text's bag of words is near chance. Lengths vary, so that padding matters.

- Acceptability (cola; sst2 is the same with sentiment): one sentence and the order of its words. An unacceptable
  sentence has exactly an acceptable one's words: a fifth of them have two neighbours exchanged (a local cue), the
  others are scrambled (a global one). In sst2 negation turns the adjective, or the main clause outweighs the
  concession.
- Question-sentence (qnli): do the words that the question names come back in the sentence, and is there an answer of
  the asked kind? Takes comparing tokens by content across positions that differ from example to example.
- Pair (rte, mnli, mrpc, qqp, stsb, wnli): a small event told twice, the second time true, negated, with some facts
  exchanged (mrpc: at times only the two people). A negation is in the first text, the second, both or none, equally
  often. stsb counts the facts kept; wnli resolves a pronoun, if the second text is about the same event at all.

Train and validation never share an example: each is made from a combination of two words (actor and object, aspect and
adjective) whose index sum is divisible by 5 in validation and never in train. Of module random only `random()` is used,
whose sequence for a seed Python guarantees.
"""

from __future__ import annotations

import random
from collections.abc import Callable

PEOPLE = """actor artist baker banker barber boxer butcher captain carpenter chef clerk coach cook dancer doctor driver
engineer farmer fisherman gardener guard hunter judge lawyer manager mayor musician nurse painter pilot poet priest
prince professor sailor scientist singer soldier student tailor teacher thief waiter writer""".split()
NAMES = """Alice Anna David Emma Frank Grace Henry Jack James Jane John Kate Laura Lucy Mark Mary Michael Paul Peter
Robert Sarah Simon Susan Thomas Tom""".split()
THINGS = """apple basket bell bicycle blanket boat book bottle bowl box bread cake camera candle car chair clock coat
coin cup desk drum flag flute glass guitar hammer hat key knife ladder lamp letter map mirror painting pencil piano ring
rope shirt sword table ticket umbrella violin watch wheel""".split()
DEEDS = dict(pair.split("/") for pair in """borrowed/borrow bought/buy broke/break carried/carry cleaned/clean
drew/draw dropped/drop found/find hid/hide kept/keep lost/lose moved/move painted/paint repaired/repair saw/see
sold/sell stole/steal threw/throw took/take wanted/want""".split())  # past / base form
MEETINGS = "admired called chased followed greeted helped hired invited met saved thanked visited warned".split()
PLACES = ["in the " + w for w in """bank castle church city forest garden hospital hotel kitchen library market museum
office palace park restaurant school station theatre village""".split()]
TIMES = """yesterday,last night,last week,last year,on Monday,on Friday,on Sunday,in May,in July,in October,in winter,
in summer,after lunch,before dinner,at noon,at midnight,at dawn,two days ago""".replace("\n", "").split(",")
ADJECTIVES = "angry brave clever famous friendly happy lazy little nervous old poor proud quiet rich tall young".split()
OPENINGS = ["in fact", "of course", "as we know", "indeed", "we know that", "so"]
PRAISE = "amazing beautiful brilliant charming clever delightful excellent funny great perfect superb wonderful".split()
BLAME = "annoying awful bad boring clumsy dreadful dull horrible poor stupid terrible weak".split()
ASPECTS = """acting camera cast dialogue direction ending humour movie music opening pace photography plot script
setting sound story title""".split()
# Why one person did something to another: (deed, whose reason it is, the reason).
REASONS = [("apologised to", 0, "had been rude"), ("called", 0, "needed help"), ("paid", 0, "had lost the bet"),
           ("visited", 0, "felt lonely"), ("begged", 0, "was hungry"), ("followed", 0, "was curious"),
           ("scolded", 1, "had been rude"), ("helped", 1, "needed help"), ("mocked", 1, "had lost the bet"),
           ("comforted", 1, "felt lonely"), ("fed", 1, "was hungry"), ("answered", 1, "was curious")]

TRAIN_SIZE, EVAL_SIZE = 2000, 400


def generate(task: str, split: str, size: int | None = None, seed: int = 0) -> dict[str, list]:
    """Columns of one split of a GLUE task, as the Hub names them, with `label` and `idx`; labels balanced.

    size: default 2000 (train) or 400; a smaller size is the beginning of a larger one. The same arguments give the same
    examples everywhere. Raises ValueError naming the accepted values where the task, split or size is none.
    """
    if task not in _TASKS:
        raise ValueError(f"task: {task!r} is not one of: {', '.join(_TASKS)}")
    make, columns, labels = _TASKS[task]
    splits = ("train", *(("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)))
    if split not in splits:
        raise ValueError(f"split: {split!r} is not one of {task}'s: {', '.join(splits)}")
    if size is None:
        size = TRAIN_SIZE if split == "train" else EVAL_SIZE
    if size < 0:
        raise ValueError(f"size: {size} is not a whole number from 0, or None")
    draw = _Draw(f"{task}/{split}/{seed}", split)
    rows: dict[tuple[str, ...], int] = {}  # in order, each text once
    while len(rows) < size:
        for label in draw.shuffled(range(labels)):  # every block of `labels` examples has each label once
            row = make(draw, label)
            while row in rows:
                row = make(draw, label)
            rows[row] = label
    texts, values = list(rows)[:size], list(rows.values())[:size]
    data: dict[str, list] = {column: [row[i] for row in texts] for i, column in enumerate(columns)}
    return {**data, "label": [float(v) for v in values] if task == "stsb" else values, "idx": list(range(size))}


class _Draw:
    """A seeded source of words, and the facts of a small event that belongs to one split."""

    def __init__(self, seed: str, split: str):
        self.random = random.Random(seed).random  # seeded by the text itself, the same on every platform
        self.train = split == "train"
        self.people = NAMES if split == "validation_mismatched" else PEOPLE  # another "genre"

    def pick(self, words):
        return words[int(self.random() * len(words))]

    def other(self, words, *taken):
        return self.pick([w for w in words if w not in taken])

    def chance(self, p: float = 0.5) -> bool:
        return self.random() < p

    def shuffled(self, items) -> list:
        return [item for _, item in sorted((self.random(), item) for item in items)]

    def combination(self, first, second) -> tuple[str, str]:
        """A word of each list, not the same one; the index sum says which split the combination is in."""
        while True:
            i, j = int(self.random() * len(first)), int(self.random() * len(second))
            if first[i] != second[j] and ((i + j) % 5 != 0) == self.train:
                return first[i], second[j]

    def strangers(self, *known) -> list[str]:
        """As many people, none of whom is known."""
        return self.shuffled(p for p in PEOPLE if p not in known)[:len(known)]

    def facts(self) -> dict[str, str]:
        person, thing = self.combination(self.people, THINGS)
        return {"person": person, "deed": self.pick(list(DEEDS)), "thing": thing,
                "place": self.pick(PLACES), "time": self.pick(TIMES)}

    def changed(self, facts: dict[str, str], among, n: int = 1) -> dict[str, str]:
        """The facts with n of those named in `among` replaced by others."""
        words = {"person": self.people, "deed": list(DEEDS), "thing": THINGS, "place": PLACES, "time": TIMES}
        return facts | {key: self.other(words[key], facts[key]) for key in self.shuffled(among)[:n]}

    def tell(self, facts, settings=(), never=False, plain=False) -> str:
        """`The old nurse never bought the cup in the park.` plain: neither opening nor adjective, else one or both."""
        adjective = "" if plain or facts["person"] in NAMES or self.chance(0.4) else self.pick(ADJECTIVES)
        opening = "" if plain or (adjective and self.chance(0.7)) else self.pick(OPENINGS)
        return _sentence(opening, _the(facts["person"], adjective), "never" if never else "", facts["deed"],
                         _the(facts["thing"]), *(facts[key] for key in settings))


def _the(noun: str, adjective: str = "") -> str:
    return noun if noun in NAMES else " ".join(["the", adjective, noun] if adjective else ["the", noun])


def _sentence(*parts: str, end: str = ".") -> str:
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + end


def _cola(draw: _Draw, label: int) -> tuple[str, ...]:
    settings = draw.pick([(), ("place",), ("time",), ("place", "time")])
    told = draw.tell(draw.facts(), settings)
    words = (told[0].lower() + told[1:-1]).split()
    while not label and _sentence(*words) == told:
        if draw.chance(0.2):
            i = int(draw.random() * (len(words) - 1))
            words[i], words[i + 1] = words[i + 1], words[i]
        else:
            words = [words[i] for i in draw.shuffled(range(len(words)))]
    return (_sentence(*words),)


def _sst2(draw: _Draw, label: int) -> tuple[str, ...]:
    adverb = draw.pick(["", "", "really ", "truly ", "so "])
    aspect, good = draw.combination(ASPECTS, PRAISE)
    bad = BLAME[PRAISE.index(good)]
    if draw.chance():  # a negation turns the adjective
        negated = draw.chance()
        verb, adjective = ("was not", (bad, good)[not label]) if negated else ("was", (bad, good)[label])
        return (_sentence("" if draw.chance() else draw.pick(OPENINGS), f"the {aspect}", verb, adverb + adjective),)
    # The main clause outweighs the concession, wherever the two stand.
    other = draw.other(ASPECTS, aspect)
    main = f"the {aspect} was {adverb}{good if label else bad}"
    concession = f"although the {other} was {draw.pick(BLAME if label else PRAISE)}"
    return (_sentence(main + ",", concession) if draw.chance() else _sentence(concession + ",", main),)


def _question(facts, asked: str, setting: str = "", opening: str = "") -> str:
    person, thing, base = _the(facts["person"]), _the(facts["thing"]), DEEDS[facts["deed"]]
    where = facts[setting] if setting else ""
    if asked == "person":
        return _sentence("who", facts["deed"], thing, where, end="?")
    if asked == "thing":
        return _sentence("what did", person, base, where, end="?")
    return _sentence(opening or {"place": "where", "time": "when"}[asked], "did", person, base, thing, end="?")


def _qnli(draw: _Draw, label: int) -> tuple[str, ...]:
    facts, setting = draw.facts(), draw.pick(["place", "time"])
    asked, about = draw.pick(["person", "thing", setting]), facts
    if label and asked == setting and draw.chance(0.4):  # the right event, but nothing of the asked kind
        asked = {"place": "time", "time": "place"}[asked]
    elif label:  # another event
        about = draw.changed(facts, [key for key in ("person", "deed", "thing", setting) if key != asked], 3)
    return (_question(about, asked, setting if asked in ("person", "thing") else ""), draw.tell(facts, [setting]))


def _entailment(draw: _Draw, kind: str) -> tuple[str, ...]:
    """kind: entailment, neutral (two facts are others) or contradiction (one text is negated, the other is not)."""
    facts, never = draw.facts(), draw.chance()
    settings = draw.pick([(), ("place",), ("time",)])  # the hypothesis keeps them: "never in the park" is not "never"
    hypothesis, also = facts, never
    if kind == "neutral":
        hypothesis, also = draw.changed(facts, ["person", "deed", "thing", *settings], 2), draw.chance()
    elif kind == "contradiction":
        also = not never
    return draw.tell(facts, settings, never), draw.tell(hypothesis, settings, also, plain=True)


def _rte(draw: _Draw, label: int) -> tuple[str, ...]:
    return _entailment(draw, draw.pick(["neutral", "contradiction"]) if label else "entailment")


def _mnli(draw: _Draw, label: int) -> tuple[str, ...]:
    return _entailment(draw, ("entailment", "neutral", "contradiction")[label])


def _mrpc(draw: _Draw, label: int) -> tuple[str, ...]:
    (agent, patient), deed, time = draw.combination(PEOPLE, PEOPLE), draw.pick(MEETINGS), draw.pick(TIMES)
    first = _sentence(_the(agent), deed, _the(patient), time)
    if not label and draw.chance(0.25):
        agent, patient = patient, agent
    elif not label:
        agent, patient, deed = *draw.strangers(agent, patient), draw.other(MEETINGS, deed)
    if draw.chance():
        return first, _sentence(_the(patient), "was", deed, "by", _the(agent), time)
    return first, _sentence(time + ",", _the(agent), deed, _the(patient))


def _qqp(draw: _Draw, label: int) -> tuple[str, ...]:
    openings = {"place": ["where", "exactly where", "in which place"], "time": ["when", "exactly when", "at what time"]}
    wording = draw.shuffled(range(3))  # never twice the same
    facts, asked = draw.facts(), draw.pick(["place", "time"])
    first = _question(facts, asked, opening=openings[asked][wording[0]])
    if not label and draw.chance(0.25):
        asked = {"place": "time", "time": "place"}[asked]
    elif not label:
        facts = draw.changed(facts, ["person", "deed", "thing"], 3)
    return first, _question(facts, asked, opening=openings[asked][wording[1]])


def _stsb(draw: _Draw, label: int) -> tuple[str, ...]:
    facts = draw.facts()
    settings = draw.shuffled(["place", "time"])
    other = draw.changed(facts, list(facts), 5 - label)
    return draw.tell(facts, settings), draw.tell(other, settings[::-1], plain=True)


def _wnli(draw: _Draw, label: int) -> tuple[str, ...]:
    people, (deed, whose, reason) = draw.combination(PEOPLE, PEOPLE), draw.pick(REASONS)
    named, claim = people[whose if label else 1 - whose], reason
    if not label and draw.chance(0.6):  # somebody else, for another reason
        named, claim = draw.strangers(*people)[0], draw.other([r for _, _, r in REASONS], reason)
    return _sentence(_the(people[0]), deed, _the(people[1]), "because they", reason.replace("was", "were")), \
        _sentence(_the(named), claim)


# task -> (maker of one example with a given label, text columns, number of labels); stsb's labels are scores 0 to 5.
_TASKS: dict[str, tuple[Callable[[_Draw, int], tuple[str, ...]], tuple[str, ...], int]] = {
    "cola": (_cola, ("sentence",), 2),
    "sst2": (_sst2, ("sentence",), 2),
    "mrpc": (_mrpc, ("sentence1", "sentence2"), 2),
    "stsb": (_stsb, ("sentence1", "sentence2"), 6),
    "qqp": (_qqp, ("question1", "question2"), 2),
    "mnli": (_mnli, ("premise", "hypothesis"), 3),
    "qnli": (_qnli, ("question", "sentence"), 2),
    "rte": (_rte, ("sentence1", "sentence2"), 2),
    "wnli": (_wnli, ("sentence1", "sentence2"), 2),
}
