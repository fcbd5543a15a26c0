"""The thread that owns one SQLite file: every read and write of it happens here, off the event loop.

While the file cannot be written, what is owed is kept in memory within bounds and written later: one line when that
begins, one when it is over. A file that is broken is moved aside, never deleted and never trusted. Knows no table.
"""

from __future__ import annotations

import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger(__name__)

QUEUED = 10_000
"""Jobs waiting for the disk, about 10 MB of fills: hours of a busy market on a disk that hangs."""
BATCH = 500
"""Jobs of one transaction: one commit for a burst, and reads wait for no longer than that."""
RETRY = 10.0
"""s between attempts to write what is owed: a full disk is noticed to have room before a person looks twice."""
MAX_PAGES = 65_536
"""256 MB at 4 KiB: half a million fills, and no full disk by our doing."""
BROKEN_KEPT = 3
"""Files moved aside: the evidence of a failing disk, not a collection."""

Work = Callable[[sqlite3.Connection], Any]

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DETACHED = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
"""After these the connection may see a file that is no longer there: it is opened again."""


class Job(NamedTuple):
    """`write`: it changes the file, and is owed if that fails. `done(result, error)` is called in the thread."""

    work: Work
    write: bool
    done: Callable[[Any, Exception | None], None]


class Unusable(sqlite3.DatabaseError):
    """The file is whole, but not ours to write."""


class Writer:
    """`schema` makes the tables that are missing. `version` rises when an older daemon could not use the file any more;
    a table of its own does not need that. `failed`: writes that failed, or never reached the queue.
    """

    def __init__(self, path: Path, schema: str, version: int, *, max_pages: int = MAX_PAGES) -> None:
        self.failed = 0
        self._path = path
        self._schema = schema
        self._version = version
        self._max_pages = max_pages
        self._jobs: queue.Queue[Job | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._run, name=path.stem, daemon=True)
        self._db: sqlite3.Connection | None = None
        self._checked = False
        self._owed: list[Work] = []
        self._lost = 0
        self._troubled = False

    def start(self) -> None:
        self._thread.start()

    def offer(self, job: Job) -> bool:
        """Queue a job; `False` when the disk is so far behind that there is no room."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.failed += job.write
            return False
        return True

    def close(self, timeout: float) -> None:
        """Do what is queued and end, waiting at most `timeout` s. Blocks."""
        try:
            self._jobs.put(None, timeout=timeout)
        except queue.Full:
            return  # a disk that hangs is left to itself
        self._thread.join(timeout)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ending = False
        while not ending:
            batch = self._next_batch()
            ending = None in batch
            self._serve([job for job in batch if job is not None])
        self._disconnect()

    def _next_batch(self) -> list[Job | None]:
        batch: list[Job | None] = []
        try:
            batch.append(self._jobs.get(timeout=RETRY if self._owed else None))
            while len(batch) < BATCH and batch[-1] is not None:
                batch.append(self._jobs.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _serve(self, jobs: Sequence[Job]) -> None:
        """Writes in one transaction, together with what is owed; then reads."""
        writes = [job for job in jobs if job.write]
        if writes or self._owed:
            error = self._commit([*self._owed, *(job.work for job in writes)])
            if error is not None:
                self._owe([job.work for job in writes], error)
            else:
                self._owed.clear()
                if self._troubled:
                    log.info("ledger.working", message="The ledger can be written again.", lost=self._lost)
                self._troubled, self._lost = False, 0
            for job in writes:
                job.done(None, error)
        for job in jobs:
            if not job.write:
                job.done(*self._read(job.work))

    def _commit(self, works: Sequence[Work]) -> Exception | None:
        try:
            with _transaction(self._connected()) as db:
                for work in works:
                    self._do(db, work)
        except (sqlite3.Error, OSError) as error:
            self._look_at(error)
            return error
        return None

    def _do(self, db: sqlite3.Connection, work: Work) -> None:
        try:
            work(db)
        except Exception as error:
            if _is_the_disk(error):
                raise
            # a value that cannot be written must not stand in the way of all that can
            self.failed += 1
            log.error(
                "ledger.refused", message="The ledger cannot hold a value.", error=f"{type(error).__name__}: {error}"
            )

    def _read(self, work: Work) -> tuple[Any, Exception | None]:
        try:
            return work(self._connected()), None
        except Exception as error:
            self._look_at(error)
            return None, error

    def _owe(self, works: Sequence[Work], error: Exception) -> None:
        room = max(0, QUEUED - len(self._owed))
        self._owed += works[:room]
        self._lost += len(works[room:])
        self.failed += len(works)
        if not self._troubled:
            self._troubled = True
            log.warning(
                "ledger.failing",
                message="The ledger cannot be written: fills and link events are kept in memory until it can.",
                path=str(self._path),
                error=str(error),
            )

    # --- the file ---------------------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._db = self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._move_aside(error)
                self._db = self._connect()
        return self._db

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # the files beside it take over this mode
        db = sqlite3.connect(self._path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA max_page_count = {self._max_pages:d}")
            db.execute("PRAGMA journal_size_limit = 4194304")  # a WAL that a burst has grown shrinks again
            if not self._checked and (found := db.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise Unusable(str(found))
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > self._version:
                raise Unusable(f"written by a newer version ({version})")
            if version < self._version:
                db.executescript(f"BEGIN IMMEDIATE; {self._schema} PRAGMA user_version = {self._version:d}; COMMIT;")
            else:
                db.executescript(self._schema)  # writes nothing where all tables are there
        except BaseException:
            db.close()
            raise
        self._checked = True
        return db

    def _look_at(self, error: Exception) -> None:
        """After a failure: whether the connection, or the file, can be used any further."""
        if _is_broken(error) or _kind(error) in _DETACHED:
            self._disconnect()
        if _is_broken(error):
            try:
                self._move_aside(error)
            except OSError as failure:
                log.warning("ledger.stuck", message="The broken ledger cannot be moved aside.", error=str(failure))

    def _move_aside(self, error: Exception) -> None:
        name = f"{self._path.stem}-broken-{secrets.token_hex(4)}{self._path.suffix}"
        for suffix in ("", "-wal", "-shm"):
            source = Path(f"{self._path}{suffix}")
            if source.exists():
                source.replace(self._path.with_name(name + suffix))
        aside = sorted(self._path.parent.glob(f"{self._path.stem}-broken-*"), key=lambda path: path.stat().st_mtime)
        for path in aside[: -3 * BROKEN_KEPT]:  # each with its two companions
            path.unlink()
        log.warning(
            "ledger.broken",
            message="The ledger cannot be used and was moved aside; a new one begins without its fills and events.",
            aside=str(self._path.with_name(name)),
            error=str(error),
        )

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error:
                pass  # what it had to say was said by the write before


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _kind(error: Exception) -> int | None:
    """SQLite's primary result code."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_broken(error: Exception) -> bool:
    return isinstance(error, Unusable) or _kind(error) in _BROKEN


def _is_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError | sqlite3.OperationalError) or _is_broken(error)
