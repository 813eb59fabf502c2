//! Promoted columns for rows that were committed before: their segments are written again with them.
//!
//! Each commit takes some segments out and puts their rewritten ones in, as one that changes no rows. Whoever flushes meanwhile
//! is in nobody's way; where a segment is gone by then, it is left to who took it. A process that ends amid leaves objects that
//! no commit names, and what is missing is done by the next run.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use spanlake_schema::promotion::PromotedColumn;

use super::{Lake, Shared};
use crate::error::store_error;
use crate::promotion::{Shape, Survey};
use crate::segment::{self, SegmentFile};
use crate::{AddFile, Commit, CommitOutcome, Error, ErrorKind, Result, Segment, Snapshot, Table};

/// Segments of one commit.
const COMMIT_FILES: usize = 16;

/// A larger segment, which only other tools make, is left as it is: it is held in memory while it is copied.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// What a backfill did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backfill {
    /// Columns that the table lacked.
    pub columns: Vec<PromotedColumn>,
    /// Segments that lacked promoted columns and have them now.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes, as they were.
    pub bytes: u64,
    /// Segments that lack promoted columns still: they are too large, or cannot be read.
    pub left_files: u64,
}

impl Lake {
    /// Writes segments of some days again that lack promoted columns, and makes columns for attributes that are wanted and
    /// occur in them. A dry run only counts.
    ///
    /// # Errors
    /// As of the store. What was committed before stays, and another run goes on from there.
    pub async fn backfill(
        &self,
        tenant: &str,
        table: &str,
        days: RangeInclusive<i32>,
        is_dry_run: bool,
    ) -> Result<Backfill> {
        let shared = &self.shared;
        let table = shared
            .tables
            .get(tenant, table)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("there is no table {table} of tenant {tenant}")))?;
        // Another one would do the same work at the same time.
        let _alone = shared.backfilling.lock().await;
        let snapshot = table.refresh().await?;
        let in_days = |segment: &&Arc<Segment>| segment.date.is_some_and(|date| days.contains(&date));
        let segments: Vec<_> = snapshot.segments.iter().filter(in_days).cloned().collect();
        let mut done = Backfill { columns: shared.lacking(&table, &snapshot, &segments).await?, ..Backfill::default() };
        let promoted = match is_dry_run || done.columns.is_empty() {
            true => snapshot.promoted.iter().chain(&done.columns).cloned().collect(),
            false => table.promote(&done.columns).await?.promoted.as_ref().clone(),
        };
        let promoted = Arc::new(promoted);
        let lacks = |segment: &&Arc<Segment>| promoted.iter().any(|column| !segment.holds(&column.name));
        let lacking: Vec<_> = segments.iter().filter(lacks).cloned().collect();
        for segments in lacking.chunks(COMMIT_FILES) {
            let mut rewritten = Vec::with_capacity(segments.len());
            for segment in segments {
                match rewrite(shared, &table, segment, &promoted, is_dry_run).await? {
                    Some(one) => rewritten.push(one),
                    None => done.left_files += 1,
                }
            }
            if !is_dry_run {
                rewritten = replace(&table, rewritten).await?;
            }
            for one in &rewritten {
                done.files += 1;
                done.rows += one.rows;
                done.bytes += one.old.size_bytes;
            }
        }
        Ok(done)
    }
}

impl Shared {
    /// The columns that attributes in some segments are to have, and that the table lacks.
    async fn lacking(
        &self,
        table: &Table,
        snapshot: &Snapshot,
        segments: &[Arc<Segment>],
    ) -> Result<Vec<PromotedColumn>> {
        let (spec, list) = (table.spec(), self.options.promote.clone());
        let has_column = |name: &str| snapshot.promoted.iter().any(|column| column.attribute == name);
        if spec.attributes.is_empty() || list.is_covered_by(has_column) {
            return Ok(Vec::new());
        }
        let mut survey = Survey::default();
        for segment in segments {
            let Some(bytes) = fetch(table, segment).await? else { continue };
            let (list, present) = (list.clone(), Arc::clone(&snapshot.promoted));
            let surveyed = blocking(move || {
                let mut survey = Survey::default();
                SegmentFile::open(spec, bytes)?.for_each(|batch| {
                    survey.merge(&Survey::of(spec, &list, &present, std::slice::from_ref(batch))?);
                    Ok(())
                })?;
                Ok(survey)
            });
            match surveyed.await {
                Ok(surveyed) => survey.merge(&surveyed),
                Err(error) => left(segment, &error)?,
            }
        }
        Ok(survey.lacking())
    }
}

/// A segment, and the one that is to take its place.
struct Rewritten {
    old: Arc<Segment>,
    new: Option<AddFile>,
    rows: u64,
}

