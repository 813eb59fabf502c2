//! One version of a table in memory, and how it moves on to the next.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::action::{Action, Add, Metadata, PROMOTED_TAG, Protocol, Remove, Txn, encode_path};
use super::{Segment, Snapshot, protocol, schema};
use crate::error::{Error, ErrorKind, Result};

/// Everything the log says about one version: the snapshot that others see, and what commits and checkpoints need.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Names the table in errors.
    pub(super) table: String,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) protocol: Protocol,
    pub(super) metadata: Metadata,
    /// Removed files by decoded path, until their retention ends at a checkpoint.
    pub(super) tombstones: HashMap<String, Remove>,
    /// What some files carry beyond their segment, by decoded path; few do.
    pub(super) extras: HashMap<String, Extra>,
    /// When the application transactions were written, milliseconds.
    pub(super) transactions_updated_ms: HashMap<String, i64>,
    /// The last version known to have changed rows or an application transaction. Before a checkpoint nothing is known, so
    /// that its version counts.
    pub(super) changed_version: i64,
    /// The last checkpoint known, -1 where there is none.
    pub(super) checkpoint_version: i64,
}

/// What other writers say of a file that a segment has no place for.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    /// The path as the log has it, where it is encoded otherwise than here. Removing must name it letter by letter.
    pub(super) encoded_path: Option<String>,
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
}

impl State {
    /// The path of a file as the log has it.
    pub(super) fn encoded_path(&self, path: &str) -> Option<&str> {
        self.extras.get(path)?.encoded_path.as_deref()
    }

    /// The segment at a path.
    pub(super) fn segment(&self, path: &str) -> Option<&Arc<Segment>> {
        let segments = &self.snapshot.segments;
        let index = segments.binary_search_by(|segment| segment.path.as_str().cmp(path)).ok()?;
        Some(&segments[index])
    }

    /// Moves on by what was replayed. Checks first: on an error nothing has changed.
    pub(super) fn advance(&mut self, replay: Replay) -> Result<()> {
        let protocol = replay.protocol.as_ref().unwrap_or(&self.protocol);
        let metadata = replay.metadata.as_ref().unwrap_or(&self.metadata);
        protocol::check_readable(&self.table, protocol, metadata)?;
        let nullable_columns = match &replay.metadata {
            Some(metadata) => Arc::new(schema::nullable_columns(&self.table, metadata)?),
            None => Arc::clone(&self.snapshot.nullable_columns),
        };
        let promoted = match &replay.metadata {
            Some(metadata) => Arc::new(schema::promoted_columns(&self.table, metadata)?),
            None => Arc::clone(&self.snapshot.promoted),
        };
        self.snapshot = Arc::new(Snapshot {
            version: replay.version,
            segments: merge_segments(&self.snapshot.segments, &replay.files),
            transactions: merge_transactions(&self.snapshot.transactions, &replay.transactions),
            table_id: metadata.id.clone(),
            created_time_ms: metadata.created_time,
            nullable_columns,
            promoted,
        });
        for txn in replay.transactions {
            if let Some(updated) = txn.last_updated {
                self.transactions_updated_ms.insert(txn.app_id, updated);
            }
        }
        for (path, change) in replay.files {
            self.extras.remove(&path);
            match change {
                FileChange::Removed(remove) => {
                    self.tombstones.insert(path, remove);
                }
                FileChange::Added { extra, .. } => {
                    self.tombstones.remove(&path);
                    if let Some(extra) = extra {
                        self.extras.insert(path, extra);
                    }
                }
            }
        }
        self.changed_version = replay.changed_version.unwrap_or(self.changed_version);
        self.checkpoint_version = self.checkpoint_version.max(replay.checkpoint_version.unwrap_or(-1));
        self.protocol = replay.protocol.unwrap_or_else(|| std::mem::take(&mut self.protocol));
        self.metadata = replay.metadata.unwrap_or_else(|| std::mem::take(&mut self.metadata));
        Ok(())
    }

