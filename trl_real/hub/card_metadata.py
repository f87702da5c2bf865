"""The metadata of a dataset card: files, sizes, sources and license."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs

from ..core.repo_ids import is_repo_id


# The path of a dataset from the Hub in the cache of `datasets`.
CACHED = re.compile(
    r"/(?P<namespace>[^/]+)___(?P<name>[^/]+)/(?P<config>[^/]+)/[^/]+/(?P<commit>[0-9a-f]{40})/[^/]+\.arrow$"
)


SIZES = {1e3: "n<1K", 1e4: "1K<n<10K", 1e5: "10K<n<100K", 1e6: "100K<n<1M", 1e7: "1M<n<10M", math.inf: "n>10M"}


class Source(NamedTuple):
    """The origin of candidates: a dataset id or a description, and the commit and configuration, if known."""

    name: str | None = None
    revision: str | None = None
    config: str | None = None


def find_source(dataset: Dataset) -> Source:
    """The dataset on the Hub that a dataset was loaded from, if the cache of `datasets` shows it."""
    for file in dataset.cache_files:
        match = CACHED.search(Path(file["filename"]).as_posix())
        if match is not None:
            config = None if match["config"] == "default" else match["config"]
            return Source(f"{match['namespace']}/{match['name']}", match["commit"], config)
    return Source()


def describe_files(data: Any, splits: dict[str, Dataset], config_name: str) -> None:
    """Write `dataset_info` and `configs`, which the dataset viewer and `load_dataset` read."""
    sizes = {name: split._estimate_nbytes() for name, split in splits.items()}
    info = DatasetInfo(
        config_name=config_name,
        features=next(iter(splits.values())).features,
        splits=SplitDict(),
        dataset_size=sum(sizes.values()),
    )
    for name, split in splits.items():
        info.splits.add(SplitInfo(name=name, num_bytes=sizes[name], num_examples=len(split)))
    DatasetInfosDict({config_name: info}).to_dataset_card_data(data)
    files = [{"split": name, "path": f"{data_folder(config_name)}/{name}-*"} for name in splits]
    there = MetadataConfigs.from_dataset_card_data(data).get(config_name, {})  # may say that it is the default
    MetadataConfigs({config_name: {**there, "data_files": files}}).to_dataset_card_data(data)


def describe_download(data: Any, config_name: str, size: int) -> None:
    """Write the size of the files of a configuration in bytes."""
    info = DatasetInfosDict.from_dataset_card_data(data)[config_name]
    info.download_size = size
    DatasetInfosDict({config_name: info}).to_dataset_card_data(data)


def describe_source(data: Any, source: str | None, license: str | None) -> None:
    """Write license and sources. If there are other configurations, add to theirs; else replace."""
    others = len(DatasetInfosDict.from_dataset_card_data(data)) > 1
    sources = [source] if is_repo_id(source) else []
    if data.source_datasets and sources and source not in data.source_datasets and not others:
        data.license = None  # it belongs to another source
    if license is not None:
        data.license = extended(data.license, [license]) if others and data.license not in (None, license) else license
    if sources:
        data.source_datasets = extended(data.source_datasets, sources) if others else sources


def data_folder(config_name: str) -> str:
    """The folder of the files of a configuration in a repository, in the convention of `datasets`."""
    return "data" if config_name == "default" else config_name


def describe_size(data: Any) -> None:
    """Write the size category over all configurations."""
    infos = DatasetInfosDict.from_dataset_card_data(data)
    n = sum(split.num_examples for info in infos.values() for split in (info.splits or {}).values())
    data.size_categories = [next(name for limit, name in SIZES.items() if n < limit)]


def extended(there: Any, more: Any) -> list[str]:
    """A metadata list with the missing items added."""
    return list(dict.fromkeys([*([there] if isinstance(there, str) else there or []), *more]))
