import inspect
import math
import re

import pytest
import torch
from conftest import candidate_rows
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard
from local_hub import ALICE, ALICE_READS
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from trl_real import RealDPOConfig, RealDPOTrainer, SelectionConfig, SelectionReport
from trl_real.hub import retries
from trl_real.hub.model_card import add_selection
from trl_real.training import real_dpo_trainer


CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
LORA = {"task_type": "CAUSAL_LM", "r": 4, "fan_in_fan_out": True}


@pytest.fixture
def options(tmp_path, tiny_encoder):
    return {
        "output_dir": str(tmp_path / "run"),
        "embedder": tiny_encoder,
        "max_steps": 2,
        "logging_steps": 1,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }


@pytest.fixture
def candidates(rng):
    return Dataset.from_list(candidate_rows(rng, 12))


def card(tmp_path):
    return ModelCard.load(tmp_path / "run" / "README.md")


def test_is_written_at_each_checkpoint_with_what_was_selected(options, candidates, tiny_lm, tmp_path):
    args = RealDPOConfig(**options, strategy="hard", budget=0.5, eval_strategy="steps", eval_steps=1)
    trainer = RealDPOTrainer(
        tiny_lm, args=args, train_dataset=candidates, eval_dataset={"a": candidates, "b": candidates}
    )
    trainer.train()
    found = card(tmp_path)
    for fact in (
        "| strategy | `hard`: The most similar pair (REAL, arXiv 2409.17169) |",
        f"| embedder | `model`, revision `{trainer.selection_report.embedder_revision}`, the first 64 tokens of a response |",
        "| budget | 50% of the pairs |",
        f"| pairs out | {trainer.selection_report.pairs} labeled |",
        "strategy: hard\nembedder: model\n",
        "- TRL: ",
        "Versions: trl-real ",
        "@article{zhang2024real",
        "@inproceedings{rafailov2023direct",
        "@software{trl_real",
        f"`{tiny_lm.split('/')[-1]}`, a local model",
        "\n# Run this in the folder of the model.\n",
    ):
        assert fact in found.text, fact
    for lie in ("None](", '"None"', tiny_lm, options["embedder"], str(tmp_path), "licence", "for None"):
        assert lie not in str(found)
    results = {(result.dataset_name, result.metric_type): result.metric_value for result in found.data.eval_results}
    for dataset in ("training pairs", "held-out pairs (a)", "held-out pairs (b)"):
        for metric in ("rewards/margins", "rewards/accuracies"):
            assert math.isfinite(results[dataset, metric])
            assert f"| {dataset} | `{metric}` | {results[dataset, metric]:.4g} |" in found.text
    assert found.data.library_name == "transformers"
    assert {"trl", "dpo", "trl-real"} <= set(found.data.tags)


@pytest.mark.parametrize("chat", [True, False])
def test_the_quick_start_runs(chat, options, candidates, tiny_lm, tmp_path, monkeypatch, capsys):
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=candidates)
    trainer.processing_class.chat_template = CHAT if chat else None
    trainer.save_model()
    for folder, path in ((tmp_path, "run"), (tmp_path / "run", ".")):
        monkeypatch.chdir(folder)
        trainer.create_model_card()
        found = card(tmp_path)
        assert found.text.strip().startswith("# Model Card for run\n")
        (code,) = re.findall(r"## Quick start\n\n```python\n(.*?)```", found.text, re.DOTALL)
        assert f'model="{path}"' in code
        code = code.replace("max_new_tokens=128", "max_new_tokens=2")
        exec(code.replace('device="cuda"', 'device="cpu"'), {})  # which the template of the lowest TRL says
        assert capsys.readouterr().out


def test_has_no_empty_parts():
    template = "# Title\n\n## Quick start\n\n## Training procedure\n\n \n\n\n\nTrained.\n\n## Citations\n\nCite TRL as:\n    \nx\n"
    found = add_selection(
        ModelCard(f"---\nlicence: license\n---\n{template}"),
        None,
        config=SelectionConfig(),
        base_model=None,
        adapter=False,
        selected_id=None,
        source_id=None,
        history=[],
    )
    assert "\n## Training procedure\n\nTrained.\n" in found.text
    assert "Cite TRL as:\n\nx\n" in found.text
    assert "| | |" not in found.text  # without a report there is nothing to list
    assert "licence" not in str(found)


