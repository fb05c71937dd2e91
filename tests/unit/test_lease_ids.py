"""Lease ids: what is read one by one and what is read together is the same, and strict."""

from uuid import UUID, uuid4

import pytest
from quorra_server.domain.errors import InvalidRequest
from quorra_server.domain.job import LeaseId
from quorra_server.services.lease_ids import decode_lease_id, decode_lease_ids, text_of

SECRET = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")
JOB = "00112233445566778899aabbccddeeff"
GOOD = f"a.{JOB}.1f.{SECRET.hex}"


def test_lease_ids_are_read_together_as_one_by_one() -> None:
    leases = [
        LeaseId(batch, ordinal, uuid4().hex, secret)
        for batch, secret in ((1, SECRET), (2**63 - 1, uuid4()))
        for ordinal in (1, 16, 10_000, 2**28 - 1)
    ]
    texts = [text_of(lease) for lease in leases]

    assert leases == [decode_lease_id(text) for text in texts]
    assert leases == decode_lease_ids(texts)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x",
        GOOD + " ",
        " " + GOOD,
        GOOD + "\n",
        GOOD.upper(),
        GOOD.replace("a.", "0.", 1),
        GOOD.replace("a.", "0a.", 1),
        GOOD.replace("a.", "+a.", 1),
        GOOD.replace("a.", "0xa.", 1),
        GOOD.replace("a.", "a b.", 1),
        GOOD.replace("a.", "a_b.", 1),
        GOOD.replace("a.", "10000000.", 1),
        GOOD.replace("a.", ".", 1),
        GOOD.replace(JOB, JOB[:-2]),
        GOOD.replace(JOB, JOB[:-1] + " "),
        GOOD.replace(JOB, JOB[:-3] + "  f"),
        GOOD.replace(JOB, JOB[:-1] + "g"),
        GOOD.replace(JOB, JOB + "00"),
        GOOD.replace(JOB, JOB[:8] + "-" + JOB[9:]),
        GOOD.replace(".1f.", "."),
        GOOD.replace(".1f.", ".-1f."),
        GOOD.replace(".1f.", "." + "f" * 16 + "."),
        GOOD.replace(SECRET.hex, str(SECRET)),
        GOOD.replace(SECRET.hex, SECRET.hex[:-1]),
        GOOD + ".1",
    ],
)
def test_what_no_server_made_is_refused_alone_and_among_others(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        decode_lease_id(bad)

    assert decode_lease_ids([GOOD, bad]) is None
    assert decode_lease_ids([bad]) is None