    /// The first state of a table, from everything since its beginning or its checkpoint.
    pub(super) fn first(table: String, replay: Replay) -> Result<Self> {
        let (Some(protocol), Some(metadata)) = (replay.protocol.clone(), replay.metadata.clone()) else {
            let what = format!("the log of table {table} holds no protocol or no metadata");
            return Err(Error::new(ErrorKind::Corrupt, what));
        };
        let empty = Snapshot {
            version: -1,
            segments: Vec::new(),
            transactions: HashMap::new(),
            table_id: metadata.id.clone(),
            created_time_ms: metadata.created_time,
            nullable_columns: Arc::default(),
            promoted: Arc::default(),
        };
        let mut state = Self {
            table,
            snapshot: Arc::new(empty),
            protocol,
            metadata,
            tombstones: HashMap::new(),
            extras: HashMap::new(),
            transactions_updated_ms: HashMap::new(),
            changed_version: 0,
            checkpoint_version: -1,
        };
        state.advance(replay)?;
        Ok(state)
    }
}

/// Both lists are ordered by path, so that one pass merges them.
fn merge_segments(old: &[Arc<Segment>], changes: &HashMap<String, FileChange>) -> Vec<Arc<Segment>> {
    let mut added: Vec<&Arc<Segment>> = changes
        .values()
        .filter_map(|change| match change {
            FileChange::Added { segment, .. } => Some(segment),
            FileChange::Removed(_) => None,
        })
        .collect();
    added.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut merged = Vec::with_capacity(old.len() + added.len());
    let mut added = added.into_iter().peekable();
    for segment in old.iter().filter(|segment| changes.is_empty() || !changes.contains_key(&segment.path)) {
        while let Some(new) = added.next_if(|new| new.path < segment.path) {
            merged.push(Arc::clone(new));
        }
        merged.push(Arc::clone(segment));
    }
    merged.extend(added.cloned());
    merged
}

fn merge_transactions(old: &HashMap<String, i64>, changes: &[Txn]) -> HashMap<String, i64> {
    let mut merged = old.clone();
    merged.extend(changes.iter().map(|txn| (txn.app_id.clone(), txn.version)));
    merged
}

#[derive(Clone, Debug)]
pub(super) enum FileChange {
    Added { segment: Arc<Segment>, extra: Option<Extra> },
    Removed(Remove),
}

/// The sum of the commits read since a state, or of a checkpoint and the commits after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Replay {
    version: i64,
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    transactions: Vec<Txn>,
    files: HashMap<String, FileChange>,
    changed_version: Option<i64>,
    checkpoint_version: Option<i64>,
}

impl Replay {
    /// Takes in one commit.
    pub(super) fn commit(&mut self, version: i64, actions: Vec<Action>) -> Result<()> {
        self.version = version;
        for action in actions {
            let changes = action.txn.is_some()
                || action.add.as_ref().is_some_and(|add| add.data_change)
                || action.remove.as_ref().is_some_and(|remove| remove.data_change);
            if changes {
                self.changed_version = Some(version);
            }
            self.action(action)?;
        }
        Ok(())
    }

    /// Takes in rows of a checkpoint: they come before all commits.
    pub(super) fn checkpoint(&mut self, version: i64, actions: Vec<Action>) -> Result<()> {
        self.version = version;
        self.checkpoint_version = Some(version);
        self.changed_version = Some(version);
        actions.into_iter().try_for_each(|action| self.action(action))
    }

    fn action(&mut self, action: Action) -> Result<()> {
        if let Some(protocol) = action.protocol {
            self.protocol = Some(protocol);
        }
        if let Some(metadata) = action.meta_data {
            self.metadata = Some(metadata);
        }
        self.transactions.extend(action.txn);
        if let Some(add) = action.add {
            let segment = Arc::new(add.to_segment()?);
            let extra = extra_of(add, &segment.path);
            self.files.insert(segment.path.clone(), FileChange::Added { segment, extra });
        }
        if let Some(remove) = action.remove {
            self.files.insert(super::action::decode_path(&remove.path)?, FileChange::Removed(remove));
        }
        if action.sidecar.is_some() {
            let what = "the checkpoint is of the second format (v2Checkpoint), which is not supported";
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(())
    }
}

fn extra_of(add: Add, path: &str) -> Option<Extra> {
    let encoded_path = (add.path != encode_path(path)).then_some(add.path);
    // What a segment says by itself is not kept twice.
    let mut tags = add.tags;
    tags.as_mut().map(|tags| tags.remove(PROMOTED_TAG));
    let tags = tags.filter(|tags| !tags.is_empty());
    (encoded_path.is_some() || tags.is_some()).then_some(Extra { encoded_path, tags })
}
