//! The settling pass: reads back traces that the memory of ingest cannot settle alone.
//!
//! After a start that is what arrived lately, since the memory begins empty and a crash may have parted a request from the
//! corrections that follow from it. From then on it is traces of which more comes after they were forgotten. Findings are logged
//! like requests, so that each is recorded exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use spanlake_ingest::{RECALLED, TRACE_WINDOW, TraceOf};
use spanlake_query::TraceSelection;
use spanlake_schema::{Ambient, DEFAULT_TENANT};

use crate::gate::{Gate, Services};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Traces that are read back at once.
const TRACES_MAX: usize = 512;
/// Rows that are settled at once; a trace is never cut.
const ROWS_MAX: usize = 65_536;
/// How far back the last arrival before a start is looked for.
const LOOK_BACK: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Works until it is dropped. The gate has to be open.
pub(crate) async fn run(gate: Arc<Gate>, ambient: Arc<dyn Ambient>) {
    let Ok(services) = gate.services() else { return };
    while let Err(error) = recall_recent(services, ambient.now_unix_micro()).await {
        tracing::warn!(%error, "cannot settle what arrived before the start, trying again");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    loop {
        tokio::time::sleep(PAUSE).await;
        services.ingest.log_waiting_corrections().await;
        let mut by_tenant: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for trace in services.ingest.take_doubtful_traces() {
            by_tenant.entry(trace.tenant).or_default().push(trace.trace_id);
        }
        let mut has_failed = false;
        for (tenant, ids) in by_tenant {
            for ids in ids.chunks(TRACES_MAX) {
                let selection = TraceSelection::Ids(ids.to_vec());
                if let Err(error) = recall(services, &tenant, &selection).await {
                    tracing::warn!(%error, "cannot settle traces, trying again");
                    let trace = |id: &String| TraceOf { tenant: tenant.clone(), trace_id: id.clone() };
                    services.ingest.doubt(ids.iter().map(trace).collect());
                    has_failed = true;
                }
            }
        }
        if has_failed {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// Settles what arrived in the last hour before the last arrival.
async fn recall_recent(services: &Services, now_micros: i64) -> anyhow::Result<()> {
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let last = services.engine.last_arrival(DEFAULT_TENANT, now_micros - micros(LOOK_BACK)).await?;
    let Some(last) = last else { return Ok(()) };
    let selection = TraceSelection::Received(last - micros(TRACE_WINDOW)..last.saturating_add(1));
    let found = recall(services, DEFAULT_TENANT, &selection).await?;
    tracing::debug!(corrections = found, "settled what arrived before the start");
    Ok(())
}

/// Reads traces back and settles them; returns how many rows were corrected.
async fn recall(services: &Services, tenant: &str, selection: &TraceSelection) -> anyhow::Result<usize> {
    let mut stream = services.engine.trace_spans(tenant, RECALLED, selection).await?;
    let (mut whole, mut rows, mut found) = (Vec::new(), 0, 0);
    while let Some(batch) = stream.try_next().await? {
        rows += batch.num_rows();
        whole.push(batch);
        if rows >= ROWS_MAX
            && let Some(rest) = cut_last_trace(&mut whole)
        {
            found += services.ingest.recall(tenant, &whole).await?;
            (whole, rows) = (vec![rest.clone()], rest.num_rows());
        }
    }
    Ok(found + services.ingest.recall(tenant, &whole).await?)
}

/// Takes the rows of the last trace off the last batch; `None` where that has rows of no other trace.
fn cut_last_trace(whole: &mut Vec<RecordBatch>) -> Option<RecordBatch> {
    let last = whole.pop()?;
    let ids = last.column_by_name("trace_id")?.as_string_opt::<i32>()?;
    let same = |row: &usize| ids.value(*row) == ids.value(last.num_rows() - 1);
    let start = last.num_rows() - (0..last.num_rows()).rev().take_while(same).count();
    if start == 0 {
        whole.push(last);
        return None;
    }
    whole.push(last.slice(0, start));
    Some(last.slice(start, last.num_rows() - start))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn batch(ids: &[&str]) -> RecordBatch {
        let ids: ArrayRef = Arc::new(StringArray::from(ids.to_vec()));
        RecordBatch::try_from_iter([("trace_id", ids)]).expect("a batch")
    }

    #[test]
    fn a_trace_is_not_cut() {
        let mut whole = vec![batch(&["a", "a"]), batch(&["a", "b", "c", "c"])];
        let rest = cut_last_trace(&mut whole).expect("other traces before it");
        assert_eq!((rest.num_rows(), whole[1].num_rows()), (2, 2));
        let mut whole = vec![batch(&["a"]), batch(&["b", "b"])];
        assert!(cut_last_trace(&mut whole).is_none());
        assert_eq!(whole.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }
}
