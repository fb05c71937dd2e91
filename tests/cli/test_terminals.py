"""The command line on a terminal: what it draws, what it must not draw, how it is interrupted, what it completes."""

import json
import os
import pty
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.processes import BIN, RunningServer, clean_environment
from tests.support.waiting import eventually_sync

QUORRACTL = str(BIN / "quorractl")
# A red word, a cursor movement in the C1 set, a bell, and what rich would take for markup.
HOSTILE = "\x1b[31mred \x9b2J \x07 [bold]"


@pytest.fixture
def environment(shared_server: RunningServer, tmp_path: Path) -> dict[str, str]:
    return {
        **clean_environment(), **shared_server.environment, "XDG_CONFIG_HOME": str(tmp_path), "TERM": "xterm-256color",
        "COLUMNS": "200", "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip


@pytest.fixture
def on_terminal(environment: dict[str, str]) -> Callable[..., str]:
    """Runs it with a terminal for output and errors, and returns what was drawn."""

    def run(*arguments: str, **more: str) -> str:
        ours, theirs = pty.openpty()
        drawn = bytearray()
        reader = threading.Thread(target=_read_all, args=(ours, drawn))
        reader.start()
        subprocess.run(
            [QUORRACTL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, **more},
            timeout=60, check=False,
        )  # fmt: skip
        os.close(theirs)
        reader.join(10)
        os.close(ours)
        return drawn.decode(errors="replace")

    return run


def _read_all(terminal: int, drawn: bytearray) -> None:
    while True:
        try:
            drawn += os.read(terminal, 4096)
        except OSError:
            return


def test_tables_are_styled_on_a_terminal_and_plain_with_no_color(
    on_terminal: Callable[..., str], api: httpx.Client, queue_name: str
) -> None:
    api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue_name})

    assert "\x1b[1m" in on_terminal("queues")
    plain = on_terminal("queues", NO_COLOR="1")
    assert "\x1b" not in plain
    assert queue_name in plain


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "yaml", "name"])
def test_data_of_others_never_controls_the_terminal(
    on_terminal: Callable[..., str], api: httpx.Client, queue_name: str, form: str
) -> None:
    reply = api.post("/v1/jobs", json={"type": "[bold]t", "payload": {"x": HOSTILE}, "queue": queue_name})
    job_id = reply.json()["id"]
    api.post(f"/v1/jobs/{job_id}/cancel", json={"reason": HOSTILE})

    for verb in (["get", job_id], ["list", "-q", queue_name], ["job", "history", job_id]):
        drawn = on_terminal(*verb, "-o", form, NO_COLOR="1")
        assert not [sign for sign in drawn if sign not in "\r\n\t" and (sign < " " or "\x7f" <= sign <= "\x9f")], drawn
    if form == "table":
        assert "[bold]t" in on_terminal("list", "-q", queue_name, NO_COLOR="1")


def test_every_form_can_be_read_again(environment: dict[str, str], api: httpx.Client, queue_name: str) -> None:
    payload = {"x": HOSTILE, "ü": 1.5}
    job_id = api.post("/v1/jobs", json={"type": "t", "payload": payload, "queue": queue_name}).json()["id"]

    def run(*arguments: str) -> str:
        return subprocess.run(
            [QUORRACTL, *arguments], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert payload == json.loads(run("get", job_id, "-o", "json"))["payload"]
    assert payload == json.loads(run("-o", "jsonl", "list", "-q", queue_name))["payload"]
    assert payload == yaml.safe_load(run("list", "-q", queue_name, "-o", "yaml"))[0]["payload"]
    assert f"{job_id}\n" == run("list", "-q", queue_name, "-o", "name")


def test_an_import_shows_a_progress_bar_on_a_terminal(
    on_terminal: Callable[..., str], queue_name: str, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.ndjson"
    file.write_text(f'{{"type":"t","payload":{{}},"queue":"{queue_name}"}}\n' * 3000)

    drawn = on_terminal("import", str(file))

    assert "importing" in drawn
    assert "━" in drawn
    assert "3000" in drawn


def test_ctrl_c_ends_a_wait_with_130(environment: dict[str, str], api: httpx.Client, queue_name: str) -> None:
    job_id = api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue_name}).json()["id"]
    waiting = subprocess.Popen(
        [QUORRACTL, "wait", job_id], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell lets what it starts in the background ignore the signal, and the tests may run there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    eventually_sync(lambda: _is_connected(waiting.pid), "it waits for the server")

    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=20)

    assert 130 == waiting.returncode
    assert "Traceback" not in told


def _is_connected(pid: int) -> bool:
    import psutil

    return any(connection.status == "ESTABLISHED" for connection in psutil.Process(pid).net_connections())


def test_a_reader_that_has_seen_enough_is_no_error(environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{QUORRACTL} --help | head -1"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "contexts"),
    [(["--help"], 0), (["context", "list"], 1), (["context", "list"], 5_000)],
    ids=["help", "less than a buffer", "more than a buffer"],
)
def test_a_reader_that_left_is_no_error(tmp_path: Path, arguments: list[str], contexts: int) -> None:
    named = {f"context-{number}": {"server": "http://quorra.test", "api_key": ""} for number in range(contexts)}
    (tmp_path / "quorractl").mkdir()
    (tmp_path / "quorractl/contexts.json").write_text(json.dumps({"current": "", "contexts": named}))
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [QUORRACTL, *arguments], env={**clean_environment(), "XDG_CONFIG_HOME": str(tmp_path)}, stdout=writing,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)

    assert (0, "") == (done.returncode, done.stderr)


def test_an_import_of_a_shortened_file_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "jobs.ndjson"
    file.write_text('{"type":"t","payload":{}}\n')
    state = {"server": "", "seed": "0" * 32, "began_ms": 1_790_000_000_000, "lines_done": 9, "bytes_done": 999}
    (tmp_path / "jobs.ndjson.quorra-import").write_text(json.dumps(state))

    done = subprocess.run(
        [QUORRACTL, "import", str(file)], env=environment, capture_output=True, text=True, check=False
    )

    assert 1 == done.returncode
    assert "shorter than what was imported" in done.stderr
    assert 1 == subprocess.run([QUORRACTL, "import", "missing"], env=environment, capture_output=True).returncode


COMPLETE = {
    "bash": """
        source <(quorractl completion bash)
        COMP_WORDS=(quorractl server he); COMP_CWORD=2
        $(complete -p quorractl | grep -o "_[a-z_]*completion") quorractl
        echo "${COMPREPLY[@]}"
    """,
    # zsh completes only at a prompt; what its script hands over there is printed here.
    "zsh": """
        compdef() { : }; _describe() { print -l ${(P)3} }
        words=(quorractl server he); CURRENT=3
        source <(quorractl completion zsh); _quorractl_completion
    """,
    "fish": """
        quorractl completion fish | source
        complete --do-complete "quorractl server he"
    """,
}


@pytest.mark.parametrize("shell", COMPLETE)
def test_completion_offers_the_verbs(environment: dict[str, str], shell: str) -> None:
    if not shutil.which(shell):
        # The script is at least made, and is for that shell.
        done = subprocess.run([QUORRACTL, "completion", shell], env=environment, capture_output=True, text=True)
        assert f"_QUORRACTL_COMPLETE={shell}_complete" in done.stdout
        pytest.skip(f"there is no {shell} here to load its completion script")
    done = subprocess.run(
        [shell, "-c", COMPLETE[shell]], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert "health" in done.stdout, done.stdout + done.stderr
