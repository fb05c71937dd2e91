"""The documentation says what the code does: links, settings, metrics, states, and the README's commands as typed."""

import ast
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from quorra_server.config import OPTIONS
from quorra_server.observability.metrics import Metrics

from tests.docs.states import PAGE, with_diagram
from tests.support.processes import RunningServer

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".bootstrap", "node_modules"}


def _pages() -> Iterator[Path]:
    """Yield the pages of the project without a look into folders that are not its own."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - SKIPPED)
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".md"))


PAGES = list(_pages())
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]

    assert [] == [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if SNIPPET.search(page.read_text())], ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_python_in_the_docs_imports_from_quorra_exists(page: Path) -> None:
    imports = [
        (node.module, alias.name)
        for snippet in SNIPPET.findall(page.read_text())
        for node in ast.walk(ast.parse(snippet))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("quorra_")
        for alias in node.names
    ]

    assert [] == [(module, name) for module, name in imports if not hasattr(importlib.import_module(module), name)]


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    server_part = text.partition("## Workers")[0]

    documented = set(re.findall(r"^\| `(\w+)` \|", server_part, re.MULTILINE))

    assert {option.name for option in OPTIONS} == documented
    for option in OPTIONS:
        if option.default:
            assert re.search(rf"^\| `{option.name}` \| `{re.escape(option.default)}` \|", text, re.MULTILINE), (
                option.name
            )


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    metrics = Metrics("0", "test")
    names = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for registry in (metrics.counted, metrics.asked)
        for metric in registry.collect()
        if metric.type != "info"
    }

    documented = set(re.findall(r"^\| `(quorra_\w+)", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))

    assert names == documented


def test_the_diagram_of_states_is_the_one_of_the_code() -> None:
    page = PAGE.read_text()

    assert with_diagram(page) == page, "run: python -m tests.docs.states"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_commands_of_the_readme_work_as_they_are_typed(shared_server: RunningServer) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (curls,) = [block for block in blocks if block.startswith("curl")]
    script = curls.replace("http://localhost:8080", shared_server.http_url)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl --fail-with-body -sS ")],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "QUORRA_API_KEY": shared_server.api_key},
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert '"status":"pending"' in done.stdout
    assert 'quorra_job_queue_length{queue="default",status="pending"}' in done.stdout
