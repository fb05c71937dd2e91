"""The rules that keep the code straight: imports point left, every error has a status, stubs and their floors agree."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from quorra_server.domain import errors
from quorra_server.transports.status import STATUS

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "packages/quorra-server/src/quorra_server"
DRIVERS = {"asyncpg", "redis"}
WIRE = {"quorra_proto", "grpc", "grpc_health", "grpc_reflection", "sanic", "google", "jinja2"}


def _imports(folder: Path) -> Iterator[tuple[Path, int, str]]:
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                yield file, node.lineno, node.module


def _offending(folder: Path, forbidden_roots: set[str], forbidden_rooms: set[str]) -> list[str]:
    rooms = {f"quorra_server.{room}" for room in forbidden_rooms}
    return [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file, line, name in _imports(folder)
        if name.partition(".")[0] in forbidden_roots
        or any(name == room or name.startswith(f"{room}.") for room in rooms)
    ]


@pytest.mark.parametrize(
    ("room", "forbidden_roots", "forbidden_rooms"),
    [
        ("domain", DRIVERS | WIRE, {"storage", "services", "transports", "app", "config"}),
        ("storage", WIRE, {"services", "transports", "app", "config"}),
        ("services", DRIVERS | WIRE, {"transports", "app", "config"}),
        ("transports", DRIVERS, {"app"}),
    ],
)
def test_imports_point_left_only(room: str, forbidden_roots: set[str], forbidden_rooms: set[str]) -> None:
    assert [] == _offending(SERVER / room, forbidden_roots, forbidden_rooms)


@pytest.mark.parametrize(
    ("package", "name"),
    [("quorra-server", "quorra_server"), ("quorra-worker-sdk", "quorra_worker_sdk"), ("quorractl", "quorractl")],
)
def test_packages_depend_on_the_protocol_and_never_on_each_other(package: str, name: str) -> None:
    others = {"quorra_server", "quorra_worker_sdk", "quorractl"} - {name}

    assert [] == _offending(ROOT / "packages" / package / "src", others, set())


def test_the_supervisor_imports_neither_sanic_nor_grpc() -> None:
    files = (SERVER / "supervisor.py", SERVER / "cli.py", SERVER / "config.py")

    top_level = [
        name
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    ]

    assert not [name for name in top_level if name.partition(".")[0] in WIRE | DRIVERS | {"uvloop"}]


def _family(kind: type[errors.QuorraError]) -> Iterator[type[errors.QuorraError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def test_every_error_has_a_status_a_code_of_its_own_and_an_example_in_the_docs() -> None:
    family = list(_family(errors.QuorraError))
    documented = (ROOT / "docs/errors.md").read_text()

    assert set(family) == STATUS.keys()
    assert len(family) == len({kind.code for kind in family})
    assert [] == [kind.code for kind in family if f'"code": "{kind.code}"' not in documented]


def test_the_stubs_and_the_floors_of_their_package_agree() -> None:
    stubs = ROOT / "packages/quorra-proto/src/quorra_proto/v1"
    project = tomllib.loads((ROOT / "packages/quorra-proto/pyproject.toml").read_text())["project"]

    grpc_version = re.search(r"GRPC_GENERATED_VERSION = '([^']+)'", (stubs / "quorra_pb2_grpc.py").read_text())
    protobuf_version = re.search(r"Protobuf Python Version: (\S+)", (stubs / "quorra_pb2.py").read_text())

    assert grpc_version is not None
    assert protobuf_version is not None
    assert [f"grpcio>={grpc_version[1]}", f"protobuf>={protobuf_version[1]}"] == project["dependencies"]
