"""What stands in deploy/ fits the binary: every port, variable, key and flag in it is a real one.

No container runs here. What can be run without one is run: the health check, the configuration file, the unit's checks.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import tomllib

import pytest
import yaml

import spanlake

DEPLOY = spanlake.ROOT / "deploy"


def help_of(command):
    return subprocess.run([spanlake.binary(), command, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def flags():
    """Every long flag of `spanlake serve`."""
    found = set(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", help_of("serve"), re.MULTILINE))
    assert "--store" in found
    return found


def flag_of(variable):
    return "--" + variable.removeprefix("SPANLAKE_").lower().replace("_", "-")


def instructions(text):
    """Instructions of a Dockerfile, continuation lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def dockerfile():
    return instructions((DEPLOY / "Dockerfile").read_text())


def of(dockerfile, name):
    return [rest for instruction, rest in dockerfile if instruction == name]


def image_variables(dockerfile):
    return dict(re.findall(r"(SPANLAKE_\w+)=(\S+)", " ".join(of(dockerfile, "ENV"))))


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def collector():
    return yaml.safe_load((DEPLOY / "collector.yaml").read_text())


def test_the_image_sets_known_variables_and_exposes_what_it_listens_on(dockerfile, flags):
    variables = image_variables(dockerfile)
    assert {flag_of(variable) for variable in variables} <= flags
    listening = {value.split(":")[1] for name, value in variables.items() if name.endswith("_ADDR")}
    assert set(of(dockerfile, "EXPOSE")[0].split()) == listening


def test_the_image_is_built_by_the_pinned_toolchain_and_runs_as_nobody_special(dockerfile):
    channel = tomllib.loads((spanlake.ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert f"RUSTUP_TOOLCHAIN={channel}" in of(dockerfile, "ENV")
    assert of(dockerfile, "FROM")[0].startswith(f"rust:{channel.rsplit('.', 1)[0]}-")
    assert of(dockerfile, "USER") == ["10001:10001"]
    for path in re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE):
        assert (spanlake.ROOT / path).exists(), f"{path} is let into the build and does not exist"


def test_the_health_check_tells_ready_from_absent(dockerfile, server):
    (check,) = of(dockerfile, "HEALTHCHECK")
    command = json.loads(check[check.index("[") : check.rindex("]") + 1])
    assert "/8080 " in command[2]

    def exit_code(port):
        script = command[2].replace("/8080 ", f"/{port} ")
        return subprocess.run([*command[:2], script], capture_output=True, timeout=10).returncode

    assert exit_code(server.http.rsplit(":", 1)[1]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert exit_code(free.getsockname()[1]) != 0


def test_compose_refers_to_what_exists(compose, dockerfile, flags):
    services = compose["services"]
    listening = {
        "spanlake": set(of(dockerfile, "EXPOSE")[0].split()),
        "collector": {"4317", "4318"},
    }
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            if condition == "service_healthy":
                assert "healthcheck" in services[needed] or needed == "spanlake", f"{needed} has no health check"
            else:
                assert condition == "service_completed_successfully" and services[needed]["restart"] == "no"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), mount
        for port in service.get("ports", []):
            host, _, inside = port.split(":")
            assert host == "127.0.0.1", "nothing asks for a password, so nothing is published further"
            assert inside in listening[name]
        ours = {key for key in service.get("environment", {}) if key.startswith("SPANLAKE_")}
        if name == "spanlake":
            assert {flag_of(variable) for variable in ours} <= flags
    build = services["spanlake"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    bucket = services["spanlake"]["environment"]["SPANLAKE_STORE"].removeprefix("s3://").split("/")[0]
    assert f"--bucket {bucket} " in services["create-bucket"]["command"][0]


def test_the_collector_sends_what_spanlake_takes(collector, compose):
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])
    exporter = collector["exporters"]["otlphttp/spanlake"]
    (variable,) = re.findall(r"^\$\{env:(\w+)\}$", exporter["endpoint"])
    url = compose["services"]["collector"]["environment"][variable]
    assert url == "http://spanlake:4318"
    assert exporter["retry_on_failure"]["enabled"] and exporter["sending_queue"]["enabled"]


def test_the_configuration_file_is_taken(tmp_path):
    text = (DEPLOY / "spanlake.toml").read_text()
    keys = tomllib.loads(text)
    assert keys["store"] == "/var/lib/spanlake/lake"
    moved = text.replace("/var/lib/spanlake", str(tmp_path))
    for port in ("4317", "4318", "8080", "8081"):
        moved = moved.replace(f":{port}", ":0")
    (tmp_path / "spanlake.toml").write_text(moved)
    server = spanlake.Server(tmp_path, "--config", tmp_path / "spanlake.toml", configured=False)
    try:
        assert server.get("/healthz")[0] == 200
        assert (tmp_path / "wal").is_dir()
        assert server.stop() == 0
    finally:
        server.kill()


def test_the_unit_starts_a_real_command_in_a_tight_place(tmp_path, flags):
    text = (DEPLOY / "spanlake.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, command, *arguments = start.split()
    assert (program, command) == ("/usr/local/bin/spanlake", "serve")
    assert {argument for argument in arguments if argument.startswith("--")} <= flags
    assert re.search(r"^KillSignal=SIGTERM$", text, re.MULTILINE)

    unit = tmp_path / "spanlake.service"
    unit.write_text(text.replace(program, os.path.realpath(spanlake.binary())))
    # Only systems with systemd can check a unit file.
    if analyze := shutil.which("systemd-analyze"):
        verified = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
        assert (verified.returncode, verified.stderr) == (0, "")
        exposure = subprocess.run(
            [analyze, "security", "--offline=yes", "--threshold=20", unit], capture_output=True, text=True
        )
        assert exposure.returncode == 0, exposure.stdout
