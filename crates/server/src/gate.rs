//! What the listeners serve: closed while the log is replayed, open afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use spanlake_ingest::Ingest;
use spanlake_query::QueryEngine;
use spanlake_query::rollup::Rollups;
use spanlake_storage::Lake;

use crate::scrape::CallTotals;
use crate::shutdown::Stop;

/// Everything behind the listeners.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) lake: Arc<Lake>,
    pub(crate) ingest: Ingest,
    pub(crate) engine: Arc<QueryEngine>,
    pub(crate) rollups: Arc<Rollups>,
    /// What `/metrics` shows of calls.
    pub(crate) calls: Arc<CallTotals>,
}

/// Why there is nothing to serve yet, or no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The write-ahead log is being replayed.
    Starting,
    /// The process is ending.
    Stopping,
}

impl Closed {
    /// For people.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Starting => "starting: the write-ahead log is being replayed",
            Self::Stopping => "shutting down",
        }
    }
}

/// Lets requests through once the services are there.
#[derive(Debug)]
pub(crate) struct Gate {
    services: OnceLock<Services>,
    stop: Stop,
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Gate {
    pub(crate) fn new(stop: Stop) -> Arc<Self> {
        Arc::new(Self { services: OnceLock::new(), stop, answers: Mutex::default() })
    }

    /// Opens the gate. It is opened once.
    pub(crate) fn open(&self, services: Services) {
        self.services.set(services).expect("invariant: the gate is opened once");
    }

    /// The services, also while the process ends: requests under way are finished.
    pub(crate) fn services(&self) -> Result<&Services, Closed> {
        self.services.get().ok_or(Closed::Starting)
    }

    /// Whether new requests should come here.
    pub(crate) fn readiness(&self) -> Result<(), Closed> {
        if self.stop.is_requested() {
            return Err(Closed::Stopping);
        }
        self.services().map(|_| ())
    }

    /// Counts one answer of a transport, by its status code.
    pub(crate) fn count_answer(&self, transport: &'static str, code: u16) {
        *self.answers.lock().entry((transport, code)).or_default() += 1;
    }

    /// Answers by transport and status code.
    pub(crate) fn answers(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.answers.lock().clone()
    }
}
