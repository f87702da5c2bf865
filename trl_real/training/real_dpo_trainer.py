"""Train with DPO on the selected pairs: `RealDPOTrainer`."""

import dataclasses
import functools
import inspect
import itertools
import logging
import operator
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, IterableDataset
from huggingface_hub import ModelCard
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from ..candidates.conversion import ConvertedPairs
from ..config import SelectionConfig
from ..core.files import write_text
from ..core.output_folder import OutputFolder
from ..core.redaction import redact
from ..core.repo_ids import is_repo_id
from ..embedding.embedder import free_embedder
from ..embedding.policy import PolicyEmbedder
from ..hub.card_parts import REAL_CITATION
from ..hub.model_card import add_selection
from ..hub.push import push_selected_dataset
from ..hub.retries import explained, retried
from ..selection.preferences import needs_embeddings, select_stream
from ..selection.report import REASONS, SelectionReport
from .data import check_labels, given_pairs, read, select_on_all_ranks, still_differ
from .log_selection import LogSelection
from .real_dpo_config import RealDPOConfig, selection_of
from .run_files import (
    CARD,
    EMBEDDINGS,
    REPORT,
    card_lent,
    check_before_work,
    checkpoint_to_resume,
    model_repo,
    shown_path,
)
from .sample_weights import WeightedSampler, read_weights
from .untrained_policy import policy_of, untrained_policy


logger = logging.getLogger(__name__)

# Reasons why the trainer cannot use a selected pair.
SAME_TOKENS = "identical_tokens"
NOT_TRAINED_ON = ("prompt_too_long", SAME_TOKENS, "identical_when_truncated")