@pytest.mark.parametrize("adapter", [False, True])
def test_names_the_model_and_the_dataset_of_the_hub(adapter, options, candidates, tiny_lm, tmp_path, hub):
    AutoModelForCausalLM.from_pretrained(tiny_lm).push_to_hub("alice/tiny", token=ALICE)
    AutoTokenizer.from_pretrained(tiny_lm).push_to_hub("alice/tiny", token=ALICE)
    peft_config = LoraConfig(**LORA) if adapter else None
    trainer = RealDPOTrainer(
        "alice/tiny", args=RealDPOConfig(**options), train_dataset=candidates, peft_config=peft_config
    )
    trainer.create_model_card(dataset_name="alice/candidates")
    found = card(tmp_path)
    assert found.data.base_model == "alice/tiny"
    assert found.data.datasets == "alice/candidates"
    assert found.data.library_name == ("peft" if adapter else "transformers")
    assert found.data.get("base_model_relation") == ("adapter" if adapter else None)
    assert "[alice/tiny](https://huggingface.co/alice/tiny)" in found.text
    assert f"| selected from | [alice/candidates]({hub.url}/datasets/alice/candidates) |" in found.text
    assert "| selected pairs |" not in found.text
    trainer.create_model_card(dataset_name=str(tmp_path))
    assert "datasets" not in card(tmp_path).data.to_dict()
    assert str(tmp_path) not in str(card(tmp_path))


@pytest.mark.parametrize(
    ("base_model", "known"), [("gpt2", True), ("alice/tiny", True), ("/gone/secret-base", False), ("./gone", False)]
)
def test_what_is_no_model_of_the_hub_is_not_linked(base_model, known):
    link = f"[{base_model}](https://huggingface.co/{base_model})"
    found = add_selection(
        ModelCard(f"---\nbase_model: {base_model}\n---\nA version of {link}.\n"),
        None,
        config=SelectionConfig(),
        base_model=base_model,
        adapter=False,
        selected_id=None,
        source_id=None,
        history=[],
    )
    assert found.data.base_model == (base_model if known else None)
    assert (link in found.text) == known
    assert known or f"`{base_model.split('/')[-1]}`, a local model" in found.text


def test_a_card_that_cannot_be_written_does_not_stop_a_run(options, candidates, tiny_lm, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError(f"no card, {ALICE}")

    monkeypatch.setattr(real_dpo_trainer, "add_selection", fail)
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=candidates)
    trainer.train()
    assert trainer.state.global_step == 2
    assert "The model card was not written: RuntimeError: no card, hf_…" in caplog.text


def test_numbers_that_are_none_are_left_out():
    history = [{"rewards/margins": math.nan}, {"rewards/accuracies": 0.25}, {"rewards/accuracies": 0.5, "loss": 1}]
    history += [{"eval_aux_loss": 1.0, "eval_runtime": 2.0, "eval_rewards/margins": 0.75}]
    found = add_selection(
        ModelCard("---\ntags: [x]\n---\n# Model\n"),
        SelectionReport.of_given_pairs(3),
        config=SelectionConfig(),
        base_model=None,
        adapter=False,
        selected_id=None,
        source_id=None,
        history=history,
    )
    assert [(result.dataset_name, result.metric_type, result.metric_value) for result in found.data.eval_results] == [
        ("training pairs", "rewards/accuracies", 0.5),
        ("held-out pairs", "rewards/margins", 0.75),
    ]
    assert "| strategy | none: all given pairs were kept |" in found.text


@pytest.mark.parametrize("adapter", [False, True])
def test_model_and_dataset_are_pushed_and_link_each_other(
    adapter, options, candidates, tiny_lm, tmp_path, hub, capsys, monkeypatch
):
    args = RealDPOConfig(
        **options, hub_model_id="alice/aligned", hub_dataset_id="alice/pairs", hub_token=ALICE, hub_private_repo=True
    )
    peft_config = LoraConfig(**LORA) if adapter else None
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates, peft_config=peft_config)
    trainer.train()
    trainer.push_to_hub()
    assert "selected pairs to alice/pairs, which is private." in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", ALICE_READS)
    options = {"cache_dir": str(tmp_path / "cache")}
    pairs = load_dataset("alice/pairs", split="train", **options)
    assert pairs.to_list() == trainer.selected_dataset.to_list()
    loader = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    loaded = loader.from_pretrained("alice/aligned", **options).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)
    model_card = ModelCard.load("alice/aligned", token=ALICE)
    dataset_card = DatasetCard.load("alice/pairs", token=ALICE)
    assert model_card.data.datasets == "alice/pairs"
    assert f"[alice/pairs]({hub.url}/datasets/alice/pairs)" in model_card.text
    assert f"[alice/aligned]({hub.url}/alice/aligned)" in dataset_card.text
    for repo in hub.repos.values():
        assert repo.private
        for name, content in repo.files().items():
            assert not re.search("embeddings|cache-", name)
            assert ALICE.encode() not in content


