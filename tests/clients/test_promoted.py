"""Attributes promoted to columns: other readers see them, and what other writers do to the files does no harm."""

import json
import subprocess
import time
import urllib.request

import deltalake
import polars

import delta_readers
import spanlake


def attribute(key, value):
    kind = {str: "stringValue", int: "intValue", float: "doubleValue", bool: "boolValue"}[type(value)]
    return {"key": key, "value": {kind: value}}


def send(server, number, **attributes):
    """One span; underscores in the names of attributes become dots."""
    start = time.time_ns()
    span = {
        "traceId": f"{number:032x}",
        "spanId": f"{number:016x}",
        "name": f"span {number}",
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 1000),
        "attributes": [attribute(key.replace("_", "."), value) for key, value in attributes.items()],
    }
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    headers = {"content-type": "application/json"}
    status, answer = spanlake.request(urllib.request.Request(server.otlp + "/v1/traces", body, headers))
    assert status == 200, answer


TIERS = "SELECT name, customer_tier, customer_seats, customer_rate, customer_beta FROM spans ORDER BY name"
EXPECTED = [
    ("span 1", "gold", 5, None, None),
    ("span 2", None, None, 0.5, True),
    ("span 3", "tin", None, 2.0, None),
    ("span 4", "gold", 7, None, False),
]


def rows(server):
    return [tuple(row.values()) for row in server.sql(TIERS)]


def rows_at_rest(server):
    """What is committed by now, whoever did it."""
    command = [spanlake.binary(), "sql", TIERS, "--store", server.store, "--format", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [tuple(row.values()) for row in json.loads(answer)]


def by_delta_rs(path):
    table = deltalake.DeltaTable(path)
    answer = deltalake.QueryBuilder().register("spans", table).execute(TIERS).read_all()
    return list(zip(*(column.to_pylist() for column in answer.columns)))


def by_duckdb(path):
    return delta_readers.duckdb_with_delta().execute(TIERS.replace("spans", f"delta_scan('{path}')")).fetchall()


def by_polars(path):
    columns = TIERS.removeprefix("SELECT ").split(" FROM")[0].split(", ")
    return polars.scan_delta(str(path)).select(columns).sort("name").collect().rows()


def backfill(server):
    command = [spanlake.binary(), "promote", "--backfill", "--server", server.http]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_other_readers_and_writers(tmp_path):
    """Files from before the list, files with the columns, then one that delta-rs makes of them all: it fills what the older files
    lack with NULL. SQL is right at each step; readers of files once they are written again."""
    promote = ["--promote", "reg:customer[.].*"]
    server = spanlake.Server(tmp_path, "--flush-interval", "1h")
    try:
        send(server, 1, customer_tier="gold", customer_seats=5)
        assert server.stop() == 0
        server = spanlake.Server(tmp_path, "--flush-interval", "1h", *promote)
        send(server, 2, customer_rate=0.5, customer_beta=True)
        send(server, 3, customer_tier="tin", customer_rate=2)
        send(server, 4, customer_tier="gold", customer_seats=7, customer_beta=False)
        assert server.stop() == 0
        path = server.store / "default" / "spans"
        lacking = [("span 1", None, None, None, None), *EXPECTED[1:]]
        assert by_delta_rs(path) == by_duckdb(path) == by_polars(path) == lacking

        server = spanlake.Server(tmp_path, "--flush-interval", "1h", *promote)
        assert rows(server) == EXPECTED
        compacted = deltalake.DeltaTable(path).optimize.compact()
        assert compacted["numFilesRemoved"] == 2
        assert rows_at_rest(server) == rows(server) == EXPECTED
        assert by_delta_rs(path) == lacking
        assert backfill(server).startswith("1 files with 4 spans, ")
        assert rows(server) == EXPECTED
        assert by_delta_rs(path) == by_duckdb(path) == by_polars(path) == EXPECTED
        assert deltalake.DeltaTable(path).metadata().configuration["spanlake.promote.customer_tier"] == "customer.tier"
        assert backfill(server).startswith("0 files")
    finally:
        server.kill()
