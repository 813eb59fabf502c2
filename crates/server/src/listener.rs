//! Sockets: binding, accepting, connection limits, and the graceful end of connections.
//!
//! Every port speaks HTTP/1.1 and HTTP/2 without TLS. A connection that sends nothing, or its headers too slowly, is
//! closed; bodies have their own limits (`body.rs`).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::codegen::Service;

use crate::shutdown::Stop;

/// Connections of one port at a time; further ones wait in the operating system's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Time for a request's headers, and for the next request on an idle HTTP/1.1 connection. It is longer than the usual
/// export intervals of SDKs, the longest of which is a minute.
const HEADER_TIMEOUT: Duration = Duration::from_secs(65);

/// How long the first bytes of a connection may take before they are looked at again.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    key: &'static str,
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds an address; the error names the configuration's key.
    pub(crate) async fn bind(key: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(address).await.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another process uses it already; choose another with",
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose another with",
                _ => "choose another with",
            };
            anyhow::anyhow!("{key}: cannot listen on {address}: {error}: {hint} --{} IP:PORT", key.replace('_', "-"))
        })?;
        let address = socket.local_addr().with_context(|| format!("{key}: no local address"))?;
        Ok(Self { key, socket, address })
    }

    /// The address, with the port that the operating system chose where 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets running requests end. Dropping the future ends them at once.
    pub(crate) async fn serve(self, router: Router, stop: Stop) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.socket.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.requested() => break,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        serve_connection(stream, router, stop).await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, mostly: others will be closed, and the caller waits in the queue.
                Err(error) => {
                    tracing::warn!(key = self.key, %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while let Some(ended) = connections.try_join_next() {
                log_panic(ended);
            }
        }
        drop(self.socket);
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request ended in a panic; its connection was closed");
    }
}

async fn serve_connection(stream: TcpStream, router: Router, stop: Stop) {
    // Answers are small and senders wait for them.
    let _ = stream.set_nodelay(true);
    let is_http2 = tokio::select! {
        () = stop.requested() => return,
        found = tokio::time::timeout(HEADER_TIMEOUT, speaks_http2(&stream)) => match found {
            Ok(Some(is_http2)) => is_http2,
            Ok(None) | Err(_) => return,
        },
    };
    let was_used = Arc::new(AtomicBool::new(false));
    let service = TowerToHyperService::new(Watched { router, was_used: Arc::clone(&was_used) });
    let builder = connection_builder(is_http2);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let first_request_deadline = tokio::time::sleep(HEADER_TIMEOUT);
    let mut first_request_deadline = std::pin::pin!(first_request_deadline);
    let (mut is_stopping, mut is_watched) = (false, true);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = stop.requested(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = first_request_deadline.as_mut(), if is_watched => {
                is_watched = false;
                if !was_used.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
}

fn connection_builder(is_http2: bool) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(256)
        .max_header_list_size(64 << 10)
        .max_frame_size(256 << 10)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    builder
}

/// Looks at the first bytes without taking them. HTTP/2 without TLS opens with `PRI `, which no HTTP/1.1 method does.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    const PREFACE: &[u8; 4] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await.ok()?;
        if length == 0 {
            return None;
        }
        if first[..length] != PREFACE[..length] {
            return Some(false);
        }
        if length == PREFACE.len() {
            return Some(true);
        }
        // Peeking returns the same bytes at once until more have come.
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

/// A router that remembers whether it was asked anything.
#[derive(Clone)]
struct Watched {
    router: Router,
    was_used: Arc<AtomicBool>,
}

impl<B> Service<Request<B>> for Watched
where
    Router: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.was_used.store(true, Ordering::Relaxed);
        self.router.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(router: Router) -> (SocketAddr, Stop, tokio::task::JoinHandle<()>) {
        let listener = Listener::bind("http_addr", SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("binds");
        let (address, stop) = (listener.address(), Stop::new());
        let serving = tokio::spawn(listener.serve(router, stop.clone()));
        (address, stop, serving)
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_key_and_flag() {
        let first = Listener::bind("http_addr", SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("binds");
        assert_ne!(first.address().port(), 0);
        let error = Listener::bind("otlp_http_addr", first.address()).await.expect_err("is taken").to_string();
        let expected = format!("otlp_http_addr: cannot listen on {}", first.address());
        assert!(error.starts_with(&expected) && error.contains("--otlp-http-addr"), "{error}");
    }

    #[tokio::test]
    async fn speaks_both_versions_on_one_port() {
        let (address, stop, serving) = start(Router::new().route("/", get(|| async { "here" }))).await;
        let url = format!("http://{address}/");
        let one = reqwest::get(&url).await.expect("answers").text().await.expect("is text");
        assert_eq!(one, "here");
        // An HTTP/2 preface and empty SETTINGS are answered with SETTINGS (frame type 4), not with an HTTP/1.1 error.
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(b"PR").await.expect("writes");
        stream.write_all(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("writes");
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.expect("answers");
        assert_eq!(header[3], 4, "{header:?}");
        // This client would not answer the ping that asks whether all is said.
        drop(stream);
        stop.request();
        serving.await.expect("ends");
    }

    #[tokio::test]
    async fn stopping_lets_a_running_request_end_and_closes_idle_connections() {
        let (entered_sender, mut entered) = tokio::sync::mpsc::channel(1);
        let release = Arc::new(tokio::sync::Notify::new());
        let router = Router::new().route(
            "/slow",
            get({
                let release = Arc::clone(&release);
                move || async move {
                    entered_sender.send(()).await.expect("test listens");
                    release.notified().await;
                    "done"
                }
            }),
        );
        let (address, stop, serving) = start(router).await;
        let _idle = TcpStream::connect(address).await.expect("connects");
        let request = tokio::spawn(async move { reqwest::get(format!("http://{address}/slow")).await?.text().await });
        entered.recv().await.expect("request arrives");
        stop.request();
        assert!(!serving.is_finished());
        release.notify_one();
        assert_eq!(request.await.expect("runs").expect("is answered"), "done");
        let started = Instant::now();
        serving.await.expect("ends");
        assert!(started.elapsed() < HEADER_TIMEOUT / 2, "idle connections must not delay the end");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
