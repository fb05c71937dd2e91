"""The README's first job, as a newcomer does it: every block is taken from the page and run as it stands."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import BIN, RunningServer, clean_environment, start_process, wait_until_ready
from tests.support.rest import Rest
from tests.support.services import free_port

ROOT = Path(__file__).resolve().parents[2]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def _block(language: str, word: str) -> str:
    (found,) = [block for block in _blocks(language) if word in block]
    return found


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_first_job_of_the_readme_runs_as_it_is_typed(tmp_path: Path) -> None:
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    # Other ports and another place than a newcomer's, because this machine may be using those.
    moved = {
        "QUORRA_HTTP_ADDR": http, "QUORRA_GRPC_ADDR": grpc, "QUORRA_STATE_DIR": str(tmp_path / "state"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    start = _block("sh", "quorra-server dev")
    key = re.search(r"export QUORRA_API_KEY=(\S+)", start)[1]  # type: ignore[index]
    (tmp_path / "jobs.py").write_text(_block("python", "@worker.job"))
    curls = _block("sh", "curl -X POST").replace("http://localhost:8080", f"http://{http}")

    with start_process(["bash", "-c", start.replace("quorra-server dev", "exec quorra-server dev")], moved) as dev:
        server = RunningServer(dev.process, dev.log_path, http_url=f"http://{http}", grpc_address=grpc, api_key=key)
        wait_until_ready(server, timeout=60)
        said = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", curls.replace("curl ", "curl --fail-with-body -sS ")],
            env={**clean_environment(), "QUORRA_API_KEY": key}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        worker = {**moved, "QUORRA_API_KEY": key}
        with start_process(["bash", "-c", f"exec {_block('sh', 'quorra-worker')}"], worker, cwd=tmp_path) as running:
            rest = Rest(server)
            waiting = rest.http.get("/v1/jobs").json()["jobs"]
            immediate = [job for job in waiting if job["max_retries"] == 3]
            done = [rest.ended(job["id"]) for job in immediate]
            delayed = [rest.job(job["id"]) for job in waiting if job["max_retries"] == 5]
            told = running.log
        code = dev.terminate()

    assert 0 == said.returncode, said.stdout + said.stderr
    assert [("succeeded", 1, "sent")] == [(job["status"], job["attempts"], job["result"]) for job in done]
    assert [("pending", 0)] == [(job["status"], job["attempts"]) for job in delayed]
    assert "to user@example.com: Hello" in told
    assert 0 == code


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_without_a_key_or_with_a_wrong_one_curl_gets_a_401_with_problem_details(shared_server: RunningServer) -> None:
    for header in ([], ["-H", "X-API-Key: wrong"]):
        said = subprocess.run(
            ["curl", "-sS", "-i", *header, f"{shared_server.http_url}/v1/queues"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

        assert said.startswith("HTTP/1.1 401 ")
        assert "content-type: application/problem+json" in said.lower()
        assert '"code":"unauthenticated"' in said
