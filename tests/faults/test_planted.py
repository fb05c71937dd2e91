"""Every planted bug fits the code as it is; `hatch run mutants` plants them."""

import ast

import pytest

from tests.faults.kinds import KINDS
from tests.faults.mutants import FAULT_RUN, PAGE, ROOT, Bug, copy_of_packages, inapplicable, plant, planted_bugs

BUGS = planted_bugs()


def test_there_are_at_least_forty() -> None:
    assert len(BUGS) >= 40


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_the_code_and_names_checks_that_exist(bug: Bug) -> None:
    checks = [check.partition(" -k ")[0] for check in bug.checks if not check.startswith(FAULT_RUN)]

    kinds = [bug.judged_under, *(check.removeprefix(FAULT_RUN) for check in bug.checks if check.startswith(FAULT_RUN))]

    assert [] == inapplicable(bug)
    assert bug.checks
    assert set() == {kind for text in kinds for kind in text.split(",") if kind} - KINDS.keys()
    assert [] == [check for check in checks if not (ROOT / check).exists()]


def test_planted_bugs_are_code_that_can_be_read() -> None:
    """A bug that does not even compile is caught by anything and proves nothing."""
    for bug in BUGS:
        with copy_of_packages() as copy:
            plant(bug, copy)
            for edit in bug.edits:
                if edit.file.endswith(".py"):
                    ast.parse((copy / edit.file).read_text(), f"{bug.name}: {edit.file}")


def test_the_page_says_which_check_caught_each_planted_bug() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = {name.strip(" `"): [cell.strip() for cell in cells] for name, *cells in rows}

    assert {bug.name: [bug.breaks, bug.judged_under] for bug in BUGS} == {
        name: [breaks, judged_under] for name, (breaks, _, judged_under) in told.items()
    }
    assert [] == [bug.name for bug in BUGS if told[bug.name][1].strip("`") not in bug.checks]
