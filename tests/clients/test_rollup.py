"""Hourly totals per model, run by the command line, held against the provider's log and read by another reader."""

import subprocess

import delta_readers
import spanlake
import truth

PER_MODEL = """
    SELECT model, sum(requests) AS requests, sum(errors) AS errors, sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens, sum(cache_read_tokens) AS cache_read_tokens, sum(cost_usd) AS cost_usd
    FROM model_usage_hour
    GROUP BY model
"""


def run_rollup(server):
    command = [spanlake.binary(), "rollup", "run", "model_usage_hour", "--control", server.control]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return server.one("SELECT coalesce(sum(requests), 0) AS requests FROM model_usage_hour")["requests"]


def test_totals_are_the_providers(tmp_path, provider):
    server = spanlake.Server(tmp_path, "--flush-interval", "100ms")
    try:
        variables = {"TRACELOOP_BASE_URL": server.otlp, "TRACELOOP_TELEMETRY": "false"}
        spanlake.run_program("traceloop_workflow.py", spanlake.environment("traceloop"), provider.url, env=variables)
        expected = truth.per_model(provider.calls(), truth.TRACELOOP)
        # A rollup takes in what is committed, which follows within the flush interval.
        spanlake.poll(
            lambda: int(run_rollup(server)) == len(provider.calls()), 30, "the rollup has taken in every call"
        )
        assert {row["model"]: truth.told(row) for row in server.sql(PER_MODEL)} == expected

        connection = delta_readers.duckdb_with_delta()
        table = server.store / "default" / "model_usage_hour"
        rows = connection.execute(PER_MODEL.replace("model_usage_hour", f"delta_scan('{table}')")).fetchall()
        assert {model: tuple(numbers) for model, *numbers in rows} == expected
        assert server.stop() == 0
    finally:
        server.kill()
