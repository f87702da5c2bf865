"""Prompts to candidates, on tiny models and a chat model on this machine."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import WORDS
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_real import generate_responses, select_preferences
from trl_real.sampling.transformers_backend import TransformersBackend


TEXTS = [" ".join(WORDS[i : i + 3 + i]) for i in range(6)]
PROMPTS = Dataset.from_dict({"prompt": TEXTS, "id": list(range(6))})
MESSAGES = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in TEXTS]})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def responses(dataset):
    return [tuple(row) for row in dataset["responses"]]


def test_columns_of_text(tiny_lm):
    candidates = generate_responses(PROMPTS, tiny_lm, n=3, max_new_tokens=8)
    assert candidates.column_names == ["prompt", "id", "responses", "generators"]
    assert candidates["prompt"][:] == TEXTS
    assert candidates["generators"][:] == [[tiny_lm] * 3] * 6
    assert all(len(set(row)) == 3 for row in responses(candidates))


def test_messages_get_messages(tiny_lm):
    text = generate_responses(PROMPTS, tiny_lm, n=2, max_new_tokens=8)
    messages = generate_responses(MESSAGES, tiny_lm, n=2, max_new_tokens=8)
    assert [[response[0]["role"] for response in row] for row in messages["responses"]] == [["assistant"] * 2] * 6
    assert all(isinstance(response, str) for row in text["responses"] for response in row)
    assert messages.features["responses"].feature.feature["content"].dtype == "string"


def test_random_numbers_depend_on_seed_prompt_and_number_alone(tiny_lm, tmp_path):
    options = {"max_new_tokens": 12, "dtype": "float32"}
    four = generate_responses(PROMPTS, tiny_lm, n=4, **options)
    reverse = generate_responses(
        PROMPTS.select(range(5, -1, -1)), tiny_lm, n=2, batch_size=5, resume_from=tmp_path / "log.jsonl", **options
    )
    assert responses(reverse)[::-1] == [row[:2] for row in responses(four)]
    assert responses(generate_responses(PROMPTS, tiny_lm, n=4, seed=1, **options)) != responses(four)


def test_other_batches_sample_the_same_tokens(tiny_lm, tmp_path):
    found = [
        responses(
            generate_responses(
                PROMPTS,
                tiny_lm,
                n=3,
                max_new_tokens=12,
                dtype="float32",
                batch_size=size,
                resume_from=tmp_path / f"{size}.jsonl",
            )
        )
        for size in (1, 4, 18)
    ]
    assert found[0] == found[1] == found[2]


def test_samples_follow_the_distribution(tiny_lm):
    """Of the first token against its probabilities, with temperature and top-p."""
    n, temperature, top_p = 2000, 0.3, 0.7
    candidates = generate_responses(
        PROMPTS.select([0]), tiny_lm, n=n, max_new_tokens=1, temperature=temperature, top_p=top_p, batch_size=500
    )
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_lm), AutoModelForCausalLM.from_pretrained(tiny_lm)
    chat = [{"role": "user", "content": TEXTS[0]}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        probabilities = (model(**ids).logits[0, -1] / temperature).softmax(-1).numpy()
    order = np.argsort(-probabilities)
    kept = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
    expected = {}
    for token in kept:
        text = tokenizer.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0) + probabilities[token] / probabilities[kept].sum()
    found = dict.fromkeys(expected, 0)
    for text in candidates["responses"][0]:
        found[text] += 1  # nothing beyond top-p
    for text, share in expected.items():
        assert abs(found[text] / n - share) < 5 * (share * (1 - share) / n) ** 0.5 + 1e-3


def test_temperature_0_is_greedy_decoding(tiny_lm):
    candidates = generate_responses(PROMPTS, tiny_lm, n=1, temperature=0, max_new_tokens=10, dtype="float32")
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_lm), AutoModelForCausalLM.from_pretrained(tiny_lm)
    for text, row in zip(TEXTS, candidates["responses"], strict=True):
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**ids, do_sample=False, max_new_tokens=10)
        expected = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert row == [expected]


def test_a_second_run_samples_nothing_and_more_samples_only_those(tiny_lm, monkeypatch):
    first = generate_responses(PROMPTS, tiny_lm, n=2, max_new_tokens=8)
    sampled = []
    sample = TransformersBackend._sample_batch
    monkeypatch.setattr(
        TransformersBackend,
        "_sample_batch",
        lambda self, batch, ids: sampled.extend(batch) or sample(self, batch, ids),
    )
    assert responses(generate_responses(PROMPTS, tiny_lm, n=2, max_new_tokens=8)) == responses(first)
    assert sampled == []
    assert [row[:2] for row in responses(generate_responses(PROMPTS, tiny_lm, n=3, max_new_tokens=8))] == responses(
        first
    )
    assert {job.payload[1] for job in sampled} == {2}
    before = len(sampled)
    generate_responses(PROMPTS, tiny_lm, n=2, max_new_tokens=np.int64(8), temperature=1, top_p=1, seed=np.int64(0))
    assert len(sampled) == before
    for options in ({"max_new_tokens": 9}, {"temperature": 0.9}, {"top_p": 0.9}, {"seed": 1}, {"system_prompt": "x"}):
        before = len(sampled)
        generate_responses(PROMPTS, tiny_lm, n=2, **{"max_new_tokens": 8, **options})
        assert len(sampled) == before + 12


def test_a_model_object_is_known_by_its_weights(tiny_lm):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm).train()
    before = generate_responses(PROMPTS, model, n=1, max_new_tokens=8)
    assert model.training
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    assert responses(generate_responses(PROMPTS, model, n=1, max_new_tokens=8)) != responses(before)


def test_several_models(tiny_lm, tiny_tokenizer, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=16, n_layer=1, n_head=1, eos_token_id=1)
    ).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    other = str(tmp_path / "other")
    candidates = generate_responses(PROMPTS, [tiny_lm, other], n=2, max_new_tokens=8)
    assert candidates["generators"][0] == [tiny_lm, tiny_lm, other, other]
    alone = generate_responses(PROMPTS, other, n=2, max_new_tokens=8)
    assert [row[2:] for row in responses(candidates)] == responses(alone)


def test_a_base_model_continues_the_text(tiny_lm, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.chat_template = None
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = str(tmp_path)
    candidates = generate_responses(PROMPTS, base, n=1, temperature=0, max_new_tokens=5, dtype="float32")
    ids = tokenizer(TEXTS[0], return_tensors="pt")
    output = model.generate(**ids, do_sample=False, max_new_tokens=5)
    assert candidates["responses"][0] == [
        tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    ]
    with pytest.raises(
        ValueError, match=r"Column `prompt` has messages, but the tokenizer of .* has no chat template"
    ):
        generate_responses(MESSAGES, base)
    with pytest.raises(ValueError, match="`system_prompt` needs a chat template"):
        generate_responses(PROMPTS, base, system_prompt="Be brief.")


def test_prompts_that_are_too_long_are_counted(tiny_lm, caplog):
    long = Dataset.from_dict({"prompt": [TEXTS[0], "cat " * 2000]})
    candidates = generate_responses(long, tiny_lm, n=2, max_new_tokens=8)
    assert [len(row) for row in candidates["responses"]] == [2, 0]
    assert "2 responses could not be sampled. The first: the prompt has" in caplog.text
    assert "more than the 1024 positions" in caplog.text
    with pytest.raises(ValueError, match=r"No prompt got a response. The first: the prompt has"):
        generate_responses(long.select([1]), tiny_lm, n=2, max_new_tokens=8)


def test_what_a_server_is_asked(chat):
    chat.faults = [500, "cut", 429, "nonsense"]
    candidates = generate_responses(
        PROMPTS, "m", n=3, base_url=chat.url, system_prompt="Be brief.", temperature=0.5, max_new_tokens=7
    )
    assert chat.most_under_way > 1
    bodies = [body for _, body, _ in chat.requests]
    assert len(bodies) == 18 + 4
    assert {(body["temperature"], body["max_tokens"], body["top_p"]) for body in bodies} == {(0.5, 7, 1.0)}
    assert len({body["seed"] for body in bodies}) == 18
    assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in bodies)
    assert all(
        text.startswith(prompt) for prompt, row in zip(TEXTS, responses(candidates), strict=True) for text in row
    )
    assert candidates["generators"][0] == ["m"] * 3
    again = generate_responses(
        PROMPTS, "m", n=3, base_url=chat.url, system_prompt="Be brief.", temperature=0.5, max_new_tokens=7
    )
    assert responses(again) == responses(candidates)
    assert len(chat.requests) == 18 + 4


def test_a_prompt_that_a_server_refuses_is_counted(chat, caplog):
    chat.answer = lambda body: 400 if body["messages"][-1]["content"] == TEXTS[2] else "fine"
    candidates = generate_responses(PROMPTS, "m", n=2, base_url=chat.url)
    assert [len(row) for row in responses(candidates)] == [2, 2, 0, 2, 2, 2]
    assert "2 responses could not be sampled. The first: http://127.0.0.1" in caplog.text
    assert "For 5 of 6 prompts all responses are identical" in caplog.text


def test_a_server_that_goes_away_costs_nothing(chat, tmp_path):
    served = []

    def answer(body):
        served.append(body)
        return 503 if len(served) > 6 else f"answer {len(served)}"

    chat.answer = answer
    log = tmp_path / "log.jsonl"
    with pytest.raises(ConnectionError, match="does not answer"):
        generate_responses(PROMPTS, "m", n=2, base_url=chat.url, concurrency=2, resume_from=log)
    kept = [json.loads(line)["result"]["text"] for line in log.read_text().splitlines()]
    assert sorted(kept) == [f"answer {i}" for i in range(1, 7)]
    chat.answer, before = lambda body: "late", len(chat.requests)
    candidates = generate_responses(PROMPTS, "m", n=2, base_url=chat.url, concurrency=2, resume_from=log)
    assert len(chat.requests) == before + 6
    assert sorted(text for row in responses(candidates) for text in row) == sorted([*kept, *["late"] * 6])


def test_the_key_is_nowhere(chat, monkeypatch, tmp_path, caplog):
    key = "sk-a-very-secret-key"
    monkeypatch.setenv("MY_KEY", key)
    chat.key = key
    with caplog.at_level(logging.DEBUG):
        candidates = generate_responses(PROMPTS, "m", n=1, base_url=chat.url, api_key_env="MY_KEY")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(key in path.read_text(errors="replace") or key in path.name for path in files)
    assert key not in caplog.text
    assert key not in str(candidates[:])
    keys = [path.name for path in files]
    monkeypatch.setenv("MY_KEY", "another")
    chat.key = "another"
    generate_responses(PROMPTS, "m", n=1, base_url=chat.url, api_key_env="MY_KEY")
    assert sorted(keys) == sorted(path.name for path in tmp_path.rglob("*") if path.is_file())


def test_empty_and_identical_and_cut_responses_are_counted(chat, tiny_lm, caplog):
    chat.answer = lambda body: ""
    generate_responses(PROMPTS, "m", n=2, base_url=chat.url)
    assert "12 of 12 responses are empty. They will not form pairs." in caplog.text
    assert "For 6 of 6 prompts all responses are identical. These prompts will not form pairs: raise" in caplog.text
    generate_responses(PROMPTS, tiny_lm, n=2, max_new_tokens=2)
    assert "responses were cut at `max_new_tokens`" in caplog.text


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        (["a"], {}, TypeError, "`prompts` must be a `datasets.Dataset`, got list. Convert a list of prompts with"),
        ({"question": ["a"]}, {}, ValueError, r"`prompts` has no column `prompt`. Found: \['question'\]"),
        ({"prompt": []}, {}, ValueError, "`prompts` has no rows"),
        (
            {"prompt": ["a", None]},
            {},
            ValueError,
            "Column `prompt`, row 1: expected non-empty text or a non-empty list",
        ),
        ({"prompt": [1]}, {}, ValueError, "row 0: expected non-empty text or a non-empty list of messages, found int"),
        ({"prompt": ["a"], "responses": [["b"]]}, {}, ValueError, "has a column `responses` already"),
        ({"prompt": ["a"]}, {"n": 0}, ValueError, "`n` must be a whole number of at least 1"),
        ({"prompt": ["a"]}, {"temperature": 0}, ValueError, "makes all `n=4` responses to a prompt the same"),
        ({"prompt": ["a"]}, {"temperature": -1}, ValueError, "`temperature` must be a number from 0"),
        ({"prompt": ["a"]}, {"temperature": None}, ValueError, "`temperature` must be a number"),
        ({"prompt": ["a"]}, {"top_p": 0}, ValueError, "`top_p` must be above 0"),
        ({"prompt": ["a"]}, {"top_p": 2}, ValueError, "`top_p` must be a number from 0 to 1"),
        ({"prompt": ["a"]}, {"max_new_tokens": 0}, ValueError, "`max_new_tokens` must be a whole number"),
        ({"prompt": ["a"]}, {"max_new_tokens": 1024}, ValueError, "leaves no room for a prompt"),
        ({"prompt": ["a"]}, {"seed": -1}, ValueError, "`seed` must be a whole number"),
        ({"prompt": ["a"]}, {"batch_size": 0}, ValueError, "`batch_size` must be a whole number"),
        ({"prompt": ["a"]}, {"dtype": "int8"}, ValueError, "`dtype` must be one of"),
        (
            {"prompt": ["a"]},
            {"backend": "x"},
            ValueError,
            r"`backend` must be one of \['transformers', 'vllm'\], got 'x'",
        ),
        ({"prompt": ["a"]}, {"backend": "vllm", "base_url": "http://x/v1"}, ValueError, "Set only one of them"),
        ({"prompt": ["a"]}, {"system_prompt": 1}, TypeError, "`system_prompt` must be a str"),
    ],
)
def test_mistakes(prompts, options, error, message, tiny_lm):
    prompts = Dataset.from_dict(prompts) if isinstance(prompts, dict) else prompts
    with pytest.raises(error, match=message):
        generate_responses(prompts, tiny_lm, **options)


def test_models_that_are_not_there(hub, tmp_path):
    with pytest.raises(OSError, match="The model 'no/such' cannot be loaded"):
        generate_responses(PROMPTS, "no/such")
    with pytest.raises(ValueError, match="`model` is an empty list"):
        generate_responses(PROMPTS, [])


def test_candidates_go_on_to_the_selection(tiny_lm, tiny_encoder):
    from trl_real import SelectionConfig

    candidates = generate_responses(MESSAGES, tiny_lm, n=4, max_new_tokens=8)
    pairs, report = select_preferences(candidates, SelectionConfig(embedder=tiny_encoder))
    assert report.pairs == 6
    assert {"response_a", "response_b", "pair_id"} <= set(pairs.column_names)
