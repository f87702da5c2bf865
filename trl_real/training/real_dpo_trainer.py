"""DPO on the pairs that are worth a label: `RealDPOTrainer`."""

import dataclasses
import functools
import inspect
import logging
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, IterableDataset
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from ..candidates.conversion import convert
from ..candidates.layouts import LAYOUTS, find_layout
from ..config import SelectionConfig
from ..core.columns import column_names
from ..core.redaction import redact
from ..embedding.checkpoints import embed_in_chunks
from ..embedding.embedder import free_embedder
from ..embedding.policy import PolicyEmbedder, base_parameters
from ..hub.card_parts import REAL_CITATION, is_repo_id
from ..hub.model_card import add_selection
from ..hub.push import push_selected_dataset
from ..hub.requests import explained, retried
from ..selection.preferences import needs_embeddings, select_converted, select_stream
from ..selection.report import REASONS, SelectionReport
from .real_dpo_config import RealDPOConfig


logger = logging.getLogger(__name__)

# Why a selected pair is not trained on.
TOO_LONG = ("prompt_too_long", "identical_when_truncated")


class RealDPOTrainer(DPOTrainer):
    """
    Trainer for Direct Preference Optimization on the most informative response pairs (REAL, arXiv 2409.17169).

    The only change to [`~trl.DPOTrainer`] is what happens to the data before training: candidates, several responses a
    prompt with scores, become pairs by [`select_preferences`], and pairs that `max_length` makes identical are
    dropped. Data that comes in pairs is left as it is, unless there is a `budget` to spend on it. It takes the
    arguments of [`~trl.DPOTrainer`], with these differences:

    Args:
        args ([`RealDPOConfig`] or [`~trl.DPOConfig`], *optional*):
            Configuration for this trainer. A plain [`~trl.DPOConfig`] selects with the defaults of
            [`SelectionConfig`].
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Candidates with scores in any layout that [`to_candidates`] knows, or whatever [`~trl.DPOTrainer`] takes. A
            stream is selected from as it is read: its responses are embedded anew in each epoch, by an embedder that
            stays in memory.
        eval_dataset (as in [`~trl.DPOTrainer`], *optional*):
            The same. Candidates are paired by `eval_selection_strategy` and never budgeted.

    Attributes:
        selection_report ([`SelectionReport`] or `None`):
            What was selected from `train_dataset`, and what of it cannot be trained on; `None` for a stream.
        selected_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The selected pairs, as text or messages.

    Example:

    ```python
    from trl_real import RealDPOConfig, RealDPOTrainer, load_sample

    trainer = RealDPOTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        args=RealDPOConfig(strategy="easy", budget=0.5),
        train_dataset=load_sample("conversational"),
    )
    trainer.train()
    ```
    """

    _tag_names: ClassVar[list[str]] = ["trl", "dpo", "trl-real"]
    _name = "REAL"
    _paper: ClassVar[dict[str, str]] = {
        "title": "REAL: Response Embedding-based Alignment for LLMs",
        "id": "2409.17169",
        "citation": REAL_CITATION,
    }

    # Wrapped rather than spelled out, so that the arguments are those of the TRL that is installed.
    @functools.wraps(DPOTrainer.__init__, assigned=())  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        call = inspect.signature(super().__init__).bind(*args, **kwargs)
        given = call.arguments
        if given.get("args") is None:
            model = given["model"]
            name = model if isinstance(model, str) else model.config._name_or_path
            given["args"] = RealDPOConfig(output_dir=f"{name.split('/')[-1]}-REAL")
        config = given["args"]
        self.selection_report: SelectionReport | None = None
        self._pushed_dataset: str | None = None
        policy = _policy(given, config)
        self._policy: PolicyEmbedder | None = policy
        train_dataset = given.get("train_dataset")
        if isinstance(train_dataset, Dataset | IterableDataset):
            selection = _selection(config)
            budgeted = (selection.budget, selection.budget_min_distance) != (None, None)
            if _are_candidates(train_dataset, "train_dataset") or budgeted:
                train_dataset, self.selection_report = self._select(train_dataset, "train_dataset", selection, config)
            elif isinstance(train_dataset, Dataset):
                self.selection_report = SelectionReport.of_given_pairs(len(train_dataset))
        self.selected_dataset = given["train_dataset"] = train_dataset
        if given.get("eval_dataset") is not None:
            given["eval_dataset"] = self._pair_eval_dataset(given["eval_dataset"], config)
        free_embedder()  # its memory is the policy's from here on
        policy.free()
        super().__init__(*call.args, **call.kwargs)
        self._policy = self._untrained_policy(given, policy)
        if self.is_world_process_zero():
            path = Path(self.args.output_dir) / "selection_report.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of an earlier run
            if self.selection_report is not None:
                self.selection_report.save(path)
        self.add_callback(_LogSelection(self))

    def _untrained_policy(self, given: dict[str, Any], policy: PolicyEmbedder) -> PolicyEmbedder | None:
        """The policy before training, for evaluations to come; `None` if its weights are about to change."""
        if isinstance(self.model, PeftModel) and not any(w.requires_grad for _, w in base_parameters(self.model)):
            return PolicyEmbedder(self.model, *policy.options)
        if isinstance(given["model"], str):
            return policy  # to be loaded again
        # The reference that TRL makes of a model may be a copy of it.
        if given.get("ref_model") is None and self.ref_model is not None and not self.args.sync_ref_model:
            reference = PolicyEmbedder(self.ref_model, *policy.options)
            if _selection(self.args).embedder == "policy" and reference.fingerprint() == policy.fingerprint():
                return reference
        return None

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        if eval_dataset is not None:
            eval_dataset = self._pair_eval_dataset(eval_dataset, self.args)
            free_embedder()
            if self._policy is not None:
                self._policy.free()
        return super().evaluate(eval_dataset, *args, **kwargs)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        if not self.is_world_process_zero():
            return
        source_id = dataset_name if is_repo_id(dataset_name) and dataset_name != self._pushed_dataset else None
        try:
            super().create_model_card(model_name, self._pushed_dataset or source_id, tags)
            path = Path(self.args.output_dir) / "README.md"
            card = add_selection(
                ModelCard.load(path),
                self.selection_report,
                config=_selection(self.args),
                base_model=getattr(self.model.config, "_name_or_path", None),
                adapter=isinstance(self.model, PeftModel),
                selected_id=self._pushed_dataset,
                source_id=source_id,
                history=self.state.log_history,
            )
            card.save(path)
        except Exception as error:  # whatever it is, it is no reason to lose a run
            logger.warning("The model card was not written: %s: %s", type(error).__name__, redact(str(error)))

    def push_to_hub(self, *args: Any, license: str | None = None, **kwargs: Any) -> Any:
        """
        Push the model with its card, as [`~trl.DPOTrainer`] does, and before it, if there is a `hub_dataset_id`, the selected
        pairs with theirs, each card linking the other.

        Args:
            license (`str`, *optional*):
                The licence of the data, for the card of the pairs. If `None`, what the source's card on the Hub says.
            *args, **kwargs:
                Those of `Trainer.push_to_hub`.
        """
        push = functools.partial(super().push_to_hub, *args, **kwargs)
        given = inspect.signature(super().push_to_hub).bind(*args, **kwargs).arguments
        private = given.get("private", given.get("kwargs", {}).get("private"))
        name = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        repo_id = getattr(self.args, "hub_dataset_id", None)
        if repo_id is not None and self.is_world_process_zero():
            if isinstance(self.selected_dataset, Dataset):
                commit = push_selected_dataset(
                    self.selected_dataset,
                    repo_id,
                    self._report_on_all_selected(),
                    _selection(self.args),
                    private=self.args.hub_private_repo if private is None else private,
                    revision=given.get("revision") or getattr(self.args, "hub_revision", None),
                    token=given.get("token") or self.args.hub_token,
                    license=license,
                    model_id=name,
                )
                self._pushed_dataset = commit.repo_url.repo_id
            else:
                logger.warning("Nothing is pushed to %s: the pairs are a stream, which is not kept.", repo_id)
        with explained(name):
            # The model is saved by all processes together, so that one alone cannot try again.
            return retried(push, name) if self.args.world_size == 1 else push()

    def _report_on_all_selected(self) -> SelectionReport | None:
        """The report without what the trainer could not use of the selected pairs."""
        report, pairs = self.selection_report, self.selected_dataset
        if report is None or not isinstance(pairs, Dataset):
            return None
        dropped = {reason: count for reason, count in report.dropped.items() if reason not in TOO_LONG}
        return dataclasses.replace(report, dropped=dropped, pairs=len(pairs))

    def _pair_eval_dataset(self, dataset: Any, config: DPOConfig) -> Any:
        if isinstance(dataset, dict):
            return {name: self._pair_eval_dataset(split, config) for name, split in dataset.items()}
        if not _are_candidates(dataset, "eval_dataset"):
            return dataset
        strategy = getattr(config, "eval_selection_strategy", RealDPOConfig.eval_selection_strategy)
        selection = dataclasses.replace(
            _selection(config),
            strategy=strategy,
            strategy_kwargs=None,
            pairs_per_prompt=1,
            budget=None,
            budget_strategy=None,
            budget_cost=None,
            budget_min_distance=None,
        )
        return self._select(dataset, "eval_dataset", selection, config)[0]

    def _select(
        self, dataset: Any, name: str, selection: SelectionConfig, config: DPOConfig
    ) -> tuple[Dataset | IterableDataset, SelectionReport | None]:
        streams = isinstance(dataset, IterableDataset)
        converted = convert(
            dataset, on_skip="error" if selection.on_skip == "error" else "drop" if streams else "keep"
        )
        columns = column_names(converted.dataset) or []
        if not (converted.given_pairs or "scores" in columns):
            raise ValueError(
                f"`{name}` has no scores, so that nothing tells the chosen response from the rejected one. Found: "
                f"{columns}. Add a column `scores`, or select pairs with `real_select`, have people label them "
                "with `to_label_tasks` and train on what `apply_labels` makes of it."
            )
        embeds = needs_embeddings(selection, converted.given_pairs) and "embeddings" not in columns
        if selection.embedder == "policy" and embeds:
            if self._policy is None or streams:
                raise ValueError(
                    "`embedder='policy'` is the policy before training, whose weights are gone by the time that "
                    f"`{name}` is embedded. Name another embedder, load a stream without `streaming=True`, or, to "
                    "evaluate, set `eval_selection_strategy='random'` or give the model as an id or path."
                )
            options: dict[str, Any] = {"embedder": self._policy}
            selection = dataclasses.replace(selection, **options)
        if streams:
            return select_stream(converted, selection), None
        folder = Path(config.output_dir) / "_embeddings"  # which a push to the Hub leaves out
        return select_converted(converted, selection, functools.partial(embed_in_chunks, folder=folder))

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: DPOConfig, dataset_name: str
    ) -> Dataset | IterableDataset:
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        options: dict[str, Any] = {
            "input_columns": ["prompt_ids", "chosen_ids", "rejected_ids"],
            "fn_kwargs": {"max_length": args.max_length, "truncation_mode": args.truncation_mode},
        }
        if not isinstance(prepared, Dataset):
            return prepared.filter(_differ, **options)
        kept = prepared.filter(_differ, desc=f"Dropping identical pairs from {dataset_name} dataset", **options)
        # TRL drops the pairs whose prompt alone is too long, without a word.
        counts = dict(zip(TOO_LONG, (len(dataset) - len(prepared), len(prepared) - len(kept)), strict=True))
        dropped = {reason: count for reason, count in counts.items() if count}
        if dropped:
            why = "; ".join(f"in {count} {REASONS[reason]}" for reason, count in dropped.items())
            if len(kept) == 0:
                raise ValueError(
                    f"None of the {len(dataset)} pairs of the {dataset_name} dataset can be used with "
                    f"`max_length={args.max_length}`: {why}. Raise `max_length`."
                )
            logger.warning(
                "Of the %d pairs of the %s dataset %d are left: %s.", len(dataset), dataset_name, len(kept), why
            )
            if dataset is self.selected_dataset and self.selection_report is not None:
                self.selection_report.dropped.update(dropped)
                self.selection_report.pairs = len(kept)
        return kept


