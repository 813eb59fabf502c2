//! From a configuration to a running server, and down again.
//!
//! Order matters. Sockets are bound before the lake is opened, so that a wrong address costs nothing and health checks are
//! answered during a long replay; the lake is closed last, when no request can come any more.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use spanlake_ingest::policy::Policy;
use spanlake_ingest::{CallObserver, Decoder, Ingest, IngestOptions};
use spanlake_query::rollup::Rollups;
use spanlake_query::{QueryEngine, QueryErrorKind, QueryOptions, Views};
use spanlake_schema::{Ambient, System};
use spanlake_storage::{ErrorKind, Lake, LakeOptions, Store, TableSource};
use tokio::task::{AbortHandle, JoinSet};

use crate::body::{BodyBudget, BodyReader};
use crate::config::{Ack, Config, QueryConfig, format_bytes, format_duration};
use crate::demo::{self, DemoOptions};
use crate::gate::{Gate, Services};
use crate::http_api::Api;
use crate::listener::Listener;
use crate::otlp_http::Receiver;
use crate::scrape::CallTotals;
use crate::shutdown::{Stop, stop_on_signals};
use crate::{control, http_api, otlp_grpc, otlp_http, reading, settle};

/// Time for requests under way to end, but at most a third of `shutdown_timeout`.
const REQUESTS_GRACE: Duration = Duration::from_secs(10);

/// Time for the log to be closed beyond `shutdown_timeout`, which flush and commit may use up.
const CLOSING_GRACE: Duration = Duration::from_secs(2);

/// How often a start is tried where the store fails meanwhile, and the waits in between, which double: a third of a minute in
/// all. A start lists a dozen tables, and a store that cuts one answer in twenty fails every second one. Beyond that whoever supervises
/// the process has to know.
const OPEN_TRIES: u32 = 24;
const OPEN_WAIT_FIRST: Duration = Duration::from_millis(100);
const OPEN_WAIT_MAX: Duration = Duration::from_secs(1);

/// How a server is run, beside its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServeOptions {
    /// Print the addresses as one JSON line once ready, instead of a banner for people.
    pub(crate) print_addresses: bool,
    /// Make traffic.
    pub(crate) demo: Option<DemoOptions>,
}

/// Runs a server until a signal ends it.
pub(crate) async fn run(config: Config, options: ServeOptions) -> anyhow::Result<()> {
    let reading = (reading::decoder(&config.ingest)?, reading::policy(config.ingest.policy.as_deref())?);
    let store = Store::open(&config.storage.store)?;
    let listeners = Listeners::bind(&config).await?;
    let addresses = listeners.addresses();
    let stop = Stop::new();
    stop_on_signals(stop.clone()).context("cannot listen for signals")?;
    let gate = Gate::new(stop.clone());
    let store_url = store.url().to_owned();
    tracing::info!(
        store = store_url,
        wal_dir = %config.storage.wal_dir.display(),
        otlp_grpc = %addresses.otlp_grpc,
        otlp_http = %addresses.otlp_http,
        http = %addresses.http,
        control = %addresses.control,
        "spanlake {} is starting", env!("CARGO_PKG_VERSION")
    );
    log_limits(&config);
    let serving = listeners.serve(&config, &gate, &stop, &store_url);
    // A signal during a long replay ends it: nothing was acknowledged yet, and the log still holds the rest.
    let services = tokio::select! {
        services = open(&config, store, reading, Arc::new(System)) => services?,
        () = stop.requested() => return Ok(()),
    };
    let lake = Arc::clone(&services.lake);
    let rollups = Arc::clone(&services.rollups);
    gate.open(services);
    let background = Background(vec![
        tokio::spawn(async move { rollups.run_scheduled().await }).abort_handle(),
        tokio::spawn(settle::run(Arc::clone(&gate), Arc::new(System))).abort_handle(),
        tokio::spawn(announce_and_demo(addresses, store_url, options, stop.clone())).abort_handle(),
    ]);
    stop.requested().await;
    drop(background);
    end(serving, &gate, &lake, config.storage.shutdown_timeout).await
}

