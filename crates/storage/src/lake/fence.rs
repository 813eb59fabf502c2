//! Makes sure that no commit of a process that died comes in late.
//!
//! A process may die with a commit on its way to the store. Were it to come in after the next process has read what the
//! tables hold, the next flush would commit the same rows again under a higher position. Such a commit can only become the
//! one version it was made for, so that version is taken, by a commit that changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Shared;
use super::open::Committed;
use crate::{Commit, CommitOutcome, Result};

/// Whether a fence was closed before a late commit came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    InTime,
    /// What is hot is not what the tables lack: the log has to be read again.
    TooLate,
}

/// The tables that got rows back from the log.
#[derive(Debug)]
pub(super) struct Fence {
    shared: Arc<Shared>,
    /// What they held when the log's reading began.
    committed: Arc<Committed>,
    open: BTreeSet<(String, &'static str)>,
    closed: BTreeSet<(String, &'static str)>,
}

impl Fence {
    pub(super) fn new(shared: Arc<Shared>, committed: Arc<Committed>) -> Self {
        Self { shared, committed, open: BTreeSet::new(), closed: BTreeSet::new() }
    }

    /// Notes that a table has rows to commit.
    pub(super) fn add(&mut self, tenant: &str, table: &'static str) {
        let name = (tenant.to_owned(), table);
        if !self.closed.contains(&name) {
            self.open.insert(name);
        }
    }

    /// Takes the versions that late commits could become.
    pub(super) async fn close(&mut self) -> Result<Fenced> {
        while let Some((tenant, table)) = self.open.first().cloned() {
            let Some(opened) = self.shared.tables.get(&tenant, table) else { break };
            let outcome = opened.commit(Commit { operation: "FENCE", ..Commit::default() }, None).await?;
            let (CommitOutcome::Committed(snapshot)
            | CommitOutcome::AlreadyCommitted(snapshot)
            | CommitOutcome::Conflict(snapshot)) = outcome;
            if self.shared.committed_in(&snapshot) != self.committed.position(&tenant, table) {
                tracing::warn!(%tenant, table, "a commit of an earlier process came in late");
                return Ok(Fenced::TooLate);
            }
            self.open.remove(&(tenant.clone(), table));
            self.closed.insert((tenant, table));
        }
        Ok(Fenced::InTime)
    }
}
