"""Which gradients tokens are weighed by: taken layer by layer, or in the whole model as llama.cpp runs it."""

import functools
from collections.abc import Mapping
from pathlib import Path

from ggufkit.encoding.slabs import ONE_BY_ONE
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import shapes_of, taped_chunks, taped_tokens
from ggufkit.fitting.evidence import Evidence, Weigh
from ggufkit.fitting.layer_gradients import GradientSettings
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.fitting.token_weights import measure_weights
from ggufkit.formats.model import Model


def gradient_settings(
    model: Model, source: LayerByLayer, folder: Path, threads: int, evidence: Evidence
) -> GradientSettings:
    """Which gradients tokens are weighed by where the source is run layer by layer."""
    return GradientSettings(
        wants=shapes_of(model).__contains__, n_ctx=taped_tokens(model, by_layer=True), max_chunks=taped_chunks(model),
        folder=folder, threads=threads, groups=evidence.groups, keep=evidence.keep_together,
        identity=f"{model.source.get('fingerprint', '')} {source.identity}",
    )  # fmt: skip


def weigher(corpus: Corpus, model: Model, groups: Mapping[str, int] = ONE_BY_ONE) -> Weigh:
    """What `Evidence` calls to have the tokens of a corpus weighed in the whole model; groups  see `GradientSums`."""
    return functools.partial(
        measure_weights, corpus, shapes_of(model).__contains__,
        n_ctx=taped_tokens(model), max_chunks=taped_chunks(model), groups=groups,
    )  # fmt: skip
