//! What cannot run here is at least read: container, Compose, Collector and systemd files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::sources::{files_below, read};
use crate::{root, yaml};

fn named(extension: &str) -> Vec<PathBuf> {
    files_below(&root().join("deploy"), extension)
}

fn all_yaml() -> Vec<(String, Value)> {
    let paths = [named("yaml"), named("yml")].concat();
    assert!(!paths.is_empty(), "no YAML file in deploy");
    paths
        .into_iter()
        .map(|path| {
            let value = yaml::parse(&read(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.display().to_string(), value)
        })
        .collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Guarantee: every service comes from an image or a build, and waits only for services that are there.
#[test]
fn compose_files_hold_together() {
    let all = all_yaml();
    let composes: Vec<_> = all.iter().filter(|(_, value)| value.get("services").is_some()).collect();
    assert!(!composes.is_empty(), "no Compose file in deploy");
    for (name, value) in composes {
        let services = value["services"].as_object().unwrap_or_else(|| panic!("{name}: services is no mapping"));
        let volumes = keys(&value["volumes"]);
        assert!(services.contains_key("spanlake"), "{name}: no service spanlake");
        for (service, settings) in services {
            let made = settings.get("image").is_some() || settings.get("build").is_some();
            assert!(made, "{name}: service {service} has neither image nor build");
            let needed = match &settings["depends_on"] {
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
                other => keys(other),
            };
            for other in needed {
                assert!(
                    services.contains_key(other),
                    "{name}: service {service} depends on {other}, which is not there"
                );
            }
            for mount in settings["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let source = mount.split(':').next().unwrap_or_default();
                let known = source.starts_with(['.', '/']) || volumes.contains(source);
                assert!(known, "{name}: service {service} mounts {source}, which is no declared volume");
            }
        }
    }
}

/// Guarantee: every pipeline of the Collector is made of components that are configured, and traces reach an OTLP exporter.
#[test]
fn collector_pipelines_use_what_is_configured() {
    let all = all_yaml();
    let collectors: Vec<_> = all.iter().filter(|(_, value)| value.pointer("/service/pipelines").is_some()).collect();
    assert!(!collectors.is_empty(), "no Collector configuration in deploy");
    for (name, value) in collectors {
        let pipelines = value["service"]["pipelines"].as_object().expect("pipelines is a mapping");
        for (pipeline, parts) in pipelines {
            for kind in ["receivers", "processors", "exporters"] {
                let configured = keys(&value[kind]);
                for part in parts[kind].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    assert!(configured.contains(part), "{name}: pipeline {pipeline} uses {part}, not among {kind}");
                }
            }
        }
        let exporters = pipelines["traces"]["exporters"].as_array().expect("a traces pipeline with exporters");
        let otlp = |exporter: &Value| exporter.as_str().is_some_and(|exporter| exporter.starts_with("otlp"));
        assert!(exporters.iter().any(otlp), "{name}: traces reach no OTLP exporter");
    }
}

/// Guarantee: the image is built in stages, does not run as root, and says whether it is healthy.
#[test]
fn dockerfile_is_multi_stage_non_root_and_checked() {
    const INSTRUCTIONS: &[&str] = &[
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "WORKDIR",
        "ENV",
        "ARG",
        "USER",
        "EXPOSE",
        "VOLUME",
        "ENTRYPOINT",
        "CMD",
        "HEALTHCHECK",
        "LABEL",
        "STOPSIGNAL",
    ];
    let text = read(&root().join("deploy/Dockerfile"));
    let mut instructions: Vec<(&str, String)> = Vec::new();
    let mut continued = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let body = line.trim_end_matches('\\');
        if continued {
            instructions.last_mut().expect("a line to continue").1.push_str(body);
        } else {
            let (name, rest) = body.split_once(' ').unwrap_or((body, ""));
            assert!(INSTRUCTIONS.contains(&name), "deploy/Dockerfile: unknown instruction {name}");
            instructions.push((name, rest.to_owned()));
        }
        continued = line.ends_with('\\');
    }
    assert!(!continued, "deploy/Dockerfile ends within an instruction");
    let of =
        |name: &str| instructions.iter().filter(|(found, _)| *found == name).map(|(_, rest)| rest).collect::<Vec<_>>();
    assert!(of("FROM").len() >= 2, "deploy/Dockerfile has one stage only");
    let last = of("FROM").len() - 1;
    assert!(!of("FROM")[last].contains("rust:"), "deploy/Dockerfile ships the compiler");
    let user = of("USER").pop().expect("deploy/Dockerfile sets a user");
    assert!(!["root", "0", "0:0"].contains(&user.trim()), "deploy/Dockerfile runs as root");
    assert!(of("HEALTHCHECK").iter().any(|check| check.contains("CMD")), "deploy/Dockerfile has no health check");
    assert!(of("ENTRYPOINT").iter().any(|entry| entry.contains("spanlake")), "deploy/Dockerfile starts something else");
}

/// Guarantee: the unit parses, starts the server, and gives it the time its last flush needs.
#[test]
fn systemd_unit_starts_the_server() {
    let units = named("service");
    assert!(!units.is_empty(), "no systemd unit in deploy");
    for path in units {
        let name = path.display();
        let mut section = String::new();
        let mut settings = BTreeSet::new();
        for line in read(&path).lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        {
            if let Some(found) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = found.to_owned();
                continue;
            }
            let (key, value) =
                line.split_once('=').unwrap_or_else(|| panic!("{name}: neither section nor setting: {line}"));
            assert!(!section.is_empty(), "{name}: {key} stands before any section");
            settings.insert(format!("{section}.{}={}", key.trim(), value.trim()));
        }
        let has = |start: &str, part: &str| settings.iter().any(|line| line.starts_with(start) && line.contains(part));
        assert!(has("Service.ExecStart=/", "spanlake serve"), "{name}: does not start `spanlake serve`");
        assert!(has("Service.TimeoutStopSec=", ""), "{name}: no TimeoutStopSec for the last flush");
        assert!(has("Service.User=", "") || has("Service.DynamicUser=yes", ""), "{name}: runs as root");
        assert!(has("Install.WantedBy=", ""), "{name}: is never enabled");
    }
}
