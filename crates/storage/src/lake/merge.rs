//! Making small neighbours of hot batches one.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::compute::concat_batches;

use super::hot::{DATES_MAX, HotBatch};
use super::meter::Meter;
use crate::{Error, ErrorKind, Result};

/// This many adjacent small batches are merged into one.
pub(super) const MERGE_BATCHES: usize = 32;
/// What counts as small, by turns: a row is copied at most once for each of these. The 512 spans that SDKs send at once
/// are not small: copying them again would cost as much as reading them did.
const MERGE_TIERS_ROWS: [usize; 2] = [32, 256];
/// A merged batch is closed at this many rows or bytes.
const MERGED_ROWS: usize = 8192;
const MERGED_BYTES: u64 = 16 << 20;

/// Small neighbours, to be made one batch.
#[derive(Debug)]
pub(super) struct MergeRun {
    pub(super) tenant: String,
    pub(super) table: &'static str,
    pub(super) batches: Vec<Arc<HotBatch>>,
}

impl MergeRun {
    /// CPU work: copies the rows of the run into one batch.
    pub(super) fn merge(&self) -> Result<HotBatch> {
        let [front, .., back] = self.batches.as_slice() else {
            return Err(Error::new(ErrorKind::Invalid, "a merge of hot batches needs several"));
        };
        let batch = concat_batches(front.batch.schema_ref(), self.batches.iter().map(|hot| &hot.batch));
        let batch = batch.map_err(|error| {
            let message = format!("cannot merge hot batches of table {}/{}", self.tenant, self.table);
            Error::new(ErrorKind::Invalid, message).with_source(error)
        })?;
        let dates: BTreeSet<i32> = self.batches.iter().flat_map(|hot| hot.dates.iter().copied()).collect();
        let bytes = Meter::default().batch_bytes(&batch);
        Ok(HotBatch { first: front.first, last: back.last, batch, bytes, dates: dates.into_iter().collect() })
    }
}

/// The first run of small batches that is long enough.
pub(super) fn small_run<'a>(batches: impl Iterator<Item = &'a Arc<HotBatch>> + Clone) -> Option<Vec<Arc<HotBatch>>> {
    MERGE_TIERS_ROWS.iter().find_map(|tier_rows| {
        let mut run = Run::default();
        for batch in batches.clone() {
            if !run.takes(batch, *tier_rows) {
                if run.batches.len() >= MERGE_BATCHES {
                    break;
                }
                run = Run::default();
                if !run.takes(batch, *tier_rows) {
                    continue;
                }
            }
            run.add(batch);
        }
        (run.batches.len() >= MERGE_BATCHES).then_some(run.batches)
    })
}

#[derive(Default)]
struct Run {
    batches: Vec<Arc<HotBatch>>,
    dates: BTreeSet<i32>,
    rows: usize,
    bytes: u64,
}

impl Run {
    fn takes(&self, batch: &HotBatch, tier_rows: usize) -> bool {
        let new_dates = batch.dates.iter().filter(|date| !self.dates.contains(date)).count();
        batch.batch.num_rows() < tier_rows
            && self.rows + batch.batch.num_rows() <= MERGED_ROWS
            && self.bytes + batch.bytes <= MERGED_BYTES
            && self.dates.len() + new_dates <= DATES_MAX
    }

    fn add(&mut self, batch: &Arc<HotBatch>) {
        self.rows += batch.batch.num_rows();
        self.bytes += batch.bytes;
        self.dates.extend(&batch.dates);
        self.batches.push(Arc::clone(batch));
    }
}
