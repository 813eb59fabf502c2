//! Telling the commits of this log from those of a copy of it.
//!
//! Two copies of one log have the same writer id and number their requests alike, so that a position in a table says nothing
//! about whose requests it stands for. Each opening of a log therefore draws a random number, its *nonce*, which goes
//! into every commit beside the position. The log remembers its own nonces, and where the log ended after each.

use super::Shared;
use crate::wal::Identity;
use crate::{Error, ErrorKind, Lineage, Position, Result, Snapshot};

/// The present opening and its past, as commits need them.
pub(super) fn of(identity: &Identity, app_id: &str) -> Option<Lineage> {
    let (present, past) = identity.epochs.split_last()?;
    // A version before may have opened the log meanwhile, and kept no record of it.
    let is_whole = !past.is_empty() || identity.epoch == 1;
    let last = |position: Option<Position>| position.map_or(i64::MAX, |last| i64::try_from(last).unwrap_or(i64::MAX));
    let known = past.iter().map(|epoch| (epoch.nonce, last(epoch.last_position))).collect();
    Some(Lineage { app_id: copy_id(app_id), nonce: present.nonce, known: is_whole.then_some(known) })
}

fn copy_id(app_id: &str) -> String {
    format!("{app_id}-copy")
}

/// The nonces that tables hold.
pub(super) fn nonces(shared: &Shared) -> Vec<i64> {
    let id = copy_id(&shared.app_id);
    snapshots(shared).iter().filter_map(|(_, snapshot)| snapshot.transactions.get(&id).copied()).collect()
}

fn snapshots(shared: &Shared) -> Vec<(String, std::sync::Arc<Snapshot>)> {
    let tables = shared.tables.all();
    let tables = tables.iter().flat_map(|opened| opened.tables.values());
    tables.map(|table| (table.root().to_string(), table.snapshot())).collect()
}

/// Whether a copy of this log, whose last frame is at `end`, has gone on in its place. This one can then go on under a new
/// writer id, where all that it holds is committed for certain.
///
/// # Errors
/// [`ErrorKind::Corrupt`] where this log holds requests that the copy never had: the position that the copy has committed
/// hides them.
pub(super) fn is_superseded(shared: &Shared, identity: &Identity, end: Position) -> Result<bool> {
    let Some(lineage) = of(identity, &shared.app_id) else { return Ok(false) };
    let mut is_superseded = false;
    for (table, snapshot) in snapshots(shared) {
        let Some(position) = snapshot.transactions.get(&shared.app_id) else { continue };
        if lineage.accepts(&snapshot.transactions, *position) {
            continue;
        }
        is_superseded = true;
        let nonce = snapshot.transactions.get(&lineage.app_id);
        let fork = identity.epochs.iter().find(|epoch| Some(&epoch.nonce) == nonce);
        let shared_until = fork.and_then(|epoch| epoch.last_position).unwrap_or(0);
        let first = shared_until.max(identity.committed_position) + 1;
        if first <= end {
            let dir = shared.options.wal_dir.display();
            let message = format!(
                "write-ahead log {dir} was copied and both copies were used: table {table} holds position {position} of the \
                 other copy, and the requests at positions {first} to {end} of this one may be in no table. Move the \
                 directory away and start with a new one; then `spanlake wal export --wal-dir <where it is now> --positions \
                 {first}-{end} --output DIR` writes these requests to files, to be sent again where they are missing"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    Ok(is_superseded)
}
