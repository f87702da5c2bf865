"""What vLLM is asked, by a stand-in with the interface that is used of it: vLLM needs a GPU."""

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from trl_real import generate_responses


PROMPTS = Dataset.from_dict({"prompt": ["the cat", "cat " * 2000, "green hills"]})


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    made, asked = [], []

    class LLM:
        def __init__(self, **options):
            made.append(options)

        def generate(self, prompts, params):
            asked.extend(zip(prompts, params, strict=True))
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=f"text {param.seed}", finish_reason="length")])
                for param in params
            ]

    module = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams, module.made, module.asked = LLM, SimpleNamespace, made, asked
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_what_vllm_is_asked(vllm, tiny_lm, caplog):
    options = {"backend": "vllm", "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7}
    candidates = generate_responses(PROMPTS, tiny_lm, n=2, **options)
    assert vllm.made == [{"model": tiny_lm, "dtype": "auto", "trust_remote_code": False, "generation_config": "vllm"}]
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    chat = [{"role": "user", "content": "the cat"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert [prompt["prompt_token_ids"] for prompt, _ in vllm.asked].count(ids) == 2
    assert {(p.temperature, p.top_p, p.max_tokens) for _, p in vllm.asked} == {(0.5, 0.9, 7)}
    assert len({p.seed for _, p in vllm.asked}) == 4
    assert [len(set(row)) for row in candidates["responses"]] == [2, 0, 2]
    assert "2 responses could not be sampled. The first: the prompt has" in caplog.text
    assert "4 of 4 responses were cut at `max_new_tokens`" in caplog.text
    generate_responses(PROMPTS, tiny_lm, n=2, **options)
    assert len(vllm.asked) == 4


def test_without_vllm(tiny_lm, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'`backend="vllm"` needs vLLM: `pip install vllm`.'):
        generate_responses(PROMPTS, tiny_lm, backend="vllm")


def test_vllm_wants_a_path(vllm):
    with pytest.raises(TypeError, match="needs the id or path of a model, got SimpleNamespace"):
        generate_responses(PROMPTS, SimpleNamespace(), backend="vllm")
