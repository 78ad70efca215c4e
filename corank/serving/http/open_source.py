"""The source of a service and its other versions, opened by its settings."""

from contextlib import closing
from functools import partial

from corank.bundle.signatures import TrustedKeys
from corank.core.storage.object_url import parse_location
from corank.serving.http.rollout.rollout import Rollout
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.http.source import BundleSource, Source, StoreSource
from corank.serving.store.base import is_store
from corank.serving.store.fetch_process import fetch_in_subprocess


def open_source(settings: ServeSettings) -> Source:
    """Open the store or bundle to serve; a store is reached when it is read. Raises TrustError."""
    trust = TrustedKeys.load(settings.trust)
    if is_store(settings.source):
        prefetch = partial(fetch_in_subprocess, settings.source, settings.cache)
        return StoreSource(settings.source, settings.cache, prefetch, trust)
    return BundleSource(parse_location(settings.source), trust)


def check_versions(settings: ServeSettings) -> None:
    """Raise CorankError if the store lacks a version that is to be served with the live one."""
    with closing(open_source(settings)) as source:
        Rollout.open(source, settings.canary, settings.shadow).check_versions(source)
