use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::NaiveDate;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use spanlake_schema::DATE;
use spanlake_storage::delta::Change;
use spanlake_storage::{Segment, Snapshot, Table};

use crate::{QueryError, QueryErrorKind};

/// Stores answer many small questions at once.
const LOOKUPS_AT_ONCE: usize = 16;

/// Where the dirty windows of some commits are to be found.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Segments that appeared or went with a change of rows: their rows tell the windows.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Days of segments that nobody can read any more: all their windows are dirty.
    pub(crate) days: BTreeSet<i32>,
}

/// What the commits touched. `None` where that cannot be told: everything is dirty.
///
/// Commits that only rewrite rows (compaction) touch nothing. A segment that left the snapshot is still read while its object
/// exists; a vacuum in between makes the read fail, and the next run finds the object gone.
pub(crate) async fn suspects(
    table: &Table,
    snapshot: &Snapshot,
    changes: &[Change],
) -> Result<Option<Suspects>, QueryError> {
    let mut known: BTreeMap<String, Option<Arc<Segment>>> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.data_change) {
        for path in &change.removes {
            known.entry(path.clone()).or_default();
        }
        for segment in &change.adds {
            known.insert(segment.path.clone(), Some(Arc::clone(segment)));
        }
    }
    let current: BTreeSet<&str> = snapshot.segments.iter().map(|segment| segment.path.as_str()).collect();
    let (present, gone): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|(path, segment)| segment.is_some() && current.contains(path.as_str()));

    let mut suspects = Suspects::default();
    suspects.segments.extend(present.into_iter().filter_map(|(_, segment)| segment));
    let looked_up: Vec<_> = futures::stream::iter(gone)
        .map(|(path, segment)| async move {
            let size_bytes = look_up(table, &path).await?;
            Ok::<_, QueryError>((path, segment, size_bytes))
        })
        .buffer_unordered(LOOKUPS_AT_ONCE)
        .try_collect()
        .await?;
    for (path, segment, size_bytes) in looked_up {
        let Some(day) = segment.map_or_else(|| day_in(&path), |segment| segment.date) else { return Ok(None) };
        match size_bytes {
            Some(size_bytes) => suspects.segments.push(Arc::new(Segment {
                path,
                size_bytes,
                date: Some(day),
                modification_time_ms: 0,
                stats: None,
                promoted: None,
            })),
            None => {
                suspects.days.insert(day);
            }
        }
    }
    suspects.segments.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Some(suspects))
}

/// The size of a segment's object, where it still exists.
async fn look_up(table: &Table, path: &str) -> Result<Option<u64>, QueryError> {
    let location = table.object_path(path)?;
    match table.store().object_store().head(&location).await {
        Ok(meta) => Ok(Some(meta.size)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => {
            let message = format!("cannot look up segment {location}: {error}");
            Err(QueryError::new(QueryErrorKind::Unavailable, message))
        }
    }
}

/// The day in `date=2026-01-31/…`: a removal tells nothing but the path.
fn day_in(path: &str) -> Option<i32> {
    let folder = path.split('/').find_map(|folder| folder.strip_prefix(DATE)?.strip_prefix('='))?;
    let date: NaiveDate = folder.parse().ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_stands_in_the_path() {
        assert_eq!(day_in("date=1970-01-02/part-1.parquet"), Some(1));
        assert_eq!(day_in("date=1969-12-31/part-1.parquet"), Some(-1));
        for other in ["part-1.parquet", "date=__HIVE_DEFAULT_PARTITION__/a.parquet", "update=1970-01-02/a.parquet"] {
            assert_eq!(day_in(other), None, "{other}");
        }
    }
}
