"""Run the stages on several machines: actors for Ray Data, with the extra `ray`."""

import importlib.util
from typing import Any

import pyarrow as pa

from .core.transform import Transform
from .embedding.embed import embed_responses
from .selection.select import real_select


if importlib.util.find_spec("ray") is None:
    raise ImportError("`trl_real.ray` needs Ray Data: `pip install 'trl-real[ray]'`.")


class _Actor:
    """A map function with its options. An actor loads the embedder on the first batch and keeps it in memory."""

    _transform: Transform[..., Any]

    def __init__(self, **options: Any):
        self._options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not isinstance(batch, pa.Table):  # NumPy arrays represent neither lists of texts nor null
            raise TypeError(
                f"`{self._transform.__name__}` takes Arrow tables here, got {type(batch).__name__}: pass "
                '`batch_format="pyarrow"` to `map_batches`.'
            )
        return self._transform(batch, **self._options)


class EmbedResponses(_Actor):
    r"""
    [`embed_responses`] as an actor, for `ray.data.Dataset.map_batches(..., batch_format="pyarrow")`.

    Each actor loads the embedder once. It runs on the GPU that Ray assigns to the actor (`num_gpus`), or with as many threads
    as the actor has CPUs (`num_cpus`).

    Args:
        options (*optional*):
            The options of [`embed_responses`], as `fn_constructor_kwargs`. An embedder object is sent to every actor.

    Example:

    ```python
    import ray
    from trl_real.ray import EmbedResponses

    candidates = ray.data.read_parquet("candidates")
    embedded = candidates.map_batches(
        EmbedResponses, batch_format="pyarrow", batch_size=256, compute=ray.data.ActorPoolStrategy(size=8), num_gpus=1
    )
    embedded.write_parquet("embedded")
    ```
    """

    _transform = embed_responses


class RealSelect(_Actor):
    r"""
    [`real_select`] as an actor, for `ray.data.Dataset.map_batches(..., batch_format="pyarrow")`.

    It picks the same pairs as [`real_select`] with `datasets`, because picks depend neither on the batch nor on the machine.
    Without a column `embeddings`, each actor loads the embedder once, as [`EmbedResponses`] does.

    Args:
        options (*optional*):
            The options of [`real_select`], as `fn_constructor_kwargs`.

    Example:

    ```python
    import ray
    from trl_real.ray import RealSelect

    candidates = ray.data.read_parquet("candidates")
    pairs = candidates.map_batches(
        RealSelect,
        fn_constructor_kwargs={"strategy": "centroid"},
        batch_format="pyarrow",
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=8),
        num_gpus=1,
    )
    pairs.drop_columns(["responses", "scores"]).write_parquet("pairs")
    ```
    """

    _transform = real_select
