"""A real Prometheus scrapes `/metrics` in every format and answers quantiles and sums as our own SQL does.

It scrapes through a proxy that notes what it asks for and what it gets, and that asks for one text format or the other where the path says
so: which formats a Prometheus likes best depends on its version.
"""

import bisect
import http.server
import json
import math
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import pytest
import yaml

import spanlake

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (apt-get install prometheus)"
)

README = (spanlake.ROOT / "README.md").read_text()
SCRAPES_SECONDS = 30
MODELS = {"gpt-4o": 0.8, "gpt-4o-mini": 0.05, "acme/guard-8b": 12.0}
NATIVE_BUCKET_OCTAVES = 1 / 8
SQL_BUCKET_OCTAVES = 1 / 64

# What each job makes of Prometheus's own `Accept`.
ACCEPTS = {
    "protobuf": None,
    "openmetrics": "application/openmetrics-text;version=1.0.0",
    "text": "text/plain;version=0.0.4",
}
CONTENT_TYPES = {
    "protobuf": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "text": "text/plain; version=0.0.4; charset=utf-8",
}


def readme_blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no block of {language}"
    return found


class Proxy(http.server.ThreadingHTTPServer):
    """Hands `/<job>` on to the server's `/metrics`."""

    def __init__(self, server):
        super().__init__(("127.0.0.1", 0), ProxyRequest)
        self.metrics = server.http + "/metrics"
        self.seen = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ProxyRequest(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        job = self.path.strip("/")
        asked = self.headers["Accept"]
        scrape = urllib.request.Request(self.server.metrics, headers={"Accept": ACCEPTS[job] or asked})
        with urllib.request.urlopen(scrape, timeout=10) as answer:
            content_type, body = answer.headers["Content-Type"], answer.read()
        self.server.seen[job] = (asked, content_type)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # Prometheus is being stopped.

    def log_message(self, *_):
        pass


class Prometheus:
    """The packaged Prometheus with native histograms, scraping every second."""

    def __init__(self, directory, proxy):
        # The configuration of README.md, once for each format.
        (readme,) = [yaml.safe_load(block) for block in readme_blocks("yaml") if "scrape_configs" in block]
        (job,) = readme["scrape_configs"]
        target = f"127.0.0.1:{proxy.server_address[1]}"
        jobs = [
            job | {"job_name": name, "metrics_path": f"/{name}", "static_configs": [{"targets": [target]}]}
            for name in ACCEPTS
        ]
        configuration = directory / "prometheus.yml"
        configuration.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "prometheus.log"
        command = [
            "prometheus",
            "--enable-feature=native-histograms",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=directory)
        spanlake.poll(self.is_ready, spanlake.START_SECONDS, "prometheus is ready")

    def is_ready(self):
        assert self.child.poll() is None, self.log.read_text()
        try:
            return spanlake.request(urllib.request.Request(self.url + "/-/ready"))[0] == 200
        except OSError:
            return False

    def get(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        status, answer = spanlake.request(urllib.request.Request(url))
        assert status == 200, answer
        return json.loads(answer)["data"]

    def query(self, query):
        """An instant vector as a dictionary by model."""
        result = self.get("query", query=query)["result"]
        return {series["metric"].get("model"): float(series["value"][1]) for series in result}

    def stop(self):
        self.child.terminate()
        self.child.wait(timeout=spanlake.STOP_SECONDS)


def attribute(key, value):
    kind = "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value) if isinstance(value, int) else value}}


def send_calls(server, seed, count):
    """Calls of every model whose durations are spread over some octaves. Returns them in seconds by model."""
    chance = random.Random(seed)
    now = time.time_ns() - 600 * 10**9
    spans, durations = [], {model: [] for model in MODELS}
    for index in range(count):
        for model, typical in MODELS.items():
            nanoseconds = round(typical * math.exp(chance.gauss(0, 0.7)) * 1e9)
            durations[model].append(nanoseconds / 1e9)
            attributes = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": model,
                "gen_ai.usage.input_tokens": 100 + index,
                "gen_ai.usage.output_tokens": chance.randrange(1, 500),
            }
            start = now + index * 10**6
            spans.append(
                {
                    "traceId": f"{chance.getrandbits(128) | 1:032x}",
                    "spanId": f"{chance.getrandbits(64) | 1:016x}",
                    "name": f"chat {model}",
                    "kind": 3,
                    "startTimeUnixNano": str(start),
                    "endTimeUnixNano": str(start + nanoseconds),
                    "attributes": [attribute(key, value) for key, value in attributes.items()],
                }
            )
    resource = {"attributes": [attribute("service.name", "prometheus-test")]}
    body = json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).encode()
    headers = {"content-type": "application/json"}
    status, answer = spanlake.request(urllib.request.Request(server.otlp + "/v1/traces", body, headers))
    assert status == 200, answer
    return durations