@pytest.mark.parametrize("fault", [503, "drop", "lose"])
def test_a_fault_while_the_model_is_pushed(fault, options, candidates, tiny_lm, hub, monkeypatch):
    monkeypatch.setattr(retries, "WAIT", 0.0)
    args = RealDPOConfig(**options, hub_model_id="alice/aligned", hub_token=ALICE)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    hub.fail("POST", "/api/models/.*/commit/", fault)
    trainer.push_to_hub()
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= set(hub.repos["model", "alice/aligned"].files())
    if fault != "lose":
        before = dict(hub.repos["model", "alice/aligned"].files())
        hub.fail("POST", "/api/models/.*/commit/", fault, times=math.inf)
        trainer.state.log_history.append({"rewards/margins": 1.0})  # so that there is something new
        with pytest.raises(ConnectionError, match="Could not push to 'alice/aligned': the Hub at"):
            trainer.push_to_hub()
        assert hub.repos["model", "alice/aligned"].files() == before


def test_the_dataset_is_as_private_as_the_model_and_on_the_same_branch(options, candidates, tiny_lm, hub):
    args = RealDPOConfig(
        **options, hub_model_id="alice/aligned", hub_dataset_id="pairs", hub_token=ALICE, hub_private_repo=True
    )
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    takes_private = "private" in inspect.signature(Trainer.push_to_hub).parameters  # not in older versions
    trainer.push_to_hub("With words", True, ALICE, license="mit", **({"private": None} if takes_private else {}))
    assert [repo.private for repo in hub.repos.values()] == [True, True]
    found = ModelCard.load("alice/aligned", token=ALICE)
    assert found.data.datasets == "alice/pairs"
    assert f"| selected pairs | [alice/pairs]({hub.url}/datasets/alice/pairs) |" in found.text
    assert DatasetCard.load("alice/pairs", token=ALICE).data.license == "mit"
    HfApi(token=ALICE).create_branch("alice/aligned", branch="second")
    trainer.push_to_hub(revision="second")
    assert "second" in hub.repos["dataset", "alice/pairs"].refs


def test_pairs_of_a_stream_are_not_pushed(options, candidates, tiny_lm, hub, caplog):
    args = RealDPOConfig(**options, hub_model_id="alice/aligned", hub_dataset_id="alice/pairs", hub_token=ALICE)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates.to_iterable_dataset())
    trainer.push_to_hub()
    assert "Nothing is pushed to alice/pairs: the pairs are a stream" in caplog.text
    assert "alice/pairs" not in hub.repos["model", "alice/aligned"].files()["README.md"].decode()


def test_without_a_name_for_the_dataset_only_the_model_is_pushed(options, candidates, tiny_lm, hub):
    args = RealDPOConfig(**options, hub_model_id="alice/aligned", hub_token=ALICE)
    RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates).push_to_hub()
    assert set(hub.repos) == {("model", "alice/aligned")}


def test_the_dataset_is_all_that_was_selected_whatever_fits_the_model(options, tiny_lm, hub):
    rows = [{"prompt": "the " * 40, "responses": ["fish", "rain"], "scores": [1, 2]}] * 2
    rows += [{"prompt": f"q {i}", "responses": ["fish", "wind and rain"], "scores": [1, 2]} for i in range(5)]
    args = RealDPOConfig(
        **options, max_length=20, hub_model_id="alice/aligned", hub_dataset_id="alice/pairs", hub_token=ALICE
    )
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list(rows))
    trainer.push_to_hub()
    assert "| pairs out | 7 labeled |" in DatasetCard.load("alice/pairs").text
    model_card = ModelCard.load("alice/aligned").text
    assert "| pairs dropped | 2: the prompt alone fills `max_length` |" in model_card
    assert "| pairs out | 5 labeled |" in model_card


def test_a_dataset_that_cannot_be_pushed_is_one_error(options, candidates, tiny_lm, hub):
    args = RealDPOConfig(**options, hub_model_id="alice/aligned", hub_dataset_id="alice/pairs", hub_token=ALICE_READS)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    with pytest.raises(PermissionError, match="Could not push to 'alice/pairs': the token has no write access"):
        trainer.push_to_hub()
    assert not hub.repos
