//! `spanlake rollup`: asks a running server, over control gRPC.

use clap::{Arg, ArgMatches, Command};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::Unreachable;
use super::report::aligned;
use crate::proto::rollup_service_client::RollupServiceClient;
use crate::proto::{ListRollupsRequest, Rollup, RunRollupRequest};

const DEFAULT_CONTROL: &str = "http://127.0.0.1:8081";

pub(super) fn command() -> Command {
    let control = Arg::new("control")
        .long("control")
        .value_name("URL")
        .help("the control address of a running server (its flight_addr)")
        .default_value(DEFAULT_CONTROL)
        .env("SPANLAKE_CONTROL")
        .global(true);
    Command::new("rollup")
        .about("List and run the rollups of a running server")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(control)
        .subcommand(Command::new("list").about("All rollups and how they stand"))
        .subcommand(
            Command::new("run")
                .about("Run one rollup now and wait for its commit")
                .arg(Arg::new("name").value_name("NAME").required(true).help("the rollup's name")),
        )
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let (action, matches) = matches.subcommand().expect("invariant: clap requires one");
    let url = matches.get_one::<String>("control").expect("invariant: has a default");
    let mut client = connect(url).await?;
    if action == "list" {
        let rollups = client.list_rollups(ListRollupsRequest {}).await.map_err(failure)?.into_inner().rollups;
        print!("{}", list(&rollups));
        return Ok(());
    }
    let name = matches.get_one::<String>("name").expect("invariant: clap requires it").clone();
    let report = client.run_rollup(RunRollupRequest { name: name.clone() }).await.map_err(failure)?.into_inner();
    let done = if report.already_done { " (another process had done it already)" } else { "" };
    println!(
        "{name}: {} windows, {} rows, up to version {} of its source{done}",
        report.windows, report.rows, report.source_version
    );
    Ok(())
}

async fn connect(url: &str) -> anyhow::Result<RollupServiceClient<Channel>> {
    let endpoint =
        Endpoint::from_shared(url.to_owned()).map_err(|error| anyhow::anyhow!("--control {url}: {error}"))?;
    let channel = endpoint.connect().await.map_err(|_| {
        Unreachable(format!(
            "no Spanlake answers at {url}: start one with `spanlake serve`, or name another with --control"
        ))
    })?;
    Ok(RollupServiceClient::new(channel))
}

fn failure(status: tonic::Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow::anyhow!("this is no control address of Spanlake (flight_addr)"),
        _ => anyhow::anyhow!("{}", status.message()),
    }
}

fn list(rollups: &[Rollup]) -> String {
    let header = ["NAME", "SOURCE", "SCHEDULE", "VERSION", "LAST RUN", "TOOK", "WINDOWS", "ERROR"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(header).chain(rollups.iter().map(row)).collect();
    aligned(&rows)
}

fn row(rollup: &Rollup) -> [String; 8] {
    let dash = || "-".to_owned();
    let version = rollup.source_version.map_or_else(dash, |version| version.to_string());
    let time = rollup.last_run.and_then(|time| {
        let time = chrono::DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)?;
        Some(time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
    });
    let took =
        rollup.last_duration.map(|took| format!("{} ms", took.seconds * 1_000 + i64::from(took.nanos) / 1_000_000));
    [
        rollup.name.clone(),
        rollup.source.clone(),
        rollup.schedule.clone(),
        format!("{version} of {}", rollup.source_latest),
        time.unwrap_or_else(dash),
        took.unwrap_or_else(dash),
        rollup.last_windows.map_or_else(dash, |windows| windows.to_string()),
        rollup.last_error.clone().unwrap_or_else(dash),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_aligned_and_names_what_is_not_known() {
        let ran = Rollup {
            name: "model_usage_hour".to_owned(),
            source: "spans".to_owned(),
            schedule: "every 1m".to_owned(),
            source_version: Some(41),
            source_latest: 42,
            last_run: Some(prost_types::Timestamp { seconds: 1_780_000_000, nanos: 0 }),
            last_duration: Some(prost_types::Duration { seconds: 1, nanos: 250_000_000 }),
            last_windows: Some(3),
            last_error: None,
        };
        let fresh = Rollup { name: "x".to_owned(), ..Rollup::default() };
        let text = list(&[ran, fresh]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("41 of 42") && lines[1].contains("2026-05-28 20:26:40 UTC"), "{text}");
        assert!(lines[1].contains("1250 ms"), "{text}");
        assert_eq!(lines[0].find("SOURCE"), lines[1].find("spans"), "{text}");
    }

    #[tokio::test]
    async fn without_a_server_it_says_what_to_do() {
        // Port 1 is reserved and nobody listens there.
        let error = connect("http://127.0.0.1:1").await.expect_err("nobody listens");
        assert!(error.is::<Unreachable>() && error.to_string().contains("spanlake serve"), "{error}");
        assert!(!connect("not a url").await.expect_err("is no URL").is::<Unreachable>());
    }
}