/// Writes a segment again. `None` where it has to stay as it is.
async fn rewrite(
    shared: &Shared,
    table: &Table,
    segment: &Arc<Segment>,
    promoted: &Arc<Vec<PromotedColumn>>,
    is_dry_run: bool,
) -> Result<Option<Rewritten>> {
    if is_dry_run {
        let is_fine = segment.size_bytes <= FILE_BYTES_MAX;
        let rows = segment.rows().unwrap_or(0);
        return Ok(is_fine.then(|| Rewritten { old: Arc::clone(segment), new: None, rows }));
    }
    let (Some(bytes), Some(date)) = (fetch(table, segment).await?, segment.date) else { return Ok(None) };
    let (spec, columns, stats) = (table.spec(), Arc::clone(promoted), segment.stats.clone());
    let encoded = blocking(move || {
        let file = SegmentFile::open(spec, bytes)?;
        let encoded = file.promoted(Shape { spec, promoted: &columns }, stats.as_deref())?;
        Ok((encoded, file.rows() as u64))
    });
    let (encoded, rows) = match encoded.await {
        Ok(encoded) => encoded,
        Err(error) => return left(segment, &error).map(|()| None),
    };
    let name = format!("promoted-{:032x}", shared.options.ambient.random_u128());
    let new = Segment {
        path: segment::path(date, &name, 0),
        size_bytes: encoded.size_bytes(),
        date: Some(date),
        modification_time_ms: shared.options.ambient.now_unix_micro() / 1_000,
        stats: Some(Arc::new(encoded.stats)),
        promoted: segment::promoted_names(promoted),
    };
    segment::upload(table, &new.path, encoded.pieces).await?;
    Ok(Some(Rewritten { old: Arc::clone(segment), new: Some(AddFile { segment: new }), rows }))
}

/// Commits what was rewritten, without what somebody else has removed meanwhile. Returns what was committed.
async fn replace(table: &Table, mut rewritten: Vec<Rewritten>) -> Result<Vec<Rewritten>> {
    while !rewritten.is_empty() {
        let commit = Commit {
            adds: rewritten.iter().filter_map(|one| one.new.clone()).collect(),
            removes: rewritten.iter().map(|one| one.old.path.clone()).collect(),
            rows_unchanged: true,
            operation: "OPTIMIZE",
            ..Commit::default()
        };
        match table.commit(commit, None).await? {
            CommitOutcome::Conflict(now) => {
                let is_there = |one: &Rewritten| now.segments.iter().any(|segment| segment.path == one.old.path);
                rewritten.retain(is_there);
            }
            CommitOutcome::Committed(_) | CommitOutcome::AlreadyCommitted(_) => break,
        }
    }
    Ok(rewritten)
}

/// The bytes of a segment; `None` where there are too many of them.
async fn fetch(table: &Table, segment: &Segment) -> Result<Option<Bytes>> {
    if segment.size_bytes > FILE_BYTES_MAX {
        tracing::warn!(path = segment.path, bytes = segment.size_bytes, "too large for its columns to be promoted");
        return Ok(None);
    }
    let path = table.object_path(&segment.path)?;
    let failed = |source| store_error("read", &path, source);
    Ok(Some(table.store().object_store().get(&path).await.map_err(failed)?.bytes().await.map_err(failed)?))
}

/// A file that cannot be understood is left as it is: queries say so whenever they read it, and the others can be done.
fn left(segment: &Segment, error: &Error) -> Result<()> {
    if error.kind() == ErrorKind::Retry {
        return Err(Error::new(ErrorKind::Retry, error.to_string()));
    }
    tracing::warn!(%error, path = segment.path, "a segment cannot get its promoted columns");
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Retry, "work on a segment ended early").with_source(error))?
}

#[cfg(test)]
mod tests {
    use spanlake_schema::{DEFAULT_TENANT, spans};
    use spanlake_testkit::ManualAmbient;

    use super::*;
    use crate::Store;

    /// Scenario: one of two files that were rewritten is gone when they are to be committed.
    /// Guarantee: the other one is replaced, and the lost one does not come back.
    #[tokio::test]
    async fn what_somebody_else_removed_does_not_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().to_str().unwrap()).unwrap();
        let store = store.with_ambient(Arc::new(ManualAmbient::new(7)));
        let table = Table::open_or_create(&store, DEFAULT_TENANT, &spans::SPEC).await.unwrap();
        let segment = |name: &str| Segment {
            path: format!("date=2026-01-02/{name}.parquet"),
            size_bytes: 1,
            date: Some(20_455),
            modification_time_ms: 0,
            stats: None,
            promoted: None,
        };
        let add = |name: &str| AddFile { segment: segment(name) };
        let commit = Commit { adds: vec![add("a"), add("b")], operation: "WRITE", ..Commit::default() };
        table.commit(commit, None).await.unwrap();
        let rewritten = ["a", "b"].map(|name| Rewritten {
            old: Arc::new(segment(name)),
            new: Some(add(&format!("{name}2"))),
            rows: 1,
        });
        let remove = Commit { removes: vec![segment("a").path], operation: "DELETE", ..Commit::default() };
        table.commit(remove, None).await.unwrap();
        assert_eq!(replace(&table, rewritten.into()).await.unwrap().len(), 1);
        let snapshot = table.snapshot();
        let paths: Vec<&str> = snapshot.segments.iter().map(|segment| segment.path.as_str()).collect();
        assert_eq!(paths, ["date=2026-01-02/b2.parquet"]);
    }
}
