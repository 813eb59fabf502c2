//! Anything OTLP can say about metrics.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, number_data_point,
};

use super::arbitrary::Generator;

/// A metrics request with any field set to anything; see [`crate::arbitrary`]. Points are of every kind, with and without
/// values, buckets and bounds that do or do not fit each other, and any number of them, none included.
///
/// The same seed gives the same request. Compare requests by their encoding, because NaN is not equal to itself.
pub fn arbitrary_metrics(seed: u64) -> ExportMetricsServiceRequest {
    let mut generator = Generator::new(seed);
    let resource_metrics = generator.up_to(3, |generator| ResourceMetrics {
        resource: generator.perhaps(800, Generator::resource),
        scope_metrics: generator.up_to(3, |generator| ScopeMetrics {
            scope: generator.perhaps(800, Generator::scope),
            metrics: generator.up_to(4, Generator::metric),
            schema_url: generator.schema_url(),
        }),
        schema_url: generator.schema_url(),
    });
    ExportMetricsServiceRequest { resource_metrics }
}

/// All points of a request, each as a metric that has no other, in the order in which they are written.
pub fn points_of(request: &ExportMetricsServiceRequest) -> impl Iterator<Item = Metric> {
    let metrics = request.resource_metrics.iter().flat_map(|it| &it.scope_metrics).flat_map(|scope| &scope.metrics);
    metrics.flat_map(|metric| {
        let points = match &metric.data {
            None => Vec::new(),
            Some(Data::Gauge(it)) => one_by_one(&it.data_points, |data_points| Data::Gauge(Gauge { data_points })),
            Some(Data::Sum(it)) => one_by_one(&it.data_points, |data_points| Data::Sum(Sum { data_points, ..*it })),
            Some(Data::Histogram(it)) => {
                one_by_one(&it.data_points, |data_points| Data::Histogram(Histogram { data_points, ..*it }))
            }
            Some(Data::ExponentialHistogram(it)) => one_by_one(&it.data_points, |data_points| {
                Data::ExponentialHistogram(ExponentialHistogram { data_points, ..*it })
            }),
            Some(Data::Summary(it)) => {
                one_by_one(&it.data_points, |data_points| Data::Summary(Summary { data_points }))
            }
        };
        points.into_iter().map(|data| Metric { data: Some(data), ..metric.clone() })
    })
}

fn one_by_one<P: Clone>(points: &[P], data: impl Fn(Vec<P>) -> Data) -> Vec<Data> {
    points.iter().map(|point| data(vec![point.clone()])).collect()
}

impl Generator {
    fn metric(&mut self) -> Metric {
        Metric {
            name: (*self.random.pick(&["gen_ai.client.token.usage", "queue.depth", "", "ünknown"])).to_owned(),
            description: (*self.random.pick(&["", "How many", "a\0b"])).to_owned(),
            unit: (*self.random.pick(&["", "s", "ms", "{token}", "By"])).to_owned(),
            metadata: if self.random.chance(200) { self.attributes(&["metadata.key"]) } else { Vec::new() },
            data: self.perhaps(950, Self::data),
        }
    }

    fn data(&mut self) -> Data {
        match self.random.below(5) {
            0 => Data::Gauge(Gauge { data_points: self.up_to(3, Self::number_point) }),
            1 => Data::Sum(Sum {
                data_points: self.up_to(3, Self::number_point),
                aggregation_temporality: self.enumeration(),
                is_monotonic: self.random.chance(500),
            }),
            2 => Data::Histogram(Histogram {
                data_points: self.up_to(3, Self::histogram_point),
                aggregation_temporality: self.enumeration(),
            }),
            3 => Data::ExponentialHistogram(ExponentialHistogram {
                data_points: self.up_to(3, Self::exponential_point),
                aggregation_temporality: self.enumeration(),
            }),
            _ => Data::Summary(Summary { data_points: self.up_to(3, Self::summary_point) }),
        }
    }

    fn number_point(&mut self) -> NumberDataPoint {
        let value = match self.random.below(5) {
            0 => None,
            1 | 2 => Some(number_data_point::Value::AsInt(self.integer())),
            _ => Some(number_data_point::Value::AsDouble(self.double())),
        };
        NumberDataPoint {
            attributes: self.attributes(POINT_KEYS),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            exemplars: self.up_to(2, Self::exemplar),
            flags: self.flags(),
            value,
        }
    }

    fn histogram_point(&mut self) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes: self.attributes(POINT_KEYS),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            count: self.whole(),
            sum: self.perhaps(800, Self::double),
            bucket_counts: self.up_to(6, Self::whole),
            explicit_bounds: self.up_to(5, Self::double),
            exemplars: self.up_to(2, Self::exemplar),
            flags: self.flags(),
            min: self.perhaps(500, Self::double),
            max: self.perhaps(500, Self::double),
        }
    }

    fn exponential_point(&mut self) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            attributes: self.attributes(POINT_KEYS),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            count: self.whole(),
            sum: self.perhaps(800, Self::double),
            scale: self.enumeration(),
            zero_count: self.whole(),
            positive: self.perhaps(700, Self::buckets),
            negative: self.perhaps(300, Self::buckets),
            flags: self.flags(),
            exemplars: self.up_to(2, Self::exemplar),
            min: self.perhaps(500, Self::double),
            max: self.perhaps(500, Self::double),
            zero_threshold: if self.random.chance(300) { self.double() } else { 0.0 },
        }
    }

    fn buckets(&mut self) -> Buckets {
        Buckets { offset: self.enumeration(), bucket_counts: self.up_to(160, Self::whole) }
    }

    fn summary_point(&mut self) -> SummaryDataPoint {
        SummaryDataPoint {
            attributes: self.attributes(POINT_KEYS),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            count: self.whole(),
            sum: self.double(),
            quantile_values: self
                .up_to(4, |generator| ValueAtQuantile { quantile: generator.double(), value: generator.double() }),
            flags: self.flags(),
        }
    }

    fn exemplar(&mut self) -> Exemplar {
        let value = match self.random.below(5) {
            0 => None,
            1 | 2 => Some(exemplar::Value::AsInt(self.integer())),
            _ => Some(exemplar::Value::AsDouble(self.double())),
        };
        Exemplar {
            filtered_attributes: self.attributes(&["exemplar.key"]),
            time_unix_nano: self.time(),
            span_id: self.any_id(8),
            trace_id: self.any_id(16),
            value,
        }
    }

    fn whole(&mut self) -> u64 {
        match self.random.below(8) {
            0 => *self.random.pick(&[u64::MAX, i64::MAX as u64 + 1, 1 << 32]),
            _ => self.random.below(300),
        }
    }
}

const POINT_KEYS: &[&str] =
    &["gen_ai.token.type", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.system", "error.type"];
