//! Reading request bodies within limits of bytes and time.
//!
//! No more than the limit of one body is ever held, nor more than [`BodyBudget`] of all bodies that are being read: a
//! thousand slow senders of large bodies are pushed back instead of filling the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

/// How much of a refused body is read and thrown away, so that the sender gets to read the answer.
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than its limit.
    TooLarge,
    /// All bodies together are longer than their limit.
    Overloaded,
    /// It came too slowly.
    TimedOut,
    /// The connection failed.
    Broken(String),
}

/// Bytes of all bodies being read or worked on.
#[derive(Clone, Debug)]
pub(crate) struct BodyBudget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl BodyBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: Arc::default(), limit }
    }

    fn empty(&self) -> Reserved {
        Reserved { budget: self.clone(), bytes: 0 }
    }

    /// Bytes in use now.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// A share of a [`BodyBudget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Reserved {
    budget: BodyBudget,
    bytes: usize,
}

impl Reserved {
    fn grow(&mut self, bytes: usize) -> bool {
        let limit = self.budget.limit;
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let has_room = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if has_room {
            self.bytes += bytes;
        }
        has_room
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads bodies within limits.
#[derive(Clone, Debug)]
pub(crate) struct BodyReader {
    limit: usize,
    budget: BodyBudget,
    piece_timeout: Duration,
    body_timeout: Duration,
    discard_timeout: Duration,
}

impl BodyReader {
    /// Reads bodies of up to `limit` bytes each, all of them within `budget`.
    pub(crate) fn new(limit: usize, budget: BodyBudget) -> Self {
        Self {
            limit,
            budget,
            piece_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(300),
            discard_timeout: Duration::from_secs(5),
        }
    }

    /// Gives up a body after a pause of this length, or after 15 times as long in all.
    #[must_use]
    pub(crate) fn with_timeout(self, pause: Duration) -> Self {
        Self { piece_timeout: pause, body_timeout: pause * 15, ..self }
    }

    /// Reads a whole body. What is returned beside it must be kept as long as the bytes are.
    pub(crate) async fn read(&self, body: &mut Body) -> Result<(Bytes, Reserved), BodyError> {
        if body.size_hint().lower() > self.limit as u64 {
            return Err(BodyError::TooLarge);
        }
        let deadline = Instant::now() + self.body_timeout;
        let mut reserved = self.budget.empty();
        let mut pieces: Vec<Bytes> = Vec::new();
        loop {
            let next = timeout_at(deadline.min(Instant::now() + self.piece_timeout), body.frame());
            let frame = match next.await {
                Ok(None) => break,
                Ok(Some(frame)) => frame.map_err(|error| BodyError::Broken(error.to_string()))?,
                Err(_) => return Err(BodyError::TimedOut),
            };
            let Ok(piece) = frame.into_data() else { continue };
            if reserved.bytes + piece.len() > self.limit {
                return Err(BodyError::TooLarge);
            }
            if !reserved.grow(piece.len()) {
                return Err(BodyError::Overloaded);
            }
            pieces.push(piece);
        }
        Ok((join(pieces, reserved.bytes), reserved))
    }

    /// Reads on and throws away, within limits. Closing a connection that still has bytes to deliver resets it, and the
    /// sender would see the reset instead of the answer.
    pub(crate) async fn discard(&self, body: &mut Body) {
        let drain = async {
            let mut left = DISCARD_BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        let _ = timeout(self.discard_timeout, drain).await;
    }
}

fn join(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(length);
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn in_pieces(pieces: &[&'static [u8]]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    fn reader(budget: &BodyBudget) -> BodyReader {
        BodyReader::new(5, budget.clone())
    }

    #[tokio::test]
    async fn joins_pieces_and_gives_its_budget_back() {
        let budget = BodyBudget::new(100);
        let (bytes, reserved) =
            reader(&budget).read(&mut in_pieces(&[b"ab", b"", b"cde"])).await.expect("fits exactly");
        assert_eq!(&bytes[..], b"abcde");
        assert_eq!(budget.used_bytes(), 5);
        drop(reserved);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn stops_at_the_limit_with_and_without_a_known_length() {
        let budget = BodyBudget::new(100);
        let error = reader(&budget).read(&mut in_pieces(&[b"abc", b"def"])).await.expect_err("is too long");
        assert_eq!(error, BodyError::TooLarge);
        let error = reader(&budget).read(&mut Body::from("abcdef")).await.expect_err("is too long");
        assert_eq!(error, BodyError::TooLarge);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn all_bodies_together_stay_within_the_budget() {
        let budget = BodyBudget::new(6);
        let (_, first) = reader(&budget).read(&mut Body::from("abcd")).await.expect("fits");
        let error = reader(&budget).read(&mut Body::from("efg")).await.expect_err("has no room");
        assert_eq!(error, BodyError::Overloaded);
        drop(first);
        assert!(reader(&budget).read(&mut Body::from("efg")).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_given_up() {
        let short = Duration::from_millis(1);
        let reader = BodyReader { piece_timeout: short, discard_timeout: short, ..reader(&BodyBudget::new(6)) };
        let mut body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(reader.read(&mut body).await.expect_err("gives up"), BodyError::TimedOut);
        reader.discard(&mut body).await;
    }

    #[tokio::test]
    async fn a_broken_connection_is_told_apart() {
        let pieces = [Ok(Bytes::from_static(b"ab")), Err(std::io::Error::other("reset"))];
        let error = reader(&BodyBudget::new(6)).read(&mut Body::from_stream(stream::iter(pieces))).await;
        assert!(matches!(error, Err(BodyError::Broken(_))));
    }
}
