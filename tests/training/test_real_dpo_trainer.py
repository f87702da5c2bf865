import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import candidate_rows
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import create_model_from_path

from trl_real import (
    RealDPOConfig,
    RealDPOTrainer,
    SelectionConfig,
    SelectionReport,
    load_sample,
    select_preferences,
)
from trl_real.embedding import embedder, policy


@pytest.fixture
def candidates(rng):
    return Dataset.from_list(candidate_rows(rng, 24))


@pytest.fixture
def options(tmp_path):
    """What makes a run short, quiet and repeatable."""
    return {
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 6,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": 7,
    }


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("strategy", ["easy", "random"])
def test_raw_candidates_give_the_losses_of_dpo_trainer_on_pairs_selected_by_hand(
    strategy, candidates, options, tiny_lm, tiny_encoder
):
    selection = {"strategy": strategy, "embedder": tiny_encoder, "budget": 0.8}
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options, **selection), train_dataset=candidates)
    pairs, report = select_preferences(candidates, SelectionConfig(**selection))
    by_hand = DPOTrainer(tiny_lm, args=DPOConfig(**options), train_dataset=pairs)
    assert list(map(str, trainer.selected_dataset)) == list(map(str, pairs))
    assert trainer.selection_report == report
    assert losses(trainer) == losses(by_hand)
    for ours, theirs in zip(trainer.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_conversational_candidates(options, tiny_lm, tiny_encoder):
    args = RealDPOConfig(**options, embedder=tiny_encoder, max_length=256)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=load_sample("conversational"))
    pairs, _ = select_preferences(load_sample("conversational"), SelectionConfig(embedder=tiny_encoder))
    by_hand = DPOTrainer(tiny_lm, args=DPOConfig(**options, max_length=256), train_dataset=pairs)
    assert losses(trainer) == losses(by_hand)


def given_pairs(n=12):
    return Dataset.from_list(
        [{"prompt": f"say {i}", "chosen": f" the cat sat {i}", "rejected": f" rain {'fell ' * i}"} for i in range(n)]
    )


def test_pairs_pass_through_untouched(options, tiny_lm):
    args = RealDPOConfig(**options, embedder="no/such-model")
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=given_pairs())
    assert trainer.selection_report == SelectionReport.of_given_pairs(12)
    assert trainer.selected_dataset.to_list() == given_pairs().to_list()
    assert losses(trainer) == losses(DPOTrainer(tiny_lm, args=DPOConfig(**options), train_dataset=given_pairs()))


def test_a_budget_is_spent_on_pairs(options, tiny_lm, embedder):
    args = RealDPOConfig(**options, embedder=embedder, budget=5)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=given_pairs())
    assert len(trainer.selected_dataset) == len(trainer.train_dataset) == 5
    assert trainer.selection_report.dropped == {"over_budget": 7}


def test_a_stream_of_pairs(options, tiny_lm):
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=given_pairs().to_iterable_dataset())
    assert len(losses(trainer)) == 6
    assert trainer.selection_report is None


