//! The three formats tell the same, and each keeps its own rules.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use spanlake_ingest::{IngestStats, SignalStats};
use spanlake_query::QueryStats;
use spanlake_storage::{LakeStats, PromotionStats};

use super::distribution::{Distribution, Measure};
use super::page::{Family, Kind, Series, Value};
use super::protobuf::{MetricFamily, MetricType};
use super::text::Flavour;
use super::{Figures, Format, render, write};

/// A series' name and its labels, `le` as a number's shortest text.
type Key = (String, BTreeMap<String, String>);

fn key(name: &str, labels: &[(&str, &str)]) -> Key {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    (name.to_owned(), labels.collect())
}

fn bound(text: &str) -> String {
    text.parse::<f64>().expect("a bound is a number").to_string()
}

/// One line, taken apart as its grammar says.
fn sample(line: &str) -> (Key, f64) {
    let name: String = line.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
    let mut rest = &line[name.len()..];
    let mut labels = BTreeMap::new();
    while let Some(more) = rest.strip_prefix(['{', ',']) {
        let (label, after) = more.split_once("=\"").expect("a label has a value");
        let (mut value, mut characters) = (String::new(), after.char_indices());
        let end = loop {
            match characters.next().expect("a value ends") {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next().expect("something is escaped").1 {
                    'n' => '\n',
                    quoted @ ('\\' | '"') => quoted,
                    other => panic!("{other} needs no escape: {line}"),
                }),
                (_, character) => value.push(character),
            }
        };
        let value = if label == "le" { bound(&value) } else { value };
        assert!(labels.insert(label.to_owned(), value).is_none(), "{label} stands twice in {line}");
        rest = &after[end + 1..];
    }
    let value = rest.trim_start_matches('}').strip_prefix(' ').unwrap_or_else(|| panic!("{line} has a value"));
    ((name, labels), value.parse().unwrap_or_else(|_| panic!("{line} has a number")))
}

/// Reads a page as a scraper does: every sample belongs to the family announced before it, names follow the format's rules, no series
/// and no family comes twice.
fn parse(page: &str, flavour: Flavour) -> BTreeMap<Key, f64> {
    let is_open = flavour == Flavour::OpenMetrics;
    let page = if is_open { page.strip_suffix("# EOF\n").expect("ends with EOF") } else { page };
    let (mut series, mut families) = (BTreeMap::new(), BTreeSet::new());
    let (mut current, mut kind) = (String::new(), String::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split_once(' ').expect("has a help text").0.to_owned();
            assert!(families.insert(current.clone()), "{current} comes twice");
        } else if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, said) = line.split_once(' ').expect("has a type");
            assert_eq!(name, current);
            said.clone_into(&mut kind);
        } else if let Some(line) = line.strip_prefix("# UNIT ") {
            let (name, unit) = line.split_once(' ').expect("has a unit");
            assert!(is_open && name == current && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (key, value) = sample(line);
            let suffixes: &[&str] = match (kind.as_str(), is_open) {
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                ("counter", true) => &["_total"],
                ("counter" | "gauge", _) => &[""],
                (other, _) => panic!("{other} is no type"),
            };
            let suffix = key.0.strip_prefix(&current).unwrap_or_else(|| panic!("{line} stands below {current}"));
            assert!(suffixes.contains(&suffix), "{line} is a {kind}");
            assert_eq!(kind == "counter", key.0.ends_with("_total"), "{line}");
            assert!(series.insert(key, value).is_none(), "{line} comes twice");
        }
    }
    series
}

fn messages(mut bytes: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !bytes.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut bytes).expect("a message"));
    }
    families
}

/// The series that a text page would have for these messages.
fn flattened(families: &[MetricFamily]) -> BTreeMap<Key, f64> {
    let mut series = BTreeMap::new();
    let mut add = |name: String, labels: &BTreeMap<String, String>, le: Option<f64>, value: f64| {
        let le = le.map(|bound| ("le".to_owned(), bound.to_string()));
        let labels = labels.clone().into_iter().chain(le).collect();
        assert!(series.insert((name, labels), value).is_none(), "a series comes twice");
    };
    for family in families {
        let name = family.name().to_owned();
        for metric in &family.metric {
            let labels = metric.label.iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
            match family.r#type() {
                MetricType::Counter => add(name.clone(), &labels, None, metric.counter.clone().unwrap().value()),
                MetricType::Gauge => add(name.clone(), &labels, None, metric.gauge.clone().unwrap().value()),
                MetricType::Histogram => {
                    let histogram = metric.histogram.clone().expect("a histogram");
                    for bucket in &histogram.bucket {
                        let count = bucket.cumulative_count() as f64;
                        add(format!("{name}_bucket"), &labels, Some(bucket.upper_bound()), count);
                    }
                    let count = histogram.sample_count() as f64;
                    add(format!("{name}_bucket"), &labels, Some(f64::INFINITY), count);
                    add(format!("{name}_sum"), &labels, None, histogram.sample_sum());
                    add(format!("{name}_count"), &labels, None, count);
                }
            }
        }
    }
    series
}

