"""The card of a selected dataset: `create_dataset_card`."""

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..config import SelectionConfig
from ..core.redaction import redact
from ..core.repo_ids import is_repo_id
from ..embedding.identity import embedder_name
from ..selection.report import SelectionReport
from . import markdown
from .card_examples import describe_rows
from .card_metadata import Source, describe_files, describe_size, describe_source, extended, find_source
from .card_parts import OWN_CITATION, REAL_CITATION, link, options, options_yaml, render


TAGS = ("trl", "dpo", "preference", "trl-real")
# Each configuration of a dataset has its own section between these markers, so that a push changes only its own section. Text
# from the dataset cannot imitate a marker, because it is always indented.
SECTION = "<!-- trl-real: begin of the selection {!r} -->\n{}\n<!-- trl-real: end of the selection {!r} -->"
ANY_SECTION = re.compile(
    r"^<!-- trl-real: begin of the selection ('[^'\n]*') -->[ \t]*\n((?!<!-- trl-real: begin of).*\n)*?"
    r"<!-- trl-real: end of the selection \1 -->[ \t]*$",
    re.MULTILINE,
)
CONFIG = re.compile(r"(?!(data|figures)$)\w[\w.-]*")
SPLIT = re.compile(r"\w+(\.\w+)*")


def create_dataset_card(
    dataset: Dataset | DatasetDict,
    report: SelectionReport | Mapping[str, SelectionReport] | None = None,
    config: SelectionConfig | None = None,
    *,
    repo_id: str | None = None,
    config_name: str = "default",
    source: str | None = None,
    source_revision: str | None = None,
    license: str | None = None,
    pretty_name: str | None = None,
    model_id: str | None = None,
    plots: Mapping[str, str] | None = None,
    previous: DatasetCard | None = None,
) -> DatasetCard:
    r"""
    Create the dataset card of selected pairs. It describes the pairs, where they come from, how they were selected, and how to
    reproduce the selection. This function does not access the network.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            The pairs.
        report ([`SelectionReport`] or `dict[str, SelectionReport]`, *optional*):
            The report of [`select_preferences`], or a dict with one report per split.
        config ([`SelectionConfig`], *optional*):
            The options of the selection.
        repo_id (`str`, *optional*):
            The id of the dataset on the Hub.
        config_name (`str`, *optional*, defaults to `"default"`):
            The configuration of the dataset that the pairs belong to.
        source (`str`, *optional*):
            The origin of the candidates: the id of a dataset on the Hub, or a description. If `None`, the dataset on the Hub
            that `dataset` was loaded from, if its cache files show it.
        source_revision (`str`, *optional*):
            The commit of the source.
        license (`str`, *optional*):
            The license of the source, as the Hub spells it. If it is not known, the card asks for it.
        pretty_name (`str`, *optional*):
            The title.
        model_id (`str`, *optional*):
            A model on the Hub that was trained on the pairs.
        plots (`dict[str, str]`, *optional*):
            The path of the figure of each split, relative to the card.
        previous ([`~huggingface_hub.DatasetCard`], *optional*):
            The existing card. Its sections on other configurations and text that people added are kept.

    Returns:
        [`~huggingface_hub.DatasetCard`]: The card. Text from the dataset is escaped, so it always appears as plain text.

    Raises:
        `TypeError`: If `dataset`, `report` or `config` has the wrong type.
        `ValueError`: If a report is for a split that `dataset` does not have.

    Example:

    ```python
    >>> from trl_real import SelectionConfig, create_dataset_card, load_sample, select_preferences

    >>> config = SelectionConfig(strategy="easy", budget=0.5)
    >>> pairs, report = select_preferences(load_sample(), config)
    >>> card = create_dataset_card(pairs, report, config, license="apache-2.0")
    >>> card.data.size_categories, card.data.tags
    (['n<1K'], ['trl', 'dpo', 'preference', 'trl-real'])
    ```
    """
    splits = as_splits(dataset)
    reports = split_reports(splits, report)
    if not isinstance(config, SelectionConfig | None):
        raise TypeError(f"`config` must be a `SelectionConfig`, got {type(config).__name__}.")
    if not CONFIG.fullmatch(config_name):
        raise ValueError(
            "`config_name` must be letters, digits, '.', '-' and '_', and neither 'data' nor 'figures', got "
            f"{redact(repr(config_name))}."
        )
    origin = find_source(next(iter(splits.values()))) if source is None else Source(redact(source), source_revision)
    data = _metadata(previous, splits, config_name, origin, license)
    if pretty_name is None:
        pretty_name = data.pretty_name or (repo_id.split("/")[-1] if repo_id else "Selected preference pairs")
    data.pretty_name = markdown.one_line(pretty_name)
    section = render(
        "dataset_selection.md.jinja",
        heading="Selection" if config_name == "default" else f"Selection {markdown.code(config_name)}",
        source=_source(origin),
        license=_license(license or data.license, origin.name),
        model=None if model_id is None else link(model_id, "models"),
        plots=plots or {},
        load_code=_load_code(repo_id, config_name, next(iter(splits))),
        **describe_rows(splits, reports),
        **_reproduction(config, reports, origin, splits),
    )
    body = _body(previous, data.pretty_name, config_name, section)
    return DatasetCard(f"---\n{data}\n---\n\n{body}\n")


