"""Indices that cannot lie beside their shards go to a folder of the test."""

import pytest

from mixonomy.data.shards import store


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(store, "CACHE", folder)
    return folder
