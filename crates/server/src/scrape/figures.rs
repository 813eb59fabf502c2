//! The server's own figures.

use std::borrow::Cow;
use std::collections::BTreeMap;

use spanlake_ingest::{IngestStats, Signal};
use spanlake_query::QueryStats;
use spanlake_storage::{LakeStats, PromotionStats};

use crate::scrape::distribution::running;
use crate::scrape::page::{Family, HistogramValue, Kind, Label, Series, Value};

/// Everything that is shown, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) version: &'static str,
    pub(crate) is_ready: bool,
    pub(crate) uptime_seconds: f64,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) body_bytes: u64,
    /// Answers of the OTLP listeners by transport and status code.
    pub(crate) answers: BTreeMap<(&'static str, u16), u64>,
    /// Absent until replay is done.
    pub(crate) services: Option<(IngestStats, LakeStats, QueryStats)>,
}

impl Figures {
    /// All of them.
    pub(crate) fn families(&self) -> Vec<Family> {
        let mut page = Page::default();
        page.family("spanlake_build_info", Kind::Gauge, "The version of this program, as a label.");
        page.sample(&[("version", self.version)], 1u8);
        let help = "1 once replay is done and until shutdown begins.";
        page.gauge("spanlake_ready", help, u8::from(self.is_ready));
        page.gauge("spanlake_uptime_seconds", "Seconds since the process started.", self.uptime_seconds);
        if let Some(bytes) = self.resident_bytes {
            page.gauge("spanlake_process_resident_memory_bytes", "Resident memory of the process.", bytes);
        }
        page.gauge("spanlake_otlp_body_bytes", "Bytes of OTLP bodies being received or worked on.", self.body_bytes);
        let help = "Answers of the OTLP listeners by transport and status code.";
        page.family("spanlake_otlp_answers_total", Kind::Counter, help);
        for ((transport, code), count) in &self.answers {
            page.sample(&[("transport", *transport), ("code", &code.to_string())], *count);
        }
        if let Some((ingest, lake, query)) = &self.services {
            page.ingest(ingest);
            page.lake(lake);
            page.retries(ingest, lake);
            page.promotion(&lake.promotion);
            page.query(query);
        }
        page.families
    }
}

/// A number as scrapers take it: a double, which holds integers up to 2^53 exactly.
trait Number {
    fn number(self) -> f64;
}

impl Number for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Number for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Number for u8 {
    fn number(self) -> f64 {
        f64::from(self)
    }
}

#[derive(Debug, Default)]
struct Page {
    families: Vec<Family>,
}

impl Page {
    fn family(&mut self, name: impl Into<Cow<'static, str>>, kind: Kind, help: impl Into<Cow<'static, str>>) {
        self.families.push(Family::new(name, kind, help));
    }

