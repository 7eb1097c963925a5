"""A real PostgreSQL for tests and benchmarks: a cluster of its own, in a temporary folder.

It comes from the system's packages (Debian: `apt-get install postgresql`) and listens on a socket
in that folder. It refuses to run as root, so root starts it as the user that the package made.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, the newest version's; None where there is none."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = [f for place in _PLACES for f in Path("/").glob(place.lstrip("/"))]
    return max((f for f in folders if (f / "initdb").exists()), default=None)


class Cluster:
    """A running server; a context manager. `schema()` gives the address of an empty schema."""

    def __init__(self, bin: Path, *, durable: bool = False) -> None:
        self._bin = bin
        self._folder = Path(tempfile.mkdtemp(prefix="gradwire-pg-"))  # short: it holds a socket
        self._user = _unprivileged()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._folder.chmod(0o700)
        self._data = self._folder / "data"
        self._run("initdb", "--no-sync", "--auth=trust", "--username=gradwire", "--pgdata")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "max_connections": "200",
            "fsync": "on" if durable else "off",
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        self.start()
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "--wait", "--silent", "--log", log, "--pgdata")

    def stop(self, how: str = "fast") -> None:
        """Stop the server: `fast`, or `immediate`, which is a crash."""
        self._run("pg_ctl", "stop", "--silent", "--mode", how, "--pgdata")

    @property
    def url(self) -> str:
        """The address of the cluster's database."""
        return f"postgresql://gradwire@/postgres?host={quote(str(self._folder), safe='')}"

    def schema(self, **settings: str) -> str:
        """The address of a new, empty schema; `settings` hold for those who come that way."""
        import psycopg

        name = f"s{next(self._numbers)}_{os.getpid()}"
        with psycopg.connect(self.url, autocommit=True) as sql:
            sql.execute(f"CREATE SCHEMA {name}")
        options = {"search_path": name, **settings}
        text = " ".join(f"-c{name}={value}" for name, value in options.items())
        return f"{self.url}&options={quote(text)}"

    def folder(self, name: str) -> Path:
        """A new folder that the server may write into."""
        made = self._folder / name
        made.mkdir()
        if self._user is not None:
            shutil.chown(made, self._user)
        return made

    def close(self) -> None:
        """Stop the server and remove everything."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, program: str, *arguments: str) -> None:
        out = self._folder / "out"
        with out.open("a") as file:  # not a pipe: the server would hold it open
            done = subprocess.run(
                [str(self._bin / program), *arguments, str(self._data)],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{program}: {out.read_text()}")


def _unprivileged() -> str | None:
    """Whom to run the server as; None: as whoever we are."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"
