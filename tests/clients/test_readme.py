"""What README.md says is true: its programs run, its queries answer, its commands, keys and links exist."""

import json
import re
import shlex
import subprocess

import pytest

import delta_readers
import spanlake

README = (spanlake.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
STORE = "./spanlake-data"


def blocks(language, reader=""):
    found = [text for name, qualifier, text in BLOCKS if (name, qualifier) == (language, reader)]
    assert found, f"README.md has no block of {language} {reader}"
    return found


def run_snippet(tmp_path, text, python, provider, variables):
    program = tmp_path / "app.py"
    program.write_text(text)
    variables = variables | {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-none"}
    return spanlake.run_program(program, python, env=variables)


def openai_program(tmp_path, server, provider):
    (text,) = [block for block in blocks("python") if "openai_v2" in block]
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.grpc}
    return run_snippet(tmp_path, text, spanlake.environment("openai_v2"), provider, variables)


def traceloop_program(tmp_path, server, provider):
    (text,) = [block for block in blocks("python") if "traceloop" in block]
    variables = {"TRACELOOP_BASE_URL": server.otlp, "TRACELOOP_TELEMETRY": "false"}
    return run_snippet(tmp_path, text, spanlake.environment("traceloop"), provider, variables)


@pytest.mark.parametrize("program", [openai_program, traceloop_program])
def test_programs_run_and_their_call_arrives(program, tmp_path, server, provider):
    program(tmp_path, server, provider)
    (call,) = provider.calls()
    span = server.one("SELECT service_name, model, total_tokens FROM spans WHERE usage_role = 'leaf'")
    assert span == {
        "service_name": "support-bot",
        "model": call["model_returned"],
        "total_tokens": call["usage"]["input"] + call["usage"]["output"],
    }


def rolled_up(server):
    # They take in what is committed, one after the other.
    for name in ["model_usage_hour", "model_usage_day"]:
        subprocess.run([spanlake.binary(), "rollup", "run", name, "--control", server.control], check=True)
    return server.sql("SELECT 1 FROM model_usage_day")


def test_queries_answer(tmp_path, server, provider):
    openai_program(tmp_path, server, provider)
    traceloop_program(tmp_path, server, provider)
    # A workflow with an agent: one of the queries is about those.
    variables = {"TRACELOOP_BASE_URL": server.otlp, "TRACELOOP_TELEMETRY": "false"}
    spanlake.run_program("traceloop_workflow.py", spanlake.environment("traceloop"), provider.url, env=variables)
    spanlake.poll(lambda: rolled_up(server), 30, "the rollups have taken in the calls")
    queries = blocks("sql")
    assert len(queries) >= 5
    for query in queries:
        assert server.sql(query), query

    (posted,) = re.findall(r"^curl localhost:8080/api/v1/sql .*?-d '(.*?)'$", README, re.MULTILINE | re.DOTALL)
    request = json.loads(posted)
    assert server.one(request["sql"], *request["params"])["calls"] == 2


def test_other_readers_answer(tmp_path, server, provider, capsys):
    openai_program(tmp_path, server, provider)
    assert server.stop() == 0
    (sql,) = blocks("sql", "duckdb")
    loading, query = sql.split("\n", 1)
    assert loading == "INSTALL delta; LOAD delta;"
    duckdb = delta_readers.duckdb_with_delta()
    rows = duckdb.execute(query.replace(STORE, str(server.store))).fetchall()
    assert {model for model, _ in rows} == {"gpt-4o-mini-2024-07-18"}
    (corrected,) = blocks("sql", "corrected")
    ((model, calls, _),) = duckdb.execute(corrected.replace(STORE, str(server.store))).fetchall()
    assert (model, calls) == ("gpt-4o-mini-2024-07-18", 1)
    (program,) = blocks("python", "polars")
    exec(program.replace(STORE, str(server.store)), {})
    assert "gpt-4o-mini" in capsys.readouterr().out


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    for text in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", (spanlake.ROOT / text).read_text()):
            assert (spanlake.ROOT / link).exists(), f"{text}: {link}"


def help_of(*command):
    done = subprocess.run([spanlake.binary(), *command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, f"no command {command}: {done.stderr}"
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", done.stdout))


def test_commands_exist():
    commands = []
    for shell in blocks("sh"):
        for line in shell.splitlines():
            line = line.split(" # ")[0].replace("cargo run --release --", "spanlake")
            if line.startswith("spanlake "):
                commands.append(shlex.split(line)[1:])
    assert len(commands) >= 4
    for name, *arguments in commands:
        used = {argument for argument in arguments if argument.startswith("--")}
        assert used <= help_of(name), f"{name} {arguments}"


def test_the_table_of_keys_is_complete():
    table = README.split("## Configuration", 1)[1].split("\n## ", 1)[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    keys = {"--" + key.replace("_", "-") for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}
    not_keys = {"--config", "--help", "--version", "--print-addresses"}
    assert keys == help_of("serve") - not_keys