def _selection(config: DPOConfig) -> SelectionConfig:
    if not isinstance(config, SelectionConfig):
        return SelectionConfig()
    return SelectionConfig(
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(SelectionConfig)}
    )


def _policy(given: dict[str, Any], config: DPOConfig) -> PolicyEmbedder:
    """The model that is about to be trained, as an embedder; loaded only if it comes to that."""
    selection, init_kwargs = _selection(config), dict(config.model_init_kwargs or {})
    if given.get("quantization_config") is not None:
        init_kwargs["quantization_config"] = given["quantization_config"]
    init_kwargs.setdefault("trust_remote_code", getattr(config, "trust_remote_code", False))
    if config.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        init_kwargs["device_map"] = None
    return PolicyEmbedder(
        given["model"],
        given.get("processing_class"),
        selection.embedder_max_length,
        selection.embedder_batch_size,
        init_kwargs,
    )


class _LogSelection(TrainerCallback):
    """Sends the numbers of the selection to the trackers of a run."""

    def __init__(self, trainer: RealDPOTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        report = self.trainer.selection_report
        if report is not None and report.strategy is not None and state.global_step == 0:
            self.trainer.log({f"selection/{name}": value for name, value in report.metrics().items()})


def _are_candidates(dataset: Any, name: str) -> bool:
    """Whether pairs have to be selected; an error for what TRL would stumble over: other columns, no rows, nulls."""
    columns = column_names(dataset)
    if columns is None or "chosen_ids" in columns:  # the name of a split, tokenized pairs
        return False
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise ValueError(f"`{name}` is empty.")
    if not LAYOUTS[find_layout(dataset).layout].pairs:
        return True
    for column in {"prompt", "chosen", "rejected"} & set(columns) if isinstance(dataset, Dataset) else ():
        if not dataset.data.column(column).null_count:
            continue
        nulls = dataset.with_format("arrow")[column][:].null_count  # of the rows that are selected
        if nulls:
            raise ValueError(
                f"Column `{column}` of `{name}` is null in {nulls} of {len(dataset)} rows. Remove them, for example with "
                f"`dataset.filter(lambda row: row['{column}'] is not None)`."
            )
    return False


def _differ(
    prompt: list[int], chosen: list[int], rejected: list[int], max_length: int | None, truncation_mode: str
) -> bool:
    """Whether two sides still differ as the collator will cut them."""
    if max_length is None:
        return chosen != rejected
    if truncation_mode == "keep_end":
        return (prompt + chosen)[-max_length:] != (prompt + rejected)[-max_length:]
    return (prompt + chosen)[:max_length] != (prompt + rejected)[:max_length]
