"""Several writers on one table: two servers that send each other nothing, and delta-rs rewriting their files under them."""

import json
import threading
import time
import urllib.request

import deltalake
import pytest

import spanlake

REQUESTS = 40
SPANS = 5
REWRITES = 6


def request_body(number):
    """A plain request in JSON, its ids made from its number."""
    now = time.time_ns()
    spans = [
        {
            "traceId": f"{number + 1:032x}",
            "spanId": f"{number * SPANS + index + 1:016x}",
            "name": "chat",
            "startTimeUnixNano": str(now - 1_000_000),
            "endTimeUnixNano": str(now),
            "attributes": [
                {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": str(number)}},
            ],
            "events": [{"timeUnixNano": str(now), "name": "told"}],
        }
        for index in range(SPANS)
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


def send(server, numbers, failures):
    for number in numbers:
        headers = {"content-type": "application/json"}
        status, answer = spanlake.request(
            urllib.request.Request(server.otlp + "/v1/traces", request_body(number), headers)
        )
        if status != 200:
            failures.append((number, status, answer))


def rewrite(path, turn):
    """What people run on their tables; delta-rs takes a commit that comes in between as a reason to try again."""
    table = deltalake.DeltaTable(path)
    try:
        if turn % 3 == 2:
            table.create_checkpoint()
        elif turn % 3 == 1:
            table.optimize.z_order(["service_name", "start_time"])
        else:
            table.optimize.compact()
    except deltalake.exceptions.CommitFailedError:
        return False
    return True


@pytest.fixture
def two_servers(tmp_path):
    servers = []
    try:
        for name in ("first", "second"):
            home = tmp_path / name
            home.mkdir()
            flags = ["--store", tmp_path / "lake", "--wal-dir", home / "wal", "--flush-interval", "50ms"]
            flags += [part for listener in spanlake.LISTENERS for part in (f"--{listener}", "127.0.0.1:0")]
            servers.append(spanlake.Server(home, *flags, configured=False))
        yield servers, tmp_path / "lake" / "default" / "spans"
    finally:
        for server in servers:
            server.kill()


def test_two_servers_and_a_third_that_rewrites_lose_and_double_nothing(two_servers):
    (first, second), path = two_servers
    failures = []
    numbers = range(2 * REQUESTS)
    senders = [
        threading.Thread(target=send, args=(server, numbers[at::2], failures))
        for at, server in enumerate((first, second))
    ]
    for sender in senders:
        sender.start()
    rewritten = sum(rewrite(path, turn) for turn in range(REWRITES))
    for sender in senders:
        sender.join()
    assert not failures, failures[:3]

    expected = {f"{number + 1:016x}" for number in range(2 * REQUESTS * SPANS)}
    for server in (first, second):
        spanlake.poll(
            lambda: server.one("SELECT count(*) AS n FROM spans")["n"] >= len(expected),
            spanlake.STOP_SECONDS,
            "both servers' spans are visible",
        )
    # Once more, now that nothing else commits: at least one rewrite takes in files of both.
    assert rewrite(path, 0) and rewritten > 0
    for server in (first, second):
        rows = server.sql("SELECT span_id, array_length(events) AS events, input_tokens FROM spans")
        assert len(rows) == len(expected), "none twice"
        assert {row["span_id"] for row in rows} == expected, "none lost"
        assert all(row["events"] == 1 for row in rows)
        assert sum(row["input_tokens"] for row in rows) == SPANS * sum(numbers)
        assert server.stop() == 0
    table = deltalake.QueryBuilder().register("spans", deltalake.DeltaTable(path))
    told = table.execute("SELECT count(*), count(DISTINCT span_id) FROM spans").read_all()
    assert [column[0].as_py() for column in told.columns] == [len(expected)] * 2
