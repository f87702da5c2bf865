"""What the Hub reads of the card of a dataset: its files, sizes, sources and license."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs

from .card_parts import is_repo_id


# Where `datasets` keeps what it has loaded from the Hub.
CACHED = re.compile(
    r"/(?P<namespace>[^/]+)___(?P<name>[^/]+)/(?P<config>[^/]+)/[^/]+/(?P<commit>[0-9a-f]{40})/[^/]+\.arrow$"
)


SIZES = {1e3: "n<1K", 1e4: "1K<n<10K", 1e5: "10K<n<100K", 1e6: "100K<n<1M", 1e7: "1M<n<10M", math.inf: "n>10M"}


class Source(NamedTuple):
    """Where candidates come from: the id of a dataset on the Hub, or words; its commit and configuration, if known."""

    name: str | None = None
    revision: str | None = None
    config: str | None = None


def find_source(dataset: Dataset) -> Source:
    """The dataset of the Hub that the cache of `datasets` says was loaded, if it tells."""
    for file in dataset.cache_files:
        match = CACHED.search(Path(file["filename"]).as_posix())
        if match is not None:
            config = None if match["config"] == "default" else match["config"]
            return Source(f"{match['namespace']}/{match['name']}", match["commit"], config)
    return Source()


def describe_files(data: Any, splits: dict[str, Dataset], config_name: str) -> None:
    """What the viewer of the Hub and `load_dataset` read: `dataset_info` and `configs`."""
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
    there = MetadataConfigs.from_dataset_card_data(data).get(config_name, {})  # perhaps that it is the default one
    MetadataConfigs({config_name: {**there, "data_files": files}}).to_dataset_card_data(data)


def describe_download(data: Any, config_name: str, size: int) -> None:
    """How many bytes the files of a configuration have."""
    info = DatasetInfosDict.from_dataset_card_data(data)[config_name]
    info.download_size = size
    DatasetInfosDict({config_name: info}).to_dataset_card_data(data)


def describe_source(data: Any, source: str | None, license: str | None) -> None:
    """License and sources: of this configuration alone, or added to those of others that are there."""
    others = len(DatasetInfosDict.from_dataset_card_data(data)) > 1
    sources = [source] if is_repo_id(source) else []
    if data.source_datasets and sources and source not in data.source_datasets and not others:
        data.license = None  # that of another source
    if license is not None:
        data.license = extended(data.license, [license]) if others and data.license not in (None, license) else license
    if sources:
        data.source_datasets = extended(data.source_datasets, sources) if others else sources


def data_folder(config_name: str) -> str:
    """The folder of a configuration's files in a repository, as `datasets` names it."""
    return "data" if config_name == "default" else config_name


def describe_size(data: Any) -> None:
    """The size that the Hub sorts by, of all configurations together."""
    infos = DatasetInfosDict.from_dataset_card_data(data)
    n = sum(split.num_examples for info in infos.values() for split in (info.splits or {}).values())
    data.size_categories = [next(name for limit, name in SIZES.items() if n < limit)]


def extended(there: Any, more: Any) -> list[str]:
    """A list of metadata with what is missing in it."""
    return list(dict.fromkeys([*([there] if isinstance(there, str) else there or []), *more]))