class RealDPOTrainer(DPOTrainer):
    """
    Trainer for Direct Preference Optimization on the most informative response pairs (REAL, arXiv 2409.17169).

    The only change to [`~trl.DPOTrainer`] is what happens to the data before training. Candidates, that is several responses
    with scores per prompt, become pairs with [`select_preferences`], and pairs that are identical once truncated to
    `max_length` are dropped. Preference pairs are used as they are, unless there is a `budget`; pairs with equal, empty or tied
    sides are counted and left out. The arguments are those of [`~trl.DPOTrainer`], with these differences:

    Args:
        args ([`RealDPOConfig`] or [`~trl.DPOConfig`], *optional*):
            Configuration for this trainer. A plain [`~trl.DPOConfig`] selects with the defaults of
            [`SelectionConfig`].
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Candidates with scores, in any layout that [`to_candidates`] recognizes, or any dataset that [`~trl.DPOTrainer`]
            accepts. Pairs are selected from a stream while it is read, so the embedder stays in memory and embeds the
            responses again in each epoch.
        eval_dataset (as in [`~trl.DPOTrainer`], *optional*):
            The same. Pairs of candidates are picked with `eval_selection_strategy`, without a budget.

    Attributes:
        selection_report ([`SelectionReport`] or `None`):
            The report on the selection from `train_dataset`, including pairs that the trainer dropped; `None` for a stream.
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

    # Wrapped, so that the arguments are those of the installed version of TRL.
    @functools.wraps(DPOTrainer.__init__, assigned=())  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        call = inspect.signature(super().__init__).bind(*args, **kwargs)
        given = call.arguments
        if given.get("args") is None:
            model = given["model"]
            name = model if isinstance(model, str) else model.config._name_or_path
            given["args"] = RealDPOConfig(output_dir=f"{name.split('/')[-1]}-REAL")
        config = given["args"]
        check_before_work(config)
        self.selection_report: SelectionReport | None = None
        self._pushed_dataset: str | None = None
        policy = policy_of(given, config)
        self._policy: PolicyEmbedder | None = policy
        if given.get("train_dataset") is not None:
            given["train_dataset"], self.selection_report = self._pairs_of(
                given["train_dataset"], "train_dataset", selection_of(config), config
            )
        self.selected_dataset = given.get("train_dataset")
        if (column := getattr(config, "sample_weights", None)) is not None:
            read_weights(self.selected_dataset, column)
        if given.get("eval_dataset") is not None:
            given["eval_dataset"] = self._pair_eval_dataset(given["eval_dataset"], config)
        free_embedder()  # training needs its memory
        policy.free()
        super().__init__(*call.args, **call.kwargs)
        self._policy = untrained_policy(self, given, policy)
        if self.is_world_process_zero():
            with OutputFolder(self.args.output_dir).replacing((REPORT,)) as stage:
                if self.selection_report is not None:
                    self.selection_report.save(stage / REPORT)
        self.add_callback(LogSelection(self))

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """
        Train, as [`~trl.DPOTrainer`] does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                The checkpoint to resume from. `True` resumes from the last complete checkpoint in `output_dir`.
            *args, **kwargs:
                The other arguments of `Trainer.train`.

        Raises:
            `ValueError`: If there is no complete checkpoint, or the given checkpoint is not complete.
        """
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        return super().train(checkpoint, *args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        if eval_dataset is not None:
            eval_dataset = self._pair_eval_dataset(eval_dataset, self.args)
            free_embedder()
            if self._policy is not None:
                self._policy.free()
        return super().evaluate(eval_dataset, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with card_lent(self.args, output_dir):
            super().save_model(output_dir, _internal_call)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        if not self.is_world_process_zero():
            return
        source_id = dataset_name if is_repo_id(dataset_name) and dataset_name != self._pushed_dataset else None
        folder, name = self.args.output_dir, model_name or model_repo(self.args).split("/")[-1]
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        try:
            with OutputFolder(folder).replacing((CARD,)) as stage:
                self.args.output_dir = str(stage)  # TRL writes its card here
                super().create_model_card(name, self._pushed_dataset or source_id, tags)
                card = add_selection(
                    ModelCard.load(stage / CARD),
                    self.selection_report,
                    config=selection_of(self.args),
                    base_model=getattr(self.model.config, "_name_or_path", None),
                    adapter=isinstance(self.model, PeftModel),
                    selected_id=self._pushed_dataset,
                    source_id=source_id,
                    history=self.state.log_history,
                    path=shown_path(folder),
                    chat=getattr(tokenizer, "chat_template", None) is not None,
                )
                write_text(stage / CARD, str(card))
        except Exception as error:  # no failure of a card may end the run
            logger.warning("The model card was not written: %s: %s", type(error).__name__, redact(str(error)))
        finally:
            self.args.output_dir = folder

    def push_to_hub(self, *args: Any, license: str | None = None, **kwargs: Any) -> Any:
        """
        Push the model with its card, as [`~trl.DPOTrainer`] does.

        With `hub_dataset_id`, the selected pairs and their dataset card are pushed first. The two cards link to each other.

        Args:
            license (`str`, *optional*):
                The license of the data, for the dataset card. If `None`, the license in the card of the source on the Hub.
            *args, **kwargs:
                The arguments of `Trainer.push_to_hub`.
        """
        push = functools.partial(super().push_to_hub, *args, **kwargs)
        given = inspect.signature(super().push_to_hub).bind(*args, **kwargs).arguments
        name = self.hub_model_id or model_repo(self.args)
        failure = None
        if getattr(self.args, "hub_dataset_id", None) is not None and self.is_world_process_zero():
            try:
                self._push_pairs(self.args.hub_dataset_id, name, given, license)
            except Exception as error:  # no failure of this push may prevent the push of the model
                logger.warning(
                    "The pairs were not pushed, and the model is pushed without them: %s", redact(str(error))
                )
                failure = error
        try:
            with explained(name):
                # All processes save the model together, so one process alone cannot retry.
                pushed = retried(push, name) if self.args.world_size == 1 else push()
        except Exception as error:
            if failure is None:
                raise
            raise failure from error
        if failure is not None:
            failure.add_note(f"The model was pushed to {name!r} without its pairs.")
            raise failure
        return pushed

    def _push_pairs(self, repo_id: str, model_id: str, given: dict[str, Any], license: str | None) -> None:
        if not isinstance(self.selected_dataset, Dataset):
            logger.warning("Nothing is pushed to %s: the pairs are a stream, which is not stored.", repo_id)
            return
        private = given.get("private", given.get("kwargs", {}).get("private"))
        commit = push_selected_dataset(
            self.selected_dataset,
            repo_id,
            self._report_on_all_selected(),
            selection_of(self.args),
            private=self.args.hub_private_repo if private is None else private,
            revision=given.get("revision") or getattr(self.args, "hub_revision", None),
            token=given.get("token") or self.args.hub_token,
            license=license,
            model_id=model_id,
        )
        self._pushed_dataset = commit.repo_url.repo_id

    def _report_on_all_selected(self) -> SelectionReport | None:
        """The report on all selected pairs, including pairs that the trainer cannot use."""
        report, pairs = self.selection_report, self.selected_dataset
        if report is None or not isinstance(pairs, Dataset):
            return None
        dropped = {reason: count for reason, count in report.dropped.items() if reason not in NOT_TRAINED_ON}
        return dataclasses.replace(report, dropped=dropped, pairs=len(pairs))

    def _pair_eval_dataset(self, dataset: Any, config: DPOConfig) -> Any:
        if isinstance(dataset, dict):
            return {name: self._pair_eval_dataset(split, config) for name, split in dataset.items()}
        selection = dataclasses.replace(
            selection_of(config),
            strategy=getattr(config, "eval_selection_strategy", RealDPOConfig.eval_selection_strategy),
            strategy_kwargs=None,
            pairs_per_prompt=1,
            budget=None,
            budget_strategy=None,
            budget_cost=None,
            budget_min_distance=None,
        )
        return self._pairs_of(dataset, "eval_dataset", selection, config)[0]

    def _pairs_of(
        self, dataset: Any, name: str, selection: SelectionConfig, config: DPOConfig
    ) -> tuple[Any, SelectionReport | None]:
        """The pairs of a dataset and the report on them. Anything but a dataset with rows is left to TRL."""
        converted = read(dataset, name, selection.on_skip)
        if converted is None:
            return dataset, None
        if name == "eval_dataset" and not converted.scored:  # the gap is that of the training data
            selection = dataclasses.replace(selection, min_score_gap=0.0)
        streams = isinstance(converted.dataset, IterableDataset)
        if isinstance(converted, ConvertedPairs) and not selection.is_budgeted:
            return given_pairs(converted, selection)
        check_labels(converted, name)
        if selection.embedder == "policy" and needs_embeddings(converted, selection):
            if self._policy is None or streams:
                raise ValueError(
                    "`embedder='policy'` is the policy before training, but its weights are no longer available when "
                    f"`{name}` is embedded. Use another embedder, load a stream without `streaming=True`, or, to "
                    "evaluate, set `eval_selection_strategy='random'` or pass the model as an id or path."
                )
            options: dict[str, Any] = {"embedder": self._policy}
            selection = dataclasses.replace(selection, **options)
        if streams:
            return select_stream(converted, selection), None
        return select_on_all_ranks(converted, selection, Path(config.output_dir) / EMBEDDINGS)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        if (column := getattr(self.args, "sample_weights", None)) is None:
            return super()._get_train_sampler(*args, **kwargs)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return WeightedSampler(read_weights(self.train_dataset, column), seed)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: DPOConfig, dataset_name: str
    ) -> Dataset | IterableDataset:
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        options: dict[str, Any] = {
            "input_columns": ["prompt_ids", "chosen_ids", "rejected_ids"],
            "fn_kwargs": {
                "max_length": args.max_length,
                "truncation_mode": getattr(args, "truncation_mode", "keep_start"),
            },
        }
        if not isinstance(prepared, Dataset):
            return prepared.filter(still_differ, **options)
        what = f"Dropping identical pairs from {dataset_name} dataset"
        other = prepared.filter(operator.ne, desc=what, input_columns=["chosen_ids", "rejected_ids"])
        kept = other.filter(still_differ, desc=what, **options)
        # TRL drops the pairs whose prompt alone is too long, without a word.
        left = [len(dataset), len(prepared), len(other), len(kept)]
        counts = dict(zip(NOT_TRAINED_ON, (before - after for before, after in itertools.pairwise(left)), strict=True))
        dropped = {reason: count for reason, count in counts.items() if count}
        if dropped:
            why = "; ".join(f"in {count} pairs {REASONS[reason]}" for reason, count in dropped.items())
            if len(kept) == 0:
                remedies = {
                    "Look at what the chat template leaves out." if r == SAME_TOKENS else "Raise `max_length`."
                    for r in dropped
                }
                raise ValueError(
                    f"None of the {len(dataset)} pairs of the {dataset_name} dataset can be used with "
                    f"`max_length={args.max_length}`: {why}. {' '.join(sorted(remedies))}"
                )
            logger.warning(
                "%d of the %d pairs of the %s dataset were kept: %s.", len(kept), len(dataset), dataset_name, why
            )
            if dataset is self.selected_dataset and self.selection_report is not None:
                self.selection_report.dropped.update(dropped)
                self.selection_report.pairs = len(kept)
        return kept
