"""`trl-real dpo`: select pairs and train on them."""

import contextlib
from pathlib import Path
from typing import Any

from trl import ModelConfig, get_peft_config, get_quantization_config

from ..candidates.conversion import convert
from ..core.files import remove_unfinished
from ..core.output_folder import OutputFolder
from ..training.real_dpo_config import RealDPOConfig
from ..training.real_dpo_trainer import RealDPOTrainer
from ..training.run_files import EMBEDDINGS, REPORT, checkpoint_to_resume
from .arguments import ColumnArguments, DPOArguments, parse
from .data_files import load_files
from .errors import users_mistakes


def dpo(argv: list[str]) -> None:
    """Select pairs and train on them."""
    arguments, columns, config, model = parse("dpo", (DPOArguments, ColumnArguments, RealDPOConfig, ModelConfig), argv)
    folder = OutputFolder(config.output_dir)
    main = config.process_index == 0
    with contextlib.ExitStack() as stack:
        with users_mistakes():
            if model.model_name_or_path is None:
                raise ValueError("`--model_name_or_path` is required: the model to train.")
            checkpoint = _checkpoint(config)
            if main:
                stack.enter_context(folder.locked())
                folder.check((REPORT,), arguments.inputs)
                remove_unfinished(folder.path / EMBEDDINGS)
            trainer = _trainer(arguments, columns, config, model)
        if trainer.selection_report is not None:
            trainer.accelerator.print(trainer.selection_report)
        with users_mistakes():
            trainer.train(resume_from_checkpoint=checkpoint)
            trainer.save_model(config.output_dir, _internal_call=True)  # a push from here would not name the dataset
            trainer.create_model_card(model_name=Path(config.output_dir).name, dataset_name=arguments.dataset_name)
            trainer.accelerator.print(f"\nThe model was saved to {config.output_dir}.")
            if config.push_to_hub:
                trainer.push_to_hub(dataset_name=arguments.dataset_name, license=arguments.license)
                trainer.accelerator.print(f"It was pushed to {trainer.hub_model_id}.")
            if hasattr(trainer, "end"):  # from Transformers 5.18 on
                trainer.end()


def _trainer(
    arguments: DPOArguments, columns: ColumnArguments, config: RealDPOConfig, model: ModelConfig
) -> RealDPOTrainer:
    """Create the trainer, which selects the pairs."""
    train, test = arguments.dataset_train_split, arguments.dataset_test_split
    evaluates = config.eval_strategy != "no"
    if arguments.eval_data_files and not evaluates:
        raise ValueError("`--eval_data_files` needs `--eval_strategy`, for example `--eval_strategy epoch`.")
    files: dict[str, Any] = {train: arguments.data_files, **({test: arguments.eval_data_files} if evaluates else {})}
    dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, arguments.dataset_streaming)
    on_skip = "error" if config.on_skip == "error" else "drop" if arguments.dataset_streaming else "keep"
    reading: dict[str, Any] = {"named": columns.named, "on_skip": on_skip, "votes": columns.votes}
    rows = {split: convert(dataset[split], columns.layout, **reading) for split in files}
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    return RealDPOTrainer(
        model=model.model_name_or_path,
        args=config,
        train_dataset=rows[train],
        eval_dataset=rows[test] if evaluates else None,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )


def _checkpoint(config: RealDPOConfig) -> str | None:
    """The checkpoint to resume from: a folder, or with "true" the last complete one in `output_dir`."""
    wanted = config.resume_from_checkpoint or ""
    switches = {"": None, "false": None, "true": True}
    return checkpoint_to_resume(switches.get(wanted.lower(), wanted), config.output_dir)
