"""Contexts: named servers with their keys, in a file that only its owner can read."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from quorractl.errors import CommandError

SERVER_DEFAULT = "http://localhost:8080"
OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class Context:
    """A server and how to sign in to it."""

    server: str = SERVER_DEFAULT
    api_key: str = field(default="", repr=False)


@dataclass(slots=True)
class Contexts:
    """All contexts, and which one is in use."""

    current: str = ""
    named: dict[str, Context] = field(default_factory=dict)


def contexts_path() -> Path:
    """Return where contexts are kept: the user's configuration directory."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "quorractl" / "contexts.json"


def load() -> Contexts:
    """Read all contexts; none if there is no file.

    Raises:
        CommandError: The file cannot be read.
    """
    path = contexts_path()
    if not path.exists():
        return Contexts()
    try:
        content = json.loads(path.read_text())
        named = {name: Context(**fields) for name, fields in content["contexts"].items()}
        return Contexts(content["current"], named)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path} cannot be read: {error}. Repair or remove it.") from error


def save(contexts: Contexts) -> None:
    """Write all contexts, readable by nobody else."""
    path = contexts_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = {
        "current": contexts.current,
        "contexts": {name: asdict(context) for name, context in contexts.named.items()},
    }
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY), "w") as file:
        json.dump(content, file, indent=2)
    fresh.replace(path)


def resolve(server: str | None, name: str | None) -> Context:
    """Return where to go: options first, then the environment, then the context in use, then this machine.

    Raises:
        CommandError: There is no context of that name.
    """
    contexts = load()
    wanted = name or ("" if server or os.environ.get("QUORRA_SERVER") else contexts.current)
    if wanted and wanted not in contexts.named:
        known = ", ".join(sorted(contexts.named)) or "none"
        raise CommandError(f"There is no context {wanted!r} (known: {known}); add it with `quorractl context add`.")
    chosen = contexts.named.get(wanted, Context())
    return Context(
        server=server or (chosen.server if name else os.environ.get("QUORRA_SERVER") or chosen.server),
        api_key=(chosen.api_key if name else "") or os.environ.get("QUORRA_API_KEY") or chosen.api_key,
    )