@pytest.mark.parametrize("args", [None, DPOConfig])
def test_works_without_args_and_with_those_of_trl(args, candidates, tiny_lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # TRL trains in bfloat16 by default, for which transformers wants a GPU.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    args = args and args(str(tmp_path / "run"), report_to="none")
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    assert trainer.selection_report.strategy == "easy"
    assert trainer.selection_report.embedder == "sentence-transformers/all-MiniLM-L6-v2"
    if args is None:
        assert isinstance(trainer.args, RealDPOConfig)
        assert trainer.args.output_dir.endswith("-REAL")


def test_takes_model_objects_and_positional_arguments(candidates, options, tiny_lm, embedder):
    model, reference = (AutoModelForCausalLM.from_pretrained(tiny_lm) for _ in range(2))
    args = RealDPOConfig(**options, embedder=embedder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    trainer = RealDPOTrainer(model, reference, args, None, candidates, candidates, tokenizer)
    assert trainer.ref_model is not None
    assert len(trainer.eval_dataset) == len(trainer.train_dataset)
    assert list(inspect.signature(RealDPOTrainer).parameters) == list(inspect.signature(DPOTrainer).parameters)


def test_evaluation_pairs_are_random_and_not_budgeted(candidates, options, tiny_lm, embedder):
    args = RealDPOConfig(**options, embedder=embedder, strategy="hard", budget=3, pairs_per_prompt=2)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates, eval_dataset=candidates)
    expected, _ = select_preferences(candidates, SelectionConfig(strategy="random"))
    assert len(trainer.train_dataset) == 3
    assert trainer.eval_dataset["chosen"][:] == [row + "<eos>" for row in expected["chosen"]]
    at_init = trainer.evaluate()
    later = trainer.evaluate(candidates)
    by_hand = trainer.evaluate(expected)
    names = [name for name in at_init if name.startswith("eval_rewards") or name == "eval_loss"]
    assert names
    for name in names:
        assert at_init[name] == later[name] == by_hand[name]


def test_evaluation_of_several_datasets(candidates, options, tiny_lm, embedder):
    splits = DatasetDict({"raw": candidates, "pairs": given_pairs()})
    trainer = RealDPOTrainer(
        tiny_lm, args=RealDPOConfig(**options, embedder=embedder), train_dataset=candidates, eval_dataset=splits
    )
    assert {"eval_raw_loss", "eval_pairs_loss"} <= set(trainer.evaluate())
    assert {"eval_raw_loss", "eval_pairs_loss"} <= set(trainer.evaluate(splits))


def test_pairs_that_truncation_makes_identical_are_dropped_and_counted(options, tiny_lm, embedder, caplog):
    same, long = "the cat sat on the mat and", "the " * 40
    rows = [{"prompt": "p", "responses": [f"{same} {long} x", f"{same} {long} y z"], "scores": [1, 2]}] * 3
    rows += [{"prompt": long, "responses": ["fish", "rain"], "scores": [1, 2]}] * 2
    rows += [{"prompt": f"q {i}", "responses": ["fish", "wind and rain"], "scores": [1, 2]} for i in range(5)]
    args = RealDPOConfig(**options, embedder=embedder, max_length=20)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list(rows))
    assert len(trainer.train_dataset) == trainer.selection_report.pairs == 5
    assert trainer.selection_report.dropped == {"prompt_too_long": 2, "identical_when_truncated": 3}
    assert (
        "5 of the 10 pairs of the train dataset were kept: in 2 pairs the prompt alone fills `max_length`"
        in caplog.text
    )
    message = (
        "None of the 3 pairs of the train dataset can be used with `max_length=20`: in 3 pairs chosen and rejected are"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list(rows[:3]))


def test_pairs_that_are_the_same_tokens_without_being_cut_are_told_apart(options, tiny_lm, caplog):
    stop = AutoTokenizer.from_pretrained(tiny_lm).eos_token
    same = {"prompt": "p", "chosen": "fish", "rejected": f"fish{stop}"}
    args = RealDPOConfig(**options)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list([same, *given_pairs(3).to_list()]))
    assert trainer.selection_report.dropped == {"identical_tokens": 1}
    assert "they differ only in what the chat template or tokenizer drops" in caplog.text
    with pytest.raises(ValueError, match=r"None of the 2 pairs .* Look at what the chat template leaves out\.$"):
        RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list([same] * 2))


@pytest.mark.filterwarnings("ignore:The `'keep_end'`:FutureWarning")
def test_of_keep_end_the_ends_are_compared(options, tiny_lm, embedder):
    long = "the " * 40
    rows = [{"prompt": "p", "responses": [f"fish {long}", f"rain {long}"], "scores": [1, 2]}]
    rows += [{"prompt": "p", "responses": [f"{long} fish", f"{long} rain"], "scores": [1, 2]}]
    args = RealDPOConfig(**options, embedder=embedder, max_length=20, truncation_mode="keep_end")
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=Dataset.from_list(rows))
    assert trainer.selection_report.dropped == {"identical_when_truncated": 1}


