import re

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoModelForCausalLM

from trl_real import RealDPOConfig, RealDPOTrainer
from trl_real.training.sample_weights import WeightedSampler


WEIGHTS = [0.0, 1.0, 2.0, 5.0]


@pytest.fixture
def options(tmp_path):
    return {
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 2,
        "num_train_epochs": 3,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "sample_weights": "label_confidence",
    }


def pairs(weights=WEIGHTS):
    n = len(weights)
    return Dataset.from_dict(
        {
            "prompt": [f"Say {i}." for i in range(n)],
            "chosen": [f"It is {i}." for i in range(n)],
            "rejected": [f"No, not {i}." for i in range(n)],
            "label_confidence": weights,
        }
    )


def rows_of_an_epoch(trainer, epoch):
    """The token ids of the prompts and chosen sides that an epoch trains on, in order."""
    loader = trainer.get_train_dataloader()
    loader.set_epoch(epoch)
    found = []
    for batch in loader:
        n = len(batch["input_ids"]) // 2  # the chosen sides, then the rejected ones
        found += [
            tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(batch["input_ids"][:n], batch["attention_mask"][:n], strict=True)
        ]
    return found


def test_rows_come_in_proportion_to_their_weights():
    sampler = WeightedSampler(np.repeat(WEIGHTS, 5000), seed=3)
    drawn = np.bincount(np.array(list(sampler)) // 5000, minlength=4)
    assert drawn.sum() == len(sampler) == 20_000
    np.testing.assert_allclose(drawn / 20_000, np.array(WEIGHTS) / 8, atol=0.02)
    assert drawn[0] == 0


def test_an_epoch_depends_on_the_seed_and_its_number_alone():
    weights = np.ones(50)

    def epoch(seed, number, before=()):
        sampler = WeightedSampler(weights, seed)
        for other in before:
            sampler.set_epoch(other)
            list(sampler)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(1, 2) == epoch(1, 2, before=[0, 1]) != epoch(1, 3)
    assert epoch(1, 2) != epoch(7, 2)


def test_the_trainer_samples_by_weight_and_anew_in_each_epoch(options, tiny_lm):
    weights = [0.0] * 20 + [1.0] * 20
    trainer = RealDPOTrainer(tiny_lm, args=RealDPOConfig(**options), train_dataset=pairs(weights))
    ids = [
        tuple(p + c)
        for p, c in zip(trainer.train_dataset["prompt_ids"], trainer.train_dataset["chosen_ids"], strict=True)
    ]
    first, second = rows_of_an_epoch(trainer, 0), rows_of_an_epoch(trainer, 1)
    assert len(first) == 40
    assert first != second
    assert first == rows_of_an_epoch(trainer, 0)
    assert set(first) | set(second) <= set(ids[20:])
    trainer.train()
    assert trainer.state.global_step == 60


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(options, tiny_lm, tmp_path):
    options |= {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "learning_rate": 1e-3}

    def run(folder, **kwargs):
        args = RealDPOConfig(**{**options, "output_dir": str(tmp_path / folder)})
        trainer = RealDPOTrainer(tiny_lm, args=args, train_dataset=pairs())
        trainer.train(**kwargs)
        return trainer.model

    run("whole")
    resumed = run("again", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (
            pairs().remove_columns("label_confidence"),
            ValueError,
            "`train_dataset` has no such column. Found: ['prompt'",
        ),
        (pairs([0.5, -0.1]), ValueError, "must be a number of at least 0. Row 1 has -0.1, and 1 of 2 rows"),
        (pairs([0.5, None, float("nan")]), ValueError, "Row 1 has None, and 2 of 3 rows"),
        (pairs([0, 0]), ValueError, "all weights are 0"),
        (pairs(["0.5", "0.6"]), TypeError, "the column must have numbers, got string"),
        (pairs([[0.5], [0.6]]), TypeError, "the column must have numbers, got list"),
        (IterableDataset.from_generator(lambda: iter(pairs())), TypeError, "needs a `datasets.Dataset`"),
    ],
)
def test_weights_that_cannot_be_used_are_named_before_a_model_is_loaded(rows, error, message, options):
    with pytest.raises(error, match=re.escape(message)):
        RealDPOTrainer("no/such-model", args=RealDPOConfig(**options, max_steps=1), train_dataset=rows)


def test_only_the_default_sampling_strategy_can_be_weighted(options):
    with pytest.raises(ValueError, match="cannot be combined with `train_sampling_strategy='sequential'`"):
        RealDPOConfig(**options, train_sampling_strategy="sequential")