def totals(server):
    rows = server.sql(
        """
        SELECT model, count(*) AS calls, sum(input_tokens) AS input, sum(output_tokens) AS output,
               CAST(sum(cost_usd) AS DOUBLE) AS usd,
               histogram_quantile(histogram(duration_ns), 0.95) / 1e9 AS p95,
               histogram_quantile(histogram(output_tokens), 0.5) AS tokens_p50
        FROM llm_calls GROUP BY model
        """
    )
    return {row["model"]: row for row in rows}


@pytest.fixture
def prometheus(tmp_path, server):
    proxy = Proxy(server)
    process = Prometheus(tmp_path, proxy)
    process.proxy = proxy
    yield process
    process.stop()
    proxy.shutdown()


def wait_for_calls(prometheus, calls):
    """Waits until every job has scraped so many calls of each model."""
    expected = {model: float(calls) for model in MODELS}
    for job in ACCEPTS:
        query = f'spanlake_llm_requests_total{{job="{job}"}}'
        spanlake.poll(lambda: prometheus.query(query) == expected, SCRAPES_SECONDS, f"{job} has {calls} calls a model")


def same_classic_bucket(bounds, one, other):
    return bisect.bisect_left(bounds, one) == bisect.bisect_left(bounds, other)


def test_quantiles_and_sums_are_those_of_sql(server, prometheus):
    first = send_calls(server, 1, 400)
    wait_for_calls(prometheus, 400)
    second = send_calls(server, 2, 600)
    wait_for_calls(prometheus, 1_000)

    # Each format arrived as what it is, and Prometheus asked for protobuf by itself, as it does for native histograms.
    seen = prometheus.proxy.seen
    assert {job: content_type for job, (_, content_type) in seen.items()} == CONTENT_TYPES
    assert seen["protobuf"][0].startswith("application/vnd.google.protobuf")
    assert {target["health"] for target in prometheus.get("targets")["activeTargets"]} == {"up"}

    told = totals(server)
    assert set(told) == set(MODELS)
    for job in ACCEPTS:
        for name, column in (
            ("spanlake_llm_requests_total", "calls"),
            ("spanlake_llm_input_tokens_total", "input"),
            ("spanlake_llm_output_tokens_total", "output"),
            ("spanlake_llm_cost_usd_total", "usd"),
        ):
            expected = {model: pytest.approx(float(row[column] or 0), rel=1e-9) for model, row in told.items()}
            assert prometheus.query(f'{name}{{job="{job}"}}') == expected, (job, name)
            assert prometheus.query(f'resets({name}{{job="{job}"}}[5m])') == dict.fromkeys(MODELS, 0.0), (job, name)
        # What a server tells of itself arrives in each format too.
        assert prometheus.query(f'spanlake_ingest_stored_spans_total{{job="{job}"}}') == {None: 3_000.0}

    native = prometheus.query('histogram_quantile(0.95, spanlake_llm_request_duration_seconds{job="protobuf"})')
    native_tokens = prometheus.query('histogram_quantile(0.5, spanlake_llm_request_output_tokens{job="protobuf"})')
    counted = prometheus.query('histogram_count(spanlake_llm_request_duration_seconds{job="protobuf"})')
    for model, row in told.items():
        values = sorted(first[model] + second[model])
        assert float(row["p95"]) == pytest.approx(values[949], rel=0.006), "SQL is within its promise"
        for ours, theirs in ((row["p95"], native[model]), (row["tokens_p50"], native_tokens[model])):
            octaves = abs(math.log2(theirs / float(ours)))
            assert octaves <= NATIVE_BUCKET_OCTAVES + SQL_BUCKET_OCTAVES, (model, ours, theirs)
        assert counted[model] == 1_000

    for job in ("openmetrics", "text"):
        bucket = f'spanlake_llm_request_duration_seconds_bucket{{job="{job}"}}'
        result = prometheus.get("query", query=bucket)["result"]
        bounds = sorted({float(series["metric"]["le"]) for series in result})
        for series in result:
            model, le = series["metric"]["model"], float(series["metric"]["le"])
            expected = sum(value <= le for value in first[model] + second[model])
            assert float(series["value"][1]) == expected, (job, model, le)
        classic = prometheus.query(f"histogram_quantile(0.95, {bucket})")
        for model, row in told.items():
            assert same_classic_bucket(bounds, classic[model], float(row["p95"])), (job, model, classic[model], row)


def test_queries_of_the_readme_answer(server, prometheus):
    send_calls(server, 3, 50)
    wait_for_calls(prometheus, 50)
    send_calls(server, 4, 50)
    wait_for_calls(prometheus, 100)
    for query in readme_blocks("promql"):
        answered = spanlake.poll(lambda: prometheus.query(query), SCRAPES_SECONDS, query)
        assert set(answered) <= set(MODELS), query
        assert all(value >= 0 for value in answered.values()) and any(answered.values()), (query, answered)
