"""The Hub model card of an adapted model, written from its record: nothing in it is typed."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

from .config import FNetBertConfig
from .records import Record, last_errors
from .text import HUB_NAME

TEXT = """# {name}

{teacher}'s BERT with self-attention swapped: recipe `{recipe}`, mixers {mixers}, from the first layer to the last. What
both architectures share was copied; then the model was trained on {method}.

```bash
pip install git+https://github.com/OWNER/fnetlib
```

```python
import fnetlib  # registers the architecture with transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

where = "{path}"  # once it is on the Hub, its name there
model = AutoModelForSequenceClassification.from_pretrained(where, num_labels=2)  # the classifier is new: fine-tune it
tokenizer = AutoTokenizer.from_pretrained(where)
```

| | |
|---|---|
{rows}

The record of this run, with every parameter, version and the code's commit, is `{run_id}`.
"""


def model_card(record: Record, name: str, config: FNetBertConfig, path: str | None = None) -> ModelCard:
    """The card of a model in folder or repository `name`, from its record of stage `adapt`; path: what loads it, if not its name."""
    params, last = record.params, record.metrics.history[-1]
    method = {"mlm": "masked language modelling", "distill": "the teacher's hidden states"}[params["adapt"]]
    method += " and its masked-LM predictions" * bool(params.get("logits_weight"))
    errors = last_errors(record.metrics.history)
    on_hub = {"base_model": record.teacher.name} if record.teacher.source == "hub" else {}
    on_hub |= {"datasets": [HUB_NAME], "language": "en"} if record.data.source == "hub" else {}
    kinds = [f"{config.mixers.count(mixer)} x {mixer}" for mixer in dict.fromkeys(config.mixers)]
    rows = {
        "Teacher": f"{record.teacher.name} (weights {record.teacher.fingerprint})",
        "Parameters": f"{record.parameters.total:,}",
        "Text": f"{record.data.source}, {record.data.sizes['train']:,} documents (fingerprint {record.data.fingerprint})",
        "Steps": f"{last['step']:,} of {params['batch_size']} x {params['length']} tokens, {last['tokens'] / 1e6:.1f} M tokens",
        "Training time": f"{last['seconds'] / 60:.1f} minutes on {record.env.get('device_name') or record.env['device']}"
                         + (", shared with other jobs" if record.timing["shared"] else ""),
        "Held-out masked-LM loss": f"{record.metrics.headline.last:.3f} nats",
        **({"Distance to the teacher's states": f"{sum(errors) / len(errors):.3f} of their variance, mean over layers, held-out text"}
           if errors else {}),
        "Precision": record.env["precision"], "Seed": str(record.seed),
        "Code": f"commit {record.code.commit}" + (", with changes" if record.code.dirty else ""),
    }
    data = ModelCardData(library_name="transformers", tags=["fnet", "token-mixing", record.model],
                         pipeline_tag="fill-mask", **on_hub)
    text = TEXT.format(name=name, path=path or name, teacher=record.teacher.name, recipe=record.model, mixers=", ".join(kinds), method=method,
                       rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()), run_id=record.run_id)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
