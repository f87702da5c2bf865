"""The files of a training run in its `output_dir`, and the checks before the run begins."""

import contextlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl import DPOConfig

from ..core.output_folder import OutputFolder
from ..embedding.identity import resolved_dtype
from ..hub.access import check_can_push


logger = logging.getLogger(__name__)

REPORT, CARD = "selection_report.json", "README.md"
EMBEDDINGS = "_embeddings"  # a push to the Hub ignores this folder, because of the underscore
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"  # the last file that `Trainer` writes
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")


def check_before_work(config: DPOConfig) -> None:
    """
    Raise if a batch has no rows, or if the run would fail at its end: the report cannot be written, or a push would be rejected. Warn if
    the precision is slow on this machine.
    """
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if (size := getattr(config, name)) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {size}.")
    if config.process_index > 0:
        return
    if config.bf16 and config.device.type == "cpu" and resolved_dtype("auto") == "float32":
        logger.warning(
            "This CPU has no units for bfloat16, so training in it is several times as slow as in float32. Pass `bf16=False`, or "
            "`--bf16 false` on the command line."
        )
    folder = OutputFolder(config.output_dir)
    with folder.locked(wait=10.0):
        folder.check((REPORT,))
    if config.push_to_hub:
        check_can_push(model_repo(config), "model", token=config.hub_token)
        if (repo_id := getattr(config, "hub_dataset_id", None)) is not None:
            check_can_push(repo_id, "dataset", private=config.hub_private_repo, token=config.hub_token)


@contextlib.contextmanager
def card_lent(config: DPOConfig, folder: str | None) -> Iterator[None]:
    """Protect the card while a model is saved to `output_dir`, since PEFT writes its own card next to an adapter."""
    if config.process_index > 0 or Path(folder or config.output_dir) != Path(config.output_dir):
        yield
        return
    with OutputFolder(config.output_dir).lent(CARD):
        yield


def model_repo(config: DPOConfig) -> str:
    """The repository of the model: `hub_model_id`, or by default the name of the output folder."""
    return config.hub_model_id or Path(config.output_dir).absolute().name


def shown_path(folder: str) -> str:
    """
    The path from which the model card loads the model. It is relative to the working directory, so that a card does not reveal
    the folders of a disk. A model outside of the working directory is loaded from its own folder.
    """
    path, here = Path(folder).absolute(), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else "."


def checkpoint_to_resume(wanted: Any, folder: str | Path) -> str | None:
    """
    The checkpoint to resume from.

    Args:
        wanted (`str` or `bool`, *optional*):
            The folder of a checkpoint, or `True` for the last complete one.
        folder (`str` or `Path`):
            The folder in which to look for the last complete one.

    Returns:
        `str` or `None`: The folder of a complete checkpoint; `None` if none is wanted.

    Raises:
        `ValueError`: If there is no checkpoint, or it is not complete.
    """
    if wanted is True:
        return _last_checkpoint(Path(folder))
    if not wanted:
        return None
    if not os.path.isdir(wanted):
        raise ValueError(f"`resume_from_checkpoint`: there is no checkpoint in {wanted}.")
    if (damage := _damage(Path(wanted))) is not None:
        raise ValueError(
            f"`resume_from_checkpoint`: the checkpoint {wanted} is not complete: {damage}. Resume from another one, or from "
            "the last complete one with `True`."
        )
    return str(wanted)


def _last_checkpoint(folder: Path) -> str:
    """The last complete checkpoint in a folder. Incomplete checkpoints after it are skipped with a warning."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and CHECKPOINT.fullmatch(path.name)]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if (damage := _damage(path)) is None:
            return str(path)
        logger.warning("%s is not complete and is skipped: %s.", path, damage)
    raise ValueError(
        f"`resume_from_checkpoint`: there is no checkpoint in {folder}"
        + (f". None of {len(found)} is complete; start again without it." if found else ".")
    )


def _damage(checkpoint: Path) -> str | None:
    """What is missing or damaged in a checkpoint, if anything. A killed run leaves an incomplete checkpoint."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"]
    except FileNotFoundError:
        return f"{STATE}, which is written last, is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{STATE} is damaged"
    weights = [path for pattern in WEIGHTS for path in checkpoint.glob(pattern)]
    # DeepSpeed, FSDP and multiple adapters write subfolders instead.
    if not weights and not any(path.is_dir() for path in checkpoint.iterdir()):
        return "it has no weights"
    for index in checkpoint.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} is damaged"
        if missing := sorted(name for name in shards if not (checkpoint / name).is_file()):
            return f"{missing[0]} is missing"
    for path in sorted(checkpoint.iterdir()):
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} is damaged"
        if path.suffix in (".pt", ".pth", ".bin") and path.is_file() and not zipfile.is_zipfile(path):
            return f"{path.name} is damaged"  # `torch.save` writes a zip archive, which ends with its directory
    return None


def _is_whole_safetensors(path: Path) -> bool:
    """Whether the length of a Safetensors file matches its header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False
    return bool(path.stat().st_size == 8 + length + max(ends, default=0))
