"""The card of a selected dataset: `create_dataset_card`."""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from . import inert
from .card_parts import OWN_CITATION, REAL_CITATION, is_repo_id, link, options, options_yaml, render
from .config import SelectionConfig
from .embedding import embedder_name
from .messages import as_json
from .report import SelectionReport


N_EXAMPLES = 5
TAGS = ("trl", "dpo", "preference", "trl-real")
SIZES = {1e3: "n<1K", 1e4: "1K<n<10K", 1e5: "10K<n<100K", 1e6: "100K<n<1M", 1e7: "1M<n<10M", np.inf: "n>10M"}
# Each config of a dataset has its own section between these, so that pushing one leaves the others as they are. No line of
# foreign text can look like them, for all of those are indented.
SECTION = "<!-- trl-real: begin of the selection {!r} -->\n{}\n<!-- trl-real: end of the selection {!r} -->"
ANY_SECTION = re.compile(
    r"^<!-- trl-real: begin of the selection ('[^'\n]*') -->\n.*?^<!-- trl-real: end of the selection \1 -->$",
    re.M | re.S,
)
CACHED = re.compile(r"/(?P<namespace>[^/]+)___(?P<name>[^/]+)/[^/]+/[^/]+/(?P<commit>[0-9a-f]{40})/[^/]+\.arrow$")
SPLIT = re.compile(r"\w+(\.\w+)*")  # what may be the name of one; of "train[:10%]" it is the first word
MEANINGS = {
    "prompt": "what was asked",
    "chosen": "the better response",
    "rejected": "the worse response",
    "response_a": "one response",
    "response_b": "the other response",
    "score_chosen": "the score of the better response",
    "score_rejected": "the score of the worse response",
    "similarity": "the cosine of the embeddings of both",
    "pair_id": "what labels are matched by: a hash of the prompt and both responses",
    "skip_reason": "why a prompt has no pair",
    "n_labels": "how many labels were given",
}


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
    download_size: int | None = None,
    previous: DatasetCard | None = None,
) -> DatasetCard:
    r"""
    Describe selected pairs: what they are, where they come from, how they were picked and how to do it again. Nothing is
    loaded or looked up.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            The pairs.
        report ([`SelectionReport`] or `dict[str, SelectionReport]`, *optional*):
            What [`select_preferences`] reported, for each split if there are several.
        config ([`SelectionConfig`], *optional*):
            The options that the pairs were selected with.
        repo_id (`str`, *optional*):
            Where the dataset is to be found on the Hub.
        config_name (`str`, *optional*, defaults to `"default"`):
            Which configuration of the dataset this is.
        source (`str`, *optional*):
            Where the candidates come from: the id of a dataset on the Hub, or words. If `None`, and the cache of
            `datasets` tells, the dataset that was loaded.
        source_revision (`str`, *optional*):
            Its commit.
        license (`str`, *optional*):
            The licence of the source, as the Hub spells it. Where none is given or known, the card asks for it.
        pretty_name (`str`, *optional*):
            The title.
        model_id (`str`, *optional*):
            A model on the Hub that was trained on the pairs.
        plots (`dict[str, str]`, *optional*):
            The path of the figure of a split, as seen from the card.
        download_size (`int`, *optional*):
            Bytes of the files that hold the data.
        previous ([`~huggingface_hub.DatasetCard`], *optional*):
            The card that there is: what it says of other configurations, and what people have written, stays.

    Returns:
        [`~huggingface_hub.DatasetCard`]: The card. Text of the dataset is in it as text, whatever it contains.

    Raises:
        `TypeError`: If `dataset`, `report` or `config` is something else.
        `ValueError`: If a report is of a split that `dataset` does not have.

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
    first = next(iter(splits.values()))
    if source is None:
        source, source_revision = find_source(first)
    data: Any = DatasetCardData() if previous is None else copy.deepcopy(previous.data)
    _describe_files(data, splits, config_name, download_size)
    if license is not None:
        data.license = license
    data.size_categories = [next(name for limit, name in SIZES.items() if _n_examples(data) < limit)]
    data.task_categories = _with(data.task_categories, ["text-generation"])
    data["tags"] = _with(data.get("tags"), TAGS)
    if is_repo_id(source):
        data.source_datasets = _with(data.source_datasets, [source])
    if pretty_name is None:
        pretty_name = data.pretty_name or (repo_id.split("/")[-1] if repo_id else "Selected preference pairs")
    data.pretty_name = inert.one_line(pretty_name)

    section = render(
        "selection.md.jinja",
        heading="Selection" if config_name == "default" else f"Selection {inert.code(config_name)}",
        reports={split: reports.get(split) for split in splits},
        config=config,
        source=_source(source, source_revision),
        licence=_licence(data, source),
        model=None if model_id is None else link(model_id, "models"),
        plots=plots or {},
        load_code=_load_code(repo_id, config_name, next(iter(splits))),
        labelled="chosen" in first.column_names,
        columns=[(name, _type(feature), _meaning(name)) for name, feature in first.features.items()],
        examples=_examples(first),
        embedder_class=None if config is None or isinstance(config.embedder, str) else embedder_name(config.embedder),
        reproduce_code=_reproduce_code(config, source, source_revision),
        config_yaml=None if config is None else options_yaml(config),
    )
    section = SECTION.format(config_name, section, config_name)
    if previous is not None and previous.text.strip():
        body = _put_section(previous.text, config_name, section)
    else:
        body = render(
            "dataset_card.md.jinja",
            title=inert.escape(data.pretty_name),
            sections=section,
            citations=[REAL_CITATION, OWN_CITATION],
        )
    return DatasetCard(inert.redact(f"---\n{data}\n---\n\n{body.strip()}\n"))


def as_splits(dataset: Any) -> dict[str, Dataset]:
    """The splits of a dataset, by name."""
    if isinstance(dataset, Dataset):
        return {SPLIT.match(str(dataset.split or "train"))[0]: dataset}  # type: ignore[index]
    if isinstance(dataset, DatasetDict) and dataset:
        for name in dataset:
            if not SPLIT.fullmatch(name):
                raise ValueError(
                    f"The name of a split is words with dots between, found {name!r}. Rename it in the dict."
                )
        return dict(dataset)
    raise TypeError(
        f"`dataset` must be a `datasets.Dataset` or a `DatasetDict` with at least one split, got {type(dataset).__name__}. "
        "Write a stream to one first: `Dataset.from_generator(lambda: iter(stream))`."
    )


def split_reports(splits: dict[str, Dataset], report: Any) -> dict[str, SelectionReport]:
    """The report of each split that has one."""
    reports = dict(report) if isinstance(report, Mapping) else {} if report is None else {next(iter(splits)): report}
    if not all(isinstance(each, SelectionReport) for each in reports.values()):
        raise TypeError(f"`report` must be a `SelectionReport`, or a dict of one for each split, got {report!r:.80}.")
    if unknown := reports.keys() - splits.keys():
        raise ValueError(
            f"`report` is of splits that `dataset` does not have: {sorted(unknown)}. Found: {list(splits)}."
        )
    return reports


def find_source(dataset: Dataset) -> tuple[str | None, str | None]:
    """The dataset of the Hub, and its commit, that the cache of `datasets` says was loaded; `None` where it does not tell."""
    for file in dataset.cache_files:
        match = CACHED.search(Path(file["filename"]).as_posix())
        if match is not None:
            return f"{match['namespace']}/{match['name']}", match["commit"]
    return None, None


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


def _describe_files(
    data: DatasetCardData, splits: dict[str, Dataset], config_name: str, download_size: int | None
) -> None:
    """What the viewer of the Hub and `load_dataset` read: `dataset_info` and `configs`."""
    sizes = {name: split._estimate_nbytes() for name, split in splits.items()}
    info = DatasetInfo(
        config_name=config_name,
        features=next(iter(splits.values())).features,
        splits=SplitDict(),
        download_size=download_size,
        dataset_size=sum(sizes.values()),
    )
    for name, split in splits.items():
        info.splits.add(SplitInfo(name=name, num_bytes=sizes[name], num_examples=len(split)))
    DatasetInfosDict({config_name: info}).to_dataset_card_data(data)
    files = [{"split": name, "path": f"{data_folder(config_name)}/{name}-*"} for name in splits]
    MetadataConfigs({config_name: {"data_files": files}}).to_dataset_card_data(data)


def data_folder(config_name: str) -> str:
    """The folder of a configuration's files in a repository, as `datasets` names it."""
    return "data" if config_name == "default" else config_name