def test_the_embedder_is_freed_before_training(candidates, options, tiny_lm, tiny_encoder):
    RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options, embedder=tiny_encoder), train_dataset=candidates)
    assert embedder._load.cache_info().currsize == 0


def test_saves_a_model_its_card_and_arguments_without_the_embedder(candidates, options, tiny_lm, embedder, tmp_path):
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options, embedder=embedder), train_dataset=candidates)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    for text in ("trl-real", "REAL: Response Embedding-based Alignment for LLMs", "2409.17169", "Honggen Zhang"):
        assert text in card
    saved = torch.load(tmp_path / "run" / "training_args.bin", weights_only=False)
    assert saved.embedder == "HashEmbedder"
    AutoModelForCausalLM.from_pretrained(tmp_path / "run")


ROW = {"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 2.0]}
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "p", "responses": ["a", "b"]}], "has no scores, so that nothing tells the chosen"),
        ([{"question": "p", "answer": "a"}], "has no scores, so that nothing tells the chosen"),
        ([{"text": "p"}], "The columns fit no known layout. Found: ['text']. Expected: "),
        ([PAIR, {**PAIR, "rejected": None}], "is null in 1 of 2 rows. Remove them"),
        ([], "is empty."),
        ([{**ROW, "scores": [1.0, 1.0]}], "None of the 1 rows has a valid pair"),
    ],
)
def test_wrong_data_is_named_before_a_model_is_loaded(argument, rows, message, options, embedder):
    data = Dataset.from_list(rows) if rows else Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []})
    datasets = {"train_dataset": Dataset.from_list([PAIR]), argument: data}
    with pytest.raises(ValueError, match=re.escape(message)):
        RealDPOTrainer("no/such-model", args=RealDPOConfig(**options, embedder=embedder), **datasets)


def test_nulls_in_rows_that_are_not_selected_do_no_harm(options, tiny_lm):
    rows = Dataset.from_list([*given_pairs().to_list(), {**PAIR, "chosen": None}])
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=rows.select(range(12)))
    assert len(trainer.train_dataset) == 12


def test_a_missing_train_dataset_is_trls_error(tiny_lm, options):
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options))


def test_peft(candidates, options, tiny_lm, embedder):
    from peft import LoraConfig

    trainer = RealDPOTrainer(
        tiny_lm,
        args=RealDPOConfig(**options, embedder=embedder),
        train_dataset=candidates,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"]),
    )
    assert np.isfinite(losses(trainer)).all()
    assert trainer.ref_model is None


def test_an_evaluation_split_named_train_does_not_touch_the_report(options, tiny_lm):
    same = {"prompt": "p", "chosen": "the " * 30 + "cat", "rejected": "the " * 30 + "fish"}
    splits = {"train": Dataset.from_list([same] * 3 + given_pairs(2).to_list())}
    args = RealDPOConfig(**options, max_length=20)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=given_pairs(5), eval_dataset=splits)
    trainer.evaluate(splits)
    assert (trainer.selection_report.pairs, trainer.selection_report.dropped) == (5, {})
    assert len(trainer.eval_dataset["train"]) == 2


def streams(candidates):
    return candidates.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(candidates.to_list()))


def test_streams_of_candidates(options, tiny_lm, tiny_encoder, candidates):
    selection = {"embedder": tiny_encoder, "embedder_dtype": "float32"}
    expected, _ = select_preferences(candidates, SelectionConfig(**selection))
    args = RealDPOConfig(**options, **selection)
    for stream in streams(candidates):
        trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=stream, eval_dataset=stream)
        assert [row["chosen"] for row in trainer.selected_dataset] == expected["chosen"][:]
        assert set(next(iter(trainer.selected_dataset))) == set(expected.column_names)
        assert trainer.selection_report is None
        assert len(losses(trainer)) == 6
        assert trainer.evaluate(stream)["eval_loss"] == pytest.approx(trainer.evaluate(candidates)["eval_loss"])


