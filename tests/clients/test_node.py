"""The OpenTelemetry SDK for Node, which exports OTLP as JSON."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
from decimal import Decimal

import pytest

import spanlake

SOURCE = spanlake.HERE / "node"


@pytest.fixture(scope="module")
def program():
    """The program beside its packages, in a folder outside the tree that is made anew when the packages change."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    key = hashlib.sha256(lock).hexdigest()[:12]
    folder = pathlib.Path(os.environ["SPANLAKE_CLIENT_CACHE"]) / f"node-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "program.mjs"):
        shutil.copy(SOURCE / name, folder)
    if not (folder / ".complete").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
        (folder / ".complete").touch()
    return folder / "program.mjs"


@pytest.mark.long
def test_a_span_from_node_arrives_whole(server, program):
    variables = {
        "OTEL_SERVICE_NAME": "clients-node",
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.otlp,
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    subprocess.run(["node", program], env=os.environ | variables, check=True, timeout=spanlake.PROGRAM_SECONDS)

    span = server.one(
        """
        SELECT name, kind, service_name, scope_name, scope_version, operation, provider, request_model, response_model,
               response_id, input_tokens, output_tokens, cache_read_tokens, total_tokens, finish_reasons, temperature,
               usage_role, cost_usd, attributes['app.flag'] AS flag, attributes['app.tags'] AS tags
        FROM spans WHERE operation = 'chat'
        """
    )
    # 176 tokens at 0.15, 1024 cached ones at 0.075 and 340 answered ones at 0.60 dollars per million.
    assert Decimal(span.pop("cost_usd")) == Decimal("0.0003072")
    assert span.pop("temperature") == Decimal("0.7")
    assert span == {
        "name": "chat gpt-4o-mini",
        "kind": "CLIENT",
        "service_name": "clients-node",
        "scope_name": "example",
        "scope_version": "1.2.3",
        "operation": "chat",
        "provider": "openai",
        "request_model": "gpt-4o-mini",
        "response_model": "gpt-4o-mini-2024-07-18",
        "response_id": "chatcmpl-node-1",
        "input_tokens": 1200,
        "output_tokens": 340,
        "cache_read_tokens": 1024,
        "total_tokens": 1540,
        "finish_reasons": ["stop"],
        "usage_role": "leaf",
        "flag": "true",
        "tags": '["a","ä"]',
    }
    root = server.one("SELECT status_code, status_message FROM spans WHERE parent_span_id IS NULL")
    assert root == {"status_code": "ERROR", "status_message": "no luck"}


@pytest.mark.long
def test_the_readme_program_runs(server, program):
    (text,) = re.findall(r"^```js\n(.*?)^```$", (spanlake.ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    readme = program.with_name("readme.mjs")
    readme.write_text(text)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.otlp}
    subprocess.run(["node", readme], env=os.environ | variables, check=True, timeout=spanlake.PROGRAM_SECONDS)
    span = server.one("SELECT service_name, model, total_tokens FROM spans WHERE usage_role = 'leaf'")
    assert span == {"service_name": "support-bot", "model": "gpt-4o-mini", "total_tokens": 155}
