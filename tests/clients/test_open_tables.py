"""The tables are open: readers that share no code with Spanlake see what its own SQL sees."""

from decimal import Decimal

import deltalake
import polars
import pytest

import delta_readers
import spanlake

TOTALS = """
    SELECT count(*) AS spans,
           count(DISTINCT trace_id) AS traces,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cost_usd) AS cost_usd,
           min(start_time_unix_nano) AS first_start,
           max(start_time_unix_nano) AS last_start
    FROM spans
"""


def exact(values):
    """Sums in one shape, whatever integer or decimal type the reader has for them."""
    return tuple(None if value is None else Decimal(value) for value in values)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A store at rest with real spans in two commits, and what our own SQL said while the server ran."""
    directory = tmp_path_factory.mktemp("open")
    provider, server = spanlake.Provider(directory), spanlake.Server(directory, "--flush-interval", "200ms")
    try:
        for protocol, endpoint in (("grpc", server.grpc), ("http", server.otlp)):
            variables = {"OTEL_SERVICE_NAME": "clients-open", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
            python = spanlake.environment("openai_v2")
            spanlake.run_program("openai_v2.py", python, provider.url, protocol, env=variables)
        totals = exact(server.one(TOTALS).values())
        answered = {
            row["response_id"]: row["input_tokens"]
            for row in server.sql("SELECT response_id, input_tokens FROM spans WHERE response_id IS NOT NULL")
        }
        assert totals[0] == 34 and totals[1] == 2 and len(answered) == 22
        assert server.stop() == 0
    finally:
        server.kill()
        provider.kill()
    return server.store / "default" / "spans", totals, answered


def test_delta_rs_agrees(lake):
    path, totals, answered = lake
    table = deltalake.DeltaTable(path)
    reader = deltalake.QueryBuilder().register("spans", table)
    assert exact(column[0].as_py() for column in reader.execute(TOTALS).read_all().columns) == totals
    rows = reader.execute("SELECT response_id, input_tokens FROM spans WHERE response_id IS NOT NULL").read_all()
    told = dict(zip(*(column.to_pylist() for column in rows.columns)))
    assert told == answered
    assert table.metadata().partition_columns == ["date"]
    assert table.version() >= 2, "more than one commit was read"


def test_duckdb_agrees(lake):
    path, totals, answered = lake
    connection = delta_readers.duckdb_with_delta()
    scan = f"delta_scan('{path}')"
    assert exact(connection.execute(TOTALS.replace("spans\n", f"{scan}\n")).fetchone()) == totals
    rows = connection.execute(f"SELECT response_id, input_tokens FROM {scan} WHERE response_id IS NOT NULL").fetchall()
    assert dict(rows) == answered
    nested = connection.execute(
        f"""
        SELECT DISTINCT resource_attributes['telemetry.sdk.language'], len(events)
        FROM {scan} WHERE response_id IS NOT NULL
        """
    ).fetchall()
    assert nested == [("python", 0)], "maps and lists of structs are readable too"


def test_polars_agrees(lake):
    path, totals, _ = lake
    frame = polars.scan_delta(str(path)).select(
        polars.len(),
        polars.col("trace_id").n_unique(),
        polars.col("input_tokens").sum(),
        polars.col("output_tokens").sum(),
        polars.col("cost_usd").sum(),
        polars.col("start_time_unix_nano").min().alias("first_start"),
        polars.col("start_time_unix_nano").max().alias("last_start"),
    )
    assert exact(frame.collect().row(0)) == totals
