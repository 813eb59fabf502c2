"""Spans with hand-made attribute names, as a published article writes them."""

from decimal import Decimal

import spanlake


def test_hand_made_names_are_read(server, provider):
    variables = {
        "OTEL_SERVICE_NAME": "chatgpt-poem",
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.grpc,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20some-token",
    }
    spanlake.run_program("hand_made.py", spanlake.environment("openai_v2"), provider.url, env=variables)
    calls = provider.calls()
    answered = [call for call in calls if call["status"] == 200]
    assert (len(calls), len(answered)) == (4, 3)

    rows = server.sql(
        """
        SELECT model, input_tokens, output_tokens, total_tokens, cost_reported_usd, status_code
        FROM spans WHERE name = 'do_work' ORDER BY start_time_unix_nano
        """
    )
    assert [row["status_code"] for row in rows] == ["UNSET", "UNSET", "UNSET", "ERROR"]
    for row, call in zip(rows, answered):
        given, made = call["usage"]["input"], call["usage"]["output"]
        assert row["model"] == "text-davinci-003"
        assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (given, made, given + made)
        assert Decimal(row["cost_reported_usd"]) == (given + made) * Decimal("0.02") / 1000
    failed = rows[3]
    assert failed["input_tokens"] is None and failed["cost_reported_usd"] is None
