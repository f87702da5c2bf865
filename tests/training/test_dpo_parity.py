"""What `DPOTrainer` takes, `RealDPOTrainer` takes: on the same pairs both have the same losses."""

import pytest
import torch
from conftest import WORDS, candidate_rows
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from trl_real import RealDPOConfig, RealDPOTrainer, SelectionConfig, select_preferences


LOSSES = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"]
LOSSES += ["apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"]


@pytest.fixture
def candidates(rng):
    return Dataset.from_list(candidate_rows(rng, 12))


def train(kind, config, data, tiny_lm, tmp_path, *, model=None, make=None, **arguments):
    """The losses of a run of two steps, evaluation included."""
    args = config(
        output_dir=str(tmp_path / kind.__name__),
        per_device_train_batch_size=4,
        max_steps=2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        seed=3,
        learning_rate=1e-3,
        disable_tqdm=True,
        **arguments,
    )
    torch.manual_seed(0)
    trainer = kind(model() if model else tiny_lm, args=args, train_dataset=data, **(make() if make else {}))
    trainer.train()
    names = ("loss", "eval_loss", "rewards/margins", "eval_pairs_loss")
    return [{name: entry[name] for name in names if name in entry} for entry in trainer.state.log_history[-4:]]


def assert_parity(candidates, tiny_lm, tmp_path, **options):
    ours = train(RealDPOTrainer, RealDPOConfig, candidates, tiny_lm, tmp_path, strategy="max_min", **options)
    pairs, _ = select_preferences(candidates, SelectionConfig(strategy="max_min"))
    theirs = train(DPOTrainer, DPOConfig, pairs, tiny_lm, tmp_path, **options)
    assert [entry for entry in ours if entry] == [entry for entry in theirs if entry] != []


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, candidates, tiny_lm, tmp_path):
    smoothing = {"label_smoothing": 0.1} if loss in ("exo_pair", "robust") else {}
    assert_parity(candidates, tiny_lm, tmp_path, loss_type=[loss], **smoothing)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.3]},
        {"precompute_ref_log_probs": True},
        {"gradient_checkpointing": True},
        {"sync_ref_model": True, "ref_model_sync_steps": 1},
        {"max_length": 24},
        {"padding_free": False, "use_weighting": True},
        {"f_divergence_type": "js_divergence"},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_options(options, candidates, tiny_lm, tmp_path):
    assert_parity(candidates, tiny_lm, tmp_path, **options)


def lora():
    return LoraConfig(task_type="CAUSAL_LM", r=4, fan_in_fan_out=True)


@pytest.mark.parametrize("make", ["object", "reference", "peft_config", "peft_model", "tokenizer", "callback"])
def test_arguments(make, candidates, tiny_lm, tmp_path):
    def load():
        return AutoModelForCausalLM.from_pretrained(tiny_lm)

    class Callback(TrainerCallback):
        steps = 0

        def on_step_end(self, *args, **kwargs):
            Callback.steps += 1

    made = {
        "object": {"model": load},
        "reference": {"model": load, "make": lambda: {"ref_model": load()}},
        "peft_config": {"make": lambda: {"peft_config": lora()}},
        "peft_model": {"model": lambda: get_peft_model(load(), lora())},
        "tokenizer": {"make": lambda: {"processing_class": AutoTokenizer.from_pretrained(tiny_lm)}},
        "callback": {"make": lambda: {"callbacks": [Callback()]}},
    }
    assert_parity(candidates, tiny_lm, tmp_path, **made[make])
    assert Callback.steps == (4 if make == "callback" else 0)


@pytest.mark.parametrize("kind", ["dataset", "dict", "splits", "stream"])
def test_evaluation_datasets(kind, candidates, tiny_lm, tmp_path):
    pairs, _ = select_preferences(candidates, SelectionConfig(strategy="max_min"))
    pairs = pairs.select_columns(["prompt", "chosen", "rejected"])
    datasets = {
        "dataset": pairs,
        "dict": {"pairs": pairs},
        "splits": DatasetDict({"pairs": pairs}),
        "stream": pairs.to_iterable_dataset(),
    }
    assert_parity(
        candidates,
        tiny_lm,
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        make=lambda: {"eval_dataset": datasets[kind]},
    )


@pytest.fixture
def tiny_vlm(tmp_path):
    """Folder of a vision-language model with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<eos>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        WORDS, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", extra_special_tokens={"image_token": "<image>"}
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}{% for part in message.content %}"
            "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<eos>{% endfor %}"
        ),
    )
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=28, patch_size=14),
        text_config=LlamaConfig(**shape, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=1),
        image_token_index=2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "vlm")
    processor.save_pretrained(tmp_path / "vlm")
    return str(tmp_path / "vlm")


def test_a_vision_language_model(candidates, tiny_vlm, tmp_path):
    images = pytest.importorskip("PIL.Image")
    rows = {
        "prompt": [[{"role": "user", "content": text}] for text in candidates["prompt"]],
        "responses": [[[{"role": "assistant", "content": text}] for text in row] for row in candidates["responses"]],
        "scores": candidates["scores"][:],
        "images": [[images.new("RGB", (28, 28), (i, 100, 50))] for i in range(len(candidates))],
    }
    assert_parity(Dataset.from_dict(rows), tiny_vlm, tmp_path, max_length=None)


def test_tools_and_template_arguments_reach_the_chat_template(candidates, tiny_lm, tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "responses": [[{"role": "assistant", "content": text}] for text in row["responses"]],
            "scores": row["scores"],
            "tools": [{"type": "function", "function": {"name": "rain", "description": "Rain."}}],
            "chat_template_kwargs": {"shout": i % 2 == 0},
        }
        for i, row in enumerate(candidates)
    ]
    template = (
        "{% if tools %}{{ tools | length }} tools{% endif %}{% if shout %}LOUD{% endif %}"
        "{% for message in messages %}{{ message.role + ': ' + message.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )

    def make():
        tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
        tokenizer.chat_template = template
        return {"processing_class": tokenizer}

    pairs, _ = select_preferences(Dataset.from_list(rows), SelectionConfig(strategy="max_min"))
    assert {"tools", "chat_template_kwargs"} <= set(pairs.column_names)
    assert_parity(Dataset.from_list(rows), tiny_lm, tmp_path, make=make)
