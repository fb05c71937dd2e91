"""Keys and passwords are looked for in everything that a run has said."""

from pathlib import Path

from tests.faults.leaks import logs_below, telltales

PASSWORD = "a-password"


def test_logs_are_found_in_folders_below_too(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "17").mkdir(parents=True)
    (tmp_path / "server-0.log").write_text("one")
    (tmp_path / "postgres" / "postgres.log").write_text("two")
    (tmp_path / "postgres" / "17" / "PG_VERSION").write_text("17")

    assert {"server-0.log": "one", "postgres/postgres.log": "two"} == logs_below(tmp_path)


def test_an_output_that_has_a_secret_is_named() -> None:
    outputs = {"server-0.log": f"dsn=postgresql://quorra:{PASSWORD}@db", "http://server/metrics": "jobs 1"}

    assert ["server-0.log"] == telltales(outputs, ["a-key", PASSWORD])


def test_a_secret_that_there_is_none_of_is_in_no_output() -> None:
    assert [] == telltales({"server-0.log": "started"}, [""])
