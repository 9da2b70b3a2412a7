"""Two processes that write one SQLite file, or one each: transactions and rows a second, and how long one waits.

    python -m bench.one_file [--folder DIR] [--seconds 4]

As the spool does it: WAL, synchronous=FULL, a transaction puts some rows of 1.9 KB and deletes as many. With one file
the writers wait for each other in SQLite's own way: they ask again and again (`busy_timeout`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sqlite3
import tempfile
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

ROW_BYTES = 1900
ROWS = (1, 100)


def _write(path: Path, seconds: float, rows: int, begin: Barrier, results: Queue[list[float]]) -> None:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    body = os.urandom(ROW_BYTES)
    took_s: list[float] = []
    begin.wait()
    until = time.perf_counter() + seconds
    mine = os.getpid() << 32
    last = mine
    while (now := time.perf_counter()) < until:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", [(last + n, body) for n in range(rows)])
        connection.execute("DELETE FROM rows WHERE id >= ? AND id < ?", (max(last - rows, mine), last))
        connection.execute("COMMIT")
        last += rows
        took_s.append(time.perf_counter() - now)
    results.put(took_s)


def measure(folder: Path, *, processes: int, files: int, rows: int, seconds: float) -> str:
    """A line of the table."""
    paths = [folder / f"{time.monotonic_ns()}.{number}.db" for number in range(files)]
    for path in paths:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)")
    begin = multiprocessing.Barrier(processes)
    results: Queue[list[float]] = multiprocessing.Queue()
    writers = [
        multiprocessing.Process(target=_write, args=(paths[number % files], seconds, rows, begin, results))
        for number in range(processes)
    ]
    for writer in writers:
        writer.start()
    took_s = sorted(each for _ in writers for each in results.get())
    for writer in writers:
        writer.join()
    p50, p99 = (took_s[int(len(took_s) * share)] * 1e3 for share in (0.5, 0.99))
    many = len(took_s) / seconds
    return (
        f"| {processes} | {files} | {rows} | {many:,.0f} | {many * rows:,.0f} | {p50:.2f} ms | {p99:.2f} ms "
        f"| {took_s[-1] * 1e3:.0f} ms |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary one")
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    print("| processes | files | rows a transaction | transactions/s | rows/s | p50 | p99 | longest |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in ROWS:
        for processes, files in ((1, 1), (2, 2), (2, 1)):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                what = {"processes": processes, "files": files, "rows": rows}
                print(measure(Path(folder), seconds=options.seconds, **what), flush=True)


if __name__ == "__main__":
    main()
