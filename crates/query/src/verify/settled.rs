//! Which minutes of a store are not settled: rows whose table was committed before or after the ledger was.
//!
//! Tables commit one after the other, and a process that dies between two commits leaves the rest to its log. The positions
//! that a writer has committed to each table tell where that is so.

use chrono::DateTime;
use spanlake_storage::{Segment, TableView};

/// From which minute on, in microseconds, rows may be missing from a signal's table, or be there before the ledger has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsettled {
    missing_from: Option<i64>,
    surplus_from: Option<i64>,
}

impl Unsettled {
    /// Compares the positions of all writers but `own`, whose log is at hand: its hot rows fill the gap.
    pub(super) fn between(ledger: &TableView, items: &TableView, own: Option<&str>) -> Self {
        let mut unsettled = Self::default();
        let writers = ledger.snapshot.transactions.keys().chain(items.snapshot.transactions.keys());
        for writer in writers.filter(|writer| is_writer(writer) && Some(writer.as_str()) != own) {
            let position = |view: &TableView| view.snapshot.transactions.get(writer).copied().unwrap_or(0);
            let (told, kept) = (position(ledger), position(items));
            if kept < told {
                earliest(&mut unsettled.missing_from, &ledger.snapshot.segments, kept, "window_start");
            } else if told < kept {
                earliest(&mut unsettled.surplus_from, &items.snapshot.segments, told, "received_time");
            }
        }
        unsettled
    }

    /// Whether a log that is not at hand explains that a minute has so many rows more, or less, than the ledger tells.
    pub(super) fn explains(&self, minute: i64, surplus_rows: i64) -> bool {
        let from = if surplus_rows < 0 { self.missing_from } else { self.surplus_from };
        from.is_some_and(|from| minute >= super::floor_minute(from))
    }
}

/// `spanlake-<writer id>-<shard>`.
fn is_writer(app_id: &str) -> bool {
    let parts = app_id.strip_prefix("spanlake-").and_then(|rest| rest.rsplit_once('-'));
    parts.is_some_and(|(writer, shard)| {
        writer.len() == 32
            && writer.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !shard.is_empty()
            && shard.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The earliest time in the segments committed beyond a position.
fn earliest(from: &mut Option<i64>, segments: &[std::sync::Arc<Segment>], beyond: i64, column: &str) {
    for segment in segments.iter().filter(|segment| position_of(segment).is_some_and(|position| position > beyond)) {
        let time = least(segment, column).unwrap_or(i64::MIN);
        *from = Some(from.map_or(time, |from| from.min(time)));
    }
}

/// A flush names its segments by the position they reach: `date=…/<20 digits>-…`.
fn position_of(segment: &Segment) -> Option<i64> {
    let name = segment.path.rsplit('/').next()?;
    let (digits, _) = name.split_once('-')?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

fn least(segment: &Segment, column: &str) -> Option<i64> {
    let text = segment.stats.as_ref()?.get("minValues")?.get(column)?.as_str()?;
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writers_of_logs_are_writers() {
        assert!(is_writer("spanlake-0123456789abcdef0123456789abcdef-0"));
        for other in [
            "spanlake-rollup-model_usage_hour",
            "spanlake-0123456789abcdef0123456789abcdef-0-copy",
            "spanlake-0123456789abcdef-0",
            "other",
        ] {
            assert!(!is_writer(other), "{other}");
        }
    }

    #[test]
    fn a_gap_explains_only_differences_of_its_own_kind_and_time() {
        let unsettled = Unsettled { missing_from: Some(90_000_000), surplus_from: None };
        assert!(unsettled.explains(60_000_000, -1), "the minute in which it begins may lack rows");
        assert!(!unsettled.explains(0, -1));
        assert!(!unsettled.explains(60_000_000, 1));
        assert!(!Unsettled::default().explains(i64::MAX, -1));
    }
}