def _n_examples(data: DatasetCardData) -> int:
    infos = DatasetInfosDict.from_dataset_card_data(data)
    return sum(split.num_examples for info in infos.values() for split in (info.splits or {}).values())


def _with(there: Any, more: Any) -> list[str]:
    """A list of metadata with what is missing in it."""
    return list(dict.fromkeys([*([there] if isinstance(there, str) else there or []), *more]))


def _source(source: str | None, revision: str | None) -> str | None:
    if source is None:
        return None
    at = f" at {inert.code(revision)}" if revision else ""
    return (link(source, "datasets") if is_repo_id(source) else inert.escape(source)) + at


def _licence(data: DatasetCardData, source: str | None) -> str:
    if not data.license:
        return (
            "**not known**: before you use or publish this, find out under what licence the source may be shared"
            f"{'' if source is None else ' (' + inert.escape(source) + ')'}, and name it with `license=`"
        )
    licences = [data.license] if isinstance(data.license, str) else data.license
    return ", ".join(inert.code(str(licence)) for licence in licences)


def _type(feature: Any) -> str:
    """A feature in short."""
    if isinstance(feature, dict):
        return "{" + ", ".join(feature) + "}"
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None:
        keys = inner if isinstance(inner, dict) else ()
        return "messages" if "role" in keys else f"list of {_type(inner)}"
    return getattr(feature, "dtype", None) or type(feature).__name__


