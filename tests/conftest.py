"""In CI a skip is a failure: a missing tool is a missing install step (`.ci/run`)."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

pytest_plugins = ("tests.faults.table", "tests.nats_cluster")
"""Here, for the process that gathers the reports of all workers loads this file only."""

ALLOWED = ("official OpenAPI file", "the kernel does not permit")
"""Only a test of a file that is not part of the project may be skipped, and one that needs a right that no install step
gives (to mount, to make networks): the reason says so."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and "CI" in os.environ and not any(each in str(report.longrepr) for each in ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
