"""One server, one provider and one directory for each test."""

import pytest

import spanlake


@pytest.fixture
def server(tmp_path):
    process = spanlake.Server(tmp_path)
    yield process
    process.kill()


@pytest.fixture
def provider(tmp_path):
    process = spanlake.Provider(tmp_path)
    yield process
    process.kill()
