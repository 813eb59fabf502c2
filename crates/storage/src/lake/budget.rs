//! Bounds in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorKind, Result};

/// Bytes in use, and how many may be.
#[derive(Debug)]
pub(super) struct Budget {
    /// What the bytes are, for the error.
    what: &'static str,
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl Budget {
    pub(super) fn new(what: &'static str, limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self { what, limit_bytes, used_bytes: AtomicU64::new(0) })
    }

    /// Takes bytes where the limit allows it. Where nothing else is in use anything is allowed, so that what is larger
    /// than the limit is not refused for ever.
    ///
    /// # Errors
    /// [`ErrorKind::Full`].
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let fits = |used: u64| (used == 0 || used + bytes <= self.limit_bytes).then_some(used + bytes);
        match self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(Reservation { budget: Arc::clone(self), bytes }),
            Err(used) => {
                let message = format!(
                    "{} holds {used} of at most {} bytes, {bytes} more do not fit until the store has taken some",
                    self.what, self.limit_bytes
                );
                Err(Error::new(ErrorKind::Full, message))
            }
        }
    }

    /// Takes bytes, limit or not: what is there already has to be counted.
    pub(super) fn take(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.used_bytes() > self.limit_bytes
    }
}

/// Bytes of a [`Budget`], given back on drop.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// Takes some of the bytes out into a reservation of their own.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), bytes }
    }

    /// Leaves the bytes taken: who holds them now gives them back.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
