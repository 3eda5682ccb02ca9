"""Peers of the efficiency study: each runs in the shape that is asked for, and is measured beside the recipes."""

import pytest
import torch
from transformers import BertForSequenceClassification, FNetForSequenceClassification

from fnetlib import efficiency
from fnetlib.flops import parameters
from fnetlib.params import PEER_NAMES, EfficiencyParams, ParameterError
from fnetlib.peers import PEERS, peer_config, peer_model
from fnetlib.records import RecordStore
from fnetlib.tables_speed import speed_frame


WHOLE = efficiency.shape_config


def shape(length, name="2x64"):
    config = WHOLE(name, length)
    config.vocab_size = 200
    return config


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("length", [16, 97, 640])
def test_every_peer_trains_in_the_shape(name, length):
    """Lengths that no window, block or number of landmarks divides, shorter and longer than all of these."""
    torch.manual_seed(0)
    model = peer_model(peer_config(name, shape(length), length))
    config, loss = model.config, model(input_ids=torch.randint(5, 200, (2, length)), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert torch.isfinite(loss) and (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (2, 64, 200)
    assert getattr(config, "num_attention_heads", 1) == 1
    assert model.base_model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_known_peers_are_transformers_own():
    bert, fnet = (peer_model(peer_config(name, shape(16), 16)) for name in ("bert-eager", "hf-fnet"))
    assert isinstance(bert, BertForSequenceClassification) and bert.config._attn_implementation == "eager"
    assert isinstance(fnet, FNetForSequenceClassification)
    ours = efficiency.student_config(shape(16), "bert")
    assert bert.num_parameters() == sum(parameters(ours).values())


def test_peers_are_measured_beside_the_recipes(tmp_path, monkeypatch):
    monkeypatch.setattr(efficiency, "shape_config", lambda name, length=512: shape(length, name))
    params = EfficiencyParams.parse({"shape": "2x64", "lengths": "16", "tokens": 32, "repeats": 3, "warmup": 1, "device": "cpu",
                                     "models": f"bert,fnet,{','.join(PEERS)}"})
    records = efficiency.measure(params, RecordStore(tmp_path))
    assert [r.status for r in records] == ["finished"] * (2 + len(PEERS)), [r.error for r in records]
    ours = next(r for r in records if r.model == "fnet")
    assert all(ours.timing[f"vs_{name}"]["train"]["median"] > 0 for name in PEERS)
    peers = [r for r in records if r.model in PEERS]
    assert all(r.flops is None and r.parameters.total > 0 and r.timing["vs_bert"]["infer"]["median"] > 0 for r in peers)
    frame = speed_frame(records).set_index("model")
    assert frame.loc["modernbert", "train_vs_bert"] > 0 and frame["flops_vs_bert"].isna().sum() == len(PEERS)


def test_names_are_checked():
    assert PEER_NAMES == tuple(PEERS)
    assert EfficiencyParams.parse({"models": "bert, modernbert"}).all_models == ["bert", "modernbert"]
    assert EfficiencyParams.parse({"models": "modernbert"}).all_models == ["modernbert"]
    with pytest.raises(ParameterError, match="models: 'roberta' is not one of: .*; or a peer: bert-eager, hf-fnet"):
        EfficiencyParams.parse({"models": "bert,roberta"})
    with pytest.raises(ParameterError, match="models: no recipe named"):
        EfficiencyParams.parse({"models": ","})
    with pytest.raises(ParameterError, match="backend: 'folded' needs an output projection, and 'fnet-paper' has none"):
        EfficiencyParams.parse({"models": "bert,modernbert,fnet,fnet-paper", "backend": "folded"})