def test_streams_of_candidates_cannot_be_ranked_or_embedded_by_the_policy(options, tiny_lm, candidates):
    for stream in streams(candidates):
        with pytest.raises(ValueError, match="A stream is read once, and its pairs cannot be ranked for a `budget`"):
            RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options, budget=3), train_dataset=stream)
        with pytest.raises(
            ValueError, match="but its weights are no longer available when `train_dataset` is embedded"
        ):
            RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options, embedder="policy"), train_dataset=stream)


def test_a_dict_as_train_dataset_is_trls_error(options, tiny_lm, candidates):
    with pytest.raises(TypeError, match="`train_dataset` must be a `Dataset` or `IterableDataset`, got `DatasetDict`"):
        RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=DatasetDict({"train": candidates}))


def test_resuming_gives_the_weights_of_an_uninterrupted_run(candidates, options, tiny_lm, tiny_encoder, tmp_path):
    options = {**options, "save_strategy": "steps", "save_steps": 3, "embedder": tiny_encoder}

    def run(folder, **kwargs):
        args = RealDPOConfig(**{**options, "output_dir": str(tmp_path / folder)})
        trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
        trainer.train(**kwargs)
        return trainer.model

    run("whole")
    resumed = run("again", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("strategy", ["random", "max_min"])
def test_the_policy_embeds_for_the_strategy_that_spends(strategy, candidates, options, tiny_lm):
    spends = {"strategy": strategy, "budget": 3, "budget_strategy": "easy"}
    args = RealDPOConfig(**options, **spends, embedder="policy")
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates, eval_dataset=candidates)
    config = SelectionConfig(**spends, embedder=tiny_lm, embedder_dtype="float32")
    expected, _ = select_preferences(candidates, config)
    assert trainer.selected_dataset["chosen"][:] == expected["chosen"][:]
    assert len(trainer.eval_dataset) > 3  # never budgeted


@pytest.mark.parametrize("kind", ["id", "object", "peft"])
def test_the_policy_embeds_as_it_was_before_training(kind, candidates, options, tiny_lm):
    from peft import LoraConfig

    model = tiny_lm if kind == "id" else AutoModelForCausalLM.from_pretrained(tiny_lm)
    peft_config = LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True) if kind == "peft" else None
    args = RealDPOConfig(**options, embedder="policy", eval_selection_strategy="hard")
    trainer = RealDPOTrainer(
        model, args=args, train_dataset=candidates, eval_dataset=candidates, peft_config=peft_config
    )
    by_path = {"embedder": tiny_lm, "embedder_dtype": "float32"}
    expected, _ = select_preferences(candidates, SelectionConfig(**by_path))
    assert trainer.selected_dataset["chosen"][:] == expected["chosen"][:]
    assert trainer.selection_report.embedder == f"policy ({tiny_lm})"
    assert trainer.args.to_dict()["embedder"] == "policy"
    before = losses(trainer) and trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(candidates)["eval_loss"] == pytest.approx(before)  # the same pairs, though trained since


@pytest.mark.parametrize("kind", ["own reference", "moving reference", "no reference"])
def test_a_trained_policy_is_never_an_embedder(kind, candidates, options, tiny_lm):
    model, reference = (AutoModelForCausalLM.from_pretrained(tiny_lm) for _ in range(2))
    changes = {"moving reference": {"sync_ref_model": True}, "no reference": {"precompute_ref_log_probs": True}}
    args = RealDPOConfig(**options, **changes.get(kind, {}), embedder="policy", eval_selection_strategy="easy")
    reference = reference if kind == "own reference" else None
    trainer = RealDPOTrainer(model, reference, args=args, train_dataset=candidates)
    with pytest.raises(ValueError, match="its weights are no longer available when `eval_dataset` is embedded"):
        trainer.evaluate(candidates)