    /// A series of the family begun last.
    fn sample(&mut self, labels: &[(&'static str, &str)], value: impl Number) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<Label>>();
        let series = Series { labels: labels.into(), value: Value::Number(value.number()) };
        self.families.last_mut().expect("invariant: a family is begun before its series").series.push(series);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Number) {
        self.family(name, Kind::Gauge, help);
        self.sample(&[], value);
    }

    fn counter(&mut self, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>, value: impl Number) {
        self.family(name, Kind::Counter, help);
        self.sample(&[], value);
    }

    fn ingest(&mut self, stats: &IngestStats) {
        self.family("spanlake_ingest_requests_total", Kind::Counter, "Export requests that came, by signal.");
        for signal in Signal::ALL {
            let count = stats.signal(signal).requests_total;
            self.sample(&[("signal", signal.name())], count);
        }
        self.counter("spanlake_ingest_received_bytes_total", "Bytes of bodies as sent.", stats.received_bytes_total);
        let help = "Bytes of bodies after decompression.";
        self.counter("spanlake_ingest_decompressed_bytes_total", help, stats.decompressed_bytes_total);
        for signal in Signal::ALL {
            let (items, counts) = (signal.items(), stats.signal(signal));
            let words = items.replace('_', " ");
            for (verb, help, count) in [
                ("received", format!("Decoded {words}."), counts.received_total),
                ("refused", format!("By partial success refused {words}."), counts.refused_total),
                ("stored", format!("Durably stored {words}."), counts.stored_total),
                ("duplicate", format!("Stored before and sent again {words}."), counts.duplicate_total),
            ] {
                self.counter(format!("spanlake_ingest_{verb}_{items}_total"), help, count);
            }
        }
        let name = "spanlake_ingest_refused_requests_total";
        self.family(name, Kind::Counter, "Export requests refused whole, by reason.");
        for (reason, count) in [
            ("malformed", stats.malformed_requests_total),
            ("too_large", stats.too_large_requests_total),
            ("overloaded", stats.overloaded_requests_total),
            ("unavailable", stats.unavailable_requests_total),
        ] {
            self.sample(&[("reason", reason)], count);
        }
        self.gauge("spanlake_ingest_in_flight_bytes", "Bytes of requests in flight.", stats.in_flight_bytes);
        let help = "Strings whose invalid UTF-8 was repaired.";
        self.counter("spanlake_ingest_repaired_strings_total", help, stats.repaired_strings_total);
        let help = "Attributes that a rule could not read because of their type.";
        self.counter("spanlake_ingest_type_conflicts_total", help, stats.type_conflicts_total);
        let help = "LLM calls stored without a cost because no price is known.";
        self.counter("spanlake_ingest_unpriced_calls_total", help, stats.unpriced_calls_total);
        let help = "Values that a rule of the attribute policy changed or dropped.";
        self.family("spanlake_policy_values_total", Kind::Counter, help);
        for (rule, values) in &stats.policy_values_total {
            self.sample(&[("rule", rule)], *values);
        }
        let help = "Time spent decompressing and decoding.";
        self.counter("spanlake_ingest_walk_seconds_total", help, stats.walk_seconds_total);
    }

    fn lake(&mut self, stats: &LakeStats) {
        self.gauge("spanlake_hot_rows", "Rows in memory that wait for their flush.", stats.hot_rows);
        self.gauge("spanlake_hot_bytes", "Bytes of rows in memory that wait for their flush.", stats.hot_bytes);
        let help = "Rows in spill files that wait for their flush, because memory had no room for them.";
        self.gauge("spanlake_spilled_rows", help, stats.spilled_rows);
        self.gauge("spanlake_spilled_bytes", "Bytes of spill files.", stats.spilled_bytes);
        self.counter("spanlake_spills_total", "Times that rows went to spill files.", stats.spills_total);
        let help = "Times that rows could not go to a spill file, and stayed in memory.";
        self.counter("spanlake_spill_failures_total", help, stats.spill_failures_total);
        self.gauge("spanlake_wal_bytes", "Bytes of write-ahead log not yet freed.", stats.wal_bytes);
        self.counter("spanlake_wal_frames_total", "Frames written to the log and synced.", stats.wal_frames_total);
        self.counter("spanlake_wal_syncs_total", "Syncs of the log.", stats.wal_syncs_total);
        self.counter(
            "spanlake_wal_sync_seconds_total",
            "Time spent in syncs of the log.",
            stats.wal_sync_seconds_total,
        );
        let help =
            "Requests of the log that were acknowledged and could not be read any more: see `spanlake wal inspect`.";
        self.counter("spanlake_wal_lost_positions_total", help, stats.wal_lost_positions_total);
        self.gauge("spanlake_wal_position", "The last durable position of the log.", stats.position);
        let help = "The position of the log that every table has committed.";
        self.gauge("spanlake_wal_committed_position", help, stats.committed_position);
        self.counter("spanlake_flushes_total", "Flushes that ended well.", stats.flushes_total);
        let help = "Flushes that failed and are tried again.";
        self.counter("spanlake_flush_failures_total", help, stats.flush_failures_total);
        let help = "1 while the last flush failed.";
        self.gauge("spanlake_flush_failing", help, u8::from(stats.last_flush_error.is_some()));
        let help = "Time spent encoding and writing segments.";
        self.counter("spanlake_flush_seconds_total", help, stats.flush_seconds_total);
        self.counter("spanlake_commit_seconds_total", "Time spent in commits.", stats.commit_seconds_total);
        self.counter("spanlake_committed_rows_total", "Rows committed to tables.", stats.committed_rows_total);
        let help = "Bytes of segments committed to tables.";
        self.counter("spanlake_committed_bytes_total", help, stats.committed_bytes_total);
    }

    fn retries(&mut self, ingest: &IngestStats, lake: &LakeStats) {
        let help = "Requests that were stored before and came again; nothing of them is stored twice.";
        self.counter("spanlake_ingest_duplicate_requests_total", help, ingest.duplicate_requests_total);
        let help = "Requests that stored nothing and are not in the ledger either, for want of memory or log.";
        self.counter("spanlake_ledger_unlogged_requests_total", help, ingest.unlogged_requests_total);
        let help = "Memory for what recent requests told of calls.";
        self.gauge("spanlake_trace_memory_bytes", help, ingest.trace_memory_bytes);
        let help = "Traces left unsettled for want of that memory.";
        self.counter("spanlake_unsettled_traces_total", help, ingest.unsettled_traces_total);
        let help = "Requests that would be known if they came again.";
        self.gauge("spanlake_retry_requests", help, lake.retry_requests);
        self.gauge("spanlake_retry_bytes", "Memory for known requests, at worst.", lake.retry_bytes);
        let help = "Requests forgotten before retry_window ended, for want of memory.";
        self.counter("spanlake_retry_forgotten_total", help, lake.retry_forgotten_total);
    }

    fn promotion(&mut self, stats: &PromotionStats) {
        let help = "Values of another type than their promoted column, which stand in the map alone.";
        self.family("spanlake_promotion_conflicts_total", Kind::Counter, help);
        for (column, count) in &stats.conflicts {
            self.sample(&[("column", column)], *count);
        }
        let help = "Values of attributes on the list of promoted ones that got no column: type, name or limit.";
        self.family("spanlake_promotion_skipped_values_total", Kind::Counter, help);
        for (reason, count) in [("type", stats.untyped), ("name", stats.unnamed), ("limit", stats.beyond_limit)] {
            self.sample(&[("reason", reason)], count);
        }
    }

    fn query(&mut self, stats: &QueryStats) {
        self.family("spanlake_queries_total", Kind::Counter, "Queries that ended, by outcome.");
        for (outcome, count) in [
            ("succeeded", stats.succeeded_total),
            ("failed", stats.failed_total),
            ("forbidden", stats.forbidden_total),
            ("cancelled", stats.cancelled_total),
        ] {
            self.sample(&[("outcome", outcome)], count);
        }
        self.gauge("spanlake_queries_running", "Queries running now.", stats.running);
        self.gauge("spanlake_query_memory_bytes", "Memory of running queries.", stats.memory_bytes);
        self.family("spanlake_query_duration_seconds", Kind::Histogram, "How long queries took.");
        let counts: Vec<u64> = stats.duration_seconds_buckets.iter().map(|(_, count)| *count).collect();
        let bounds = stats.duration_seconds_buckets.iter().map(|(bound, _)| *bound);
        let histogram = HistogramValue {
            buckets: bounds.zip(running(&counts)).filter(|(bound, _)| bound.is_finite()).collect(),
            count: counts.iter().sum(),
            sum: stats.duration_seconds_sum,
            exponential: None,
        };
        let series = Series { labels: Vec::new().into(), value: Value::Histogram(Box::new(histogram)) };
        self.families.last_mut().expect("invariant: the family is begun above").series.push(series);
    }
}
