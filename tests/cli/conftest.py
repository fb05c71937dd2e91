"""Fixtures of the command line's tests."""

import os
from pathlib import Path

import httpx
import pytest

from tests.cli.scripted import ScriptedServer


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, capsys: "pytest.CaptureFixture[str]", tmp_path: Path) -> ScriptedServer:
    """Runs commands of a person who has set a server and a key."""
    server = ScriptedServer(capsys)
    for name in [name for name in os.environ if name.startswith("QUORRA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("QUORRA_SERVER", "http://quorra.test")
    monkeypatch.setenv("QUORRA_API_KEY", "the-key")
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: server.answer(request))
    return server
