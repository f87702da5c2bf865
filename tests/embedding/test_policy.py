import copy
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_real.config import EmbedderOptions
from trl_real.embedding.embed import encode
from trl_real.embedding.policy import PolicyEmbedder, base_parameters


TEXTS = ["the cat sat", "rain fell over green hills far from any town " * 40, "fish", "stone and light", "bread"]


@pytest.fixture
def model(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm)


def test_embeds_as_the_same_model_by_its_path_does(tiny_lm, model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    expected, cut = encode(TEXTS, EmbedderOptions(tiny_lm, 100, 32, "float32"))
    for policy in (PolicyEmbedder(tiny_lm, max_length=100), PolicyEmbedder(model, tokenizer, 100, batch_size=2)):
        found, found_cut = encode(TEXTS, EmbedderOptions(policy, None, 32, "auto"))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found_cut.tolist() == cut.tolist()
    assert tokenizer.pad_token is None  # that of the user


def test_the_limit_is_the_models_own_up_to_512(model, tiny_lm):
    assert PolicyEmbedder(tiny_lm).max_seq_length == 512
    model.config.n_positions = 64
    assert PolicyEmbedder(model).max_seq_length == 64
    with pytest.raises(ValueError, match="`embedder_max_length=65` is more than the 64 positions of the policy"):
        PolicyEmbedder(model, max_length=65).encode(["a"])


def test_adapters_are_off_and_the_model_is_left_as_it_was(model):
    before = PolicyEmbedder(model).encode(TEXTS)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=True))
    policy = PolicyEmbedder(adapted)
    assert adapted.train().training
    np.testing.assert_allclose(policy.encode(TEXTS), before, atol=1e-6)
    assert adapted.training
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad(), adapted.disable_adapter():
        off = adapted(tokens).logits
    assert not torch.allclose(adapted(tokens).logits, off)  # they are on again


def test_the_fingerprint_is_that_of_the_weights(model, tiny_lm):
    first = PolicyEmbedder(model).fingerprint()
    assert first == PolicyEmbedder(tiny_lm).fingerprint()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.transformer.wte.weight[[0, 1]] = other.transformer.wte.weight[[1, 0]]
    assert PolicyEmbedder(other).fingerprint() != first
    assert PolicyEmbedder(model, max_length=10).fingerprint() != first
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    assert PolicyEmbedder(model, tokenizer).fingerprint() == first
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert PolicyEmbedder(model, tokenizer).fingerprint() != first


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}], ids=str)
def test_the_fingerprint_is_without_adapters(options, model):
    first = PolicyEmbedder(model).fingerprint()
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, **options))
    assert PolicyEmbedder(adapted).fingerprint() == first
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".default" in name:
                weight += 1
    assert PolicyEmbedder(adapted).fingerprint() == first
    trainable = any(weight.requires_grad for _, weight in base_parameters(adapted))
    assert trainable == ("bias" in options)


def test_adapters_of_transformers_are_off_too(model):
    policy = PolicyEmbedder(model)
    vectors, first = policy.encode(TEXTS), policy.fingerprint()
    model.add_adapter(LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=True))
    np.testing.assert_allclose(policy.encode(TEXTS), vectors, atol=1e-6)
    assert policy.fingerprint() == first


def test_modules_keep_their_modes_also_after_an_error(model):
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    policy = PolicyEmbedder(model)
    policy.encode(TEXTS)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(TypeError):
        policy.encode([*TEXTS, b"no text"])
    assert [module.training for module in model.modules()] == modes


def test_a_model_that_changed_on_disk_is_not_loaded(tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "model")
    policy = PolicyEmbedder(str(tmp_path / "model"))
    (tmp_path / "model" / "selection_report.json").write_text("{}")  # is no part of it
    shutil.copytree(tiny_lm, tmp_path / "model" / "checkpoint-1")
    assert policy.encode(TEXTS).shape == (5, 32)
    policy.free()
    AutoModelForCausalLM.from_pretrained(tiny_lm).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="has changed since this run began"):
        policy.encode(TEXTS)


def test_a_tokenizer_that_cannot_pad_is_named(model, tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has neither a pad token nor an EOS token"):
        PolicyEmbedder(model, tokenizer).encode(TEXTS)


def test_a_loaded_model_is_freed(tiny_lm, model):
    policy = PolicyEmbedder(tiny_lm)
    first = policy.model
    assert policy.model is first
    policy.free()
    assert policy.model is not first
    given = PolicyEmbedder(model)
    given.free()
    assert given.model is model
