//! Reading and writing the files below `_delta_log`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use super::action::{Action, parse_commit};
use super::checkpoint;
use super::state::{Replay, State};
use crate::error::{Error, ErrorKind, Result, store_error};

/// Requests in flight when many commits are read.
const PARALLEL_READS: usize = 16;

/// Where checkpoints begin: the file `_last_checkpoint`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LastCheckpoint {
    pub(super) version: i64,
    /// Actions in it.
    pub(super) size: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parts: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size_in_bytes: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) num_of_add_files: Option<i64>,
}

/// How a put of a version ended.
#[derive(Debug)]
pub(super) enum Put {
    Done,
    /// The version exists already.
    Exists,
}

/// The log of one table.
#[derive(Clone, Debug)]
pub(super) struct Log {
    objects: Arc<dyn ObjectStore>,
    table: Path,
    directory: Path,
}

/// What a listing of the log shows.
#[derive(Debug, Default)]
struct Listing {
    commits: Vec<i64>,
    /// Parts of classic checkpoints by version and their number.
    checkpoints: BTreeMap<i64, BTreeMap<usize, Vec<Path>>>,
    /// A checkpoint of the second format was seen.
    second_format: bool,
}

impl Log {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, table: Path) -> Self {
        let directory = table.clone().join("_delta_log");
        Self { objects, table, directory }
    }

    /// The object of a commit.
    fn commit_path(&self, version: i64) -> Path {
        self.directory.clone().join(format!("{version:020}.json"))
    }

    /// The object of a classic checkpoint in one part.
    pub(super) fn checkpoint_path(&self, version: i64) -> Path {
        self.directory.clone().join(format!("{version:020}.checkpoint.parquet"))
    }

    fn last_checkpoint_path(&self) -> Path {
        self.directory.clone().join("_last_checkpoint")
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        let read = async { self.objects.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(store_error("read", path, source)),
        }
    }

    /// The commit file of a version; `None` where there is none.
    pub(super) async fn read(&self, version: i64) -> Result<Option<Bytes>> {
        self.get(&self.commit_path(version)).await
    }

    /// The actions of a commit file.
    pub(super) fn parse(&self, version: i64, bytes: &Bytes) -> Result<Vec<Action>> {
        parse_commit(bytes).map_err(|source| {
            let path = self.commit_path(version);
            Error::new(ErrorKind::Corrupt, format!("cannot understand the commit {path}")).with_source(source)
        })
    }

    /// The actions of several versions in order, each with its number.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where one is missing.
    pub(super) async fn read_all(&self, versions: std::ops::RangeInclusive<i64>) -> Result<Vec<(i64, Vec<Action>)>> {
        let reads = stream::iter(versions).map(|version| async move {
            let missing =
                || Error::new(ErrorKind::Invalid, format!("there is no commit {}", self.commit_path(version)));
            let bytes = self.read(version).await?.ok_or_else(missing)?;
            Ok((version, self.parse(version, &bytes)?))
        });
        reads.buffered(PARALLEL_READS).try_collect().await
    }

    /// Writes a version unless it exists.
    pub(super) async fn put_new(&self, version: i64, bytes: Bytes) -> Result<Put> {
        let path = self.commit_path(version);
        match self.objects.put_opts(&path, bytes.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => Ok(Put::Done),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Put::Exists),
            Err(source) => Err(store_error("write", &path, source)),
        }
    }

    /// Writes a checkpoint and points to it.
    pub(super) async fn put_checkpoint(&self, bytes: Bytes, pointer: &LastCheckpoint) -> Result<()> {
        let path = self.checkpoint_path(pointer.version);
        self.objects.put(&path, bytes.into()).await.map_err(|source| store_error("write", &path, source))?;
        let path = self.last_checkpoint_path();
        let json = serde_json::to_vec(pointer)
            .map_err(|source| Error::new(ErrorKind::Corrupt, format!("cannot write {path}")).with_source(source))?;
        self.objects.put(&path, json.into()).await.map_err(|source| store_error("write", &path, source))?;
        Ok(())
    }

    /// Where the last checkpoint is said to be. It is a hint: an unreadable one counts as none.
    pub(super) async fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>> {
        let path = self.last_checkpoint_path();
        let Some(bytes) = self.get(&path).await? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(pointer) => Ok(Some(pointer)),
            Err(error) => {
                tracing::warn!(%path, %error, "cannot understand the pointer to the last checkpoint, listing instead");
                Ok(None)
            }
        }
    }

    /// Lists the log from a version on.
    async fn list(&self, from: i64) -> Result<Listing> {
        let offset = self.directory.clone().join(format!("{from:020}"));
        let mut objects = self.objects.list_with_offset(Some(&self.directory), &offset);
        let mut listing = Listing::default();
        while let Some(object) = objects.next().await {
            let object = object.map_err(|source| store_error("list", &self.directory, source))?;
            listing.take(&self.directory, object.location);
        }
        listing.commits.sort_unstable();
        Ok(listing)
    }

    /// The latest state of the table; `None` where there is no table.
    pub(super) async fn load(&self) -> Result<Option<State>> {
        let hint = self.last_checkpoint().await?.map_or(0, |pointer| pointer.version);
        let mut listing = self.list(hint).await?;
        if hint > 0 && listing.latest_checkpoint().is_none() {
            listing = self.list(0).await?;
        }
        if listing.commits.is_empty() && listing.checkpoints.is_empty() && !listing.second_format {
            return Ok(None);
        }
        let mut replay = Replay::default();
        let mut next = 0;
        if let Some((version, parts)) = listing.latest_checkpoint() {
            for path in parts {
                let missing = || Error::new(ErrorKind::Retry, format!("the checkpoint {path} is gone"));
                let bytes = self.get(path).await?.ok_or_else(missing)?;
                replay.checkpoint(version, checkpoint::decode(path.to_string(), bytes).await?)?;
            }
            next = version + 1;
        }
        let last = listing.commits.last().copied().unwrap_or(next - 1);
        self.check_contiguous(&listing, next, last)?;
        for (version, actions) in self.read_all(next..=last).await? {
            replay.commit(version, actions)?;
        }
        State::first(self.table.to_string(), replay).map(Some)
    }

    fn check_contiguous(&self, listing: &Listing, next: i64, last: i64) -> Result<()> {
        for version in next..=last {
            if listing.commits.binary_search(&version).is_ok() {
                continue;
            }
            let table = &self.table;
            return Err(if listing.second_format {
                let what = format!("table {table} has checkpoints of the second format (v2Checkpoint), not supported");
                Error::new(ErrorKind::Invalid, what)
            } else {
                Error::new(ErrorKind::Corrupt, format!("the log of table {table} lacks version {version}"))
            });
        }
        Ok(())
    }

    /// Moves a state on to the latest version by way of a listing: for long gaps, and where the next commit may have
    /// been cleaned away behind a checkpoint.
    pub(super) async fn catch_up(&self, state: &mut State) -> Result<()> {
        let next = state.snapshot.version + 1;
        let listing = self.list(next).await?;
        let last = listing.commits.last().copied().unwrap_or(-1);
        let newest_checkpoint = listing.checkpoints.keys().next_back().copied().unwrap_or(-1);
        if last.max(newest_checkpoint) < next {
            return Ok(());
        }
        let here = listing.commits.partition_point(|version| *version < next);
        let contiguous = listing.commits[here..].iter().copied().eq(next..=last);
        if contiguous && last >= newest_checkpoint && last - next < LONGEST_REPLAY {
            let mut replay = Replay::default();
            for (version, actions) in self.read_all(next..=last).await? {
                replay.commit(version, actions)?;
            }
            return state.advance(replay);
        }
        let gone = || Error::new(ErrorKind::Corrupt, format!("the log of table {} is gone", self.table));
        let latest = self.load().await?.ok_or_else(gone)?;
        if latest.snapshot.version > state.snapshot.version {
            *state = latest;
        }
        Ok(())
    }
}

