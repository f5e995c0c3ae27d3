"""Which codec an encode run stores its features with."""

from __future__ import annotations

from dataclasses import replace

from mgvr_core.errors import MgvrError
from mgvr_core.features.codec import Codec
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.store import FeatureStore
from pipelines.models import MODEL_PARTS, FeatureMaker


def with_codec(maker: FeatureMaker, config: CodecConfig | None, codebooks: str | None, out: str) -> FeatureMaker:
    """The same, with its features coded; as it is where `config` is None.

    pq takes the codebooks of the set `codebooks`, or without one those of the set `out` itself. Raises MgvrError where
    there are none, where they were trained for another model or otherwise, and for tokens that do not fit the patches.
    """
    if config is None or config.values != "pq":
        if codebooks is not None:
            raise MgvrError("features.codebooks is for --features.codec.values pq: leave it out")
        if config is None:
            return maker
        codec = Codec(config)
    else:
        codec = _trained(maker, config, codebooks or out)
    config.tokens_of(maker.shape.patches)
    return replace(maker, fingerprint=codec.fingerprint(maker.fingerprint, maker.shape.dim), codec=codec)


def _trained(maker: FeatureMaker, config: CodecConfig, place: str) -> Codec:
    hint = (
        "Product quantisation at encoding needs codebooks that are trained: encode a part of the corpus without a "
        "codec, code that with mgvr corpus recode, and give the coded set as --features.codebooks"
    )
    store = None if "{fingerprint}" in place else FeatureStore(place)  # a name that hangs on the codebooks sought
    if store is None or not store.latest():
        raise MgvrError(f"{place} holds no feature set to take codebooks from. {hint}")
    snapshot = store.snapshot()
    codec = snapshot.codec()
    if codec is None or codec.config.values != "pq":
        raise MgvrError(f"{place} has no codebooks. {hint}")
    different = snapshot.fingerprint.differences(maker.fingerprint, MODEL_PARTS)
    if different:
        raise MgvrError(
            f"the codebooks of {place} were trained on another model's features:\n  " + "\n  ".join(different)
        )
    require_same_code(codec, config, maker.shape.dim, place)
    if maker.shape.patches and "patches" not in codec.books:
        raise MgvrError(f"the codebooks of {place} were trained without patches: set --features.patches false")
    return codec


def require_same_code(codec: Codec, config: CodecConfig, dim: int, place: str) -> None:
    """Raise MgvrError where codebooks were trained for another code than a configuration asks for."""
    made, asked = codec.config.part(dim, None), config.part(dim, None)
    different = [f"{name}: {made[name]} against {asked[name]}" for name in made if made[name] != asked[name]]
    if different:
        raise MgvrError(
            f"the codebooks of {place} are for another codec:\n  "
            + "\n  ".join(different)
            + "\nSet codec as it is there, or take codebooks that were trained with these settings."
        )