/// Tasks that end with the server.
struct Background(Vec<AbortHandle>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn end(mut serving: JoinSet<()>, gate: &Gate, lake: &Lake, limit: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let grace = REQUESTS_GRACE.min(limit / 3);
    let all_ended = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all_ended).await.is_err() {
        tracing::warn!("some requests took longer than {} and were cut off", format_duration(grace));
    }
    serving.shutdown().await;
    if let Ok(services) = gate.services() {
        services.ingest.settle().await;
    }
    let left = limit.saturating_sub(started.elapsed());
    match tokio::time::timeout(left + CLOSING_GRACE, lake.shutdown_within(left)).await {
        Ok(result) => result.with_context(|| {
            format!("not all could be committed within {} (shutdown_timeout)", format_duration(limit))
        })?,
        Err(_) => anyhow::bail!(
            "the write-ahead log could not be closed within {}: what is not committed stays in it",
            format_duration(limit + CLOSING_GRACE)
        ),
    }
    tracing::info!("all is committed, good-bye");
    Ok(())
}

/// Opens everything behind the listeners.
async fn open(
    config: &Config,
    store: Store,
    (decoder, policy): (Decoder, Policy),
    ambient: Arc<dyn Ambient>,
) -> anyhow::Result<Services> {
    let storage = &config.storage;
    let lake_options = LakeOptions {
        store,
        wal_dir: storage.wal_dir.clone(),
        wal_limit_bytes: storage.wal_limit_bytes,
        hot_limit_bytes: storage.hot_limit_bytes,
        flush_interval: storage.effective_flush_interval(),
        flush_bytes: storage.flush_bytes,
        ack_on_commit: storage.ack == Ack::Commit,
        commit_timeout: storage.ack_timeout,
        retry_window: storage.retry_window,
        retry_limit_bytes: storage.retry_limit_bytes,
        promote: storage.promote.clone(),
        ambient: Arc::clone(&ambient),
    };
    let lake = patiently(
        async || Lake::open(lake_options.clone(), Arc::new(decoder.clone())).await,
        |error| error.kind() == ErrorKind::Retry,
    )
    .await?;
    let ingest_options = IngestOptions {
        message_limit_bytes: config.ingest.message_limit_bytes,
        in_flight_limit_bytes: config.ingest.in_flight_limit_bytes,
        ambient: Arc::clone(&ambient),
    };
    let calls = Arc::new(CallTotals::default());
    let ingest = Ingest::new(Arc::clone(&lake), ingest_options)
        .with_decoder(&decoder)
        .with_policy(policy)
        .with_observer(Arc::clone(&calls) as Arc<dyn CallObserver>);
    let source = Arc::clone(&lake) as Arc<dyn TableSource>;
    let engine = QueryEngine::with_views(source, query_options(&config.query), views(&config.query)?)?;
    let sql_dir = config.query.sql_dir.as_deref();
    let rollups = patiently(
        async || Rollups::open(Arc::clone(&lake), Arc::clone(&engine), Arc::clone(&ambient), sql_dir).await,
        |error| error.kind == QueryErrorKind::Unavailable,
    )
    .await
    .context("rollups")?;
    Ok(Services { lake, ingest, engine, rollups, calls })
}

