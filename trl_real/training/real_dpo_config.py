"""The options of selection and DPO in one class: `RealDPOConfig`."""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl import DPOConfig

from ..config import SelectionConfig
from ..embedding.identity import embedder_name
from ..strategies import check_strategy


@dataclass
class RealDPOConfig(SelectionConfig, DPOConfig):
    r"""
    Configuration class for the [`RealDPOTrainer`].

    It has every parameter of [`SelectionConfig`] and of [`~trl.DPOConfig`], and these three:

    Parameters:
        eval_selection_strategy (`str`, *optional*, defaults to `"random"`):
            The strategy that picks the pairs of an evaluation dataset. The default does not depend on the strategy of the
            training pairs, which could bias the evaluation. No budget applies to evaluation pairs.
        hub_dataset_id (`str`, *optional*):
            The dataset on the Hub to which [`RealDPOTrainer.push_to_hub`] pushes the selected pairs, in addition to the model.
            If `None`, only the model is pushed.
        sample_weights (`str`, *optional*):
            A numeric column of the training pairs, for example `"label_confidence"` from [`apply_labels`]. Each epoch then has as
            many pairs as there are, sampled with replacement, each with a probability proportional to its value in the column.
            If `None`, each epoch has every pair once.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*DPOConfig._VALID_DICT_FIELDS, "strategy_kwargs"]

    eval_selection_strategy: str = field(
        default="random", metadata={"help": "Strategy that picks the pairs of an evaluation dataset."}
    )

    hub_dataset_id: str | None = field(
        default=None, metadata={"help": "Dataset on the Hub to push the selected pairs to, in addition to the model."}
    )

    on_skip: str = field(
        default="drop",
        metadata={"help": "What to do with a prompt that has no valid pair.", "choices": ["drop", "error"]},
    )
    sample_weights: str | None = field(
        default=None,
        metadata={
            "help": "Numeric column of the training pairs: pairs are sampled in proportion to it. Default: all equally."
        },
    )

    def __post_init__(self) -> None:
        # Both are called explicitly, because `super()` would call only the first one.
        SelectionConfig.__post_init__(self)
        DPOConfig.__post_init__(self)
        check_strategy(self.eval_selection_strategy, name="eval_selection_strategy")
        if self.on_skip == "keep":
            raise ValueError(
                "`on_skip='keep'` keeps rows without a pair, which cannot be used for training. Use 'drop'."
            )
        if self.sample_weights is not None and self.train_sampling_strategy != "random":
            raise ValueError(
                f"`sample_weights` samples pairs randomly, which cannot be combined with `train_sampling_strategy="
                f"{self.train_sampling_strategy!r}`. Leave one of them at its default."
            )

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "embedder": embedder_name(self.embedder)}

    def __getstate__(self) -> dict[str, Any]:
        # `training_args.bin` is a pickle of this object. It must not contain the weights of an embedder or a token.
        return {**self.__dict__, "embedder": embedder_name(self.embedder), "hub_token": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "RealDPOConfig":
        # A copy, unlike a pickle, keeps the embedder and the token.
        twin = copy.copy(self)
        twin.__dict__.update(copy.deepcopy({name: v for name, v in self.__dict__.items() if name != "embedder"}, memo))
        return twin

    def __copy__(self) -> "RealDPOConfig":
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin


def selection_of(config: DPOConfig) -> SelectionConfig:
    """The options of the selection. For a plain [`~trl.DPOConfig`], the defaults."""
    if not isinstance(config, SelectionConfig):
        return SelectionConfig()
    return SelectionConfig(
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(SelectionConfig)}
    )
