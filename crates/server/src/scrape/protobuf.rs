//! The protobuf format: messages `io.prometheus.client.MetricFamily`, each behind its length. It alone carries exponential buckets.
//! <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>

use prost::Message;
use spanlake_metrics::NativeBuckets;

use crate::scrape::page::{self, HistogramValue, Kind, Value};

/// The page as messages. Families without a series are left out.
pub(crate) fn write(families: &[page::Family]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for family in families.iter().filter(|family| !family.series.is_empty()) {
        MetricFamily::from(family).encode_length_delimited(&mut bytes).expect("invariant: a vector has room");
    }
    bytes
}

/// What Prometheus reads of the message; fields left out here are optional.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub(crate) r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    pub(crate) unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(crate) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(crate) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(crate) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(crate) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

/// The messages `Gauge` and `Counter`, which are alike on the wire.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(crate) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(crate) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(crate) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) negative_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "10")]
    pub(crate) negative_delta: Vec<i64>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    pub(crate) positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub(crate) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) length: Option<u32>,
}

impl From<&page::Family> for MetricFamily {
    fn from(family: &page::Family) -> Self {
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        Self {
            name: Some(family.name.to_string()),
            help: Some(family.help.to_string()),
            r#type: Some(kind.into()),
            metric: family.series.iter().map(|series| metric(family.kind, series)).collect(),
            unit: family.unit().map(str::to_owned),
        }
    }
}

fn metric(kind: Kind, series: &page::Series) -> Metric {
    let pair = |(name, value): &page::Label| LabelPair { name: Some((*name).to_owned()), value: Some(value.clone()) };
    let label = series.labels.iter().map(pair).collect();
    match &series.value {
        Value::Histogram(value) => Metric { label, histogram: Some(histogram(value)), ..Metric::default() },
        Value::Number(value) => {
            let number = Some(Number { value: Some(*value) });
            match kind {
                Kind::Counter => Metric { label, counter: number, ..Metric::default() },
                Kind::Gauge | Kind::Histogram => Metric { label, gauge: number, ..Metric::default() },
            }
        }
    }
}

fn histogram(value: &HistogramValue) -> Histogram {
    // The infinite bucket is the count; Prometheus adds it where it is missing.
    let bucket = |(bound, count): &(f64, u64)| Bucket { cumulative_count: Some(*count), upper_bound: Some(*bound) };
    let classic = Histogram {
        sample_count: Some(value.count),
        sample_sum: Some(value.sum),
        bucket: value.buckets.iter().map(bucket).collect(),
        ..Histogram::default()
    };
    let Some(exponential) = &value.exponential else { return classic };
    let native = exponential.to_native().expect("invariant: the scale is a schema, and counts fit 63 bits");
    let (negative_span, negative_delta) = buckets(native.negative);
    let (mut positive_span, positive_delta) = buckets(native.positive);
    if positive_span.is_empty() && negative_span.is_empty() {
        // A span is what tells Prometheus that there are exponential buckets at all.
        positive_span.push(BucketSpan { offset: Some(0), length: Some(0) });
    }
    Histogram {
        schema: Some(native.schema),
        zero_threshold: Some(native.zero_threshold),
        zero_count: Some(native.zero_count),
        negative_span,
        negative_delta,
        positive_span,
        positive_delta,
        ..classic
    }
}

fn buckets(native: NativeBuckets) -> (Vec<BucketSpan>, Vec<i64>) {
    let spans = native.spans.iter().map(|span| BucketSpan { offset: Some(span.offset), length: Some(span.length) });
    (spans.collect(), native.deltas)
}
