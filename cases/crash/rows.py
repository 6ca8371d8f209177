#!/usr/bin/python3
"""usage: rows.py create|write|check ENGINE DIR [WORD]...

Rows go into a database, a transaction each, which is acknowledged by a mark. Afterwards the database must be sound by its
own check, and hold the rows 1 to N without a gap: all that were acknowledged, and at most one more. With the word
may-lose acknowledged ones may be missing.

sqlite JOURNAL-MODE SYNCHRONOUS; tdb [nosync|grows]; lmdb [nosync]. The file of tdb is made large enough at first, unless it
grows.
"""
import os
import sys

from marks import bad, mark, must

ROWS = 6


def value(n):
    return f"row {n} ".encode() * 60


class Sqlite:
    def __init__(self, directory, journal, synchronous):
        import sqlite3
        self.db = sqlite3.connect(f"{directory}/rows.sqlite", isolation_level=None)
        self.db.execute(f"PRAGMA journal_mode={journal}")
        self.db.execute(f"PRAGMA synchronous={synchronous}")

    def create(self):
        self.db.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, v BLOB)")

    def put(self, n):
        self.db.execute("INSERT INTO rows VALUES (?, ?)", (n, value(n)))

    def rows(self):
        import sqlite3
        try:
            found = self.db.execute("PRAGMA integrity_check").fetchall()
            if found != [("ok",)]:
                bad(f"integrity_check: {found[0][0]}")
            if not self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchall():
                return {}
            return dict(self.db.execute("SELECT n, v FROM rows"))
        except sqlite3.DatabaseError as e:
            bad(f"sqlite: {e}")


class Tdb:
    def __init__(self, directory, sync="sync"):
        import tdb
        flags = {"sync": 0, "grows": 0, "nosync": tdb.NOSYNC}[sync]
        self.grows = sync == "grows"
        try:
            self.db = tdb.open(f"{directory}/rows.tdb", 0, flags, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as e:
            bad(f"tdb: {e}")

    def create(self):
        if self.grows:
            return
        # The file, and the recovery area in it, as large as they will ever have to be.
        self.db.transaction_start()
        for i in range(100):
            self.db.store(f"room {i}".encode(), value(0))
        self.db.transaction_commit()
        self.db.transaction_start()
        for i in range(100):
            self.db.delete(f"room {i}".encode())
        self.db.transaction_commit()

    def put(self, n):
        self.db.transaction_start()
        self.db.store(str(n).encode(), value(n))
        self.db.transaction_commit()

    def rows(self):
        return {int(key): self.db.get(key) for key in self.db}


class Lmdb:
    def __init__(self, directory, sync="sync"):
        import lmdb
        try:
            self.db = lmdb.open(f"{directory}/lmdb", map_size=1 << 20, sync=sync == "sync")
        except lmdb.Error as e:
            bad(f"lmdb: {e}")

    def create(self):
        pass

    def put(self, n):
        with self.db.begin(write=True) as transaction:
            transaction.put(str(n).encode(), value(n))

    def rows(self):
        import lmdb
        try:
            with self.db.begin() as transaction:
                return {int(key): data for key, data in transaction.cursor()}
        except (lmdb.Error, ValueError) as e:
            bad(f"lmdb: {e}")


ENGINES = {"sqlite": Sqlite, "tdb": Tdb, "lmdb": Lmdb}


def write(engine):
    """The empty database was made in the preparation."""
    for n in range(1, ROWS + 1):
        engine.put(n)
        mark(f"row {n}")


def check(engine, may_lose):
    rows = engine.rows()
    acknowledged = len(must())
    if sorted(rows) != list(range(1, len(rows) + 1)):
        bad(f"there is a gap: rows {sorted(rows)}")
    for n, data in rows.items():
        if data != value(n):
            bad(f"row {n} is not what was written")
    if len(rows) < acknowledged and not may_lose:
        bad(f"there are {len(rows)} rows; {acknowledged} were acknowledged")
    if len(rows) > acknowledged + 1:
        bad(f"there are {len(rows)} rows; only {acknowledged} had been acknowledged, and one was in the making")


def main():
    what, name, directory, *words = sys.argv[1:]
    may_lose = "may-lose" in words
    engine = ENGINES[name](directory, *(w for w in words if w != "may-lose"))
    if what == "create":
        engine.create()
    elif what == "write":
        write(engine)
    else:
        check(engine, may_lose)


main()
