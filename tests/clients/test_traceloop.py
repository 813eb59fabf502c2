"""OpenLLMetry's traceloop-sdk, told where to send by nothing but TRACELOOP_BASE_URL."""

import spanlake
import truth


def test_sql_tells_what_the_provider_answered(server, provider):
    variables = {"TRACELOOP_BASE_URL": server.otlp, "TRACELOOP_TELEMETRY": "false"}
    spanlake.run_program("traceloop_workflow.py", spanlake.environment("traceloop"), provider.url, env=variables)

    calls = provider.calls()
    assert len(calls) == 16
    assert truth.told_per_model(server) == truth.per_model(calls, truth.TRACELOOP)
    truth.assert_each_answer_is_told(server, calls, truth.TRACELOOP)

    names = server.sql("SELECT name FROM spans WHERE usage_role IS NULL ORDER BY name")
    assert [row["name"] for row in names] == [
        "answer.task",
        "fail.task",
        "look_up.tool",
        "researcher.agent",
        "support_case.workflow",
    ]
    assert server.sql("SELECT DISTINCT service_name, environment FROM spans") == [
        {"service_name": "clients-traceloop", "environment": "test"}
    ]
    agent = server.sql("SELECT DISTINCT agent_name FROM spans WHERE operation = 'embeddings'")
    assert agent == [{"agent_name": "researcher"}]