def _metadata(
    previous: DatasetCard | None, splits: dict[str, Dataset], config_name: str, origin: Source, license: str | None
) -> Any:
    """The metadata of the card, added to the metadata of other configurations in the previous card."""
    data: Any = DatasetCardData() if previous is None else copy.deepcopy(previous.data)
    describe_files(data, splits, config_name)
    describe_source(data, origin.name, license)
    describe_size(data)
    data.task_categories = extended(data.task_categories, ["text-generation"])
    data["tags"] = extended(data.get("tags"), TAGS)
    return data


def _reproduction(
    config: SelectionConfig | None, reports: dict[str, SelectionReport], origin: Source, splits: dict[str, Dataset]
) -> dict[str, Any]:
    """The variables of the template that describe how to reproduce the selection."""
    return {
        "config": config,
        "how": _how(config, reports),
        "reproduce_code": _reproduce_code(config, origin, next(iter(splits.values()))),
        "config_yaml": None if config is None else options_yaml(config),
    }


def _body(previous: DatasetCard | None, title: str, config_name: str, section: str) -> str:
    """The text of the card: a new text, or the previous text with the section of this configuration."""
    section = SECTION.format(config_name, section, config_name)
    body = "" if previous is None else previous.text.replace("\r\n", "\n").strip()
    if body:
        return _put_section(body, config_name, section)
    return render(
        "dataset_card.md.jinja",
        title=markdown.escape(title),
        sections=section,
        citations=[REAL_CITATION, OWN_CITATION],
    )


def as_splits(dataset: Any) -> dict[str, Dataset]:
    """The splits of a dataset, by name."""
    if isinstance(dataset, Dataset):
        return {re.split(r"[\[+]", str(dataset.split or "train"))[0]: dataset}  # "train[:10%]" is of "train"
    if isinstance(dataset, DatasetDict) and dataset:
        for name in dataset:
            if not SPLIT.fullmatch(name) or name == "all":
                raise ValueError(
                    f"The name of a split must be words separated by dots, and not 'all', found {name!r}. Rename it in the dict."
                )
        return dict(dataset)
    raise TypeError(
        f"`dataset` must be a `datasets.Dataset` or a `DatasetDict` with at least one split, got {type(dataset).__name__}. "
        "Convert a stream first: `Dataset.from_generator(lambda: iter(stream))`."
    )