def _meaning(column: str) -> str:
    return MEANINGS.get(column, "as in the source")


def _load_code(repo_id: str | None, config_name: str, split: str) -> str:
    where = [repo_id or "path/to/this/dataset", *([] if config_name == "default" else [config_name])]
    return (
        "from datasets import load_dataset\n\n"
        f"dataset = load_dataset({', '.join(map(_python, where))}, split={_python(split)})"
    )


def _python(value: Any) -> str:
    """A value as Python code, text in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _examples(dataset: Dataset) -> list[dict[str, Any]]:
    """Rows at equal distances, as the template shows them."""
    sides = ("chosen", "rejected") if "chosen" in dataset.column_names else ("response_a", "response_b")
    columns = [name for name in ("prompt", *sides) if name in dataset.column_names]
    numbers = [n for n in ("similarity", "score_chosen", "score_rejected") if n in dataset.column_names]
    where = np.unique(np.linspace(0, max(len(dataset) - 1, 0), min(N_EXAMPLES, len(dataset))).astype(int))
    examples = []
    for row in dataset.with_format(None).select_columns([*columns, *numbers]).select(where):
        similarity = row.get("similarity")
        examples.append(
            {
                "note": "" if similarity is None else f": similarity {similarity:.2f}",
                "prompt": _shown(row.get("prompt")),
                "sides": [
                    (
                        side.replace("_", " ").capitalize(),
                        "" if row.get(f"score_{side}") is None else f" (score {row[f'score_{side}']:g})",
                        _shown(row[side]),
                    )
                    for side in sides
                    if side in row
                ],
            }
        )
    return examples


def _shown(value: Any) -> str:
    """Text or messages as people read them."""
    if value is None or isinstance(value, str):
        return value or ""
    turns = []
    for message in value:
        content = message.get("content")
        turns.append(f"{message.get('role')}: {content if isinstance(content, str) else as_json(content)}")
        if message.get("tool_calls"):
            turns.append(as_json(message["tool_calls"]))
    return "\n\n".join(turns)


def _reproduce_code(config: SelectionConfig | None, source: str | None, revision: str | None) -> str:
    at = f", revision={_python(revision)}" if revision else ""
    load = f'load_dataset({_python(source)}{at}, split="train")' if is_repo_id(source) else "...  # the source"
    chosen, defaults = ({} if config is None else options(config)), options(SelectionConfig())
    changed = ", ".join(f"{name}={_python(value)}" for name, value in chosen.items() if value != defaults[name])
    return (
        "from datasets import load_dataset\n"
        "from trl_real import SelectionConfig, select_preferences\n\n"
        f"candidates = {load}\n"
        f"pairs, report = select_preferences(candidates, SelectionConfig({changed}))"
    )