fn figures() -> Figures {
    Figures {
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
                policy_values_total: vec![("drop \"a\\b\"\n".to_owned(), 4)],
                ..IngestStats::default()
            },
            LakeStats {
                last_flush_error: Some("gone".to_owned()),
                retry_forgotten_total: 8,
                promotion: PromotionStats {
                    conflicts: BTreeMap::from([("customer_tier".to_owned(), 4)]),
                    unnamed: 3,
                    ..PromotionStats::default()
                },
                ..LakeStats::default()
            },
            QueryStats {
                duration_seconds_buckets: vec![(0.1, 2), (1.0, 3), (f64::INFINITY, 4)],
                duration_seconds_sum: 20.5,
                ..QueryStats::default()
            },
        )),
    }
}

/// A histogram in both shapes and a counter, whose labels hold all that has to be escaped.
fn awkward() -> Vec<Family> {
    let labels: std::sync::Arc<[_]> =
        [("model", "a\\b\"c\"\nd\\n{e=\"f\",g} ü".to_owned()), ("service_name", String::new())].into();
    let mut distribution = Distribution::new(Measure { decimal_places: 3, bounds: &[1, 1_000, 1_048_576_000] });
    distribution.add_all(&[0, 1, 2, 1_000, 1_001, i64::MAX]);
    let histogram = Value::Histogram(Box::new(distribution.value()));
    let empty = Value::Histogram(Box::new(Distribution::new(Measure { decimal_places: 0, bounds: &[1] }).value()));
    let one = |value| vec![Series { labels: labels.clone(), value }];
    vec![
        Family { series: one(histogram), ..Family::new("odd_seconds", Kind::Histogram, "Help \\ of\ntwo \"lines\".") },
        Family { series: one(empty), ..Family::new("none_tokens", Kind::Histogram, "Empty.") },
        Family { series: one(Value::Number(1.5e-7)), ..Family::new("odd_usd_total", Kind::Counter, "Odd.") },
        Family { series: one(Value::Number(f64::INFINITY)), ..Family::new("odd", Kind::Gauge, "Odd.") },
        Family::new("nothing_total", Kind::Counter, "No series."),
    ]
}

/// Guarantee: every series of a page is in all three formats, with the same labels and the same number.
#[test]
fn all_formats_tell_the_same() {
    let mut families = figures().families();
    families.extend(awkward());
    let text = String::from_utf8(write(Format::Text, &families)).expect("text");
    let open = String::from_utf8(write(Format::OpenMetrics, &families)).expect("text");
    let told = parse(&text, Flavour::Prometheus);
    assert_eq!(parse(&open, Flavour::OpenMetrics), told);
    assert_eq!(flattened(&messages(&write(Format::Protobuf, &families))), told);

    let labels = [("model", "a\\b\"c\"\nd\\n{e=\"f\",g} ü"), ("service_name", "")];
    let with = |le: &'static str| [&labels[..], &[("le", le)]].concat();
    assert_eq!(told[&key("odd_usd_total", &labels)], 1.5e-7);
    assert_eq!(told[&key("odd", &labels)], f64::INFINITY);
    let counts = ["0.001", "1", "1048576", "inf"].map(|le| told[&key("odd_seconds_bucket", &with(le))]);
    assert_eq!(counts, [2.0, 4.0, 5.0, 6.0]);
    assert!(text.contains("# HELP odd_seconds Help \\\\ of\\ntwo \"lines\".\n"), "{text}");
    assert!(open.contains("# HELP odd_seconds Help \\\\ of\\ntwo \\\"lines\\\".\n"), "{open}");
    assert!(open.contains("# TYPE odd_usd counter\n# UNIT odd_usd usd\n"), "{open}");
}