def test_a_policy_whose_own_weights_train_is_no_embedder(candidates, options, tiny_lm, tmp_path):
    from peft import LoraConfig

    args = RealDPOConfig(**options, embedder="policy", eval_selection_strategy="easy")
    peft_config = LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, bias="all")
    for model in (AutoModelForCausalLM.from_pretrained(tiny_lm), tiny_lm):
        trainer = RealDPOTrainer(model, args=args, train_dataset=candidates, peft_config=peft_config)
        trainer.train()
        if isinstance(model, str):  # loaded again
            assert trainer.evaluate(candidates)["eval_loss"] > 0
        else:
            with pytest.raises(
                ValueError, match="its weights are no longer available when `eval_dataset` is embedded"
            ):
                trainer.evaluate(candidates)


def test_a_changed_model_is_not_the_reference_that_trl_makes_of_its_name(candidates, options, tiny_lm):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(-1)
    args = RealDPOConfig(**options, embedder="policy", eval_selection_strategy="easy")
    trainer = RealDPOTrainer(model, args=args, train_dataset=candidates, eval_dataset=candidates)
    with pytest.raises(ValueError, match="its weights are no longer available when `eval_dataset` is embedded"):
        trainer.evaluate(candidates)


def test_the_policy_is_loaded_as_trl_loads_it_and_freed(candidates, options, tiny_lm, monkeypatch):
    loaded = []

    def load(path, **kwargs):
        loaded.append(kwargs)
        return create_model_from_path(path, **{**kwargs, "quantization_config": None})

    monkeypatch.setattr(policy, "create_model_from_path", load)
    init = {"attn_implementation": "eager"}
    args = RealDPOConfig(**options, embedder="policy", model_init_kwargs=init)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    assert [kwargs["attn_implementation"] for kwargs in loaded] == ["eager"]
    assert trainer._policy._loaded is None
    with pytest.raises(ImportError, match="bitsandbytes"):  # TRL, which gets it too
        RealDPOTrainer(
            tiny_lm, args=args, train_dataset=candidates, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
        )
    assert loaded[1]["quantization_config"].load_in_4bit


def test_data_that_has_embeddings_needs_no_policy(options, tiny_lm, rng):
    rows = Dataset.from_list(candidate_rows(rng, 12, dim=8))
    expected, _ = select_preferences(rows)
    args = RealDPOConfig(**options, embedder="policy")
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=rows.to_iterable_dataset())
    assert [row["chosen"] for row in trainer.selected_dataset] == expected["chosen"][:]


def test_policy_outside_of_a_trainer_is_named(candidates):
    with pytest.raises(ValueError, match="`embedder='policy'` is the model that a `RealDPOTrainer` trains"):
        select_preferences(candidates, SelectionConfig(embedder="policy"))


def test_the_selection_is_logged_and_written(candidates, options, tiny_lm, tiny_encoder):
    args = RealDPOConfig(**options, embedder=tiny_encoder, budget=0.5)
    trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    trainer.train()
    (entry,) = (entry for entry in trainer.state.log_history if "selection/pairs" in entry)
    report = trainer.selection_report
    assert entry["selection/pairs"] == report.pairs
    assert entry["selection/similarity_picked"] == report.similarity.picked.quantiles["median"]
    assert SelectionReport.load(f"{args.output_dir}/selection_report.json") == report
    trainer.save_model()
    trainer._save_checkpoint(trainer.model, None)
    resumed = RealDPOTrainer(tiny_lm, args=args, train_dataset=candidates)
    resumed.train(resume_from_checkpoint=True)
    assert sum("selection/pairs" in entry for entry in resumed.state.log_history) == 1
    given = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=trainer.selected_dataset)
    given.train()
    assert not any("selection/pairs" in entry for entry in given.state.log_history)
    RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=given_pairs().to_iterable_dataset())
    assert not Path(args.output_dir, "selection_report.json").exists()