/// Beyond this many commits reading the checkpoint is cheaper.
const LONGEST_REPLAY: i64 = 500;

impl Listing {
    /// Sorts one object in by its name; see the protocol for the names.
    fn take(&mut self, directory: &Path, object: Path) {
        let Some(name) = object.prefix_match(directory).and_then(|mut parts| {
            let name = parts.next()?.as_ref().to_owned();
            parts.next().is_none().then_some(name)
        }) else {
            return;
        };
        let Some((Ok(version), rest)) = name.split_at_checked(20).map(|(v, rest)| (v.parse::<i64>(), rest)) else {
            return;
        };
        match rest.split('.').collect::<Vec<_>>().as_slice() {
            ["", "json"] => self.commits.push(version),
            ["", "checkpoint", "parquet"] => self.part(version, 1, object),
            ["", "checkpoint", _, parts, "parquet"] => {
                if let Ok(parts) = parts.parse() {
                    self.part(version, parts, object);
                }
            }
            ["", "checkpoint", _, "parquet" | "json"] => self.second_format = true,
            _ => {}
        }
    }

    fn part(&mut self, version: i64, of: usize, path: Path) {
        self.checkpoints.entry(version).or_default().entry(of).or_default().push(path);
    }

    /// The newest checkpoint that has all its parts.
    fn latest_checkpoint(&self) -> Option<(i64, &[Path])> {
        self.checkpoints.iter().rev().find_map(|(version, by_parts)| {
            let (_, paths) = by_parts.iter().find(|(parts, paths)| **parts == paths.len())?;
            Some((*version, paths.as_slice()))
        })
    }
}