/// Guarantee: exponential buckets arrive as they were, and an empty histogram is known for one that has such.
#[test]
fn exponential_buckets_travel_in_protobuf() {
    let families = awkward();
    let messages = messages(&write(Format::Protobuf, &families));
    assert_eq!(messages.len(), families.len() - 1, "a family without series is no message");
    let read = |at: usize| messages[at].metric[0].histogram.clone().expect("a histogram");
    let buckets = |spans: &[super::protobuf::BucketSpan], deltas: &[i64]| spanlake_metrics::NativeBuckets {
        spans: spans
            .iter()
            .map(|span| spanlake_metrics::NativeSpan { offset: span.offset(), length: span.length() })
            .collect(),
        deltas: deltas.to_vec(),
    };
    let histogram = read(0);
    let native = spanlake_metrics::NativeHistogram {
        schema: histogram.schema(),
        count: histogram.sample_count(),
        sum: histogram.sample_sum(),
        zero_threshold: histogram.zero_threshold(),
        zero_count: histogram.zero_count(),
        positive: buckets(&histogram.positive_span, &histogram.positive_delta),
        negative: buckets(&histogram.negative_span, &histogram.negative_delta),
    };
    let back = spanlake_metrics::Histogram::from_native(&native).expect("a native histogram");
    let Value::Histogram(sent) = &families[0].series[0].value else { panic!("a histogram was sent") };
    let sent = sent.exponential.as_ref().expect("with exponential buckets");
    assert!((-4..=8).contains(&native.schema));
    assert_eq!(back.buckets().collect::<Vec<_>>(), sent.buckets().collect::<Vec<_>>());
    assert_eq!((back.count(), back.zero_count(), back.sum()), (6, 1, sent.sum()));

    let empty = read(1);
    assert_eq!((empty.sample_count(), empty.positive_span.len(), empty.positive_delta.len()), (0, 1, 0));
    assert_eq!(empty.positive_span[0].length(), 0);
}

#[test]
fn a_scraper_reads_every_figure() {
    let page = String::from_utf8(render(Format::Text, &figures(), None)).expect("text");
    let series = parse(&page, Flavour::Prometheus);
    for (name, labels, value) in [
        ("spanlake_build_info", &[("version", "1.2.3 \"x\"")][..], 1.0),
        ("spanlake_ready", &[], 1.0),
        ("spanlake_process_resident_memory_bytes", &[], 42.0),
        ("spanlake_otlp_answers_total", &[("transport", "http"), ("code", "429")], 1.0),
        ("spanlake_ingest_requests_total", &[("signal", "logs")], 2.0),
        ("spanlake_ingest_stored_spans_total", &[], 11.0),
        ("spanlake_ingest_duplicate_spans_total", &[], 9.0),
        ("spanlake_retry_forgotten_total", &[], 8.0),
        ("spanlake_promotion_conflicts_total", &[("column", "customer_tier")], 4.0),
        ("spanlake_promotion_skipped_values_total", &[("reason", "name")], 3.0),
        ("spanlake_ingest_stored_metric_points_total", &[], 12.0),
        ("spanlake_ingest_stored_log_records_total", &[], 13.0),
        ("spanlake_ingest_refused_requests_total", &[("reason", "malformed")], 3.0),
        ("spanlake_policy_values_total", &[("rule", "drop \"a\\b\"\n")], 4.0),
        ("spanlake_flush_failing", &[], 1.0),
        ("spanlake_query_duration_seconds_bucket", &[("le", "0.1")], 2.0),
        ("spanlake_query_duration_seconds_bucket", &[("le", "1")], 5.0),
        ("spanlake_query_duration_seconds_bucket", &[("le", "inf")], 9.0),
        ("spanlake_query_duration_seconds_count", &[], 9.0),
        ("spanlake_query_duration_seconds_sum", &[], 20.5),
    ] {
        assert_eq!(series.get(&key(name, labels)), Some(&value), "{name} {labels:?}: {page}");
    }
    assert!(page.contains("\nspanlake_query_duration_seconds_bucket{le=\"+Inf\"} 9\n"), "{page}");
}

#[test]
fn before_replay_is_done_the_process_shows_itself() {
    let page = render(Format::Text, &Figures { version: "1", ..Figures::default() }, None);
    let series = parse(std::str::from_utf8(&page).expect("text"), Flavour::Prometheus);
    assert_eq!(series[&key("spanlake_ready", &[])], 0.0);
    assert!(!series.contains_key(&key("spanlake_hot_rows", &[])));
}
