//! `/metrics`: Prometheus text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use spanlake_ingest::{IngestStats, Signal};
use spanlake_query::QueryStats;
use spanlake_storage::LakeStats;

/// The content type of this format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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

/// The whole page.
pub(crate) fn render(figures: &Figures) -> String {
    let mut page = Page::default();
    let build = [("version", figures.version)];
    page.family("spanlake_build_info", "gauge", "The version of this program, as a label.");
    page.sample("spanlake_build_info", &build, 1);
    page.gauge("spanlake_ready", "1 once replay is done and until shutdown begins.", u8::from(figures.is_ready));
    page.gauge("spanlake_uptime_seconds", "Seconds since the process started.", figures.uptime_seconds);
    if let Some(bytes) = figures.resident_bytes {
        page.gauge("spanlake_process_resident_memory_bytes", "Resident memory of the process.", bytes);
    }
    page.gauge("spanlake_otlp_body_bytes", "Bytes of OTLP bodies being received or worked on.", figures.body_bytes);
    page.family(
        "spanlake_otlp_answers_total",
        "counter",
        "Answers of the OTLP listeners by transport and status code.",
    );
    for ((transport, code), count) in &figures.answers {
        let code = code.to_string();
        page.sample("spanlake_otlp_answers_total", &[("transport", *transport), ("code", &code)], count);
    }
    if let Some((ingest, lake, query)) = &figures.services {
        page.ingest(ingest);
        page.lake(lake);
        page.retries(ingest, lake);
        page.query(query);
    }
    page.text
}

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, content)) in labels.iter().enumerate() {
            let content = content.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{content}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn ingest(&mut self, stats: &IngestStats) {
        self.family("spanlake_ingest_requests_total", "counter", "Export requests that came, by signal.");
        for signal in Signal::ALL {
            let count = stats.signal(signal).requests_total;
            self.sample("spanlake_ingest_requests_total", &[("signal", signal.name())], count);
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
                self.counter(&format!("spanlake_ingest_{verb}_{items}_total"), &help, count);
            }
        }
        let name = "spanlake_ingest_refused_requests_total";
        self.family(name, "counter", "Export requests refused whole, by reason.");
        for (reason, count) in [
            ("malformed", stats.malformed_requests_total),
            ("too_large", stats.too_large_requests_total),
            ("overloaded", stats.overloaded_requests_total),
            ("unavailable", stats.unavailable_requests_total),
        ] {
            self.sample(name, &[("reason", reason)], count);
        }
        self.gauge("spanlake_ingest_in_flight_bytes", "Bytes of requests in flight.", stats.in_flight_bytes);
        let help = "Strings whose invalid UTF-8 was repaired.";
        self.counter("spanlake_ingest_repaired_strings_total", help, stats.repaired_strings_total);
        let help = "Attributes that a rule could not read because of their type.";
        self.counter("spanlake_ingest_type_conflicts_total", help, stats.type_conflicts_total);
        let help = "LLM calls stored without a cost because no price is known.";
        self.counter("spanlake_ingest_unpriced_calls_total", help, stats.unpriced_calls_total);
        let help = "Values that a rule of the attribute policy changed or dropped.";
        self.family("spanlake_policy_values_total", "counter", help);
        for (rule, values) in &stats.policy_values_total {
            let rule = rule.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.sample("spanlake_policy_values_total", &[("rule", &rule)], values);
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

    fn query(&mut self, stats: &QueryStats) {
        self.family("spanlake_queries_total", "counter", "Queries that ended, by outcome.");
        for (outcome, count) in [
            ("succeeded", stats.succeeded_total),
            ("failed", stats.failed_total),
            ("forbidden", stats.forbidden_total),
            ("cancelled", stats.cancelled_total),
        ] {
            self.sample("spanlake_queries_total", &[("outcome", outcome)], count);
        }
        self.gauge("spanlake_queries_running", "Queries running now.", stats.running);
        self.gauge("spanlake_query_memory_bytes", "Memory of running queries.", stats.memory_bytes);
        let name = "spanlake_query_duration_seconds";
        self.family(name, "histogram", "How long queries took.");
        let mut below = 0;
        for (bound, count) in &stats.duration_seconds_buckets {
            below += count;
            // The infinite bucket is written below, so that it is there even without any other.
            if bound.is_finite() {
                self.sample(&format!("{name}_bucket"), &[("le", &bound.to_string())], below);
            }
        }
        self.sample(&format!("{name}_bucket"), &[("le", "+Inf")], below);
        self.sample(&format!("{name}_sum"), &[], stats.duration_seconds_sum);
        self.sample(&format!("{name}_count"), &[], below);
    }
}

#[cfg(test)]
mod tests {
    use spanlake_ingest::SignalStats;

    use super::*;

    /// Reads the page as a scraper does: every sample belongs to the family announced before it, names are legal, values
    /// are numbers, no series comes twice.
    fn parse(page: &str) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        let mut families = BTreeMap::new();
        let mut current = String::new();
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                current = help.split_once(' ').expect("has a help text").0.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("has a type");
                assert_eq!(name, current);
                assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            } else {
                let (key, value) = line.rsplit_once(' ').expect("is a sample");
                let name = key.split('{').next().expect("has a name");
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
                let base = if families[&current] == "histogram" {
                    name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count")
                } else {
                    name
                };
                assert_eq!(base, current, "{line}");
                assert_eq!(name.ends_with("_total"), families[&current] == "counter", "{line}");
                let value: f64 = value.parse().expect("is a number");
                assert!(series.insert(key.to_owned(), value).is_none(), "{key} comes twice");
            }
        }
        series
    }

    #[test]
    fn a_scraper_reads_every_figure() {
        let figures = Figures {
            version: "1.2.3 \"x\"",
            is_ready: true,
            uptime_seconds: 1.5,
            resident_bytes: Some(42),
            body_bytes: 7,
            answers: BTreeMap::from([(("grpc", 0), 5), (("http", 200), 6), (("http", 429), 1)]),
            services: Some((
                IngestStats {
                    signals: std::array::from_fn(|index| SignalStats {
                        requests_total: 2,
                        stored_total: 11 + index as u64,
                        duplicate_total: 9,
                        ..SignalStats::default()
                    }),
                    malformed_requests_total: 3,
                    ..IngestStats::default()
                },
                LakeStats {
                    last_flush_error: Some("gone".to_owned()),
                    retry_forgotten_total: 8,
                    ..LakeStats::default()
                },
                QueryStats {
                    duration_seconds_buckets: vec![(0.1, 2), (1.0, 3), (f64::INFINITY, 4)],
                    duration_seconds_sum: 20.5,
                    ..QueryStats::default()
                },
            )),
        };
        let series = parse(&render(&figures));
        for (key, value) in [
            ("spanlake_build_info{version=\"1.2.3 \\\"x\\\"\"}", 1.0),
            ("spanlake_ready", 1.0),
            ("spanlake_process_resident_memory_bytes", 42.0),
            ("spanlake_otlp_answers_total{transport=\"http\",code=\"429\"}", 1.0),
            ("spanlake_ingest_requests_total{signal=\"logs\"}", 2.0),
            ("spanlake_ingest_stored_spans_total", 11.0),
            ("spanlake_ingest_duplicate_spans_total", 9.0),
            ("spanlake_retry_forgotten_total", 8.0),
            ("spanlake_ingest_stored_metric_points_total", 12.0),
            ("spanlake_ingest_stored_log_records_total", 13.0),
            ("spanlake_ingest_refused_requests_total{reason=\"malformed\"}", 3.0),
            ("spanlake_flush_failing", 1.0),
            ("spanlake_query_duration_seconds_bucket{le=\"0.1\"}", 2.0),
            ("spanlake_query_duration_seconds_bucket{le=\"1\"}", 5.0),
            ("spanlake_query_duration_seconds_bucket{le=\"+Inf\"}", 9.0),
            ("spanlake_query_duration_seconds_count", 9.0),
            ("spanlake_query_duration_seconds_sum", 20.5),
        ] {
            assert_eq!(series.get(key), Some(&value), "{key}: {series:#?}");
        }
    }

    #[test]
    fn before_replay_is_done_the_process_shows_itself() {
        let series = parse(&render(&Figures { version: "1", ..Figures::default() }));
        assert_eq!(series["spanlake_ready"], 0.0);
        assert!(!series.contains_key("spanlake_hot_rows"));
    }
}
