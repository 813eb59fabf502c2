//! What goes wrong between a client and the S3 server of tests: answers that are errors, late, lost or never given, and
//! connections that are cut in the middle of a request or an answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::SplitMix64;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Fault {
    /// Answered with this status; nothing was done.
    Status(u16),
    /// Done, but answered with 500.
    LostAnswer,
    /// Done, and answered after this time.
    Slow(Duration),
    /// Neither done nor answered, until the faults are healed.
    Silent,
    /// The connection is cut, somewhere in the request or in the answer; it may have been done.
    Cut,
}

#[derive(Debug)]
struct Plan {
    random: SplitMix64,
    per_mille: u64,
    faults: Vec<S3Fault>,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    injected: u64,
}

/// The faults of one server. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct S3Faults {
    state: Arc<Mutex<State>>,
    healed: Arc<tokio::sync::Notify>,
}

impl S3Faults {
    pub(crate) fn fail_by_seed(&self, seed: u64, per_mille: u64, faults: &[S3Fault]) {
        let plan = Plan { random: SplitMix64::new(seed), per_mille, faults: faults.to_vec() };
        self.state.lock().plan = Some(plan);
    }

    pub(crate) fn heal(&self) {
        self.state.lock().plan = None;
        self.healed.notify_waiters();
    }

    pub(crate) fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    /// What goes wrong with the next request, cuts apart.
    pub(crate) fn meet_request(&self) -> Option<S3Fault> {
        self.meet(|fault| fault != S3Fault::Cut)
    }

    /// Waits until nothing goes wrong any more.
    pub(crate) async fn silence(&self) {
        let healed = self.healed.notified();
        tokio::pin!(healed);
        healed.as_mut().enable();
        if self.state.lock().plan.is_some() {
            healed.await;
        }
    }

    fn meet(&self, concerns: impl Fn(S3Fault) -> bool) -> Option<S3Fault> {
        let mut state = self.state.lock();
        let plan = state.plan.as_mut()?;
        let faults: Vec<S3Fault> = plan.faults.iter().copied().filter(|fault| concerns(*fault)).collect();
        if faults.is_empty() || !plan.random.chance(plan.per_mille) {
            return None;
        }
        let fault = *plan.random.pick(&faults);
        state.injected += 1;
        Some(fault)
    }

    fn cuts(&self) -> bool {
        self.meet(|fault| fault == S3Fault::Cut).is_some()
    }
}

/// Listens, and hands out connections that may be cut.
#[derive(Debug)]
pub(crate) struct FaultyListener {
    pub(crate) listener: TcpListener,
    pub(crate) faults: S3Faults,
}

impl axum::serve::Listener for FaultyListener {
    type Io = FaultyStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (FaultyStream, SocketAddr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (FaultyStream { stream, faults: self.faults.clone(), is_cut: false }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that may be cut at any read or write.
#[derive(Debug)]
pub(crate) struct FaultyStream {
    stream: TcpStream,
    faults: S3Faults,
    is_cut: bool,
}

impl FaultyStream {
    fn cut(&mut self) -> io::Error {
        self.is_cut = true;
        io::Error::new(io::ErrorKind::ConnectionReset, "injected cut of the connection")
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_cut {
            return Poll::Ready(Err(this.cut()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() > before && this.faults.cuts() {
            return Poll::Ready(Err(this.cut()));
        }
        read
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_cut {
            return Poll::Ready(Err(this.cut()));
        }
        if this.faults.cuts() {
            // Some of the answer may still get out.
            let _ = Pin::new(&mut this.stream).poll_write(context, &bytes[..bytes.len() / 2]);
            return Poll::Ready(Err(this.cut()));
        }
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