def split_reports(splits: dict[str, Dataset], report: Any) -> dict[str, SelectionReport]:
    """The report of each split that has one."""
    if isinstance(report, SelectionReport) and len(splits) > 1:
        raise ValueError(
            f"`report` is a single report, but `dataset` has several splits: {list(splits)}. Pass a dict with a report per split."
        )
    reports = dict(report) if isinstance(report, Mapping) else {} if report is None else {next(iter(splits)): report}
    if not all(isinstance(each, SelectionReport) for each in reports.values()):
        raise TypeError(f"`report` must be a `SelectionReport`, or a dict with one per split, got {report!r:.80}.")
    if unknown := reports.keys() - splits.keys():
        raise ValueError(
            f"`report` has splits that `dataset` does not have: {sorted(unknown)}. Found: {list(splits)}."
        )
    return reports


def _put_section(body: str, config_name: str, section: str) -> str:
    """Replace the section of a configuration, or add it after the others."""
    end = None
    for match in ANY_SECTION.finditer(body):
        end = match.end()
        if match.group(1) == repr(config_name):
            return body[: match.start()] + section + body[match.end() :]
    if end is None:
        return f"{body.rstrip()}\n\n{section}"
    return f"{body[:end]}\n\n{section}{body[end:]}"


def _source(source: Source) -> str | None:
    if source.name is None:
        return None
    config = f", configuration {markdown.code(source.config)}" if source.config else ""
    at = f", revision {markdown.code(source.revision)}" if source.revision else ""
    return (link(source.name, "datasets") if is_repo_id(source.name) else markdown.escape(source.name)) + config + at


def _license(license: str | list[str] | None, source: str | None) -> str:
    if not license:
        return (
            "**unknown**: before you use or publish this dataset, look up the license of the source"
            f"{'' if source is None else ' (' + markdown.escape(source) + ')'}, and pass it as `license=`"
        )
    return ", ".join(markdown.code(str(each)) for each in extended(license, []))


def _load_code(repo_id: str | None, config_name: str, split: str) -> str:
    where = [repo_id or "path/to/this/dataset", *([] if config_name == "default" else [config_name])]
    return (
        "from datasets import load_dataset\n\n"
        f"dataset = load_dataset({', '.join(map(_python, where))}, split={_python(split)})"
    )


def _python(value: Any) -> str:
    """A value as Python code, with strings in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _how(config: SelectionConfig | None, reports: dict[str, SelectionReport]) -> str:
    """What to know before reproducing the selection."""
    if config is None:
        return "The options were not recorded. Options that are not in the table above are unknown."
    if reports and all(report.strategy is None for report in reports.values()):
        return "Nothing was selected: all given pairs were kept."
    if not isinstance(config.embedder, str):
        return (
            f"The embedder was a Python object of the class {markdown.code(embedder_name(config.embedder))}. Pass such an object "
            "as `embedder`."
        )
    if config.embedder == "policy":
        return (
            "The embedder was the policy before training, as in `RealDPOTrainer`. Outside the trainer, pass the id of that "
            "model as `embedder`."
        )
    return "With the versions below, the same data gives the same pairs. Another machine may round the embeddings differently."


def _reproduce_code(config: SelectionConfig | None, source: Source, dataset: Dataset) -> str:
    load = "...  # the source"
    if source.name is not None and is_repo_id(source.name):
        where = [_python(source.name), *([_python(source.config)] if source.config else [])]
        revision = [f"revision={_python(source.revision)}"] if source.revision else []
        split = f"split={_python(str(dataset.split or 'train'))}"
        load = f"load_dataset({', '.join([*where, *revision, split])})"
    chosen, defaults = ({} if config is None else options(config)), options(SelectionConfig())
    changed = ", ".join(f"{name}={_python(value)}" for name, value in chosen.items() if value != defaults[name])
    return (
        "from datasets import load_dataset\n"
        "from trl_real import SelectionConfig, select_preferences\n\n"
        f"candidates = {load}\n"
        f"pairs, report = select_preferences(candidates, SelectionConfig({changed}))"
    )
