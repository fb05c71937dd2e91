"""What is said on the command line: the words that repeat a run, and the quotas that it must meet."""

import argparse
import shlex

import pytest

from tests.faults.__main__ import _parser, _quotas, _replay
from tests.faults.outside import grpc_address, rest_address

NOT_REPEATED = {"json", "folder", "list"}


@pytest.mark.parametrize(
    "words",
    [
        "--seed 7",
        "--minutes 0.5 --rate 100 --quotas short --kinds worker.kill,server.kill --seed 5",
        "--count 300 --pause 4 --lanes 1 --limits --lease-seconds 5 --servers 3 --workers 4 --seed 1",
        "--against http://localhost:8080 --grpc localhost:50051 --quotas full --seed 2",
    ],
)
def test_the_words_that_repeat_a_run_mean_the_same_options(words: str) -> None:
    options = _parser().parse_args(shlex.split(words))

    program, *repeated = shlex.split(_replay(options).removeprefix("hatch run "))

    assert "faults" == program
    assert _meant(options) == _meant(_parser().parse_args(repeated))


def test_a_run_that_counts_asks_for_as_many_effects_of_each_kind() -> None:
    quotas = _quotas(_parser().parse_args(["--count", "300", "--kinds", "worker.kill,worker.term"]))

    assert (300, 300) == (quotas.faults, quotas.each_kind)


@pytest.mark.parametrize(
    ("url", "address"),
    [("http://localhost:8080", ("localhost", 8080)), ("http://10.0.0.5/", ("10.0.0.5", 80))],
)
def test_an_installation_is_reached_where_its_url_says(url: str, address: tuple[str, int]) -> None:
    assert address == rest_address(url)


def test_an_installation_behind_tls_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(SystemExit, match="give the plain HTTP address of one of its servers"):
        rest_address("https://queue.example:8443")


@pytest.mark.parametrize("url", ["localhost:8080", "http://localhost:8080/v1", "ftp://localhost"])
def test_what_is_no_address_of_an_installation_is_refused(url: str) -> None:
    with pytest.raises(SystemExit, match="is no address such as"):
        rest_address(url)


@pytest.mark.parametrize(
    ("text", "address"), [("10.0.0.5:50051", ("10.0.0.5", 50051)), (":50051", ("localhost", 50051))]
)
def test_grpc_is_reached_where_its_address_says(text: str, address: tuple[str, int]) -> None:
    assert address == grpc_address(text)


def test_what_is_no_address_of_grpc_is_refused() -> None:
    with pytest.raises(SystemExit, match="is no address such as localhost:50051"):
        grpc_address("localhost")


def _meant(options: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(options).items() if name not in NOT_REPEATED}
