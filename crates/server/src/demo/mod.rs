//! `spanlake demo`: a few hours of history, then live traffic, sent to the listeners as any application would.

mod calls;
mod models;
mod random;
mod scenarios;
#[cfg(test)]
mod tests;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use spanlake_schema::Ambient;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};

use self::traffic::{Trace, Traffic, request};

/// Spans of one request, about as many as SDKs and collectors send.
const BATCH_SPANS: usize = 512;

/// How often live traffic is sent.
const LIVE_PERIOD: Duration = Duration::from_millis(500);

const SECOND_NANO: f64 = 1e9;

/// What the demo does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoOptions {
    /// The same seed makes the same traffic.
    pub(crate) seed: u64,
    /// Traces a second, on average over a day.
    pub(crate) per_second: f64,
    /// How much history is sent first.
    pub(crate) history: Duration,
}

/// Sends history, then live traffic until the future is dropped.
pub(crate) async fn run(address: SocketAddr, options: DemoOptions, ambient: Arc<dyn Ambient>) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{}", reachable(address)))?;
    let channel = endpoint.connect().await.context("cannot connect to the OTLP listener")?;
    let mut client = TraceServiceClient::new(channel).send_compressed(CompressionEncoding::Gzip);
    let now = ambient.now_unix_nano();
    let start = now.saturating_sub(options.history.as_nanos() as u64);
    // Half-way through the history, one provider has a bad quarter of an hour (less in a short history).
    let middle = start + (now - start) / 2;
    let mut traffic = Traffic::new(options.seed, middle..middle + ((now - start) / 24));
    let mut at = start;
    let (mut batch, mut spans, mut sent) = (Vec::new(), 0, 0);
    loop {
        at += (traffic.seconds_to_next(at, options.per_second) * SECOND_NANO) as u64;
        if at >= now {
            break;
        }
        let trace: Trace = traffic.trace(at);
        spans += trace.span_count();
        batch.push(trace);
        if spans >= BATCH_SPANS {
            send(&mut client, request(std::mem::take(&mut batch))).await?;
            sent += std::mem::take(&mut spans);
        }
    }
    send(&mut client, request(batch)).await?;
    tracing::info!(spans = sent + spans, "history is in, live traffic goes on");
    live(&mut client, traffic, at, options, ambient).await
}

async fn live(
    client: &mut TraceServiceClient<Channel>,
    mut traffic: Traffic,
    mut next: u64,
    options: DemoOptions,
    ambient: Arc<dyn Ambient>,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LIVE_PERIOD);
    loop {
        ticks.tick().await;
        let now = ambient.now_unix_nano();
        let mut batch = Vec::new();
        while next <= now {
            batch.push(traffic.trace(next));
            next += (traffic.seconds_to_next(next, options.per_second) * SECOND_NANO) as u64;
        }
        if !batch.is_empty() {
            send(client, request(batch)).await?;
        }
    }
}

/// Sends one request, again for as long as the server asks for it.
async fn send(client: &mut TraceServiceClient<Channel>, request: ExportTraceServiceRequest) -> anyhow::Result<()> {
    loop {
        match client.export(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(status) => anyhow::bail!("the server refused traffic: {}", status.message()),
        }
    }
}

/// An address that a client can connect to: a listener on every interface is reached over loopback.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
