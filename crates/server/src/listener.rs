//! Sockets: binding, accepting, connection limits, and the graceful end of connections.
//!
//! Every port speaks HTTP/1.1 and HTTP/2 without TLS. A connection that sends nothing, or its headers too slowly, is
//! closed; bodies have their own limits (`body.rs`). At the limit of connections idle ones make room (`connections.rs`).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::codegen::Service;

use crate::config::ClientLimits;
use crate::connections::{Busy, Connections, Seat};
use crate::shutdown::Stop;

/// Bytes of a request's headers, and of one connection's input that wait to be read.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 128;

/// Streams that a client opened and gave up before they were answered, after which its connection is closed.
const RESET_STREAMS_MAX: usize = 64;

/// How long the first bytes of a connection may take before they are looked at again: at first, and at most.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
const PREFACE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a connection that finds no place is told, whichever protocol it speaks.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 64\r\n\r\ntoo many connections have requests under way (connection_limit)\n";

/// Time for a connection that makes room to end what it may have begun meanwhile.
const LEAVE_GRACE: Duration = Duration::from_secs(5);

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
    pub(crate) async fn serve(self, router: Router, limits: ClientLimits, stop: Stop) {
        let seats = Connections::new(limits.connection_limit);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.requested() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => match seats.enter() {
                    Some(seat) => {
                        let connection = Connection { seat, idle_timeout: limits.idle_timeout, stop: stop.clone() };
                        connections.spawn(connection.serve(stream, router.clone()));
                    }
                    None => self.refuse(&stream),
                },
                // Out of file descriptors, mostly: what does nothing makes room, and the caller waits in the queue.
                Err(error) => {
                    tracing::warn!(key = self.key, %error, "cannot accept a connection");
                    seats.make_room();
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

    fn refuse(&self, stream: &TcpStream) {
        tracing::debug!(key = self.key, "a connection was refused: all others have requests under way");
        // The buffer of a new connection has room for it; nobody waits for a client that is refused.
        let _ = stream.try_write(NO_PLACE);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request ended in a panic; its connection was closed");
    }
}

/// One connection's place and limits.
struct Connection {
    seat: Arc<Seat>,
    idle_timeout: Duration,
    stop: Stop,
}

impl Connection {
    async fn serve(self, stream: TcpStream, router: Router) {
        let Self { seat, idle_timeout, stop } = self;
        // Answers are small and senders wait for them.
        let _ = stream.set_nodelay(true);
        let is_http2 = tokio::select! {
            () = stop.requested() => return,
            () = seat.must_leave() => return,
            found = tokio::time::timeout(idle_timeout, speaks_http2(&stream)) => match found {
                Ok(Some(is_http2)) => is_http2,
                Ok(None) | Err(_) => return,
            },
        };
        let was_used = Arc::new(AtomicBool::new(false));
        let watched = Watched { router, seat: Arc::clone(&seat), was_used: Arc::clone(&was_used) };
        let builder = connection_builder(is_http2, idle_timeout);
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(watched)));
        // The end of the time for the first request, and once it has to leave, of the time for that.
        let mut deadline = std::pin::pin!(tokio::time::sleep(idle_timeout));
        let (mut is_stopping, mut is_leaving, mut is_watched) = (false, false, true);
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
                () = seat.must_leave(), if !is_leaving => {
                    (is_leaving, is_watched) = (true, true);
                    connection.as_mut().graceful_shutdown();
                    deadline.as_mut().reset(tokio::time::Instant::now() + LEAVE_GRACE);
                }
                () = deadline.as_mut(), if is_watched => {
                    is_watched = false;
                    if is_leaving || !was_used.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

fn connection_builder(is_http2: bool, idle_timeout: Duration) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval((idle_timeout / 2).min(Duration::from_secs(30)))
        .keep_alive_timeout(idle_timeout.min(Duration::from_secs(20)))
        .max_concurrent_streams(256)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_frame_size(256 << 10)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    builder
}

/// Looks at the first bytes without taking them. HTTP/2 without TLS opens with `PRI `, which no HTTP/1.1 method does.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    const PREFACE: &[u8; 4] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    let mut pause = PREFACE_PAUSE;
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
        tokio::time::sleep(pause).await;
        pause = PREFACE_PAUSE_MAX.min(pause * 2);
    }
}

/// A router that remembers whether it was asked anything, and while it is.
#[derive(Clone)]
struct Watched {
    router: Router,
    seat: Arc<Seat>,
    was_used: Arc<AtomicBool>,
}

impl<B> Service<Request<B>> for Watched
where
    Router: Service<Request<B>, Response = Response, Error = Infallible>,
    <Router as Service<Request<B>>>::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.was_used.store(true, Ordering::Relaxed);
        let busy = self.seat.begin();
        let answer = self.router.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| watch_answer(body, busy))) })
    }
}

/// Until an answer has gone out its connection is busy. One of a known length lies in memory and needs no watching.
fn watch_answer(body: Body, busy: Busy) -> Body {
    if HttpBody::size_hint(&body).exact().is_some() {
        return body;
    }
    Body::new(body.map_frame(move |frame| {
        let _busy = &busy;
        frame
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMITS: ClientLimits = ClientLimits {
        connection_limit: 100,
        idle_timeout: Duration::from_secs(65),
        body_timeout: Duration::from_secs(20),
    };

    async fn start(router: Router) -> (SocketAddr, Stop, tokio::task::JoinHandle<()>) {
        let listener = Listener::bind("http_addr", SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("binds");
        let (address, stop) = (listener.address(), Stop::new());
        let serving = tokio::spawn(listener.serve(router, LIMITS, stop.clone()));
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
        assert!(started.elapsed() < LIMITS.idle_timeout / 2, "idle connections must not delay the end");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