/// Tries again, so many times, what failed in a way that may pass.
async fn patiently<T, E: Display>(open: impl AsyncFn() -> Result<T, E>, may_pass: impl Fn(&E) -> bool) -> Result<T, E> {
    let mut wait = OPEN_WAIT_FIRST;
    for tried in 1..OPEN_TRIES {
        match open().await {
            Err(error) if may_pass(&error) => {
                tracing::warn!(%error, ?wait, "the store fails, starting again (try {tried} of {OPEN_TRIES})");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(wait).await;
        wait = OPEN_WAIT_MAX.min(wait * 2);
    }
    open().await
}

/// The engine's bounds, as configured.
pub(crate) fn query_options(config: &QueryConfig) -> QueryOptions {
    QueryOptions {
        memory_limit_bytes: config.memory_limit_bytes,
        spill_limit_bytes: config.spill_limit_bytes,
        timeout: config.timeout,
        row_limit: config.row_limit,
        concurrency: config.concurrency,
        threads: config.threads,
    }
}

/// The product's views and the user's.
pub(crate) fn views(config: &QueryConfig) -> anyhow::Result<Views> {
    match &config.sql_dir {
        Some(sql_dir) => Ok(Views::with_user_files(sql_dir)?),
        None => Ok(Views::built_in()?),
    }
}

fn log_limits(config: &Config) {
    tracing::info!(
        hot = format_bytes(config.storage.hot_limit_bytes),
        in_flight = format_bytes(config.ingest.in_flight_limit_bytes as u64),
        wal = format_bytes(config.storage.wal_limit_bytes),
        query_memory = format_bytes(config.query.memory_limit_bytes as u64),
        query_spill = format_bytes(config.query.spill_limit_bytes),
        flush_interval = format_duration(config.storage.effective_flush_interval()),
        connections = config.listen.clients.connection_limit,
        "limits"
    );
}

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    otlp_grpc: SocketAddr,
    otlp_http: SocketAddr,
    http: SocketAddr,
    control: SocketAddr,
}

struct Listeners {
    otlp_grpc: Listener,
    otlp_http: Listener,
    http: Listener,
    control: Listener,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let listen = &config.listen;
        Ok(Self {
            otlp_grpc: Listener::bind("otlp_grpc_addr", listen.otlp_grpc_addr).await?,
            otlp_http: Listener::bind("otlp_http_addr", listen.otlp_http_addr).await?,
            http: Listener::bind("http_addr", listen.http_addr).await?,
            control: Listener::bind("flight_addr", listen.flight_addr).await?,
        })
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            otlp_grpc: self.otlp_grpc.address(),
            otlp_http: self.otlp_http.address(),
            http: self.http.address(),
            control: self.control.address(),
        }
    }

    /// Starts to serve; the gate is still closed.
    fn serve(self, config: &Config, gate: &Arc<Gate>, stop: &Stop, store_url: &str) -> JoinSet<()> {
        let limit = config.ingest.message_limit_bytes;
        let budget = BodyBudget::new(config.ingest.in_flight_limit_bytes);
        let (clients, body_timeout) = (config.listen.clients, config.listen.clients.body_timeout);
        let receiver = |further_bytes: usize| {
            Arc::new(Receiver {
                gate: Arc::clone(gate),
                bodies: BodyReader::new(limit.saturating_add(further_bytes), budget.clone()).with_timeout(body_timeout),
                message_limit_bytes: limit,
                path_prefixes: config.ingest.otlp_path_prefixes.clone(),
            })
        };
        let facts = [
            ("OTLP/gRPC", format!("http://{}", demo::reachable(self.otlp_grpc.address()))),
            ("OTLP/HTTP", format!("http://{}/v1/traces", demo::reachable(self.otlp_http.address()))),
            ("SQL", format!("POST http://{}/api/v1/sql", demo::reachable(self.http.address()))),
            ("Control gRPC", format!("http://{}", demo::reachable(self.control.address()))),
            ("Store", store_url.to_owned()),
        ];
        let api = Api::new(Arc::clone(gate), budget.clone(), body_timeout, &facts);
        let routers = [
            (self.otlp_grpc, otlp_grpc::router(receiver(otlp_grpc::PREFIX_BYTES))),
            (self.otlp_http, otlp_http::router(receiver(0))),
            (self.http, http_api::router(api)),
            (self.control, control::router(Arc::clone(gate))),
        ];
        let mut serving = JoinSet::new();
        for (listener, router) in routers {
            serving.spawn(listener.serve(router, clients, stop.clone()));
        }
        serving
    }
}

async fn announce_and_demo(addresses: Addresses, store_url: String, options: ServeOptions, stop: Stop) {
    tracing::info!("ready");
    if options.print_addresses {
        let line = BTreeMap::from([
            ("otlp_grpc", addresses.otlp_grpc),
            ("otlp_http", addresses.otlp_http),
            ("http", addresses.http),
            ("control", addresses.control),
        ]);
        println!("{}", json!(line));
    } else {
        println!("{}", banner(addresses, &store_url, options.demo.is_some()));
    }
    if let Some(demo_options) = options.demo
        && let Err(error) = demo::run(addresses.otlp_grpc, demo_options, Arc::new(System)).await
        // While the server ends, it is no news that a sender is cut off.
        && !stop.is_requested()
    {
        tracing::error!("demo: {error:#}");
    }
}

fn banner(addresses: Addresses, store_url: &str, is_demo: bool) -> String {
    let [grpc, otlp_http, http] = [addresses.otlp_grpc, addresses.otlp_http, addresses.http].map(demo::reachable);
    let server = if http.port() == 8080 { String::new() } else { format!(" --server http://{http}") };
    let question =
        "SELECT model, count(*) AS calls, sum(cost_usd) AS usd FROM spans WHERE model IS NOT NULL GROUP BY model";
    let first = if is_demo {
        format!("open http://{http} in a browser")
    } else {
        format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{grpc} <your application>")
    };
    format!(
        "\nSpanlake {} is ready.\n\n  \
         OTLP/gRPC  http://{grpc}\n  \
         OTLP/HTTP  http://{otlp_http}/v1/traces\n  \
         SQL        http://{http}\n  \
         store      {store_url}\n\n\
         Try next:\n\n  {first}\n  spanlake sql \"{question}\"{server}\n",
        env!("CARGO_PKG_VERSION")
    )
}
