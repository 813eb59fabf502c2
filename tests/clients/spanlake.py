"""The real server and the fake provider as child processes, and the programs that talk to both."""

import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from decimal import Decimal

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
START_SECONDS = 60
STOP_SECONDS = 60
PROGRAM_SECONDS = 120
LISTENERS = ("otlp-grpc-addr", "otlp-http-addr", "http-addr", "flight-addr")


def binary():
    """The server under test; `tests/clients/run` sets it."""
    return os.environ["SPANLAKE_BIN"]


def environment(name):
    """The Python of a virtual environment made from `requirements/<name>.txt`; `tests/clients/run` makes it."""
    return pathlib.Path(os.environ["SPANLAKE_CLIENT_ENVIRONMENTS"]) / name / "bin" / "python"


def poll(condition, seconds, what):
    """Waits until `condition` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds} s")
        time.sleep(0.05)


class Process:
    """A child process whose standard output is read line by line, its standard error kept in a file."""

    def __init__(self, command, log, **options):
        self.log = log
        with open(log, "ab") as errors:
            self.child = subprocess.Popen(
                [str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True, **options
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def first_line(self):
        line = self.lines.get(timeout=START_SECONDS)
        assert line is not None, f"process ended at once: {self.log.read_text()}"
        return line

    def stop(self):
        """Asks the process to end, and returns its exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(timeout=STOP_SECONDS)

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Server(Process):
    """`spanlake serve` on a store of its own, listening on ports of the system's choice."""

    def __init__(self, directory, *flags, configured=True):
        self.store = directory / "lake"
        command = [binary(), "serve", "--print-addresses"]
        if configured:
            command += ["--store", self.store]
            command += [part for listener in LISTENERS for part in (f"--{listener}", "127.0.0.1:0")]
        # Nothing of the surroundings may configure it.
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SPANLAKE_", "AWS_"))}
        super().__init__([*command, *flags], directory / "spanlake.log", cwd=directory, env=clean)
        addresses = json.loads(self.first_line())
        self.grpc = f"http://{addresses['otlp_grpc']}"
        self.otlp = f"http://{addresses['otlp_http']}"
        self.http = f"http://{addresses['http']}"
        self.control = f"http://{addresses['control']}"
        poll(lambda: self.get("/readyz")[0] == 200, START_SECONDS, "server is ready")

    def get(self, path):
        return request(urllib.request.Request(self.http + path))

    def sql(self, statement, *params):
        """Rows of a statement as dictionaries, numbers exact."""
        body = json.dumps({"sql": statement, "params": list(params)}).encode()
        headers = {"content-type": "application/json", "accept": "application/json"}
        status, answer = request(urllib.request.Request(self.http + "/api/v1/sql", body, headers))
        assert status == 200, f"{status}: {answer}"
        return json.loads(answer, parse_float=Decimal)

    def one(self, statement, *params):
        rows = self.sql(statement, *params)
        assert len(rows) == 1, rows
        return rows[0]


def request(what):
    try:
        with urllib.request.urlopen(what, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Provider(Process):
    """The fake LLM provider, and its log of what it really answered."""

    def __init__(self, directory):
        self.calls_log = directory / "calls.jsonl"
        self.calls_log.touch()
        command = [sys.executable, HERE / "fake_llm.py", "--port", "0", "--log", self.calls_log]
        super().__init__(command, directory / "provider.log")
        self.url = self.first_line().split()[-1] + "/v1"

    def calls(self):
        return [json.loads(line) for line in self.calls_log.read_text().splitlines()]


def run_program(name, python, *arguments, env):
    """Runs one of `programs/` to its end; it must succeed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TRACELOOP_"))}
    done = subprocess.run(
        [str(python), str(HERE / "programs" / name), *arguments],
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
    )
    assert done.returncode == 0, f"{name} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
